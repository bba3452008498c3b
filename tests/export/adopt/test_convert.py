"""Networks that somebody else trained: made up ones with a known answer, and five real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from i2i_export.adopt.convert import check_against_original, engine_from_foreign
from i2i_export.adopt.declared import Answers
from i2i_export.adopt.interface import Channels, Interface, Layout, Range
from i2i_export.enginefile import check_contract, write_engine
from i2i_export.errors import ForeignNetworkError
from i2i_export.frames import fit_all
from i2i_export.parity import OnnxTranslator
from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Image

LUMA = np.asarray([0.299, 0.587, 0.114])


def saved(tmp_path: Path, model: ir.Model) -> Path:
    path = tmp_path / "third.onnx"
    onnx.save(ir.to_proto(model), path)
    return path


def inverting(network: Any, layout: Layout, span: Range, channels: int) -> ir.Model:
    """Turns black into white on the network's own scale; in the first channel only half way."""
    top = {"0,255": 255.0, "0,1": 1.0, "-1,1": 0.0}[span]
    factor = -np.ones(channels, np.float32)
    factor[0] = -0.5
    shape = (1, channels, 1, 1) if layout == "nchw" else (1, 1, 1, channels)
    model: ir.Model = network(
        [("Mul", ["x", "k"], "m", {}), ("Add", ["m", "top"], "y", {})],
        {"k": factor.reshape(shape), "top": np.array([top], np.float32)},
        channels,
    )
    if layout == "nhwc":
        proto = ir.to_proto(model)
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        dims[1].dim_param, dims[2].dim_param, dims[3].dim_value = "height", "width", channels
        return ir.from_proto(proto)
    return model


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("span", ["0,255", "0,1", "-1,1"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_layout_range_and_channels_are_translated(
    network: Any, tmp_path: Path, street: list[Image], layout: Layout, span: Range, channels: Channels
) -> None:
    path = saved(tmp_path, inverting(network, layout, span, 3))
    adopted = engine_from_foreign(
        path, Answers(range=span, channels=channels), name="mine", direction="positive -> negative"
    )
    frame = fit_all(street, [(64, 96)])[0]
    translated = OnnxTranslator(adopted.engine.to_proto()).translate(frame, None).image
    wide = frame.astype(np.float64)
    wanted = 255 - wide
    half = 0 if channels == "rgb" else 2
    middle = 63.75 if span == "-1,1" else 255
    wanted[..., half] = middle - wide[..., half] / 2 if span != "-1,1" else 191.25 - wide[..., half] / 2
    assert np.abs(translated - wanted).max() <= 0.51
    check_contract(adopted.engine.to_proto(), origin="adopted")
    assert check_against_original(adopted, [frame]).passed


def test_a_luma_network_keeps_the_colours(network: Any, tmp_path: Path, street: list[Image]) -> None:
    model = network([("Mul", ["x", "k"], "y", {})], {"k": np.array([0.5], np.float32)}, 1)
    adopted = engine_from_foreign(
        saved(tmp_path, model), Answers(range="0,1"), name="dim", direction="bright -> dim"
    )
    frame = fit_all(street, [(64, 64)])[0]
    translated = OnnxTranslator(adopted.engine.to_proto()).translate(frame, None).image
    wide = frame.astype(np.float64)
    wanted = np.clip(wide - (wide @ LUMA / 2)[..., None], 0, 255)
    assert np.abs(translated - wanted).max() <= 0.51
    assert check_against_original(adopted, [frame]).passed


def test_an_overshooting_output_is_clipped(network: Any, tmp_path: Path, street: list[Image]) -> None:
    model = network([("Mul", ["x", "k"], "y", {})], {"k": np.array([3.0], np.float32)}, 3)
    adopted = engine_from_foreign(
        saved(tmp_path, model), Answers(range="0,255", channels="rgb"), name="loud", direction="a -> b"
    )
    frame = fit_all(street, [(64, 64)])[0]
    translated = OnnxTranslator(adopted.engine.to_proto()).translate(frame, None).image
    np.testing.assert_array_equal(translated, np.minimum(frame.astype(int) * 3, 255))


def test_a_final_tanh_tells_the_output_range(network: Any, tmp_path: Path) -> None:
    model = network([("Tanh", ["x"], "y", {})], {}, 3)
    adopted = engine_from_foreign(
        saved(tmp_path, model), Answers(range="0,1", channels="rgb"), name="t", direction="a -> b"
    )
    assert adopted.interface == Interface("nchw", "0,1", "-1,1", "rgb")


@pytest.mark.parametrize(
    ("answers", "flags"),
    [
        (Answers(), ["--range", "--channels"]),
        (Answers(range="0,1"), ["--channels"]),
        (Answers(channels="rgb"), ["--range"]),
    ],
)
def test_what_the_file_does_not_say_is_asked_by_flag(
    network: Any, tmp_path: Path, answers: Answers, flags: list[str]
) -> None:
    path = saved(tmp_path, network([("Relu", ["x"], "y", {})], {}, 3))
    with pytest.raises(UsageError) as caught:
        engine_from_foreign(path, answers, name="x", direction="a -> b")
    assert [flag for flag in ("--layout", "--range", "--channels") if flag in str(caught.value)] == flags


def test_networks_that_are_no_translator_are_refused(network: Any, tmp_path: Path) -> None:
    cases = {
        "keeps the size": network(
            [("MaxPool", ["x"], "y", {"kernel_shape": [2, 2], "strides": [2, 2]})], {}, 3, height=64, width=64
        ),
        "takes 7 channels": network([("Relu", ["x"], "y", {})], {}, 7),
    }
    for reason, model in cases.items():
        with pytest.raises(ForeignNetworkError, match=reason):
            engine_from_foreign(
                saved(tmp_path, model), Answers("nchw", "0,1", None, "rgb"), name="x", direction="a -> b"
            )


def test_a_size_that_the_network_cannot_take_is_refused(network: Any, tmp_path: Path) -> None:
    model = network(
        [("Reshape", ["x", "flat"], "f", {}), ("Reshape", ["f", "back"], "y", {})],
        {"flat": np.asarray([1, -1]), "back": np.asarray([1, 3, 8, 8])},
        3,
        height=8,
        width=8,
    )
    with pytest.raises(ForeignNetworkError, match="does not run at 16x16"):
        engine_from_foreign(
            saved(tmp_path, model),
            Answers(range="0,1", channels="rgb", size="16x16"),
            name="x",
            direction="a -> b",
        )


def test_operators_of_one_back_end_are_refused(network: Any, tmp_path: Path) -> None:
    model = network([("Relu", ["x"], "y", {})], {}, 3)
    proto = ir.to_proto(model)
    proto.graph.node[0].op_type, proto.graph.node[0].domain = "QuickGelu", "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(proto, tmp_path / "third.onnx")
    with pytest.raises(ForeignNetworkError, match=r"com\.microsoft"):
        engine_from_foreign(
            tmp_path / "third.onnx", Answers(range="0,1", channels="rgb"), name="x", direction="a"
        )


def test_operators_of_the_experimental_years_become_standard(tmp_path: Path, street: list[Image]) -> None:
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["None", 3, 64, 64])
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["None", 3, 64, 64])
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[[0, 1, 2], [0, 1, 2], 1, 1] = 1
    nodes = [
        helper.make_node("ImageScaler", ["x"], ["scaled"], scale=0.5, bias=[10.0, 20.0, 30.0]),
        helper.make_node("Pad", ["scaled"], ["wide"], mode="reflect", pads=[0, 0, 3, 2, 0, 0, 1, 4]),
        helper.make_node("Crop", ["wide"], ["cut"], border=[2, 3, 4, 1]),
        helper.make_node(
            "ConvTranspose", ["cut", "w"], ["big"], auto_pad="VALID", output_shape=[130, 130], strides=[2, 2]
        ),
        helper.make_node("Crop", ["big"], ["even"], border=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["even"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Affine", ["small"], ["y"], alpha=4.0, beta=-20.0),
    ]
    tensors = [numpy_helper.from_array(weight, "w")]
    inputs = [image, helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, weight.shape)]
    graph = helper.make_graph(nodes, "old", inputs, [result], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    model.metadata_props.add(key="Image.BitmapPixelFormat", value="Bgr8")
    onnx.save(model, tmp_path / "old.onnx")
    adopted = engine_from_foreign(tmp_path / "old.onnx", Answers(), name="old", direction="a -> b")
    assert adopted.interface == Interface("nchw", "0,255", "0,255", "bgr")
    report = check_against_original(adopted, fit_all(street, [(64, 64)]))
    assert report.max_abs < 1e-4
    assert not {"Crop", "Affine", "ImageScaler"} & {node.op_type for node in adopted.engine.model.graph}


GNS = Answers(range="0,255", channels="rgb")
REAL: dict[str, tuple[Answers, str | None]] = {
    "winml_candy_b": (Answers(), None),
    "gns_candy_nc16_128x128_d2242a": (GNS, None),
    "gns_mosaic_nc8_256x256_0cd607": (GNS, None),
    "zoo_super_resolution": (Answers(range="0,1"), "makes 672x672 pixels of 224x224"),
    "winml_uwp_Candy": (Answers(), "older than 1.0"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_networks_end_in_an_image_or_a_sentence(
    name: str, data: Path, tmp_path: Path, street: list[Image]
) -> None:
    answers, reason = REAL[name]
    path = data / "models" / f"{name}.onnx"
    if reason is not None:
        with pytest.raises(ForeignNetworkError, match=reason):
            engine_from_foreign(path, answers, name=name, direction="photo -> painting")
        return
    adopted = engine_from_foreign(path, answers, name=name, direction="photo -> painting")
    frames = fit_all(street[:1], adopted.gate_sizes)
    report = check_against_original(adopted, frames)
    write_engine(adopted.engine, tmp_path / "mine.onnx")
    assert report.max_abs < 1e-3
    norms = [node for node in adopted.engine.model.graph if node.op_type == "InstanceNormalization"]
    assert len(norms) == 15
    painted = OnnxTranslator(adopted.engine.to_proto()).translate(frames[0], None).image.astype(float)
    assert painted.std() > 30, "a painting, not a flat image"


def test_a_network_made_for_one_size_runs_at_another(data: Path, street: list[Image]) -> None:
    path = data / "models" / "winml_candy_b.onnx"
    adopted = engine_from_foreign(path, Answers(size="320x192", stride=4), name="c", direction="a -> b")
    assert adopted.gate_sizes == ((720, 720),)
    frame = fit_all(street, [(192, 320)])[0]
    translated = OnnxTranslator(adopted.engine.to_proto()).translate(frame, None).image
    assert translated.shape == (192, 320, 3)
    assert translated.astype(float).std() > 30
