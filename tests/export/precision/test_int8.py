"""int8: what is written into the graph, what the image loses, and when it is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from i2i_export import parity
from i2i_export.cli import main
from i2i_export.enginefile import EngineFile, check_contract, write_engine
from i2i_export.errors import CalibrationError
from i2i_export.frames import fit_all, read_held_back_frames
from i2i_export.precision.calibration import exposures, measure_limits
from i2i_export.precision.half import half_for_plan
from i2i_export.precision.int8 import LEAST_SHARE, int8_from_engine
from i2i_export.precision.qdq import Form
from i2i_export.precision.speed import NotFasterError, Speed, compare_speed, require_faster
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_export.ssim import worst_ssim
from i2i_runtime.frame import Image
from i2i_trainer.method import Inference


def test_int8_keeps_a_plain_translator_s_image(plain_engine: EngineFile, street: list[Image]) -> None:
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


def test_a_plan_gets_half_precision_around_the_codes(plain_engine: EngineFile, street: list[Image]) -> None:
    frames = fit_all(street, [(64, 96)])
    quantised, _ = int8_from_engine(plain_engine, frames, frames)
    half = half_for_plan(quantised, frames[:1])
    assert half.metadata.precision == "int8"
    proto = half.to_proto()
    onnx.checker.check_model(proto, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    made = {kinds[node.output[0]] for node in proto.graph.node if node.op_type == "Conv"}
    assert made == {onnx.TensorProto.FLOAT16}
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            wanted = onnx.TensorProto.INT8 if node.op_type == "QuantizeLinear" else onnx.TensorProto.FLOAT16
            assert kinds[node.output[0]] == wanted, node.name
    check_contract(proto, origin="int8 around half")
    same = parity.compare(
        "around half",
        parity.OnnxTranslator(quantised.to_proto()),
        parity.OnnxTranslator(proto),
        frames,
        parity.INT8,
    )
    assert same.psnr_db >= 45


def test_int8_is_refused_with_the_figures(origin: Origin, street: list[Image]) -> None:
    class Delicate(Inference):
        """The difference of two nearly equal large images: a step of int8 is larger than the result."""

        def __init__(self) -> None:
            super().__init__()
            self.front = torch.nn.Conv2d(3, 16, 3, padding=1)
            self.one = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.two = torch.nn.Conv2d(16, 16, 3, padding=1)
            self.two.load_state_dict(self.one.state_dict())
            self.two.weight.data += 1e-3 * torch.randn_like(self.two.weight)
            self.back = torch.nn.Conv2d(16, 3, 1)

        def forward(self, image: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            x = self.front(image) * 50
            return torch.tanh(self.back(self.one(x) - self.two(x)) * 10)

    torch.manual_seed(0)
    engine = engine_from_inference(Delicate(), dynamic_size(4), origin)
    frames = fit_all(street, [(64, 64)])
    with pytest.raises(
        parity.ParityError, match=r"PSNR \d+\.\d dB, .*asked for PSNR >= 38 dB.*use fp16"
    ) as caught:
        int8_from_engine(engine, frames, frames)
    assert caught.value.report.psnr_db < 38


def test_calibration_finds_the_limit_that_costs_least(network: Any) -> None:
    model = network([("Relu", ["x"], "y", {})], {}, 3).clone()
    proto = ir.to_proto(model)
    proto.graph.input[0].name = "frame"
    proto.graph.node[0].input[0] = "frame"
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    values = np.random.default_rng(0).standard_normal((3, 256, 256)).astype(np.float32)
    values[0, 0, 0] = 40.0
    limit = measure_limits(proto, ["y"], [values]).closest["y"]  # type: ignore[list-item]
    # Clipping costs (40 - c)^2 once, rounding c^2 / 127^2 / 12 for each of 98,304 positive values: least at 26.7.
    assert limit == pytest.approx(26.7, abs=1.0), "one outlier must not set the step of all others"
    with pytest.raises(CalibrationError, match="--frames"):
        measure_limits(proto, ["y"], [])


def test_the_least_share_is_half() -> None:
    assert LEAST_SHARE == 0.5


class Residual(Inference):
    """Pixel unshuffle, a residual block, a doubling and a joint: what stands between convolutions in a translator."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = 4
        self.front = torch.nn.Conv2d(12, 16, 1)
        self.down = torch.nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.one, self.two = (torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.up = torch.nn.Conv2d(16, 16, 1)
        self.merge = torch.nn.Conv2d(32, 12, 3, padding=1)
        self.back = torch.nn.Conv2d(12, 3, 1)

    def forward(self, image: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
        fine = torch.relu(self.front(torch.nn.functional.pixel_unshuffle(image, 2)))
        coarse = torch.relu(self.down(fine))
        coarse = coarse + self.two(torch.relu(self.one(coarse)))
        doubled = torch.nn.functional.interpolate(self.up(coarse), scale_factor=2.0)
        joined = torch.relu(self.merge(torch.cat([fine, doubled], dim=1)))
        change = torch.nn.functional.interpolate(self.back(joined), scale_factor=2.0)
        return (image + 0.3 * change).clamp(-1, 1)


@pytest.fixture(scope="module")
def residual_engine(origin: Origin) -> EngineFile:
    torch.manual_seed(5)
    return engine_from_inference(Residual().eval(), dynamic_size(4), origin)


@pytest.fixture(scope="module")
def unsigned(residual_engine: EngineFile, street: list[Image]) -> EngineFile:
    frames = fit_all(street, [(64, 96)])
    return int8_from_engine(residual_engine, frames, frames, for_cpu=True)[0]


def test_processors_get_unsigned_codes_and_integer_biases(unsigned: EngineFile) -> None:
    proto = unsigned.to_proto()
    check_contract(proto, origin="unsigned")
    stored = {weight.name: weight.data_type for weight in proto.graph.initializer}
    quantisers = [
        node for node in proto.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in stored
    ]
    assert {stored[node.input[2]] for node in quantisers} == {onnx.TensorProto.UINT8}
    decoded = Counter(
        stored[node.input[0]]
        for node in proto.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    )
    assert decoded == {onnx.TensorProto.INT32: 5}
    grids = [n for n in proto.graph.node if n.op_type == "QuantizeLinear" and n.input[0] in stored]
    assert [stored[node.input[2]] for node in grids] == [onnx.TensorProto.INT8] * 5


def test_processors_get_sums_and_joints_between_codes(unsigned: EngineFile) -> None:
    makers = {name: node.op_type for node in unsigned.to_proto().graph.node for name in node.output}
    for node in unsigned.to_proto().graph.node:
        if node.op_type in ("Add", "Concat") and "DequantizeLinear" in [makers.get(n) for n in node.input]:
            assert [makers.get(name) for name in node.input] == ["DequantizeLinear"] * 2, node.name


def test_what_is_never_negative_gets_all_the_steps(unsigned: EngineFile) -> None:
    model = unsigned.model
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None and node.inputs[2] is not None:
            producer, zero = node.inputs[0].producer(), node.inputs[2].const_value
            if producer is None:  # weights
                continue
            assert zero is not None
            if producer.op_type in ("Relu", "Conv"):
                assert int(zero.numpy()) == (0 if producer.op_type == "Relu" else 128)


@pytest.mark.parametrize(
    ("rows", "zero"),
    [
        ([("Relu", ["x"], "a", {}), ("Pad", ["a", "pads"], "y", {"mode": "reflect"})], 0),
        ([("Relu", ["x"], "a", {}), ("Pad", ["a", "pads", "below"], "y", {})], 128),
        ([("Relu", ["x"], "a", {}), ("Add", ["a", "below"], "y", {})], 128),
        ([("Relu", ["x"], "a", {}), ("Add", ["a", "x"], "y", {})], 128),
        ([("Relu", ["x"], "a", {}), ("Resize", ["a", "", "scales"], "y", {"mode": "linear"})], 0),
        ([("Relu", ["x"], "a", {}), ("Resize", ["a", "", "scales"], "y", {"mode": "cubic"})], 128),
    ],
)
def test_only_what_is_certain_counts_as_never_negative(rows: Any, zero: int, network: Any) -> None:
    weights = {
        "pads": np.asarray([0, 0, 1, 1, 0, 0, 1, 1]),
        "below": np.asarray(-1, np.float32),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
    }
    used = {name for _, inputs, _, _ in rows for name in inputs}
    model = network(rows, {name: array for name, array in weights.items() if name in used}, 3)
    assert int(Form(unsigned=True).step_and_zero(model.graph.outputs[0], 1.0)[1]) == zero


def test_the_form_for_processors_is_as_close_as_the_other(
    residual_engine: EngineFile, unsigned: EngineFile, street: list[Image]
) -> None:
    frames = fit_all(street, [(64, 96)])
    _, signed = int8_from_engine(residual_engine, frames, frames)
    assert unsigned.metadata.parity["psnr_db"] >= signed.psnr_db - 1


def test_a_convolution_that_reads_the_image_stays_float32(unsigned: EngineFile) -> None:
    first = next(node for node in unsigned.model.graph if node.op_type == "Conv")
    source = first.inputs[0].producer() if first.inputs[0] is not None else None
    assert source is not None
    assert source.op_type != "DequantizeLinear"


def test_calibration_sees_every_frame_in_five_lights(street: list[Image]) -> None:
    frame = street[0]
    shown = exposures([frame])
    assert len(shown) == 5
    assert shown[0] is frame
    means = [float(image.mean()) for image in shown]
    assert means[1] < means[0] < means[2]
    assert np.array_equal(shown[3], 255 - frame)


def test_the_widest_limit_leaves_room_above_what_was_met(plain_engine: EngineFile) -> None:
    source = next(node for node in plain_engine.model.graph if node.op_type == "Conv").inputs[0]
    assert source is not None
    white = np.full((64, 64, 3), 255, np.uint8)
    limits = measure_limits(plain_engine.to_proto(), [str(source.name)], [white])
    assert limits.widest[str(source.name)] == pytest.approx(1.25)
    assert limits.closest[str(source.name)] == pytest.approx(1.0)


def test_the_gate_sees_frames_that_calibration_did_not(data: Path) -> None:
    known, unknown = read_held_back_frames(data / "videos" / "udacity__solidWhiteRight.mp4", 4)
    assert (len(known), len(unknown)) == (4, 2)
    assert not any(np.array_equal(one, two) for one in known for two in unknown)


def test_one_image_is_too_little_to_calibrate_with(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(CalibrationError, match="has only one frame"):
        read_held_back_frames(tmp_path, 8)


def test_likeness_finds_the_one_square_that_turned_flat(street: list[Image]) -> None:
    frame = np.random.default_rng(0).integers(100, 156, (128, 160, 3), dtype=np.uint8)
    spoilt = frame.copy()
    spoilt[64:96, 64:96] = 128
    assert worst_ssim(frame, frame) == pytest.approx(1.0, abs=1e-4)
    assert worst_ssim(frame, spoilt) < 0.5
    lighter = np.clip(street[0].astype(np.int16) + 1, 0, 255).astype(np.uint8)
    assert worst_ssim(street[0], lighter) > 0.95


def test_a_broken_likeness_breaks_the_gate() -> None:
    row = parity.Row(64, 64, max_abs=0.01, mean_abs=0.001, max_255=2, off=0.1, psnr_db=45.0, ssim=0.5)
    report = parity.Report("int8", parity.INT8, (row,))
    assert not report.passed
    with pytest.raises(parity.ParityError, match=r"worst SSIM 0.500, asked for PSNR >= 38 dB and worst SSIM"):
        parity.require(report, "the int8 engine", "stay.")


def test_an_engine_that_is_not_faster_is_refused_with_the_figures() -> None:
    slow = Speed(("openvino bf16", "openvino bf16"), 360, 640, original_ms=4.0, lean_ms=3.9, rounds=101)
    with pytest.raises(
        NotFasterError, match=r"1\.03 times as fast at 640x360: 3\.9 ms .* 4\.0 ms .* --insist"
    ):
        require_faster(slow, "keep the original")
    quick = Speed(slow.backends, 360, 640, original_ms=4.0, lean_ms=3.0, rounds=101)
    require_faster(quick, "keep the original")


def test_both_engines_are_timed_on_the_same_back_end(
    residual_engine: EngineFile, unsigned: EngineFile, street: list[Image]
) -> None:
    speed = compare_speed(residual_engine, unsigned, street[0][:64, :64], "onnxruntime")
    assert speed.backends == ("onnxruntime fp32", "onnxruntime int8")
    assert speed.rounds >= 5
    assert speed.gain == pytest.approx(speed.original_ms / speed.lean_ms)


def test_the_command_wants_real_frames_and_writes_when_insisted(
    residual_engine: EngineFile, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "net.onnx", tmp_path / "net.int8.onnx"
    write_engine(residual_engine, source)
    arguments = [str(source), "-o", str(output), "--precision", "int8"]
    assert main(arguments) == 2
    assert "calibrated on real frames" in capsys.readouterr().err
    clip = str(data / "videos" / "aiortc__test_clip.mp4")
    assert main([*arguments, "--frames", clip, "--for-cpu", "--insist"]) == 0
    assert "times as fast at 640x360" in capsys.readouterr().err
    assert output.exists()
