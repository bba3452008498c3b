"""A translator that sees a smaller image, and the guided filter that brings its change to full size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional as F

from i2i_export.cli import main
from i2i_export.enginefile import EngineFile, read_engine, write_engine
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all
from i2i_export.parity import OnnxTranslator
from i2i_export.run.guided import FLATNESS, RADIUS, GuidedInference, fit
from i2i_export.run.guided_engine import guided_from_engine
from i2i_export.run.trace import Origin, check_against_torch, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import ExtraInput
from i2i_trainer.method import Inference

Values = NDArray[np.float32]


class Dusk(Inference):
    """Darkens, and adds its style's first number to the blue."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = 2
        self.style_size = 2
        self.default_style = (0.1, 0.0)
        self.presets = {"blue": (0.4, 0.0)}
        self.notes = {"dropout": "off"}

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = torch.tensor([self.default_style])
        blue = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None] * style[:, :1, None, None]
        return image * 0.5 - 0.3 + blue


def reference(source: Values, translated: Values) -> tuple[Values, Values]:
    """Gain and bias of the guided filter `[h, w, 3]` as He and Sun write it, in float64."""
    one, two = source.astype(np.float64), translated.astype(np.float64)
    mean_one, mean_two = means(one), means(two)
    gain = (means(one * two) - mean_one * mean_two) / (means(one * one) - mean_one**2 + FLATNESS)
    return means(gain).astype(np.float32), means(mean_two - gain * mean_one).astype(np.float32)


def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    size = (2 * RADIUS + 1,) * 2
    inside = cv2.boxFilter(np.ones_like(values), -1, size, normalize=False, borderType=cv2.BORDER_CONSTANT)
    sums = cv2.boxFilter(values, -1, size, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(sums / inside)


def tensor(values: Values) -> Tensor:
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def array(values: Tensor) -> Values:
    return np.asarray(values[0].permute(1, 2, 0).numpy(), np.float32)


def small_street(street: list[Image]) -> Values:
    return np.asarray(cv2.resize(street[0], (160, 90), interpolation=cv2.INTER_AREA) / 127.5 - 1, np.float32)


def test_the_fit_is_that_of_the_guided_filter(street: list[Image]) -> None:
    source = small_street(street)
    translated = np.tanh(2 * source - 0.5 * source[::-1]).astype(np.float32)
    gain, bias = (array(value) for value in fit(tensor(source), tensor(translated)))
    wanted_gain, wanted_bias = reference(source, translated)
    # Centring on wide windows moves the fit a little where these means themselves change.
    difference = np.abs(gain * source + bias - (wanted_gain * source + wanted_bias))
    assert float(difference.mean()) < 0.01
    assert float(np.abs(gain * source + bias - translated).mean()) < 0.35


def test_the_fit_survives_bfloat16(street: list[Image]) -> None:
    source = tensor(small_street(street))
    translated = source * 0.4 - 0.5
    exact = fit(source, translated)
    rough = fit(source.bfloat16(), translated.bfloat16())
    for one, two in zip(exact, rough, strict=True):
        assert float((one - two.float()).abs().mean()) < 0.02


def test_a_change_of_light_arrives_at_full_size_with_every_detail(street: list[Image]) -> None:
    inference = GuidedInference(Dusk().eval(), 4)
    image = tensor(np.asarray(street[0][:352] / 127.5 - 1, np.float32))
    translated = inference(image)
    wanted = Dusk()(image).clamp(-1, 1)
    assert float((translated - wanted).abs().mean()) < 0.02
    blurred = F.interpolate(F.avg_pool2d(wanted, 4), scale_factor=4.0, mode="bilinear")
    assert float((translated - wanted).abs().mean()) < 0.5 * float((blurred - wanted).abs().mean())


def test_what_the_runtime_must_know_follows_the_network() -> None:
    inference = GuidedInference(Dusk(), 4)
    assert (inference.stride, inference.style_size, inference.default_style) == (8, 2, (0.1, 0.0))
    assert inference.presets == {"blue": (0.4, 0.0)}
    assert inference.notes["guided"] == "translated 4 times smaller, applied at full size"
    fixed = Dusk()
    fixed.fixed_size = (64, 96)
    assert GuidedInference(fixed, 2).fixed_size == (128, 192)
    with pytest.raises(UsageError, match="--guided 5 is not a supported factor"):
        GuidedInference(Dusk(), 5)


def test_the_engine_passes_the_gate_at_any_size(origin: Origin, street: list[Image]) -> None:
    inference = GuidedInference(Dusk().eval(), 4)
    engine = engine_from_inference(inference, dynamic_size(inference.stride), origin)
    report = check_against_torch(engine, inference, fit_all(street[:1], [(64, 64), (96, 200)]))
    assert report.passed
    assert engine.metadata.size.stride == 8
    assert engine.metadata.style is not None


def test_an_engine_is_guided_as_its_run_is(origin: Origin, street: list[Image]) -> None:
    network = Dusk().eval()
    engine = engine_from_inference(network, dynamic_size(network.stride), origin)
    guided, report = guided_from_engine(engine, 4, street[:1], name="quarter")
    assert report.passed
    assert guided.metadata.name == "quarter"
    assert guided.metadata.direction == engine.metadata.direction
    assert guided.metadata.style == engine.metadata.style
    assert guided.metadata.size.stride == 8
    assert guided.metadata.size.min_width == 4 * engine.metadata.size.min_width
    assert {node.domain for node in guided.model.graph} == {""}

    frames = fit_all(street[:1], [(256, 256)])
    from_run = engine_from_inference(GuidedInference(network, 4), dynamic_size(8), origin)
    style = np.asarray([[0.3, 0.0]], np.float32)
    one, two = (
        OnnxTranslator(e.to_proto()).translate(frames[0], style).image.astype(int) for e in (guided, from_run)
    )
    assert np.abs(one - two).max() <= 1  # the engine rounds the small image


def test_a_network_trained_elsewhere_is_guided_at_its_own_size(data: Path, tmp_path: Path) -> None:
    mosaic = data / "models" / "gns_mosaic_nc8_256x256_0cd607.onnx"
    engine, guided = tmp_path / "mosaic.onnx", tmp_path / "half.onnx"
    assert main(["adopt", str(mosaic), "-o", str(engine), "--channels", "rgb", "--range", "0,255"]) == 0
    assert main([str(engine), "-o", str(guided), "--guided", "2"]) == 0
    metadata = read_engine(guided).metadata
    assert (metadata.size.min_height, metadata.size.max_width) == (512, 512)
    assert metadata.notes["guided"] == "translated 2 times smaller, applied at full size"
    assert metadata.notes["interface"] == read_engine(engine).metadata.notes["interface"]


def test_an_engine_in_half_precision_is_not_guided(
    plain_engine: EngineFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half, whole = tmp_path / "half.onnx", tmp_path / "plain.onnx"
    write_engine(plain_engine, whole)
    assert main([str(whole), "-o", str(half), "--precision", "fp16"]) == 0
    assert main([str(half), "-o", str(tmp_path / "y.onnx"), "--guided", "4"]) == 1
    assert "--guided takes a float32 engine, and little is fp16" in capsys.readouterr().err
    assert not (tmp_path / "y.onnx").exists()
    assert main([str(whole), "-o", str(whole), "--guided", "4"]) == 2


def saved_with_weights_as_inputs(engine: EngineFile, path: Path) -> EngineFile:
    proto = engine.to_proto()
    for weight in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    onnx.save(proto, path)
    return read_engine(path)


def test_an_engine_full_of_oddities_is_guided(
    written_engine: Any, tmp_path: Path, street: list[Image]
) -> None:
    def branch(name: str, factor: float) -> onnx.GraphProto:
        nodes = [
            helper.make_node("Mul", ["levels", "k"], ["val_1"]),
            helper.make_node("Neg", ["val_1"], [name]),
        ]
        result = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        weight = numpy_helper.from_array(np.asarray([factor], np.float32), "k")
        return helper.make_graph(nodes, name, [], [result], [weight])

    engine = written_engine(
        [
            ("Identity", ["image"], "levels", {}),
            ("Cast", ["frame"], "whole", {"to": onnx.TensorProto.INT64}),
            ("Mod", ["whole", "two"], "odd", {}),
            ("Cast", ["odd"], "bit", {"to": onnx.TensorProto.FLOAT}),
            ("ReduceMean", ["bit"], "share", {"keepdims": 0}),
            ("ReduceMean", ["image"], "mean", {"keepdims": 0}),
            ("Greater", ["mean", "middle"], "bright", {}),
            (
                "If",
                ["bright"],
                "val_1",
                {"then_branch": branch("a", -0.5), "else_branch": branch("b", -0.25)},
            ),
            ("Add", ["val_1", "share"], "out", {}),
        ],
        {"two": np.asarray([2]), "middle": np.asarray(100, np.float32)},
    )
    read = saved_with_weights_as_inputs(engine, tmp_path / "odd.onnx")
    guided, report = guided_from_engine(read, 2, street[:1], name="half")
    assert report.passed
    write_engine(guided, tmp_path / "half.onnx")
    frame = fit_all(street[:1], [(128, 128)])[0]
    image = OnnxTranslator(guided.to_proto()).translate(frame, None).image
    factor = 0.5 if frame.mean() > 100 else 0.25
    assert np.abs(image - frame.astype(float) * factor).mean() < 3


def test_an_engine_with_a_later_input_is_not_guided(written_engine: Any, street: list[Image]) -> None:
    engine = written_engine([("Mul", ["image", "gain"], "out", {})], {}, (ExtraInput("gain", (1,), (0.5,)),))
    with pytest.raises(ExportError, match="has the input gain too"):
        guided_from_engine(engine, 2, street[:1], name="half")
