"""The scripts in runtime/examples and the Python snippets of the README run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOM = Path(__file__).parents[2] / "runtime"
EXAMPLES = ROOM / "examples"


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip("example.mp4", pts=[512 * index for index in range(12)], audio_tracks=1)


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_webcam_to_window_with_a_replay_in_place_of_the_webcam(engines: Any, clip: Path) -> None:
    assert "written to null:" in run("webcam_to_window.py", f"replay:{clip}", "null:", engines.invert)


def test_file_to_file(engines: Any, clip: Path, tmp_path: Path) -> None:
    assert "12 of 12 frames" in run("file_to_file.py", clip, tmp_path / "out.mp4", engines.invert)
    assert (tmp_path / "out.mp4").is_file()


def test_engine_from_python(engines: Any, tmp_path: Path) -> None:
    image = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
    cv2.imwrite(str(tmp_path / "in.png"), image)
    run("engine_from_python.py", tmp_path / "in.png", tmp_path / "out.png", engines.invert)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), 255 - image)


def test_own_sink(engines: Any, clip: Path, tmp_path: Path) -> None:
    run("own_sink.py", clip, tmp_path / "table.csv", engines.invert)
    header, *rows = (tmp_path / "table.csv").read_text().splitlines()
    assert header == "time_s,source,translated"
    assert len(rows) == 12
    for row in rows:
        _, before, after = map(float, row.split(","))
        assert before + after == pytest.approx(255, abs=0.02)


def test_own_source(engines: Any, tmp_path: Path) -> None:
    run("own_source.py", tmp_path / "out.mp4", engines.invert)
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    read, first = capture.read()
    capture.release()
    assert read
    assert first.shape == (192, 320, 3)
    assert abs(int(first[100, 200, 0]) - (255 - 200)) < 8, "translated outside the inset"
    assert abs(int(first[20, 40, 0]) - 160) < 12, "the source, at a quarter, inside it"


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 60, path.name


def snippets() -> list[str]:
    text = (ROOM / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", snippets())
def test_the_snippets_of_the_readme_run(
    snippet: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drive.mp4").write_bytes(clip.read_bytes())
    cv2.imwrite("day.png", np.zeros((64, 96, 3), np.uint8))
    exec(compile(snippet, "README.md", "exec"), {"__name__": "snippet"})
    assert snippet.count("\n") <= 25
