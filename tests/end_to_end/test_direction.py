"""The direction that a run states is the one that it learned, by the images that it was given and gives."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_export.run.trace import onnx_from_run
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_trainer.checkpoint import load_method, read_config
from i2i_trainer.loop import train
from i2i_trainer.method import Batch, Losses, Update
from i2i_trainer.methods import METHODS
from i2i_trainer.teachers import EngineInference

DIGITS = ("unit-digits", "cogan")
LEVELS = {"light": 220, "dark": 30}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `dark` and `light` with even images of equal names."""
    root = tmp_path_factory.mktemp("photos")
    for name, level in LEVELS.items():
        (root / name).mkdir()
        for number in range(2):
            Image.new("RGB", (80, 72), (level,) * 3).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as digits."""
    root = tmp_path_factory.mktemp("digits")
    for name, level in LEVELS.items():
        (root / name).mkdir()
        pixels = bytes([level]) * (4 * 28 * 28)
        (root / name / "train-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, 4, 28, 28) + pixels)
        (root / name / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, 4) + bytes(4))
    return root


@pytest.mark.parametrize(("swap", "named"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_states_the_direction_of_its_images(
    name: str,
    swap: bool,
    named: bool,
    photos: Path,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Batch] = []

    def step(method: object, batch: Batch, update: Update) -> Losses:
        seen.append(batch)
        return {}

    entry = METHODS[name]
    monkeypatch.setattr(entry.method, "step", step)
    monkeypatch.setattr(entry.method, "preview", lambda method, batch: {"a": batch.a})
    if name in ("distill", "graded"):  # without its teacher, without its known translations
        monkeypatch.setattr(entry.method, "optimisers", lambda method: {})
    options: dict[str, Any] = {
        **entry.config.presets["small"],
        "data": digits if name in DIGITS else photos,
        "out": tmp_path / "run",
        "batch": 2,
        "steps": 1,
        "workers": 0,
        "device": "cpu",
        "swap": swap,
    }
    if named:
        options["domains"] = ("light", "dark") if swap else ("dark", "light")
    run = train(name, entry.config(**options))
    train(name, replace(read_config(run)[1], steps=2), resume=True)
    _, config = read_config(run)
    for batch in seen:
        source = "light" if batch.a.mean() > batch.b.mean() else "dark"
        assert source == ("light" if swap else "dark")
        assert config.direction() == f"{source} -> {'dark' if swap else 'light'}"
        assert config.direction("b2a") == f"{'dark' if swap else 'light'} -> {source}"


@pytest.mark.parametrize("swap", [False, True])
def test_the_engine_of_a_run_does_what_its_direction_says(swap: bool, photos: Path, tmp_path: Path) -> None:
    kind = METHODS["pix2pix"].config
    small = dict(kind.presets["small"]) | {"width": 4, "disc_width": 4, "batch": 2, "lr": 2e-3}
    config = kind(
        **small
        | {"data": photos, "out": tmp_path / "run", "steps": 40, "swap": swap, "device": "cpu", "workers": 0}
    )
    run = train("pix2pix", replace(config, schedule="constant", sample_every=1000))
    engine_file, _, _ = onnx_from_run(run, tmp_path / "engine.onnx", size="64x64")
    source, target = engine_file.metadata.direction.split(" -> ")
    assert (source, target) == (("light", "dark") if swap else ("dark", "light"))

    (tmp_path / "engine.onnx").write_bytes(engine_file.to_proto().SerializeToString())
    engine = OnnxRuntimeEngine(tmp_path / "engine.onnx")
    translated = engine.infer(np.full((64, 64, 3), LEVELS[source], np.uint8))
    engine.close()
    assert abs(float(translated.mean()) - LEVELS[target]) < abs(float(translated.mean()) - LEVELS[source])


def test_an_engine_teaches_a_student(photos: Path, tmp_path: Path) -> None:
    """The teacher makes everything dark; an engine file is all that is left of it."""
    entry = METHODS["lptn"]
    small = dict(entry.config.presets["small"])
    run = tmp_path / "teacher"
    train(
        "lptn",
        entry.config(
            **small | {"data": photos, "out": run, "steps": 1, "batch": 2, "device": "cpu", "workers": 0}
        ),
    )
    engine_file, _, _ = onnx_from_run(run, tmp_path / "teacher.onnx", size="64x64")
    (tmp_path / "teacher.onnx").write_bytes(engine_file.to_proto().SerializeToString())
    teacher = EngineInference(tmp_path / "teacher.onnx")
    assert teacher.fixed_size == (64, 64)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        wanted = load_method(run).inference()(images)
    torch.testing.assert_close(teacher(images), wanted, atol=2.5 / 127.5, rtol=0)
    kind = METHODS["distill"].config
    student = kind(
        **dict(kind.presets["small"])
        | {"data": photos, "out": tmp_path / "student", "teacher": tmp_path / "teacher.onnx", "steps": 1}
        | {"device": "cpu", "workers": 0}
    )
    assert (train("distill", student) / "checkpoint.safetensors").is_file()
