"""Two expensive things, made once: the interpreter's process and a kernel pack for every architecture."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the kernels' tests need torch")
pytest.importorskip("triton", reason="the kernels' tests need triton")

from i2i_kernels.compile import PTX_VERSIONS, build_pack
from i2i_kernels.kind import Kind
from i2i_kernels.pack.recipes import Op, Variant

ENTRIES: dict[str, tuple[Op, Variant]] = {
    "stats": ("norm_stats", Variant()),
    "stats-narrow": ("norm_stats", Variant(splits=128, block_c=32)),
    "apply": ("norm_apply", Variant(kind=Kind(activation="relu"))),
    "apply-tiles": ("norm_apply", Variant(kind=Kind(activation="relu", pad=1), splits=0, tiles=4)),
    "apply-full": ("norm_apply", Variant(kind=Kind(pad=1), affine="sample", residual=True)),
    "coefficients": ("norm_coefficients", Variant(kind=Kind("clamp", unbiased=True), affine="channel")),
    "coefficients-runs": ("norm_coefficients", Variant(splits=1024)),
    "slab": ("norm_slab", Variant(kind=Kind(activation="relu"))),
    "slab-full": (
        "norm_slab",
        Variant(kind=Kind(pad=1), affine="sample", residual=True, residual_pad=1),
    ),
}


@pytest.fixture(scope="session")
def interpreter_errors() -> Iterator[Callable[[str], dict[str, float]]]:
    """Runs a case of `i2i_kernels.numerics` by name under Triton's interpreter, in a process of its own.

    The switch is read when triton is imported, and no other test may see it.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-m", "i2i_kernels.numerics", "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def run(name: str) -> dict[str, float]:
            print(name, file=asked, flush=True)
            answer = answers.readline()
            assert answer, f"the interpreter ended on {name}, its complaint is above"
            return dict(json.loads(answer))

        yield run
        asked.close()


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack of `ENTRIES` for every architecture, shared by the processes of one test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "kernel-pack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_pack(shared / "kernel-pack", list(ENTRIES.values()), list(PTX_VERSIONS))
    return shared / "kernel-pack"


@pytest.fixture(params=list(ENTRIES))
def entry(request: pytest.FixtureRequest) -> tuple[Op, Variant]:
    """Each kernel of the pack in turn."""
    return ENTRIES[request.param]


@pytest.fixture(scope="session")
def entries() -> dict[str, tuple[Op, Variant]]:
    """The kernels of the pack by name."""
    return ENTRIES
