"""Every method of the command line, tiny: it trains, resumes to the same bits, and translates at two sizes."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from i2i_trainer.checkpoint import CHECKPOINT, load_method
from i2i_trainer.config import TrainConfig
from i2i_trainer.loop import train
from i2i_trainer.methods import METHODS

LAST = 2
"""Steps of a run; the stopped one ends after the first."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of random digits as IDX files."""
    root = tmp_path_factory.mktemp("digits")
    random = np.random.default_rng(0)
    for name in ("mnist", "usps"):
        folder = root / name
        folder.mkdir()
        images = random.integers(0, 256, (12, 28, 28), np.uint8)
        (folder / "train-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 2051, 12, 28, 28) + images.tobytes()
        )
        labels = (np.arange(12) % 10).astype(np.uint8)
        (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 12) + labels.tobytes())
    return root


@pytest.fixture(scope="module")
def teacher(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CycleGAN of one step, for the student to learn from."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    return train("cyclegan", tiny("cyclegan", {"data": streets, "out": out, "steps": 1}))


@pytest.fixture(scope="module")
def levels(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The streets by day, and what `graded` is to learn: the same at three shares of their light."""
    root = tmp_path_factory.mktemp("levels")
    for name, share in (("source", 1.0), ("dusk", 0.6), ("night", 0.3), ("deep", 0.1)):
        (root / name).mkdir()
        for path in (streets / "trainA").iterdir():
            Image.open(path).convert("RGB").point(lambda level, share=share: level * share).save(
                root / name / path.name
            )
    return root


def tiny(name: str, options: dict[str, object]) -> TrainConfig:
    """The method's `small` preset with a run of `LAST` steps that saves every step."""
    kind = METHODS[name].config
    values = dict(kind.presets["small"]) | {
        "batch": 2,
        "workers": 0,
        "steps": LAST,
        "decay_from": 0,
        "log_every": 1,
        "sample_every": 100,
        "checkpoint_every": 1,
        "device": "cpu",
    }
    if name == "tunit":
        values["separated_steps"] = 1
    if name == "cogan":
        values["image_size"] = values["load_size"] = 28
    return kind(**(values | options))


@pytest.mark.parametrize("name", METHODS)
def test_method_trains_resumes_and_translates(
    name: str, request: pytest.FixtureRequest, streets: Path, digits: Path, tmp_path: Path
) -> None:
    options: dict[str, object] = {"data": digits if name in ("cogan", "unit-digits") else streets}
    if name == "distill":
        options["teacher"] = request.getfixturevalue("teacher")
    if name == "graded":
        options["levels"] = request.getfixturevalue("levels")
    config = tiny(name, options)
    whole = train(name, replace(config, out=tmp_path / "whole"))
    stopped = replace(config, out=tmp_path / "stopped")
    train(name, replace(stopped, steps=1, schedule="constant"))
    train(name, stopped, resume=True)

    # The runs part only in where they stopped: same losses, same weights, same optimisers, same random numbers.
    rows = [(run / "log.jsonl").read_text().splitlines() for run in (whole, stopped.out)]
    last = [json.loads(lines[-1]) for lines in rows]
    assert last[0]["step"] == last[1]["step"] == LAST
    assert last[0]["losses"] == last[1]["losses"]
    one, other = load_file(whole / CHECKPOINT), load_file(stopped.out / CHECKPOINT)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key].nan_to_num(-7), other[key].nan_to_num(-7))] == []

    method = load_method(whole)
    for direction in method.directions():
        inference = method.inference(direction)
        unit = inference.stride
        sizes = [inference.fixed_size] if inference.fixed_size else [(64, 64), (64, 64 + unit)]
        for height, width in sizes:
            image = torch.rand(1, 3, height, width) * 2 - 1
            style = torch.randn(1, inference.style_size) if inference.style_size else None
            with torch.no_grad():
                translated = inference(image, style)
            assert translated.shape == image.shape
            assert translated.isfinite().all()
        assert len(inference.default_style) == inference.style_size
        assert all(len(code) == inference.style_size for code in inference.presets.values())
