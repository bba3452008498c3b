"""A plan for another GPU is built again: the runtime runs the true `i2i-export --plan`, on a strict driver."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2i_export.plan.candidates import plan_from_onnx
from i2i_runtime.engines.tensorrt.manifest import read_manifest
from i2i_runtime.metadata import SizePolicy

OPEN = """
import sys
from pathlib import Path
from i2i_runtime.engines.tensorrt.engine import open_tensorrt
from i2i_runtime.errors import EngineError
try:
    open_tensorrt(Path(sys.argv[1]))
except EngineError as error:
    print(error)
"""


@pytest.fixture
def foreign_plan(network: Any, bodies: Any, write_engine_file: Callable[..., Path], rtx: Any) -> Path:
    """A plan for sm_75 beside its engine; the strict driver's GPU is sm_89."""
    model = network().engine(bodies["student"](1, 16), 64, 64)
    engine = write_engine_file(model, SizePolicy.fixed(64, 64))
    return plan_from_onnx(engine, engine.with_suffix(".plan"), target="tensorrt-rtx", arch="sm_75")


@pytest.fixture
def open_plan(strict_driver: Path) -> Callable[[Path], str]:
    """Opens a plan in a process that sees the strict driver; answers what the runtime said."""
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("needs cuda-python")
    if not Path(sys.executable).with_name("i2i-export").exists():
        pytest.skip("i2i-export is not installed: pip install -e .")

    def run(plan: Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(plan)],
            env={**os.environ, "LD_LIBRARY_PATH": str(strict_driver)},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout + done.stderr

    return run


def test_a_foreign_plan_is_built_again_by_the_command(
    foreign_plan: Path, open_plan: Callable[[Path], str]
) -> None:
    before = foreign_plan.read_bytes()
    said = open_plan(foreign_plan)
    assert "night.plan does not fit: it was built for sm_75 and this GPU, Strict GPU, is sm_89" in said
    manifest = read_manifest(foreign_plan)[1]
    assert manifest.architectures == ("sm_89",)
    assert manifest.gpu == "Strict GPU"
    assert foreign_plan.read_bytes() != before
    assert "cannot be loaded by TensorRT" in said, "the strict driver runs nothing of TensorRT's"


def test_without_the_engine_it_is_refused(foreign_plan: Path, open_plan: Callable[[Path], str]) -> None:
    before = foreign_plan.read_bytes()
    foreign_plan.with_suffix(".onnx").unlink()
    said = open_plan(foreign_plan)
    assert "put night.onnx, from which it was built, beside it" in said
    assert len(said.strip().splitlines()) == 1
    assert foreign_plan.read_bytes() == before
