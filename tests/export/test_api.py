"""What Python programs import from `i2i_export`: names, cost of the import, and what is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import i2i_export
from i2i_export.enginefile import EngineFile, read_engine, write_engine
from i2i_runtime.errors import UsageError

WATCH = """
import sys
{program}
heavy = {{"torch", "onnx", "onnxruntime", "numpy", "cv2", "tyro"}}
print(sorted(heavy & set(sys.modules)))
"""


def test_every_public_name_is_there_and_documented() -> None:
    for name in i2i_export.__all__:
        value = getattr(i2i_export, name)
        assert value.__doc__, name
    assert set(i2i_export.__all__) == set(dir(i2i_export))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        i2i_export.nothing  # noqa: B018


def test_the_version_is_the_distributions() -> None:
    from importlib.metadata import version

    assert i2i_export.__version__ == version("i2i-stream")


def test_the_import_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCH.format(program="import i2i_export")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_help_loads_neither_networks_nor_images() -> None:
    program = "from i2i_export.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass"
    done = subprocess.run(
        [sys.executable, "-c", WATCH.format(program=program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "['tyro']"


def test_an_engine_in_half_precision_is_written_with_its_metadata(
    plain_engine: EngineFile, tmp_path: Path
) -> None:
    source = tmp_path / "little.onnx"
    write_engine(plain_engine, source)
    made = i2i_export.derive_engine(source, tmp_path / "half.onnx", lean=i2i_export.Lean("fp16"))
    assert made.path == tmp_path / "half.onnx"
    assert made.metadata == read_engine(made.path).metadata
    assert made.metadata.precision == "fp16"
    assert made.metadata.parity["psnr_db"] >= 45
    with pytest.raises(UsageError, match="would overwrite the engine"):
        i2i_export.derive_engine(source, source, lean=i2i_export.Lean("fp16"))


def test_a_run_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(i2i_export.ExportError, match="nowhere"):
        i2i_export.export_run(tmp_path / "nowhere", tmp_path / "engine.onnx")
    assert not list(tmp_path.iterdir())
