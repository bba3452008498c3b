"""Operators of ONNX's experimental years, replaced by standard ones before a file is brought up to date.

ONNX Runtime still runs them, the version converter and every other back end do not know them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def replace_legacy_operators(model: onnx.ModelProto) -> None:
    """Rewrites ImageScaler, Affine, Crop and size-bound ConvTranspose in place, for opsets below 10."""
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        replace = _REPLACEMENTS.get(node.op_type)
        model.graph.node.extend(replace(model, node) if replace else [node])
    shapes = _known_shapes(model)
    for node in model.graph.node:
        if node.op_type == "ConvTranspose":
            _free_from_size(node, shapes)


def _image_scaler(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`x * scale + bias`, the bias per channel of `[N, C, H, W]`."""
    bias = np.asarray(_attribute(node, "bias", []), np.float32).reshape(1, -1, 1, 1)
    return _scale_and_shift(model, node, np.float32(_attribute(node, "scale", 1.0)), bias)


def _affine(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """`x * alpha + beta`."""
    alpha, beta = (
        np.float32(_attribute(node, name, default)) for name, default in (("alpha", 1), ("beta", 0))
    )
    return _scale_and_shift(model, node, alpha, np.asarray(beta))


def _crop(model: onnx.ModelProto, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Takes left, top, right, bottom lines off; `scale`, if given, is the height and width that remain."""
    left, top, right, bottom = _attribute(node, "border", [0, 0, 0, 0])
    remain = _attribute(node, "scale", None)
    ends = [top + remain[0], left + remain[1]] if remain else [-bottom or _END, -right or _END]
    return [
        helper.make_node(
            "Slice", node.input, node.output, node.name, axes=[2, 3], starts=[top, left], ends=ends
        )
    ]


_END = 2**31 - 1

_REPLACEMENTS: dict[str, Callable[[onnx.ModelProto, onnx.NodeProto], list[onnx.NodeProto]]] = {
    "ImageScaler": _image_scaler,
    "Affine": _affine,
    "Crop": _crop,
}


def _scale_and_shift(
    model: onnx.ModelProto, node: onnx.NodeProto, scale: np.float32, shift: NDArray[np.float32]
) -> list[onnx.NodeProto]:
    output = node.output[0]
    scale_name, shift_name, scaled = f"{output}.scale", f"{output}.shift", f"{output}.scaled"
    for name, array in ((scale_name, np.asarray(scale)), (shift_name, shift)):
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    return [
        helper.make_node("Mul", [node.input[0], scale_name], [scaled]),
        helper.make_node("Add", [scaled, shift_name], [output]),
    ]


def _free_from_size(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> None:
    """Says by `output_padding` what `output_shape` says for one size only, if the two are the same."""
    wanted = _attribute(node, "output_shape", None)
    data, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    if (
        wanted is None
        or data is None
        or weight is None
        or _attribute(node, "pads", [0, 0, 0, 0]) != [0, 0, 0, 0]
    ):
        return
    if len(data) != 4 or 0 in data[2:]:
        return
    strides = _attribute(node, "strides", [1, 1])
    dilations = _attribute(node, "dilations", [1, 1])
    full = [
        strides[axis] * (data[2 + axis] - 1) + dilations[axis] * (weight[2 + axis] - 1) + 1 for axis in (0, 1)
    ]
    extra = [size - natural for size, natural in zip(wanted[-2:], full, strict=True)]
    if any(not 0 <= more < stride for more, stride in zip(extra, strides, strict=True)):
        return
    kept = [
        entry for entry in node.attribute if entry.name not in ("output_shape", "auto_pad", "output_padding")
    ]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute("output_padding", extra)])


def _known_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    shapes = {weight.name: list(weight.dims) for weight in model.graph.initializer}
    inferred = onnx.shape_inference.infer_shapes(model)
    for entry in (*inferred.graph.value_info, *inferred.graph.input):
        shapes[entry.name] = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    return shapes


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
