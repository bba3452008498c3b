"""The half of export that a board needs: everything but `run` works where neither torch nor triton is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from i2i_export.enginefile import EngineFile, write_engine

BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "triton", "onnxscript", "safetensors", "i2i_trainer"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""

IMPORT_ALL = """
import importlib, pkgutil, i2i_export
names = [m.name for m in pkgutil.walk_packages(i2i_export.__path__, "i2i_export.") if ".run" not in m.name]
for name in names:
    importlib.import_module(name)
print(len(names))
"""

MAKE_HALF = """
from i2i_export.cli import main
sys.exit(main([{source!r}, "-o", {out!r}, "--precision", "fp16"]))
"""


def blocked(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + program], capture_output=True, text=True, check=False
    )


def test_all_but_run_imports_without_torch_and_triton() -> None:
    done = blocked(IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 30


def test_an_engine_becomes_a_half_one_without_torch(plain_engine: EngineFile, tmp_path: Path) -> None:
    source, out = tmp_path / "little.onnx", tmp_path / "half.onnx"
    write_engine(plain_engine, source)
    done = blocked(MAKE_HALF.format(source=str(source), out=str(out)))
    assert done.returncode == 0, done.stderr
    assert out.exists()
