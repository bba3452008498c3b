"""Every method the whole way: trained, resumed, exported, and streamed as the network that was trained."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from i2i_export.cli import main as export
from i2i_export.enginefile import read_engine
from i2i_export.run.trace import TorchTranslator
from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.metadata import SizePolicy
from i2i_runtime.sources import SourceOptions, open_source
from i2i_trainer.checkpoint import load_method
from i2i_trainer.config import TrainConfig
from i2i_trainer.loop import train
from i2i_trainer.methods import METHODS

FRAMES = 10
DIGITS = ("unit-digits", "cogan")
"""Methods that learn from digits with labels."""

SIDE = 64
"""Height and width of the engines, where the network does not settle them itself."""

Frames = NDArray[np.uint8]


def small(name: str, **options: Any) -> TrainConfig:
    """The method's `small` preset, for two steps of two images."""
    kind = METHODS[name].config
    values = dict(kind.presets["small"]) | {
        "batch": 2,
        "workers": 0,
        "steps": 2,
        "decay_from": 0,
        "log_every": 1,
        "sample_every": 100,
        "checkpoint_every": 100,
        "device": "cpu",
    }
    if name == "cogan":
        values["image_size"] = values["load_size"] = 28
    return kind(**(values | options))


@pytest.fixture(scope="module")
def teacher(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CycleGAN of one step, for the student to learn from."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    return train("cyclegan", small("cyclegan", data=streets, out=out, steps=1))


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


def frames_of_video(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def frames_of_folder(path: Path) -> list[Frames]:
    return [np.asarray(Image.open(file).convert("RGB")) for file in sorted(path.iterdir())]


def first_frame(width: int, height: int) -> Frames:
    with closing(open_source("test://street", SourceOptions(size=(width, height)))) as source:
        frame = source.read()
    assert frame is not None
    return frame.pixels


def stream_street(engine: Path, size: SizePolicy, *outputs: Path, style: str | None = None) -> None:
    """Ten frames of the rendered street through the engine."""
    options = StreamOptions(
        engine=str(engine),
        input="test://street",
        output=[str(output) for output in outputs],
        size=f"{size.min_width}x{size.min_height}",
        policy="every-frame",
        limit=FRAMES,
        style=style,
        backend="onnxruntime",
        threads=1,
        quiet=True,
    )
    assert stream(options) == 0


@pytest.mark.parametrize("name", METHODS)
def test_from_images_to_frames(
    name: str, request: pytest.FixtureRequest, streets: Path, digits: Path, tmp_path: Path
) -> None:
    needed = {"distill": "teacher", "graded": "levels"}.get(name)
    options = {needed: request.getfixturevalue(needed)} if needed else {}
    config = small(name, data=digits if name in DIGITS else streets, out=tmp_path / "run", **options)
    train(name, config)
    run = train(name, replace(config, steps=3), resume=True)
    steps = [json.loads(row)["step"] for row in (run / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]

    method = load_method(run)
    inference = method.inference().eval()
    engine = tmp_path / f"{name}.onnx"
    size = [] if inference.fixed_size else ["--size", f"{SIDE}x{SIDE}"]
    assert export([str(run), "-o", str(engine), *size]) == 0
    metadata = read_engine(engine).metadata
    assert metadata.provenance.pictures_seen == 3 * 2 * 2, "the engine is that of the resumed run"

    video, images = tmp_path / "out.mp4", tmp_path / "images"
    stream_street(engine, metadata.size, video, images)
    assert frames_of_video(video) == FRAMES
    translated = frames_of_folder(images)
    assert len(translated) == FRAMES
    # What comes out of the stream is what the trained network makes of the camera's image.
    style = np.asarray([inference.default_style], np.float32) if inference.style_size else None
    frame = first_frame(metadata.size.min_width, metadata.size.min_height)
    expected = TorchTranslator(inference, None).translate(frame, style).image
    assert np.abs(translated[0].astype(int) - expected).max() <= 1

    if metadata.style is None:
        assert inference.style_size == 0
        return
    asked = ["random:7"]
    assert (metadata.style.encoder is None) == (method.style_encoder() is None)
    if metadata.style.encoder is not None:
        asked.append(str(next((streets / "trainB").iterdir())))
    for i, text in enumerate(asked):
        stream_street(engine, metadata.size, tmp_path / f"styled{i}", style=text)
        styled = frames_of_folder(tmp_path / f"styled{i}")
        assert len(styled) == FRAMES
        assert any((one != other).any() for one, other in zip(styled, translated, strict=True)), text
