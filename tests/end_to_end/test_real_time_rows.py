"""OpenVINO's form of a real-time translator: found in what the exporter writes, and the same image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import openvino
import pytest
import torch

from i2i_export.enginefile import write_engine
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.engines.contract import granted_slots
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.engines.openvino import OpenVinoEngine
from i2i_runtime.engines.openvino_rows import arrange_rows
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, Provenance, SizePolicy
from i2i_trainer.methods.realtime import Generator, RealtimeInference

ALL = ["unshuffle read by stride", "shuffle written in rows", "doubled half as transposed convolution"]


def image(height: int, width: int) -> Image:
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


def engine_of(generator: Generator, path: Path, style_size: int = 0) -> Path:
    inference = RealtimeInference(generator, style_size).eval()
    origin = Origin(
        "little", "realtime", "day -> night", Provenance(checkpoint_sha256="00ff", data="streets"), "MIT"
    )
    write_engine(engine_from_inference(inference, dynamic_size(inference.stride), origin), path)
    return path


def generator_of(**options: int) -> Generator:
    torch.manual_seed(1)
    generator = Generator(width=8, trunk=16, blocks=1, pad=2, **options)
    # A new generator is the identity: make it change the image, differently in every place.
    torch.nn.init.normal_(generator.change.weight, std=0.2)
    return generator


def translated(model: Any, frame: Image, **inputs: Any) -> Image:
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled({"frame": frame[None], **inputs})["translated"][0])


def read(path: Path, height: int, width: int) -> Any:
    model = openvino.Core().read_model(path)
    model.reshape({"frame": [1, height, width, 3]})
    return model


@pytest.mark.parametrize("unshuffle", [2, 4, 8])
def test_the_form_is_found_and_gives_the_same_image(unshuffle: int, tmp_path: Path) -> None:
    path = engine_of(generator_of(unshuffle=unshuffle), tmp_path / "little.onnx")
    frame = image(96, 64)
    arranged = read(path, 96, 64)
    assert arrange_rows(arranged) == ALL
    kinds = {node.get_type_name() for node in arranged.get_ordered_ops()}
    assert not kinds & {"SpaceToDepth", "DepthToSpace", "Gather", "Interpolate"}
    expected = translated(read(path, 96, 64), frame)
    assert np.abs(expected.astype(int) - frame).max() > 20
    difference = np.abs(translated(arranged, frame).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_style_stays_an_input(tmp_path: Path) -> None:
    path = engine_of(generator_of(style_size=3), tmp_path / "styled.onnx", style_size=3)
    frame, style = image(48, 64), np.array([[2.0, -1.0, 0.5]], np.float32)
    arranged = read(path, 48, 64)
    assert arrange_rows(arranged) == ALL
    expected = translated(read(path, 48, 64), frame, style=style)
    assert np.abs(translated(arranged, frame, style=style).astype(int) - expected).max() <= 1


def test_weights_that_are_no_product_keep_their_shuffle(tmp_path: Path) -> None:
    generator = generator_of(unshuffle=4)
    generator.phases += 0.01 * torch.randn_like(generator.phases)
    path = engine_of(generator, tmp_path / "odd.onnx")
    arranged, frame = read(path, 64, 64), image(64, 64)
    assert arrange_rows(arranged) == ALL[2:]
    np.testing.assert_allclose(
        translated(arranged, frame).astype(int), translated(read(path, 64, 64), frame).astype(int), atol=1
    )


@pytest.mark.parametrize("back_end", [OpenVinoEngine, OnnxRuntimeEngine])
def test_frames_side_by_side_are_the_frames_one_by_one(
    back_end: type[OpenVinoEngine | OnnxRuntimeEngine], tmp_path: Path
) -> None:
    path = engine_of(generator_of(unshuffle=4), tmp_path / "little.onnx")
    frames = [image(64, 8 * (8 + index % 3)) for index in range(12)]
    engine = back_end(path, threads=2, slots=2)
    assert engine.slots == 2
    with ThreadPoolExecutor(engine.slots) as pool:
        together = list(pool.map(engine.infer, frames))
    for frame, made in zip(frames, together, strict=True):
        np.testing.assert_array_equal(made, engine.infer(frame))


def test_a_heavy_network_takes_one_frame_at_a_time() -> None:
    light = EngineMetadata("little", "realtime", "day -> night", SizePolicy(8), macs_per_pixel=15_000.0)
    assert granted_slots(light, 2) == 2
    assert granted_slots(replace(light, macs_per_pixel=756_000.0), 2) == 1
