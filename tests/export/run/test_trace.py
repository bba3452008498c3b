"""From torch to the portable engine: the contract, the gate, and the same bytes twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import nn

from i2i_export import parity
from i2i_export.enginefile import EngineFile, check_contract, read_engine, write_engine
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all
from i2i_export.graph.macs import count_macs
from i2i_export.graph.match import nodes_of
from i2i_export.precision.half import half_from_engine
from i2i_export.run.trace import Origin, check_against_torch, engine_from_inference, style_encoder_model
from i2i_export.sizes import dynamic_size, gate_sizes
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.frame import Image
from i2i_runtime.metadata import SizePolicy
from i2i_trainer.method import Inference


def test_the_engine_gives_the_network_s_image_at_two_sizes(
    painter: Inference, painter_engine: EngineFile, street: list[Image]
) -> None:
    sizes = gate_sizes(painter_engine.metadata.size)
    report = check_against_torch(painter_engine, painter, fit_all(street, sizes))
    assert len(sizes) == 2
    assert report.passed
    assert {(row.height, row.width) for row in report.rows} == set(sizes)
    assert report.max_abs < 1e-4
    assert painter_engine.metadata.parity["max_abs_255"] <= 1


def test_uint8_meets_only_cast_and_the_graph_is_clean(painter_engine: EngineFile) -> None:
    proto = painter_engine.to_proto()
    check_contract(proto, origin="engine")
    ops = {node.op_type for node in proto.graph.node}
    assert {node.domain for node in proto.graph.node} == {""}
    assert proto.opset_import[0].version == 18
    assert "InstanceNormalization" in ops
    assert all(
        any(entry.name == "mode" and entry.s in (b"reflect", b"edge") for entry in node.attribute)
        for node in proto.graph.node
        if node.op_type == "Pad"
    )
    assert not ops & {"Identity", "Dropout", "BatchNormalization", "Shape", "Constant", "ReduceMean"}
    assert str(Path(__file__).parents[3]).encode() not in proto.SerializeToString()
    assert b"stack_trace" not in proto.SerializeToString()


def test_the_same_network_gives_the_same_bytes(
    painter: Inference, painter_engine: EngineFile, origin: Origin
) -> None:
    again = engine_from_inference(painter, dynamic_size(4), origin)
    again.metadata = painter_engine.metadata
    assert again.to_bytes() == painter_engine.to_bytes()


def test_metadata_says_where_the_engine_comes_from(painter_engine: EngineFile, painter: Inference) -> None:
    metadata = painter_engine.metadata
    assert (metadata.name, metadata.method, metadata.direction) == ("little", "painter", "day -> night")
    assert metadata.provenance.checkpoint_sha256 == "00ff"
    assert metadata.licence == "MIT"
    assert metadata.notes["dropout"] == "off"
    assert metadata.style is not None
    assert metadata.style.default == painter.default_style
    assert metadata.style.presets == {"warm": (1.0, 1.0, 0.0, 0.0)}
    assert metadata.size == dynamic_size(4)


def test_macs_are_those_of_the_convolutions_and_the_linear_layer(painter_engine: EngineFile) -> None:
    size = 64
    full, half = size * size, (size // 2) ** 2
    wide = full * 3 * 8 * 49 * 2 + half * 8 * 16 * 16 + half * 16 * 16 * 9
    phases = half * 16 * (4 * 8) * 9
    # What reflection changes on the outermost lines: two pairs of lines, each met by a pair of kernels of 5.
    border = 2 * 2 * size * 16 * (2 * 8) * 5
    assert painter_engine.metadata.macs == wide + phases + border + 4 * 32
    # The border counts less in a frame as it is used than in the smallest.
    used = count_macs(painter_engine.to_proto(), 720, 1280) / (720 * 1280)
    assert painter_engine.metadata.macs_per_pixel == used < painter_engine.metadata.macs / full
    assert count_macs(painter_engine.to_proto(), 128, 128) > 3.8 * painter_engine.metadata.macs


def test_a_fixed_style_folds_away(
    painter: Inference, painter_engine: EngineFile, origin: Origin, street: list[Image]
) -> None:
    warm = np.array([[1, 1, 0, 0]], np.float32)
    fixed = engine_from_inference(painter, SizePolicy.fixed(96, 128), origin, warm)
    frames = fit_all(street, [(96, 128)])
    assert check_against_torch(fixed, painter, frames, warm).passed
    assert fixed.metadata.style is None
    assert [value.name for value in fixed.model.graph.inputs] == ["frame"]
    assert not nodes_of(fixed.model, "Gemm", "MatMul", "Split", "Unsqueeze")
    given = parity.OnnxTranslator(painter_engine.to_proto())
    report = parity.compare(
        "style fed against style folded",
        _Styled(given, warm),
        parity.OnnxTranslator(fixed.to_proto()),
        frames,
        parity.SAME_NETWORK,
    )
    assert report.passed


class _Styled:
    def __init__(self, translator: parity.OnnxTranslator, style: np.ndarray) -> None:
        self._translator, self._style = translator, style

    def translate(self, frame: Image, style: np.ndarray | None) -> parity.Translation:
        return self._translator.translate(frame, self._style)


def test_the_gate_refuses_an_engine_that_differs(
    painter: Inference, painter_engine: EngineFile, street: list[Image]
) -> None:
    model = ir.from_proto(painter_engine.to_proto())
    bias = nodes_of(model, "Conv")[-1].inputs[2]
    assert bias is not None
    assert bias.const_value is not None
    bias.const_value = ir.tensor(bias.const_value.numpy() + np.float32(0.02), name=bias.name)
    broken = EngineFile(model, painter_engine.metadata)
    with pytest.raises(parity.ParityError, match=r"differs too much .* no file was written") as caught:
        check_against_torch(broken, painter, fit_all(street, [(64, 64)]))
    assert caught.value.report.max_abs > 1e-3
    assert not caught.value.report.passed


def test_the_runtime_reads_what_export_wrote(
    tmp_path: Path, painter: Inference, painter_engine: EngineFile, street: list[Image]
) -> None:
    path = tmp_path / "deep" / "little.onnx"
    write_engine(painter_engine, path)
    assert list(path.parent.iterdir()) == [path]
    assert read_engine(path).metadata == painter_engine.metadata
    engine = OnnxRuntimeEngine(path)
    frame = fit_all(street, [(64, 72)])[0]
    translated = engine.infer(frame)
    engine.close()
    with torch.no_grad():
        wanted = painter(torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    levels = (wanted.permute(1, 2, 0) * 127.5 + 127.5).numpy()
    assert np.abs(translated - levels).max() <= 0.51


def test_the_style_encoder_reads_camera_frames(street: list[Image]) -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = style_encoder_model(encoder, 4)
    assert model is not None
    frame = fit_all(street, [(64, 96)])[0]
    style = parity.cpu_session(model).run(None, {"frame": frame[None]})[0]
    assert style.shape == (1, 4)
    assert style.dtype == np.float32


def test_a_network_that_cannot_be_traced_is_refused_in_a_sentence(origin: Origin) -> None:
    class Fickle(Inference):
        def forward(self, image: torch.Tensor, style: torch.Tensor | None = None) -> torch.Tensor:
            return image if image.mean() > 0 else -image

    with pytest.raises(ExportError, match=r"cannot be traced .*: fix one size with --size WxH\.$"):
        engine_from_inference(Fickle(), dynamic_size(4), origin)


def test_an_engine_that_breaks_the_contract_is_not_written(
    tmp_path: Path, painter_engine: EngineFile
) -> None:
    model = ir.from_proto(painter_engine.to_proto())
    model.graph.inputs[0].name = "image"
    path = tmp_path / "bad.onnx"
    with pytest.raises(ExportError, match=r"no tensor `frame`"):
        write_engine(EngineFile(model, painter_engine.metadata), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a network", None])
def test_files_that_are_no_engine_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "engine.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"engine\.onnx"):
        read_engine(path)


def test_a_foreign_network_is_sent_to_adopt(tmp_path: Path, painter_engine: EngineFile) -> None:
    proto = painter_engine.to_proto()
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="i2i-export adopt"):
        read_engine(tmp_path / "foreign.onnx")


def test_an_unwritable_place_is_one_sentence(tmp_path: Path, painter_engine: EngineFile) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"cannot be written .*-o\.$"):
        write_engine(painter_engine, tmp_path / "file" / "engine.onnx")


def test_parity_tells_an_image_that_is_not_finite() -> None:
    nan, good = np.full((2, 2, 3), np.nan, np.float32), np.zeros((2, 2, 3), np.float32)
    image = np.zeros((2, 2, 3), np.uint8)

    class Gives:
        def __init__(self, unrounded: np.ndarray) -> None:
            self._unrounded = unrounded

        def translate(self, frame: Image, style: np.ndarray | None) -> parity.Translation:
            return parity.Translation(self._unrounded, image)

    report = parity.compare("nan", Gives(good), Gives(nan), [image, image], parity.SAME_NETWORK)
    assert not report.passed


def test_parity_figures_are_those_worked_out_by_hand() -> None:
    a, b = np.zeros((1, 2, 3), np.uint8), np.asarray([[[0, 0, 0], [0, 0, 6]]], np.uint8)
    assert parity.psnr_db(a, b) == pytest.approx(10 * np.log10(255**2 / 6))
    assert parity.psnr_db(a, a) == parity.PSNR_CEILING_DB


def test_metadata_of_a_copy_stays_apart(painter_engine: EngineFile) -> None:
    renamed = replace(painter_engine.metadata, name="other")
    assert painter_engine.metadata.name == "little"
    assert renamed.name == "other"


def test_weights_in_constant_nodes_are_read_as_weights(
    plain_engine: EngineFile, tmp_path: Path, street: list[Image]
) -> None:
    proto = plain_engine.to_proto()
    made = [helper.make_node("Constant", [], [w.name], value=w) for w in proto.graph.initializer]
    nodes = [*made, *proto.graph.node]
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, tmp_path / "constants.onnx")
    engine = read_engine(tmp_path / "constants.onnx")
    assert "Constant" not in {node.op_type for node in engine.model.graph}
    half, report = half_from_engine(engine, fit_all(street[:1], [(64, 64)]))
    assert report.passed
    assert len(half.to_bytes()) < 0.7 * len(engine.to_bytes())


def test_a_branch_that_reads_the_frame_itself_breaks_the_contract(written_engine: Any) -> None:
    def branch(name: str) -> onnx.GraphProto:
        cast = helper.make_node("Cast", ["frame"], [name], to=onnx.TensorProto.FLOAT)
        return helper.make_graph(
            [cast], name, [], [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)]
        )

    engine = written_engine(
        [
            ("ReduceMax", ["image"], "top", {"keepdims": 0}),
            ("Greater", ["top", "white"], "bright", {}),
            ("If", ["bright"], "b", {"then_branch": branch("t"), "else_branch": branch("e")}),
            ("Transpose", ["b"], "out", {"perm": [0, 3, 1, 2]}),
        ],
        {},
    )
    with pytest.raises(ExportError, match="a branch of If reads `frame` itself"):
        check_contract(engine.to_proto(), origin="mine")
