"""What decides a kernel's speed and can be read without a GPU: a budget that fails when a kernel gets worse.

Barriers and shuffles in a loop stall its loads, narrow loads waste them, registers bound how many programs a
multiprocessor holds. Nothing here is a measurement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from ptx.program import Instruction, parse

from i2i_kernels.compile import PTX_VERSIONS, read_entry
from i2i_kernels.pack.policy import PROGRAMS_EACH
from i2i_kernels.pack.recipes import Op, Variant

THREADS = {75: 1024, 86: 1536, 87: 1536, 89: 1536, 110: 1536, 120: 1536}
"""Of a multiprocessor by architecture (CUDA programming guide, technical specifications); 2048 for the others."""

REGISTERS = 65536


@dataclass(frozen=True)
class Loop:
    """What one pass of an innermost loop does."""

    barriers: int
    shuffles: int
    loads: int
    wide_loads: int
    arithmetic: int
    """Float32 instructions; a tile has 8 or 16 numbers per thread."""


def loop_of(body: list[Instruction]) -> Loop:
    loads = [i.opcode for i in body if i.opcode.startswith("ld.global")]
    return Loop(
        barriers=sum(i.words[0] == "bar" for i in body),
        shuffles=sum(i.words[0] == "shfl" for i in body),
        loads=len(loads),
        wide_loads=sum(bool(re.search(r"v4\.b32|v2\.b64", load)) for load in loads),
        arithmetic=sum(
            i.words[-1] == "f32" and i.words[0] in ("add", "sub", "mul", "fma", "max", "selp", "div")
            for i in body
        ),
    )


def resident_programs(registers: int, threads: int, arch: int) -> int:
    """Programs that a multiprocessor holds at a time, by registers (given out by eight) and threads."""
    each = -(-registers // 8) * 8 * threads
    return min(REGISTERS // each, THREADS.get(arch, 2048) // threads)


BUDGETS: dict[str, tuple[int, int, int]] = {
    "stats": (64, 2, 96),
    "stats-narrow": (56, 1, 48),
    "apply": (64, 0, 0),
    "apply-tiles": (64, 2, 80),
    "apply-full": (72, 0, 0),
    "coefficients-runs": (96, 4, 120),
}
"""Registers at most, wide loads in the loop at least (0: it has no loop), arithmetic in the loop at most."""


@pytest.mark.parametrize("arch", PTX_VERSIONS, ids=lambda arch: f"sm_{arch}")
@pytest.mark.parametrize("name", BUDGETS)
def test_a_kernel_of_the_pair_keeps_its_budget(
    name: str, arch: int, pack: Path, entries: dict[str, tuple[Op, Variant]]
) -> None:
    registers, wide_loads, arithmetic = BUDGETS[name]
    kernel = read_entry(pack, *entries[name], arch)
    assert kernel.resources["registers"] <= registers
    assert resident_programs(kernel.resources["registers"], kernel.block, arch) >= PROGRAMS_EACH
    loops = [loop_of(body) for body in parse(kernel.ptx).loops()]
    for loop in loops:
        assert (loop.barriers, loop.shuffles) == (0, 0)
        assert loop.wide_loads == loop.loads
        assert loop.arithmetic <= arithmetic
    assert sum(loop.wide_loads for loop in loops) >= wide_loads
    assert bool(loops) == bool(wide_loads)


def test_a_barrier_and_a_shuffle_in_a_loop_are_counted(
    pack: Path, entries: dict[str, tuple[Op, Variant]]
) -> None:
    kernel = read_entry(pack, *entries["stats"], 89)
    (body,) = parse(kernel.ptx).loops()
    load = next(i.text for i in body if i.opcode.startswith("ld.global"))
    at = kernel.ptx.index(
        load.split(" ", 1)[0] + " ld.global", kernel.ptx.index(f"\n{label_before(kernel.ptx)}")
    )
    worse = kernel.ptx[:at] + "bar.sync 0; shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;\n" + kernel.ptx[at:]
    (loop,) = (loop_of(b) for b in parse(worse).loops())
    assert (loop.barriers, loop.shuffles) == (1, 1)


def label_before(ptx: str) -> str:
    """The label to which the text branches back."""
    program = parse(ptx)
    (start,) = (
        target
        for at, i in enumerate(program.instructions)
        if i.words[0] == "bra" and program.labels[target := i.operands[0][0]] <= at
    )
    return start
