"""Half precision and int8: what stays float32, what the picture loses, and when int8 is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from i2i_export import parity
from i2i_export.calibration import measure_limits
from i2i_export.enginefile import EngineFile, check_contract, default_style, write_engine
from i2i_export.errors import CalibrationError, ExportError
from i2i_export.frames import fit_all
from i2i_export.onnx import Origin, engine_from_inference
from i2i_export.precision import half_from_engine
from i2i_export.quantisation import LEAST_SHARE, int8_from_engine
from i2i_export.sizes import dynamic_size
from i2i_runtime.frame import Picture
from i2i_trainer.method import Inference


@pytest.fixture(scope="module")
def half(painter_engine: EngineFile, street: list[Picture]) -> tuple[EngineFile, parity.Report]:
    gate = fit_all(street, [(64, 64), (64, 96)])
    return half_from_engine(painter_engine, gate, default_style(painter_engine.metadata))


def weights_of(model: ir.Model, op_type: str) -> list[np.ndarray[Any, Any]]:
    return [
        node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type == op_type and node.inputs[1] is not None and node.inputs[1].const_value is not None
    ]


def test_half_precision_keeps_the_picture(half: tuple[EngineFile, parity.Report]) -> None:
    engine, report = half
    assert report.psnr_db >= 45
    assert engine.metadata.precision == "fp16"
    assert engine.metadata.parity["psnr_db"] == pytest.approx(report.psnr_db, abs=0.01)


def test_half_precision_is_in_the_types_of_the_graph(
    half: tuple[EngineFile, parity.Report], painter_engine: EngineFile, tmp_path: Path
) -> None:
    engine, _ = half
    check_contract(engine.to_proto(), origin="half")
    assert {array.dtype for array in weights_of(engine.model, "Conv")} == {np.dtype(np.float16)}
    assert {array.dtype for array in weights_of(engine.model, "InstanceNormalization")} == {
        np.dtype(np.float16)
    }
    path, master = tmp_path / "half.onnx", tmp_path / "master.onnx"
    write_engine(engine, path)
    write_engine(painter_engine, master)
    assert path.stat().st_size < 0.7 * master.stat().st_size


def test_reading_and_writing_the_picture_stay_float32(half: tuple[EngineFile, parity.Report]) -> None:
    inferred = onnx.shape_inference.infer_shapes(half[0].to_proto(), data_prop=True)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    rounding = next(node for node in inferred.graph.node if node.op_type == "Round")
    first = next(node for node in inferred.graph.node if "frame" in node.input)
    assert types[rounding.input[0]] == onnx.TensorProto.FLOAT
    assert types[first.output[0]] == onnx.TensorProto.FLOAT


def test_written_out_statistics_stay_float32_and_survive_large_values(
    origin: Origin, street: list[Picture]
) -> None:
    class LayerNormed(Inference):
        """Values of about 700 whose squares leave half precision's range."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, picture: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            x = self.first(picture) * 700
            std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
            return torch.tanh(self.last((x - mean) / (std + 1e-5)))

    torch.manual_seed(0)
    engine = engine_from_inference(LayerNormed(), dynamic_size(4), origin)
    half, report = half_from_engine(engine, fit_all(street, [(64, 64)]))
    assert report.psnr_db >= 45
    inferred = onnx.shape_inference.infer_shapes(half.to_proto(), data_prop=True)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    means = [node for node in inferred.graph.node if node.op_type == "ReduceMean"]
    assert means
    assert {types[node.output[0]] for node in means} == {onnx.TensorProto.FLOAT}


def test_a_value_beyond_half_precision_is_refused(origin: Origin, street: list[Picture]) -> None:
    class Huge(Inference):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
            self.first.weight.data *= 1e6
            self.last.weight.data *= 1e-6

        def forward(self, picture: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            return torch.tanh(self.last(torch.relu(self.first(picture))))

    torch.manual_seed(0)
    engine = engine_from_inference(Huge(), dynamic_size(4), origin)
    with pytest.raises(parity.ParityError, match="stay with fp32"):
        half_from_engine(engine, fit_all(street, [(64, 64)]))


def test_int8_keeps_a_plain_translator_s_picture(plain_engine: EngineFile, street: list[Picture]) -> None:
    frames = fit_all(street, [(64, 96)])
    quantised, report = int8_from_engine(plain_engine, frames, frames)
    assert report.psnr_db >= 38
    assert quantised.metadata.precision == "int8"
    assert "multiply-adds" in quantised.metadata.notes["int8"]
    stored = {weight.name: weight for weight in quantised.to_proto().graph.initializer}
    readers = [node for node in quantised.to_proto().graph.node if node.op_type == "DequantizeLinear"]
    codes = [stored[node.input[0]] for node in readers if node.input[0] in stored]
    assert codes
    assert {entry.data_type for entry in codes} == {onnx.TensorProto.INT8}
    weights = [node for node in readers if node.input[0] in stored]
    assert all(list(stored[node.input[1]].dims) == stored[node.input[0]].dims[:1] for node in weights)
    check_contract(quantised.to_proto(), origin="int8")


def test_int8_is_refused_with_the_figures(origin: Origin, street: list[Picture]) -> None:
    class Delicate(Inference):
        """The difference of two nearly equal large pictures: a step of int8 is larger than the result."""

        def __init__(self) -> None:
            super().__init__()
            self.front = torch.nn.Conv2d(3, 16, 3, padding=1)
            self.one = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.two = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.two.load_state_dict(self.one.state_dict())
            self.two.weight.data += 1e-3 * torch.randn_like(self.two.weight)
            self.back = torch.nn.Conv2d(16, 3, 1)

        def forward(self, picture: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            x = self.front(picture) * 50
            return torch.tanh(self.back(self.one(x) - self.two(x)) * 10)

    torch.manual_seed(0)
    engine = engine_from_inference(Delicate(), dynamic_size(4), origin)
    frames = fit_all(street, [(64, 64)])
    with pytest.raises(
        parity.ParityError, match=r"PSNR \d+\.\d dB, asked for PSNR >= 38 dB.*use fp16"
    ) as caught:
        int8_from_engine(engine, frames, frames)
    assert caught.value.report.psnr_db < 38


def test_a_derived_engine_is_not_derived_again(
    half: tuple[EngineFile, parity.Report], street: list[Picture]
) -> None:
    frames = fit_all(street, [(64, 64)])
    with pytest.raises(ExportError, match="already fp16"):
        half_from_engine(half[0], frames)
    with pytest.raises(ExportError, match="already fp16"):
        int8_from_engine(half[0], frames, frames)


def test_calibration_finds_the_limit_that_costs_least(network: Any) -> None:
    model = network([("Relu", ["x"], "y", {})], {}, 3).clone()
    proto = ir.to_proto(model)
    proto.graph.input[0].name = "frame"
    proto.graph.node[0].input[0] = "frame"
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    values = np.random.default_rng(0).standard_normal((3, 256, 256)).astype(np.float32)
    values[0, 0, 0] = 40.0
    limit = measure_limits(proto, ["y"], [values])["y"]  # type: ignore[list-item]
    # Clipping costs (40 - c)^2 once, rounding c^2 / 127^2 / 12 for each of 98,304 positive values: least at 26.7.
    assert limit == pytest.approx(26.7, abs=1.0), "one outlier must not set the step of all others"
    with pytest.raises(CalibrationError, match="--frames"):
        measure_limits(proto, ["y"], [])


def test_the_least_share_is_half() -> None:
    assert LEAST_SHARE == 0.5
