"""Files as other people write them: sizes, ranges, types, names and functions that `adopt` must read aright."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from i2i_export.cli import main
from i2i_export.enginefile import EngineFile, read_engine
from i2i_export.parity import OnnxTranslator
from i2i_runtime.frame import Image

if TYPE_CHECKING:
    from tests.export.conftest import Row

Adopt = Callable[..., tuple[int, str]]
RANDOM = np.random.default_rng(11)
RGB = ("--channels", "rgb")
LEVELS = ("--range", "0,255", *RGB)
PADS = {"pads": [1] * 4}


def normal(*shape: int, scale: float = 0.1) -> np.ndarray[Any, Any]:
    return (scale * RANDOM.standard_normal(shape)).astype(np.float32)


def noise(height: int, width: int) -> Image:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def adopt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Adopt:
    """Saves a network, adopts it as `mine.onnx` and gives the exit code and what was said, on one line."""
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "one.png"), cv2.resize(noise(12, 16), (160, 120), interpolation=cv2.INTER_CUBIC))

    def call(model: ir.Model | onnx.ModelProto, *flags: str) -> tuple[int, str]:
        proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
        onnx.save(proto, tmp_path / "third.onnx")
        arguments = [str(tmp_path / "third.onnx"), "-o", str(tmp_path / "mine.onnx"), "--frames", str(frames)]
        code = main(["adopt", *arguments, *flags])
        return code, " ".join(capsys.readouterr().err.split())

    return call


@pytest.fixture
def mine(tmp_path: Path) -> Callable[[], EngineFile]:
    return lambda: read_engine(tmp_path / "mine.onnx")


def translated(engine: EngineFile, frame: Image) -> Image:
    return OnnxTranslator(engine.to_proto()).translate(frame, None).image


def convolution(network: Any, height: int | str = 64, width: int | str = 64) -> ir.Model:
    model: ir.Model = network(
        [("Conv", ["x", "w"], "y", PADS)], {"w": normal(3, 3, 3, 3)}, 3, height=height, width=width
    )
    return model


def halved(network: Any, times: int) -> ir.Model:
    """Halves the image and doubles it again, which keeps multiples of `2 ** times` alone."""
    rows: list[Row] = []
    name = "x"
    for step in range(times):
        rows.append(("AveragePool", [name], f"d{step}", {"kernel_shape": [2, 2], "strides": [2, 2]}))
        name = f"d{step}"
    rows.append(("Resize", [name, "", "scales"], "y", {"mode": "nearest"}))
    model: ir.Model = network(rows, {"scales": np.array([1, 1, 2**times, 2**times], np.float32)}, 3)
    return model


@pytest.mark.parametrize("times", [0, 1, 3])
def test_the_stride_of_a_dynamic_network_is_found(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile], times: int
) -> None:
    model = halved(network, times) if times else convolution(network, "height", "width")
    code, said = adopt(model, *LEVELS)
    assert code == 0, said
    size = mine().metadata.size
    assert size.stride == 2**times
    height, width = size.stride * 17, size.stride * 21
    assert translated(mine(), noise(height, width)).shape == (height, width, 3)


def test_a_pair_that_does_not_match_is_tried_too(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile]
) -> None:
    # The width is cut to the height, which neither a square image shows nor a tall one.
    rows = [
        ("Shape", ["x"], "rows", {"start": 2, "end": 3}),
        ("Slice", ["x", "zero", "rows", "three"], "y", {}),
    ]
    model = network(rows, {"zero": np.array([0], np.int64), "three": np.array([3], np.int64)}, 3)
    code, said = adopt(model, *LEVELS)
    assert (code, "keeps the size" in said) == (1, True), said


def test_a_stride_too_small_and_one_that_is_no_power_of_two_are_named(network: Any, adopt: Adopt) -> None:
    code, said = adopt(halved(network, 2), *LEVELS, "--stride", "2")
    assert (code, "with --stride" in said) == (1, True), said
    thirds = network(
        [
            ("AveragePool", ["x"], "d", {"kernel_shape": [3, 3], "strides": [3, 3]}),
            ("Resize", ["d", "", "scales"], "y", {"mode": "nearest"}),
        ],
        {"scales": np.array([1, 1, 3, 3], np.float32)},
        3,
    )
    code, said = adopt(thirds, *LEVELS)
    assert (code, "with --stride" in said) == (1, True), said
    assert adopt(thirds, *LEVELS, "--stride", "3")[0] == 0
    assert adopt(thirds, *LEVELS, "--stride", "0")[0] == 2


@pytest.mark.parametrize(
    ("key", "value", "span"),
    [
        ("Image.NominalPixelRange", "NominalRange_0_255", "0,255"),
        ("Image.NominalPixelRange", "Normalized_0_1", "0,1"),
        ("image.nominalpixelrange", "NORMALIZED_1_1", "-1,1"),
    ],
)
def test_windows_ml_states_the_range(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile], key: str, value: str, span: str
) -> None:
    model = convolution(network)
    model.metadata_props.update({"image.bitmappixelformat": "Rgb8", key: value})
    code, said = adopt(model)
    assert code == 0, said
    assert mine().metadata.notes["interface"] == f"nchw rgb, {span} in, {span} out"


def test_a_range_that_no_frame_has_is_asked_for(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile]
) -> None:
    model = convolution(network)
    model.metadata_props.update(
        {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_16_235"}
    )
    code, said = adopt(model)
    assert (code, "NominalRange_16_235" in said, "--range" in said) == (2, True, True), said
    assert adopt(model, "--range", "0,255")[0] == 0
    assert mine().metadata.notes["interface"] == "nchw bgr, 0,255 in, 0,255 out"


@pytest.mark.parametrize(
    "behind",
    [
        [("Cast", ["b"], "y", {"to": TensorProto.FLOAT})],
        [("Identity", ["b"], "y", {})],
        [
            ("Transpose", ["b"], "t", {"perm": [0, 1, 3, 2]}),
            ("Transpose", ["t"], "y", {"perm": [0, 1, 3, 2]}),
        ],
        [("Squeeze", ["b", "axis"], "s", {}), ("Reshape", ["s", "shape"], "y", {})],
    ],
)
def test_what_only_moves_values_does_not_hide_their_range(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile], behind: list[Any]
) -> None:
    weights = {
        "w": normal(3, 3, 3, 3),
        "axis": np.array([0], np.int64),
        "shape": np.array([1, 3, 64, 64], np.int64),
    }
    rows = [("Conv", ["x", "w"], "a", PADS), ("Sigmoid", ["a"], "b", {}), *behind]
    code, said = adopt(network(rows, weights, 3, height=64, width=64), "--range", "-1,1", *RGB)
    assert code == 0, said
    assert mine().metadata.notes["interface"] == "nchw rgb, -1,1 in, 0,1 out"


def test_a_network_in_half_precision_says_so(
    adopt: Adopt, mine: Callable[[], EngineFile], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weight = (0.1 * np.eye(3)[:, :, None, None]).astype(np.float16)
    code, said = adopt(
        plain_file([("Conv", ["x", "w"], "y", {})], {"w": weight}, kind=TensorProto.FLOAT16), *LEVELS
    )
    assert code == 0, said
    assert mine().metadata.precision == "fp16"
    assert main([str(tmp_path / "mine.onnx"), "-o", str(tmp_path / "h.onnx"), "--precision", "fp16"]) == 1
    assert "already fp16" in " ".join(capsys.readouterr().err.split())


def plain_file(
    rows: Sequence[tuple[str, list[str], str, dict[str, Any]]],
    weights: dict[str, Any],
    *,
    kind: int = TensorProto.FLOAT,
    dims: Sequence[int | str] = (1, 3, 64, 64),
    domain: str = "",
) -> onnx.ModelProto:
    nodes = [helper.make_node(op, inputs, [out], **attributes) for op, inputs, out, attributes in rows]
    graph = helper.make_graph(
        nodes,
        "third",
        [helper.make_tensor_value_info("x", kind, list(dims))],
        [helper.make_tensor_value_info(rows[-1][2], kind, list(dims))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 18)], ir_version=8)


@pytest.mark.parametrize(
    "names", [("frame", "y"), ("a", "translated"), ("contract/Cast_1", "contract/Clip_3")]
)
def test_names_that_the_contract_needs_are_given_up(
    adopt: Adopt, mine: Callable[[], EngineFile], names: tuple[str, str]
) -> None:
    inner, outer = names
    rows = [("Conv", ["x", "contract/constant"], inner, PADS), ("Relu", [inner], outer, {})]
    code, said = adopt(plain_file(rows, {"contract/constant": normal(3, 3, 3, 3)}), *LEVELS)
    assert code == 0, said
    assert translated(mine(), noise(64, 64)).shape == (64, 64, 3)


def test_a_file_for_several_images_at_once_takes_one(adopt: Adopt, mine: Callable[[], EngineFile]) -> None:
    model = plain_file([("Conv", ["x", "w"], "y", PADS)], {"w": normal(3, 3, 3, 3)}, dims=(4, 3, 64, 64))
    code, said = adopt(model, *LEVELS)
    assert code == 0, said
    assert translated(mine(), noise(64, 64)).shape == (64, 64, 3)


def test_one_fixed_side_needs_the_other(adopt: Adopt, mine: Callable[[], EngineFile]) -> None:
    model = plain_file([("Conv", ["x", "w"], "y", PADS)], {"w": normal(3, 3, 3, 3)}, dims=(1, 3, 128, "w"))
    code, said = adopt(model, *LEVELS)
    assert (code, "fixes the height 128" in said, "--size 640x128" in said) == (2, True, True), said
    assert adopt(model, *LEVELS, "--size", "96x128")[0] == 0
    assert (mine().metadata.size.min_height, mine().metadata.size.min_width) == (128, 96)


def test_the_standard_operators_other_name_is_understood(
    adopt: Adopt, mine: Callable[[], EngineFile]
) -> None:
    model = plain_file([("Conv", ["x", "w"], "y", PADS)], {"w": normal(3, 3, 3, 3)}, domain="ai.onnx")
    code, said = adopt(model, *LEVELS)
    assert code == 0, said
    assert set(mine().model.opset_imports) == {""}


def test_local_functions_are_written_out(adopt: Adopt, mine: Callable[[], EngineFile]) -> None:
    twice = helper.make_function(
        "my.lib",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    model = plain_file([("Relu", ["x"], "a", {}), ("Twice", ["a"], "y", {"domain": "my.lib"})], {})
    model.opset_import.append(helper.make_opsetid("my.lib", 1))
    model.functions.append(twice)
    code, said = adopt(model, *LEVELS)
    assert code == 0, said
    frame = noise(64, 64)
    np.testing.assert_array_equal(translated(mine(), frame), np.minimum(2 * frame.astype(int), 255))


def test_brightness_in_and_colours_out_are_the_networks_own(
    adopt: Adopt, mine: Callable[[], EngineFile]
) -> None:
    weight = np.array([1, 0.5, 0.25], np.float32).reshape(3, 1, 1, 1)
    model = plain_file([("Conv", ["x", "w"], "y", {})], {"w": weight}, dims=(1, 1, 64, 64))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    code, said = adopt(model, "--range", "0,255")
    assert code == 0, said
    frame = noise(64, 64)
    wanted = (frame @ np.asarray([0.299, 0.587, 0.114]))[..., None] * weight.reshape(3)
    assert np.abs(translated(mine(), frame) - wanted).max() <= 0.51


def test_a_size_asked_of_the_image_is_opened_with_it(
    network: Any, adopt: Adopt, mine: Callable[[], EngineFile]
) -> None:
    rows = [
        ("Conv", ["x", "w"], "a", {**PADS, "strides": [2, 2]}),
        ("Shape", ["x"], "s", {}),
        ("Resize", ["a", "", "", "s"], "y", {"mode": "nearest"}),
    ]
    model = network(rows, {"w": normal(3, 3, 3, 3)}, 3, height=64, width=64)
    code, said = adopt(model, *LEVELS, "--size", "128x96")
    assert code == 0, said
    assert translated(mine(), noise(96, 128)).shape == (96, 128, 3)
