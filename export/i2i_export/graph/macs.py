"""Multiply-adds of an ONNX graph, counted as the field counts them: convolutions and linear layers only."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir

from i2i_runtime.metadata import FRAME, SizePolicy

Shape = tuple[int, ...]
USED_AT = (720, 1280)
"""Height and width of the frame whose cost per pixel stands in the metadata."""


def count_macs(model: onnx.ModelProto, height: int, width: int) -> int:
    """Multiply-adds of one `[1, height, width, 3]` frame through an engine.

    Transposed convolutions are counted by input size, which is the true arithmetic.
    """
    shapes = infer_shapes(model, height, width)
    return sum(node_macs(node, shapes) for node in model.graph.node)


def cost_of(model: ir.Model, size: SizePolicy) -> tuple[int, float]:
    """Multiply-adds of the smallest frame that the engine takes, and per pixel of a frame as it is used.

    That is 720 x 1280, or the nearest size that the engine takes: a border that the network adds to every frame is most
    of the smallest one's cost.
    """
    proto = ir.to_proto(model)
    height, width = (
        min(max(-(-side // size.stride) * size.stride, least), most)
        for side, least, most in zip(
            USED_AT, (size.min_height, size.min_width), (size.max_height, size.max_width), strict=True
        )
    )
    smallest = count_macs(proto, size.min_height, size.min_width)
    return smallest, count_macs(proto, height, width) / (height * width)


def infer_shapes(model: onnx.ModelProto, height: int, width: int) -> dict[str, Shape]:
    """Shape of every tensor whose shape follows from a frame of `height` x `width` pixels."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for entry in sized.graph.input:
        dims = entry.type.tensor_type.shape.dim
        if entry.name == FRAME:
            dims[1].dim_value, dims[2].dim_value = height, width
    for entry in sized.graph.output:
        for dim in entry.type.tensor_type.shape.dim:
            dim.Clear()
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True)
    shapes: dict[str, Shape] = {weight.name: tuple(weight.dims) for weight in inferred.graph.initializer}
    for entry in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        dims = entry.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes.setdefault(entry.name, tuple(dim.dim_value for dim in dims))
    return shapes


def node_macs(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-adds of one node; 0 for operators that are not counted or whose shapes are not known."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    data, weight = shapes.get(node.input[0]), shapes.get(node.input[1])
    out = shapes.get(node.output[0])
    if data is None or weight is None or out is None:
        return 0
    if node.op_type == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op_type == "Gemm":
        transposed = any(entry.name == "transA" and entry.i for entry in node.attribute)
        return math.prod(out) * data[0 if transposed else 1]
    return math.prod(out) * data[-1]
