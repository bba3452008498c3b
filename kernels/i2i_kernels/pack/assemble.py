"""The pack builder's child process: compiles kernels with triton, needs no GPU.

LLVM ends the process where an option is illegal for an architecture, so this never runs inside the builder, and each
architecture is compiled in a fork. Reads the jobs per architecture as JSON on stdin, writes `STEM.ptx`, `STEM.cubin`
and `STEM.json` per job into `sm_<arch>` of the folder it is given.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

HIDDEN_PARAMETERS = 2
"""Triton appends a global and a profile scratch pointer; TensorRT passes neither, and a kernel that uses no scratch
reads neither."""


def compile_job(job: dict[str, Any], arch: int, ptx_version: int, folder: Path) -> None:
    """Writes the three files of one kernel, the JSON last: where it lies, the other two are whole."""
    function = getattr(importlib.import_module(job["module"]), job["function"])
    pointers = {a["name"]: a for a in job["arguments"]}
    signature, constants, attributes = {}, dict(job["constants"]), {}
    for index, name in enumerate(function.arg_names):
        if name in pointers:
            signature[name] = job["types"][name]
            if signature[name].startswith("*") or name == "C":
                attributes[(index,)] = [["tt.divisibility", 16]]
        elif name in job["absent"] or name in constants:
            signature[name] = "constexpr"
            constants.setdefault(name, None)
        else:
            raise ValueError(f"the recipe of {job['function']} says nothing about its parameter {name}")
    source = ASTSource(function, signature, constexprs=constants, attrs=attributes)
    # Contraction is set here because its default differs between releases of Triton, and the numbers with it.
    options = {"num_warps": job["warps"], "ptx_version": ptx_version, "enable_fp_fusion": True}
    compiled = triton.compile(
        source, target=GPUTarget("cuda", arch, 32), options={**options, **job["options"]}
    )
    ptx = without_hidden_parameters(compiled.asm["ptx"], len(job["arguments"]))
    cubin, log = assembled(ptx, get_ptxas(arch).path, folder)
    stem = folder / job["stem"]
    # A record of older sources must not lie beside new text, should this be the last that is written.
    stem.with_suffix(".json").unlink(missing_ok=True)
    _write_whole(stem.with_suffix(".ptx"), ptx.encode())
    _write_whole(stem.with_suffix(".cubin"), cubin)
    record = {
        **job["record"],
        "name": compiled.metadata.name,
        "arch": arch,
        "ptx_version": ptx_version,
        "block": 32 * job["warps"],
        "shared": compiled.metadata.shared,
        "resources": {**resources(log), **loads(ptx)},
        "triton": triton.__version__,
    }
    _write_whole(stem.with_suffix(".json"), (json.dumps(record, indent=1) + "\n").encode())


def _write_whole(path: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as scratch:
        part = Path(scratch) / path.name
        part.write_bytes(content)
        part.replace(path)


def without_hidden_parameters(ptx: str, wanted: int) -> str:
    """The PTX with Triton's trailing scratch pointers removed from the entry, and its debug sections dropped.

    Raises ValueError if the entry has not `wanted + 2` parameters or the body reads a hidden one.
    """
    entry = re.search(r"(\.visible \.entry \w+\()(.*?)(\n?\))", ptx, re.DOTALL)
    if entry is None:
        raise ValueError("the compiled PTX has no entry")
    parameters = [p.strip() for p in entry.group(2).split(",\n")]
    if len(parameters) != wanted + HIDDEN_PARAMETERS:
        raise ValueError(
            f"the entry has {len(parameters)} parameters, {wanted} and {HIDDEN_PARAMETERS} were expected"
        )
    for parameter in parameters[wanted:]:
        name = parameter.split()[-1]
        if f"[{name}" in ptx:
            raise ValueError(f"the kernel reads Triton's hidden parameter {name}")
    kept = ",\n".join(f"\t{p}" for p in parameters[:wanted])
    ptx = ptx[: entry.start(2)] + "\n" + kept + ptx[entry.end(2) :]
    return without_debug_sections(ptx)


def without_debug_sections(ptx: str) -> str:
    """Drops line tables: they hold paths of the machine that built the pack, and nothing at run time reads them."""
    ptx = re.sub(r"(?m)^\s*\.(file|loc)\b.*\n", "", ptx)
    ptx = re.sub(r"(?s)\t?\.section\s+\.debug_\w+\s*\{.*?\}\n?", "", ptx)
    return re.sub(r"(?m)^(\.target \w+), debug$", r"\1", ptx)


def assembled(ptx: str, ptxas: str, folder: Path) -> tuple[bytes, str]:
    """Cubin of the PTX and what ptxas said about its resources. Raises RuntimeError if ptxas refuses."""
    target = re.search(r"(?m)^\.target (\w+)", ptx)
    if target is None:
        raise ValueError("the PTX names no target")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source, result = Path(scratch) / "kernel.ptx", Path(scratch) / "kernel.cubin"
        source.write_text(ptx)
        command = [ptxas, "-v", f"--gpu-name={target.group(1)}", str(source), "-o", str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ptxas refused the kernel: {done.stderr.strip()}")
        return result.read_bytes(), done.stderr


def resources(log: str) -> dict[str, int]:
    """Registers per thread and bytes spilled, from the assembler's own report."""
    found = {
        "registers": re.search(r"Used (\d+) registers", log),
        "spill_stores": re.search(r"(\d+) bytes spill stores", log),
        "spill_loads": re.search(r"(\d+) bytes spill loads", log),
    }
    return {name: int(match.group(1)) if match else -1 for name, match in found.items()}


def loads(ptx: str) -> dict[str, int]:
    """Global loads in the PTX, and how many of them are 128 bits wide."""
    plain = re.findall(r"ld\.global[.\w:]*", ptx)
    wide = [load for load in plain if re.search(r"\.v4\.[bfus]32|\.v2\.[bfus]64", load)]
    copies = re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, (0x10|16|0x8|8|0x4|4)\b", ptx)
    wide_copies = [size for size in copies if size in ("0x10", "16")]
    return {"loads": len(plain) + len(copies), "wide_loads": len(wide) + len(wide_copies)}


def main() -> int:
    """Compiles the jobs of each architecture in a fork of its own; exit status 1 where one of them failed."""
    out = Path(sys.argv[1])
    failed = False
    for arch, request in json.load(sys.stdin).items():
        child = os.fork()
        if child == 0:
            os._exit(_compile_all(request, int(arch), out / f"sm_{arch}"))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code < 0:
            print(f"sm_{arch}: the compiler died of signal {-code}", file=sys.stderr)
        failed = failed or code != 0
    return int(failed)


def _compile_all(request: dict[str, Any], arch: int, folder: Path) -> int:
    current = ""
    try:
        for job in request["jobs"]:
            current = job["record"]["op"]
            compile_job(job, arch, request["ptx_version"], folder)
    except Exception as error:
        print(f"sm_{arch}: {current} did not compile: {error!r}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
