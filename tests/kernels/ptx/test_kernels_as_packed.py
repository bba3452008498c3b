"""The pack's own PTX, launched with TensorRT's arguments on a machine that checks its rules, against float64."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from packed_norm import PackedNorm
from ptx.interpreter import run
from ptx.memory import GlobalMemory
from ptx.program import PtxError, parse
from ptx_launcher import launch_on_interpreter as launched
from torch import Tensor

from i2i_kernels.compile import CompiledKernel, read_entry
from i2i_kernels.pack.recipes import Op, Variant

SIZES = {"N": 2, "C": 80, "H": 45, "W": 67}
"""Channels that fill no tile of 64, several tiles per run of the statistics, a last tile that is not full."""

SMALL = {"N": 2, "C": 48, "H": 13, "W": 17}

Array = npt.NDArray[Any]


@pytest.fixture(params=[75, 87, 90, 120], ids=lambda arch: f"sm_{arch}")
def packed(request: pytest.FixtureRequest, entry: tuple[Op, Variant], pack: Path) -> CompiledKernel:
    """Each kernel of the pack in turn, for an Orin and an H200."""
    return read_entry(pack, *entry, request.param)


def given_to(kernel: CompiledKernel, sizes: dict[str, int]) -> dict[str, Tensor]:
    return PackedNorm(kernel, sizes).given


def test_a_kernel_of_the_pack_computes_its_norm(packed: CompiledKernel) -> None:
    sizes = SMALL if packed.op == "norm_slab" else SIZES
    norm = PackedNorm(packed, sizes)
    error, bound = norm.error(launched(packed, norm.given, sizes))
    assert error < bound


def plain(pack: Path, op: Op = "norm_stats", variant: Variant | None = None) -> CompiledKernel:
    return read_entry(pack, op, variant or Variant(), 90)


def test_statistics_walk_several_tiles(pack: Path) -> None:
    kernel = plain(pack)
    run_of_pixels = -(-SIZES["H"] * SIZES["W"] // kernel.variant.splits)
    assert run_of_pixels > 2 * 32
    assert parse(kernel.ptx).loops()


def test_a_pointer_that_is_not_aligned_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    with pytest.raises(PtxError, match=r"ld\.global\.v4.*not aligned to 16 bytes"):
        launched(kernel, given_to(kernel, SMALL), SMALL, misaligned=2)


def test_an_image_that_is_too_short_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    x = given_to(kernel, SMALL)["x_ptr"]
    with pytest.raises(PtxError, match=r"x_ptr is accessed .* bytes past its end"):
        launched(kernel, {"x_ptr": x.reshape(-1)[:-16]}, SMALL)


def test_arguments_in_another_order_are_caught(pack: Path) -> None:
    kernel = plain(pack)
    first, *values, last = kernel.arguments
    outputs_first = replace(kernel, arguments=(last, *values, first))
    with pytest.raises(PtxError, match=r"x_ptr is an input and is written|past its end"):
        launched(outputs_first, given_to(kernel, SMALL), SMALL)


def test_a_missing_argument_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    program = parse(kernel.ptx)
    with pytest.raises(PtxError, match="takes 4 arguments, 3 were given"):
        run(program, GlobalMemory(), [0, 0, 0], (1, 1, 1), kernel.shared)


def test_a_missing_barrier_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    barriers = [m.span() for m in re.finditer(r"bar\.sync[^;]*;", kernel.ptx)]
    assert barriers
    given = given_to(kernel, SMALL)
    for start, end in barriers:
        without = replace(kernel, ptx=kernel.ptx[:start] + kernel.ptx[end:])
        with pytest.raises(PtxError, match="no barrier lies between"):
            launched(without, given, SMALL)


TEXT = """
.visible .entry k(.param .u64 .ptr k_param_0, .param .u32 k_param_1)
.reqntid 32
{{
    ld.param.b64 %rd1, [k_param_0];
    mov.u32 %r1, %tid.x;
    {body}
    ret;
}}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("setp.lt.s32 %p1, %r1, 7; @%p1 bra $L; $L: mov.u32 %r2, %r1;", "threads of a block disagree"),
        ("popc.b32 %r2, %r1;", "opcode popc.b32 is not known"),
        ("add.s32 %r2, %r1, %r9;", "%r9 is read before it is written"),
        ("add.f32 %r2, %r1, %rd1;", "%rd1 has 64 bits, 32 are read"),
        ("st.shared.b32 [%r1], %r1;", "not aligned to 4 bytes"),
        ("shl.b32 %r2, %r1, 2; st.shared.b32 [%r2], %r1;", "shared memory of 64 bytes is accessed at 124"),
        ("mov.b32 %r2, 0; st.shared.b32 [%r2], %r1;", "two threads write one shared word"),
        ("ld.global.b32 %r2, [%rd1];", "is in no tensor"),
    ],
)
def test_a_broken_rule_is_named(body: str, words: str) -> None:
    program = parse(TEXT.format(body=body))
    with pytest.raises(PtxError, match=words):
        run(program, GlobalMemory(), [4096, 1], (1, 1, 1), shared=64)


def test_arithmetic_is_the_machines() -> None:
    body = """
    mov.b32 %r2, -7; div.s32 %r3, %r2, 2; rem.s32 %r4, %r2, 2; shr.s32 %r5, %r2, 1;
    mul.wide.s32 %rd2, %r2, 3; cvt.u32.u64 %r6, %rd2; bfe.u32 %r7, %r2, 4, 8;
    mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r8, {%rs2, %rs1}; cvt.rn.f32.s32 %r9, %r2;
    fma.rn.f32 %r10, %r9, 0f40000000, 0f3F800000; cvt.rn.f16x2.f32 %r11, %r10, %r9;
    shfl.sync.bfly.b32 %r12, %r1, 16, 31, -1; setp.eq.b32 %p1, %r1, 3; selp.b32 %r13, 1, 0, %p1;
    mul.wide.u32 %rd3, %r1, 4; add.s64 %rd4, %rd1, %rd3;
    st.global.b32 [%rd4 + 0], %r{result};
    """
    expected: dict[int, Array] = {
        3: np.full(32, -3),
        4: np.full(32, -1),
        5: np.full(32, -4),
        6: np.full(32, -21),
        7: np.full(32, 0xFF),
        8: np.full(32, np.uint32(0xFFF9FFFF).astype(np.int32)),
        10: np.full(32, np.float32(-13)).view(np.int32),
        11: np.array([-7, -13] * 32, np.float16).view(np.int32),
        12: np.arange(32) ^ 16,
        13: (np.arange(32) == 3).astype(np.int32),
    }
    for register, want in expected.items():
        memory = GlobalMemory()
        base = memory.place("out", np.zeros(32, np.int32), writable=True)
        run(parse(TEXT.format(body=body.replace("{result}", str(register)))), memory, [base, 0], (1, 1, 1), 0)
        np.testing.assert_array_equal(memory.read_back("out", np.int32, (32,)), want, f"%r{register}")
