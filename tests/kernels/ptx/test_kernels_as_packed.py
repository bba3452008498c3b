"""The pack's own PTX, launched with TensorRT's arguments on a machine that checks its rules, against float64."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from ptx.interpreter import run
from ptx.memory import GlobalMemory
from ptx.program import PtxError, parse
from torch import Tensor

from i2i_kernels.compile import CompiledKernel, read_entry
from i2i_kernels.norm.reference import norm_reference, partials_reference
from i2i_kernels.numerics import ACCUMULATED, ROUNDING
from i2i_kernels.pack.recipes import Op, Variant, evaluate

SIZES = {"N": 2, "C": 80, "H": 45, "W": 67}
"""Channels that fill no tile of 64, several tiles per run of the statistics, a last tile that is not full."""

SMALL = {"N": 2, "C": 48, "H": 13, "W": 17}

Array = npt.NDArray[Any]


@pytest.fixture(params=[75, 87, 90, 120], ids=lambda arch: f"sm_{arch}")
def packed(request: pytest.FixtureRequest, entry: tuple[Op, Variant], pack: Path) -> CompiledKernel:
    """Each kernel of the pack in turn, for an Orin and an H200."""
    return read_entry(pack, *entry, request.param)


def bits(tensor: Tensor) -> Array:
    """An image `[N, C, H, W]` as it lies in memory, anything else as it is."""
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).contiguous().numpy()


def launched(
    kernel: CompiledKernel, given: dict[str, Array], sizes: dict[str, int], *, misaligned: int = 0
) -> dict[str, Array]:
    """The outputs of a launch with TensorRT's arguments: input pointers, int32 values, output pointers."""
    memory, arguments = GlobalMemory(), []
    outputs: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for argument in kernel.arguments:
        if argument.role == "int32":
            arguments.append(evaluate(argument.value, sizes))
        elif argument.role == "input":
            arguments.append(
                memory.place(argument.name, given[argument.name], writable=False, misaligned=misaligned)
            )
        else:
            shape = tuple(evaluate(extent, sizes) for extent in argument.shape)
            nothing = np.full(shape, np.nan, argument.dtype)
            outputs[argument.name] = nothing.dtype, shape
            arguments.append(memory.place(argument.name, nothing, writable=True))
    grid = kernel.launch_grid(**sizes)
    run(parse(kernel.ptx), memory, arguments, grid, kernel.shared)
    return {name: memory.read_back(name, *form) for name, form in outputs.items()}


class Norm:
    """A norm with random inputs, its tensors as the kernels read them, and its result in float64."""

    def __init__(self, kernel: CompiledKernel, sizes: dict[str, int]) -> None:
        torch.manual_seed(0)
        variant, kind = kernel.variant, kernel.variant.kind
        n, c, h, w = sizes.values()
        self.x = (torch.randn(n, c, h, w) + 0.5).half()
        self.kind = kind if kernel.op != "norm_coefficients" else replace(kind, activation="none", pad=0)
        rows = (n, c) if variant.affine == "sample" else (c,)
        has_affine = variant.affine != "none"
        self.weight = torch.randn(rows) if has_affine else None
        self.bias = torch.randn(rows) if has_affine else None
        self.mix = torch.rand(c) if kind.family == "clamp" else None
        around = variant.residual_pad
        wide = torch.randn(n, c, h + 2 * around, w + 2 * around).half()
        self.residual = wide[:, :, around : around + h, around : around + w] if variant.residual else None
        partials = partials_reference(self.x, max(1, variant.splits))
        mean, second = self.x.double().mean((2, 3)), self.x.double().var((2, 3), correction=0)
        scale = (second + kind.eps).rsqrt()
        coefficients = torch.stack([mean, scale, torch.zeros_like(mean)], 1).float()
        merges = kernel.op == "norm_apply" and variant.splits
        known = {
            "x_ptr": self.x,
            "partials_ptr": partials,
            "moments_ptr": partials if merges else coefficients,
            "weight_ptr": self.weight,
            "bias_ptr": self.bias,
            "mix_ptr": self.mix,
            "residual_ptr": wide,
        }
        is_image = {"x_ptr", "residual_ptr"}
        self.given = {
            name: bits(value) if name in is_image else value.numpy()
            for name, value in known.items()
            if value is not None
        }

    def result(self) -> Array:
        exact = [None if t is None else t.double() for t in (self.weight, self.bias, self.mix, self.residual)]
        return bits(norm_reference(self.x.double(), self.kind, *exact))


def error(got: Array, want: Array) -> float:
    gap = np.abs(got.astype(np.float64) - want).max() / np.abs(want).max()
    return float(np.nan_to_num(gap, nan=np.inf))


def test_a_kernel_of_the_pack_computes_its_norm(packed: CompiledKernel) -> None:
    sizes = SMALL if packed.op == "norm_slab" else SIZES
    norm = Norm(packed, sizes)
    made = launched(packed, norm.given, sizes)
    if packed.op == "norm_stats":
        want = partials_reference(norm.x.double(), packed.variant.splits).numpy()
        for row in (0, 1):
            assert error(made["partials_ptr"][:, :, row], want[:, :, row]) < ACCUMULATED
    elif packed.op == "norm_coefficients":
        mean, scale, offset = (made["coefficients_ptr"][:, i, None, None] for i in range(3))
        x = bits(norm.x).astype(np.float64)
        assert error(scale * (x - mean) + offset, norm.result()) < ROUNDING["float32"]
    else:
        assert error(made["y_ptr"], norm.result()) < ROUNDING["float16"]


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
        launched(kernel, Norm(kernel, SMALL).given, SMALL, misaligned=2)


def test_an_image_that_is_too_short_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    x = Norm(kernel, SMALL).given["x_ptr"]
    with pytest.raises(PtxError, match=r"x_ptr is accessed .* bytes past its end"):
        launched(kernel, {"x_ptr": x.reshape(-1)[:-16]}, SMALL)


def test_arguments_in_another_order_are_caught(pack: Path) -> None:
    kernel = plain(pack)
    first, *values, last = kernel.arguments
    outputs_first = replace(kernel, arguments=(last, *values, first))
    with pytest.raises(PtxError, match=r"x_ptr is an input and is written|past its end"):
        launched(outputs_first, Norm(kernel, SMALL).given, SMALL)


def test_a_missing_argument_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    program = parse(kernel.ptx)
    with pytest.raises(PtxError, match="takes 4 arguments, 3 were given"):
        run(program, GlobalMemory(), [0, 0, 0], (1, 1, 1), kernel.shared)


def test_a_missing_barrier_is_caught(pack: Path) -> None:
    kernel = plain(pack)
    barriers = [m.span() for m in re.finditer(r"bar\.sync[^;]*;", kernel.ptx)]
    assert barriers
    given = Norm(kernel, SMALL).given
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
