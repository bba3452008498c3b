"""The Python surface: its names, its cost, what it gives and how it refuses; and the example that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import i2i_trainer
from i2i_trainer.checkpoint import read_config
from i2i_trainer.errors import CheckpointError, OptionError

EXAMPLES = Path(__file__).parents[2] / "trainer" / "examples"
TINY: dict[str, Any] = {
    "width": 4,
    "blocks": 1,
    "disc_width": 4,
    "disc_layers": 1,
    "image_size": 16,
    "load_size": 20,
    "workers": 0,
    "device": "cpu",
}


def test_public_names_are_there_and_need_no_torch_until_used(clean_environment: dict[str, str]) -> None:
    program = """
import sys
import i2i_trainer
assert i2i_trainer.__version__
assert not {"torch", "numpy", "tyro"} & set(sys.modules), "heavy imports"
for name in i2i_trainer.__all__:
    assert getattr(i2i_trainer, name)
assert "torch" in sys.modules
try:
    i2i_trainer.nothing
except AttributeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=clean_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "module 'i2i_trainer' has no attribute 'nothing'\n"


def test_train_evaluate_and_load(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = i2i_trainer.train("cyclegan", data=str(streets), out=str(out), preset="small", steps=1, **TINY)
    assert run == out
    _, config = read_config(run)
    assert (config.steps, config.data, config.batch) == (1, streets, 4)

    i2i_trainer.train("cyclegan", out=out, resume=True, steps=2)
    _, config = read_config(run)
    assert (config.steps, config.image_size) == (2, 16)

    record = i2i_trainer.evaluate(run, truth=True, direction="b2a")
    assert record["direction"] == "b2a"
    assert record["metrics"]["l1"] > 0
    network = i2i_trainer.load_method(run).inference("a2b")
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 16, 24)).shape == (1, 3, 16, 24)


def test_what_cannot_be_is_one_sentence(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no method 'cycle'"):
        i2i_trainer.train("cycle", data=streets, out=tmp_path)
    with pytest.raises(OptionError, match="cyclegan has no option 'size'"):
        i2i_trainer.train("cyclegan", data=streets, out=tmp_path, size=64)
    with pytest.raises(CheckpointError, match="not a run folder"):
        i2i_trainer.train("cyclegan", out=tmp_path, resume=True)
    with pytest.raises(OptionError, match="evaluate has no option 'split_name'"):
        i2i_trainer.evaluate(tmp_path, split_name="test")
    run = i2i_trainer.train("cyclegan", data=streets, out=tmp_path / "run", steps=1, **TINY)
    with pytest.raises(OptionError, match="run of cyclegan, not of unit"):
        i2i_trainer.train("unit", out=run, resume=True)


def test_the_example_trains_exports_and_streams(
    streets: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    clip, translated = tmp_path / "clip.mp4", tmp_path / "translated.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for level in (40, 120, 200):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    commands = str(Path(sys.executable).parent) + os.pathsep + clean_environment["PATH"]
    example = [
        sys.executable,
        str(EXAMPLES / "train_export_stream.py"),
        str(streets),
        str(clip),
        str(translated),
    ]
    for steps in ("1", "2"):  # the second one continues the first
        translated.unlink(missing_ok=True)
        done = subprocess.run(
            [*example, "--steps", steps, "--size", "64x64", "--run", str(tmp_path / "run")],
            env={**clean_environment, "PATH": commands},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert read_config(tmp_path / "run")[1].steps == 2
    with av.open(str(translated)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_import_one_package(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 60
    assert not [room for room in ("i2i_export", "i2i_runtime", "i2i_kernels") if room in text]
