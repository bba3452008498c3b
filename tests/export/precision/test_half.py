"""Half precision: what stays float32, what the image loses, and when it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper

from i2i_export import parity
from i2i_export.enginefile import EngineFile, check_contract, default_style, write_engine
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all
from i2i_export.precision.half import half_from_engine
from i2i_export.precision.int8 import int8_from_engine
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.frame import Image
from i2i_runtime.metadata import ExtraInput
from i2i_trainer.method import Inference


@pytest.fixture(scope="module")
def half(painter_engine: EngineFile, street: list[Image]) -> tuple[EngineFile, parity.Report]:
    gate = fit_all(street, [(64, 64), (64, 96)])
    return half_from_engine(painter_engine, gate, default_style(painter_engine.metadata))


def weights_of(model: ir.Model, op_type: str) -> list[np.ndarray[Any, Any]]:
    return [
        node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type == op_type and node.inputs[1] is not None and node.inputs[1].const_value is not None
    ]


def test_half_precision_keeps_the_image(half: tuple[EngineFile, parity.Report]) -> None:
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


def test_reading_and_writing_the_image_stay_float32(half: tuple[EngineFile, parity.Report]) -> None:
    inferred = onnx.shape_inference.infer_shapes(half[0].to_proto(), data_prop=True)
    types = {entry.name: entry.type.tensor_type.elem_type for entry in inferred.graph.value_info}
    rounding = next(node for node in inferred.graph.node if node.op_type == "Round")
    first = next(node for node in inferred.graph.node if "frame" in node.input)
    assert types[rounding.input[0]] == onnx.TensorProto.FLOAT
    assert types[first.output[0]] == onnx.TensorProto.FLOAT


def test_written_out_statistics_stay_float32_and_survive_large_values(
    origin: Origin, street: list[Image]
) -> None:
    class LayerNormed(Inference):
        """Values of about 700 whose squares leave half precision's range."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)

        def forward(self, image: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            x = self.first(image) * 700
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


def test_a_value_beyond_half_precision_is_refused(origin: Origin, street: list[Image]) -> None:
    class Huge(Inference):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
            self.first.weight.data *= 1e6
            self.last.weight.data *= 1e-6

        def forward(self, image: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            return torch.tanh(self.last(torch.relu(self.first(image))))

    torch.manual_seed(0)
    engine = engine_from_inference(Huge(), dynamic_size(4), origin)
    with pytest.raises(ExportError, match="stay with fp32"):
        half_from_engine(engine, fit_all(street, [(64, 64)]))


def each_channel(factor: float) -> np.ndarray[Any, Any]:
    return factor * np.eye(3, dtype=np.float32)[:, :, None, None]


def test_an_overflow_that_processors_do_not_show_is_refused(written_engine: Any, street: list[Image]) -> None:
    engine = written_engine(
        [
            ("Conv", ["image", "up"], "large", {}),
            ("Relu", ["large"], "kept", {}),
            ("Conv", ["kept", "down"], "out", {}),
        ],
        {"up": each_channel(1000), "down": each_channel(0.001)},
    )
    frames = fit_all(street, [(64, 64)])
    top = 1000 * max(int(frame.max()) for frame in frames)
    with pytest.raises(ExportError, match=f"reaches {top:,} .* ends at 65,504: stay with fp32"):
        half_from_engine(engine, frames)


def test_what_a_branch_reads_stays_float32(written_engine: Any, street: list[Image]) -> None:
    def branch(name: str, factor: str) -> onnx.GraphProto:
        nodes = [helper.make_node("Mul", ["a", factor], ["m"]), helper.make_node("Add", ["m", "a"], [name])]
        result = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [result])

    engine = written_engine(
        [
            ("Conv", ["image", "w"], "a", {}),
            ("ReduceMean", ["image"], "mean", {"keepdims": 0}),
            ("Greater", ["mean", "middle"], "bright", {}),
            ("If", ["bright"], "b", {"then_branch": branch("t", "one"), "else_branch": branch("e", "two")}),
            ("Conv", ["b", "w"], "out", {}),
        ],
        {
            "w": each_channel(0.5),
            "middle": np.asarray(100, np.float32),
            "one": np.asarray([1], np.float32),
            "two": np.asarray([2], np.float32),
        },
    )
    half, report = half_from_engine(engine, fit_all(street, [(64, 64)]))
    assert report.passed
    assert np.float16 in {array.dtype.type for array in weights_of(half.model, "Conv")}


def test_a_later_input_is_fed_its_default(written_engine: Any, street: list[Image]) -> None:
    engine = written_engine(
        [
            ("Conv", ["image", "w"], "a", {}),
            ("Mul", ["a", "gain"], "b", {}),
            ("Conv", ["b", "w"], "out", {}),
        ],
        {"w": each_channel(1)},
        (ExtraInput("gain", (1,), (0.5,)),),
    )
    frame = fit_all(street, [(64, 64)])[0]
    half, report = half_from_engine(engine, [frame])
    assert report.passed
    image = parity.OnnxTranslator(half.to_proto()).translate(frame, None).image
    assert np.abs(image - frame.astype(float) / 2).max() <= 0.51


@pytest.mark.parametrize("bound", [parity.HALF_PRECISION, parity.INT8, parity.SAME_NETWORK])
def test_a_value_that_is_no_number_breaks_every_bound(bound: parity.Bound) -> None:
    class Grey:
        def __init__(self, value: float) -> None:
            self.value = value

        def translate(self, frame: Image, style: object) -> parity.Translation:
            unrounded = np.zeros(frame.shape, np.float32)
            unrounded[5, 5] = self.value
            return parity.Translation(unrounded, np.full(frame.shape, 128, np.uint8))

    frame = np.zeros((64, 64, 3), np.uint8)
    assert parity.compare("same", Grey(0), Grey(0), [frame], bound).passed
    assert not parity.compare("broken", Grey(0), Grey(np.nan), [frame], bound).passed


def test_a_derived_engine_is_not_derived_again(
    half: tuple[EngineFile, parity.Report], street: list[Image]
) -> None:
    frames = fit_all(street, [(64, 64)])
    with pytest.raises(ExportError, match="already fp16"):
        half_from_engine(half[0], frames)
    with pytest.raises(ExportError, match="already fp16"):
        int8_from_engine(half[0], frames, frames)
