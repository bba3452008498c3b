"""The kernel pack: every kernel built ahead of time for every GPU, on a machine that has none.

    python -m i2i_kernels.compile --out pack --arch 87 90

writes per architecture `pack/sm_87/STEM.{ptx,cubin,json}`. PTX is lowered to an instruction-set version that the
oldest supported driver takes and has Triton's hidden parameters removed, as TensorRT's ahead-of-time plugins need
it; the cubin is assembled from that same text, for a launcher of one's own. Reading a pack needs neither torch nor
triton.

A plugin asks for one kernel:

    entry = pack_entry("norm_apply", Variant(kind=Kind(activation="relu")), arch=87, pack=Path("pack"))
    entry.ptx, entry.name              # text and entry symbol
    entry.grid, entry.block            # three expressions over N, C, H, W; threads per block
    entry.shared                       # bytes of dynamic shared memory
    entry.arguments                    # input pointers, int32 values, output pointers: the launch order
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from i2i_kernels.pack.entries import default_entries
from i2i_kernels.pack.recipes import TRITON_TYPES, Argument, Op, Variant, evaluate, recipe

PTX_VERSIONS = {75: 80, 80: 80, 86: 80, 87: 80, 89: 80, 90: 80, 100: 86, 110: 90, 120: 87}
"""PTX version per architecture: the lowest that it and the code allow, since a driver takes older text only."""


class PackError(RuntimeError):
    """A kernel that is not in the pack or cannot be built; the message is one sentence: what, why and how to fix it."""


@dataclass(frozen=True)
class CompiledKernel:
    """One kernel for one architecture, with everything its launch needs."""

    op: str
    variant: Variant
    arch: int
    name: str
    """Entry symbol in the PTX and the cubin."""
    ptx: str
    cubin: bytes
    grid: tuple[str, str, str]
    """Blocks in x, y and z, each an expression over N, C, H and W of the input image."""
    block: int
    """Threads per block."""
    shared: int
    """Bytes of dynamic shared memory."""
    arguments: tuple[Argument, ...]
    ptx_version: int
    resources: dict[str, int]
    """registers, spill_stores, spill_loads (bytes), loads, wide_loads (128 bits)."""

    def launch_grid(self, **sizes: Any) -> tuple[Any, ...]:
        """The grid for N, C, H and W: integers, or objects that add, multiply and divide (`cdiv` among the sizes)."""
        return tuple(evaluate(axis, sizes) for axis in self.grid)

    def int32_arguments(self, **sizes: Any) -> tuple[Any, ...]:
        """Values of the int32 arguments, in order."""
        return tuple(evaluate(a.value, sizes) for a in self.arguments if a.role == "int32")


def pack_entry(op: Op, variant: Variant, arch: int, pack: Path | None = None) -> CompiledKernel:
    """The kernel for `sm_<arch>`: out of the folder `pack`, or built on the spot where `pack` is None.

    Raises PackError if the pack lacks it, or if building needs something that is missing.
    """
    if pack is not None:
        return read_entry(pack, op, variant, arch)
    with tempfile.TemporaryDirectory() as scratch:
        build_pack(Path(scratch), [(op, variant)], [arch])
        return read_entry(Path(scratch), op, variant, arch)


def read_entry(pack: Path, op: Op, variant: Variant, arch: int) -> CompiledKernel:
    """The kernel out of a pack's folder; needs no torch and no triton. Raises PackError if it is not there."""
    plan = recipe(op, variant)
    path = pack / f"sm_{arch}" / f"{variant.file_stem(op)}.json"
    try:
        record = json.loads(path.read_text())
        ptx, cubin = path.with_suffix(".ptx").read_text(), path.with_suffix(".cubin").read_bytes()
    except FileNotFoundError:
        built = sorted(p.name for p in pack.glob("sm_*")) or ["nothing"]
        raise PackError(
            f"the kernel pack {pack} has no {op} for sm_{arch} in this variant ({variant}), it was built for "
            f"{', '.join(built)}: build it where triton is installed, with build_pack, or with "
            f"`python -m i2i_kernels.compile --out {pack} --arch {arch}` if it is one of the default variants"
        ) from None
    except (ValueError, OSError) as error:
        raise PackError(
            f"{path} or what lies beside it cannot be read ({error}): delete it and build the pack again"
        ) from error
    if not isinstance(record, dict) or record.get("sources") != sources_digest():
        raise PackError(
            f"the kernel pack {pack} was built from other sources than these ({op} for sm_{arch}), and its kernels "
            f"may take other arguments: build it again, with `python -m i2i_kernels.compile --out {pack} --arch {arch}`"
        )
    return CompiledKernel(
        op=op,
        variant=variant,
        arch=arch,
        ptx=ptx,
        cubin=cubin,
        grid=plan.grid,
        arguments=plan.arguments,
        **{key: record[key] for key in ("name", "block", "shared", "ptx_version", "resources")},
    )


def read_pack(pack: Path, arch: int) -> list[CompiledKernel]:
    """Every kernel of the default list that the pack holds for `sm_<arch>`."""
    entries = [(op, variant) for op, variant in default_entries() if recipe(op, variant).least_arch <= arch]
    return [read_entry(pack, op, variant, arch) for op, variant in entries]


def table(pack: Path, archs: Sequence[int]) -> str:
    """Markdown: `registers / bytes spilled / 128-bit loads of all loads` per kernel and architecture."""
    lines = [f"| kernel | {' | '.join(f'sm_{arch}' for arch in archs)} |", "|---" * (1 + len(archs)) + "|"]
    for op, variant in default_entries():
        cells = []
        for arch in archs:
            if recipe(op, variant).least_arch > arch:
                cells.append("-")
                continue
            found = read_entry(pack, op, variant, arch).resources
            spilled = found["spill_stores"] + found["spill_loads"]
            cells.append(f"{found['registers']} / {spilled} / {found['wide_loads']} of {found['loads']}")
        lines.append(f"| {op} {variant.label()} | {' | '.join(cells)} |")
    return "\n".join(lines)


def build_pack(out: Path, entries: Sequence[tuple[Op, Variant]], archs: Sequence[int]) -> None:
    """Builds what is missing of `entries` for each architecture, in a child process.

    Raises PackError if triton is not installed, an architecture is unknown or a kernel does not compile.
    """
    if importlib.util.find_spec("triton") is None:
        raise PackError("building kernels needs triton, which is not installed: pip install triton")
    requests = {}
    for arch in archs:
        if arch not in PTX_VERSIONS:
            known = ", ".join(f"sm_{a}" for a in PTX_VERSIONS)
            raise PackError(f"sm_{arch} is not an architecture of the pack, there are {known}")
        folder = out / f"sm_{arch}"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [(op, variant) for op, variant in entries if recipe(op, variant).least_arch <= arch]
        stems = {variant.file_stem(op): (op, variant) for op, variant in wanted}
        jobs = [_job(s, *e) for s, e in stems.items() if not _is_built(folder / f"{s}.json")]
        if jobs:
            requests[arch] = {"ptx_version": PTX_VERSIONS[arch], "jobs": jobs}
    if requests:
        _run_child(requests, out)


@cache
def sources_digest() -> str:
    """Of every file that shapes a compiled kernel, so that a pack built from older ones is built again."""
    here = Path(__file__).parent
    shaping = sorted(
        [
            *here.glob("*/kernel.py"),
            here / "norm" / "gradient.py",
            here / "pack" / "policy.py",
            here / "pack" / "recipes.py",
            here / "pack" / "assemble.py",
            Path(__file__),
        ]
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in shaping)).hexdigest()


def _is_built(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text())["sources"] == sources_digest())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _job(stem: str, op: Op, variant: Variant) -> dict[str, Any]:
    plan = recipe(op, variant)
    arguments = [dataclasses.asdict(a) for a in plan.arguments]
    types = {a.name: "i32" if a.role == "int32" else f"*{TRITON_TYPES[a.dtype]}" for a in plan.arguments}
    record = {
        "op": op,
        "variant": dataclasses.asdict(variant),
        "grid": plan.grid,
        "arguments": arguments,
        "sources": sources_digest(),
    }
    return {
        "stem": stem,
        "module": plan.module,
        "function": plan.function,
        "arguments": arguments,
        "absent": plan.absent,
        "types": types,
        "constants": plan.constants,
        "warps": plan.warps,
        "options": {"num_stages": plan.stages},
        "record": record,
    }


def _run_child(requests: dict[int, dict[str, Any]], out: Path) -> None:
    # The interpreter replaces the very functions that are to be compiled.
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # Not `-m`, which would import from the current folder first: an `onnx.py` or `json.py` there is not ours to run.
    run = (
        "import sys; sys.path[:] = [place for place in sys.path if place]; import runpy; "
        "runpy.run_module('i2i_kernels.pack.assemble', run_name='__main__', alter_sys=True)"
    )
    command = [sys.executable, "-c", run, str(out)]
    done = subprocess.run(
        command, input=json.dumps(requests), capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"the compiler ended with status {done.returncode}"]
        raise PackError(f"the kernel pack could not be built: {said[-1]}")


@dataclass(frozen=True)
class CompileCommand:
    """Builds the kernel pack for GPUs that need not be here."""

    out: Path
    """Folder to write; what it already holds is kept."""
    arch: tuple[int, ...] = tuple(PTX_VERSIONS)
    """Compute capabilities without the dot: 87 is an Orin, 90 an H200."""


def main() -> int:
    # Not needed to import this module: a machine that only uses it may lack it.
    import tyro

    options = tyro.cli(CompileCommand, prog="python -m i2i_kernels.compile")
    try:
        build_pack(options.out, default_entries(), options.arch)
        for arch in options.arch:
            print(f"sm_{arch}: {len(read_pack(options.out, arch))} kernels in {options.out / f'sm_{arch}'}")
        print(table(options.out, options.arch))
    except PackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
