"""The commands as a user types them, one after another, and the exit codes on which scripts rely."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream

BIN = Path(sys.executable).parent
FRAMES = 10


@dataclass(frozen=True)
class Shell:
    """Runs the installed commands in one folder."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The finished command with what it said; warnings of libraries go to its standard error and harm nobody."""
        return subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Shell:
    return Shell(tmp_path_factory.mktemp("user"), environment)


@pytest.fixture(scope="module")
def engine(shell: Shell, streets: Path) -> str:
    """`night.onnx` in the user's folder, trained and exported by the commands."""
    data = ("--data", str(streets), "--out", "runs/night", "--preset", "small", "--device", "cpu")
    trained = shell("i2i-train", "cyclegan", *data, "--steps", "2", "--batch", "2", "--workers", "0")
    assert trained.returncode == 0, trained.stderr
    exported = shell("i2i-export", "runs/night", "-o", "night.onnx", "--size", "64x64")
    assert exported.returncode == 0, exported.stderr
    return "night.onnx"


@pytest.fixture(scope="module")
def clip(shell: Shell, engine: str) -> str:
    """`drive.mp4` in the user's folder: ten frames of the rendered street, through the engine once already."""
    drive = shell.folder / "drive.mp4"
    options = StreamOptions(
        engine=str(shell.folder / engine),
        input="test://street",
        output=[str(drive)],
        size="64x64",
        limit=FRAMES,
        quiet=True,
    )
    assert stream(options) == 0
    return drive.name


def test_a_clip_is_translated_and_found_whole(shell: Shell, engine: str, clip: str) -> None:
    files = ("--input", clip, "--output", "out.mp4", "--report", "report.json")
    streamed = shell("i2i-stream", "--engine", engine, *files)
    assert streamed.returncode == 0, streamed.stderr
    report = json.loads((shell.folder / "report.json").read_text())
    assert report["outcome"] == "done"
    verified = shell("i2i-stream", "verify", clip, "out.mp4")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_a_clip_cut_short_is_found_not_whole(shell: Shell, engine: str, clip: str) -> None:
    cut = shell("i2i-stream", "--engine", engine, "--input", clip, "--output", "cut.mp4", "--limit", "4")
    assert cut.returncode == 0, cut.stderr
    assert shell("i2i-stream", "verify", clip, "cut.mp4").returncode == 1


def test_the_run_is_measured(shell: Shell, engine: str, streets: Path) -> None:
    measured = shell("i2i-eval", "runs/night", "--data", str(streets), "--truth")
    assert measured.returncode == 0, measured.stderr
    metrics = json.loads((shell.folder / "runs/night/metrics.json").read_text())
    assert "pixel_accuracy_within_16" in json.dumps(metrics)
    assert (shell.folder / "runs/night/metrics.png").is_file()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["i2i-train", "alchemy"], 2, "no method 'alchemy'"),
        (["i2i-train", "cyclegan", "--data", "nowhere", "--out", "runs/x"], 1, "nowhere"),
        (["i2i-export", "runs/nothing", "-o", "x.onnx"], 1, "runs/nothing"),
        (["i2i-eval", "runs/nothing"], 1, "runs/nothing"),
        (["i2i-stream", "--engine", "night.onnx"], 2, "--input or --camera"),
        (["i2i-stream", "verify", "drive.mp4", "missing.mp4"], 1, "missing.mp4"),
    ],
)
def test_a_mistake_has_its_exit_code_and_its_sentence(
    shell: Shell, clip: str, words: list[str], code: int, sentence: str
) -> None:
    failed = shell(*words)
    said = " ".join((failed.stdout + failed.stderr).split())
    assert (failed.returncode, sentence in said) == (code, True), said
    assert "Traceback" not in said
    assert not (shell.folder / "x.onnx").exists()
    assert not (shell.folder / "runs/x").exists()
