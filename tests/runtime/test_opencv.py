"""OpenCV that does not load is one sentence in every command, and nothing else is taken for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from i2i_runtime import opencv
from i2i_runtime.engines import MODELS

DAY2NIGHT = MODELS / "day2night.onnx"

LACKING = "libxcb.so.1: cannot open shared object file: No such file or directory"
WITHOUT_A_LIBRARY = f"""
import sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "cv2":
            raise ImportError({LACKING!r}, name="cv2")

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("start", "arguments"),
    [
        (
            "from i2i_runtime.cli.entry import stream as main",
            ["-m", "day2night", "-i", "test://bars", "-o", "null:"],
        ),
        ("from i2i_runtime.cli.entry import bench as main", ["day2night"]),
        (
            "import sys\nfrom i2i_export.cli import main as run\nmain = lambda: sys.exit(run())",
            [str(DAY2NIGHT), "-o", "x.onnx"],
        ),
    ],
)
def test_a_missing_library_is_one_sentence(tmp_path: Path, start: str, arguments: list[str]) -> None:
    command = [sys.executable, "-c", f"{WITHOUT_A_LIBRARY}\n{start}\nmain()", *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "lacks libxcb.so.1" in ended.stderr
    assert "-m i2i_runtime.opencv" in ended.stderr


def test_the_doctor_goes_on_and_says_how_to_fix_it() -> None:
    program = f"{WITHOUT_A_LIBRARY}\nfrom i2i_runtime.cli.entry import doctor\ndoctor()"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1, "no frame can be translated"
    assert "lacks libxcb.so.1" in " ".join(ended.stdout.split())
    assert "day2night-large" in ended.stdout, "what does not need OpenCV is still looked at"


def test_only_opencv_is_taken_for_opencv() -> None:
    assert opencv.sentence_of_import_error(ImportError("libcudart.so: gone", name="tensorrt")) is None
    assert opencv.sentence_of_import_error(ImportError("initialization failed")) is None
    other = opencv.sentence_of_import_error(ImportError("numpy is too new", name="cv2"))
    assert other is not None
    assert "numpy is too new" in other


def test_an_opencv_that_loads_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert opencv.main() == 0
    assert capsys.readouterr().out == ""
