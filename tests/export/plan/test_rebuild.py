"""A plan for another GPU is built again: the runtime runs the true `i2i-export`, on a fake TensorRT and driver."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from i2i_export.enginefile import read_engine
from i2i_runtime.engines.tensorrt.manifest import PlanManifest, read_manifest, sha256_of, sidecar_path
from i2i_runtime.metadata import SizePolicy

if TYPE_CHECKING:
    from tests.export.plan.conftest import NetworkWriter

VERSION = "10.3.0.26"
"""Of JetPack 6, which takes no plugins: two forms are enough here."""

OPEN = """
import sys
from pathlib import Path
import numpy as np
from i2i_runtime.engines.tensorrt.engine import open_tensorrt
from i2i_runtime.errors import EngineError
try:
    engine = open_tensorrt(Path(sys.argv[1]))
    translated = engine.infer(np.full((64, 64, 3), 55, np.uint8))
    engine.close()
    print("translated to", set(translated.ravel().tolist()))
except EngineError as error:
    print(error)
"""


@pytest.fixture
def foreign_plan(negative: Path) -> Path:
    """A plan for sm_75 beside its engine, as it comes from another machine; the strict driver's GPU is sm_89."""
    plan = negative.with_suffix(".plan")
    plan.write_bytes(b"vtrt of another machine")
    manifest = PlanManifest(
        flavour="tensorrt",
        tensorrt_version=VERSION,
        architectures=("sm_75",),
        onnx_file=negative.name,
        onnx_sha256=sha256_of(negative.read_bytes()),
        plan_sha256=sha256_of(plan.read_bytes()),
    )
    sidecar_path(plan).write_text(manifest.to_json(read_engine(negative).metadata), encoding="utf-8")
    return plan


@pytest.fixture
def open_plan(fake_gpu: dict[str, str]) -> Callable[[Path], str]:
    """Opens a plan in a process that sees the fakes, and translates a frame; answers what was said."""
    if not Path(sys.executable).with_name("i2i-export").exists():
        pytest.skip("i2i-export is not installed: pip install -e .")

    def run(plan: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(plan)],
            env={**fake_gpu, "FAKE_VERSION": VERSION},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    return run


def test_a_foreign_plan_is_built_again_by_the_command(
    foreign_plan: Path, open_plan: Callable[[Path], str]
) -> None:
    said = open_plan(foreign_plan)
    assert "night.plan does not fit: it was built for sm_75 and this GPU, Strict GPU, is sm_89" in said
    assert "translated to {200}" in said
    manifest = read_manifest(foreign_plan)[1]
    assert manifest.architectures == ("sm_89",)
    assert manifest.gpu == "Strict GPU"


def test_without_the_engine_it_is_refused(foreign_plan: Path, open_plan: Callable[[Path], str]) -> None:
    before = foreign_plan.read_bytes()
    foreign_plan.with_suffix(".onnx").unlink()
    said = open_plan(foreign_plan)
    assert "put night.onnx, from which it was built, beside it" in said
    assert len(said.strip().splitlines()) == 1
    assert foreign_plan.read_bytes() == before


def test_an_engine_file_gets_its_plan_once_and_runs_on_it(
    network: Any, write_engine_file: Callable[..., Path], fake_gpu: dict[str, str], tmp_path: Path
) -> None:
    """The whole way of `i2i-stream --engine FILE.onnx`, twice: built by the true command, then found again."""

    def minus(net: NetworkWriter, x: str) -> str:
        return net("Mul", x, net.weight(np.full(1, -1, net.dtype)))

    engine = write_engine_file(network().engine(minus, 64, 64, float_end=True), SizePolicy.fixed(64, 64))
    program = "import sys; from i2i_runtime.cli.entry import stream; sys.argv[0] = 'i2i-stream'; stream()"
    job = (
        "--engine",
        str(engine),
        "--input",
        "test://bars",
        "--size",
        "64x64",
        "--output",
        "null:",
        "--limit",
        "2",
    )
    said = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program, *job],
            env={**fake_gpu, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "runs on tensorrt 10.16.1.11 fp" in done.stderr
        assert "a plan for this GPU, Strict GPU" in done.stderr
        said.append(done.stderr)
    assert "building the TensorRT plan of night.onnx for Strict GPU, once" in said[0]
    assert "building" not in said[1], "the plan is found again"
    (plan,) = (tmp_path / "cache").rglob("night.plan")
    assert read_manifest(plan)[1].gpu == "Strict GPU"
