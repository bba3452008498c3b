"""Norms become plugin nodes: InstanceNormalization with its activation, residual and pad is one or two of our
kernels.

Each different kernel is an operator of its own name in the domain `i2i`, without attributes, because
everything is baked into the kernel. Pictures stay NCHW in the graph's words; the plugin asks for them
channels-last in memory. Such a graph is for full TensorRT alone and never written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.rewrites import constant, nodes_of, only_use, simplify
from i2i_kernels.kind import Activation, Kind
from i2i_kernels.recipes import CHANNEL_MULTIPLE, Argument, Dtype, Op, Variant, recipe

DOMAIN = "i2i"
PICTURES = frozenset({"x_ptr", "residual_ptr", "y_ptr"})
"""Kernel arguments that hold `[N, H, W, C]` in memory; every other tensor is float32 in its own order."""

SLAB_PIXELS = 4096
"""A map this small fits into one block's registers: one launch instead of two."""

_SPLITS = 32
_DTYPES: dict[ir.DataType, Dtype] = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT: "float32",
}


@dataclass
class PluginNetwork:
    """A model with plugin nodes, and the kernel behind each operator name."""

    model: onnx.ModelProto
    kernels: dict[str, tuple[Op, Variant]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Norm:
    """An InstanceNormalization and what follows it and fits into the same kernel; `nodes` in graph order."""

    picture: ir.Value
    scale: ir.Value
    bias: ir.Value
    kind: Kind
    residual: ir.Value | None
    nodes: tuple[ir.Node, ...]


def plugin_name(op: Op, variant: Variant) -> str:
    """The operator's name: `norm_apply_0123456789abcdef`."""
    return variant.file_stem(op).replace("-", "_")


def network_with_plugins(model: onnx.ModelProto) -> PluginNetwork | None:
    """Replaces every norm that our kernels can do; None where there is none. Takes standard operators
    alone.
    """
    graph = ir.from_proto(model)
    simplify(graph)
    ShapeInferencePass()(graph)
    network = PluginNetwork(model)
    for node in nodes_of(graph, "InstanceNormalization"):
        norm = _norm_at(node)
        if norm is not None:
            _replace(graph, norm, network.kernels)
    if not network.kernels:
        return None
    graph.opset_imports[DOMAIN] = 1
    network.model = ir.to_proto(graph)
    return network


def _norm_at(node: ir.Node) -> _Norm | None:
    picture, scale, bias = node.inputs
    if picture is None or scale is None or bias is None or picture.shape is None or len(picture.shape) != 4:
        return None
    channels = picture.shape[1]
    if picture.dtype not in _DTYPES or not isinstance(channels, int) or channels % CHANNEL_MULTIPLE:
        return None
    activation, slope, pad, residual = "none", 0.2, 0, None
    nodes = [node]
    for step in ("activation", "residual", "pad"):
        reader = _only_reader(nodes[-1].outputs[0])
        if reader is None:
            break
        if step == "activation" and reader.op_type in ("Relu", "LeakyRelu"):
            activation = "relu" if reader.op_type == "Relu" else "leaky"
            if activation == "leaky":
                slope = _short(reader.attributes.get_float("alpha", 0.01))
        elif step == "residual" and (other := _residual_of(reader, nodes[-1].outputs[0])) is not None:
            residual = other
        elif step == "pad" and (amount := _reflection_of(reader)):
            pad = amount
        else:
            continue
        nodes.append(reader)
    kind = Kind(
        eps=_short(node.attributes.get_float("epsilon", 1e-5)),
        activation=cast(Activation, activation),
        slope=slope,
        pad=pad,
    )
    return _Norm(picture, scale, bias, kind, residual, tuple(nodes))


def _short(value: float) -> float:
    """An attribute's float32 as the decimal that was meant, so that equal kernels get equal names."""
    return float(f"{value:.6g}")


def _only_reader(value: ir.Value) -> ir.Node | None:
    if not only_use(value):
        return None
    reader = next(iter(value.uses())).node
    return reader if reader.domain in ("", "ai.onnx") else None


def _residual_of(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other summand, where it is a picture of the same shape."""
    if node.op_type != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    if other is None or other.shape is None or value.shape is None or constant(other) is not None:
        return None
    return other if list(other.shape) == list(value.shape) else None


def _reflection_of(node: ir.Node) -> int:
    """Rows and columns that a reflection pad adds on every side, 0 for anything else."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "reflect":
        return 0
    pads = constant(node.inputs[1])
    if pads is None or len(node.inputs) > 3 or pads.size != 8 or pads[2] < 1:
        return 0
    amount = int(pads[2])
    return amount if pads.tolist() == [0, 0, amount, amount] * 2 else 0


def _replace(graph: ir.Model, norm: _Norm, kernels: dict[str, tuple[Op, Variant]]) -> None:
    shape, dtype = norm.picture.shape, norm.picture.dtype
    assert shape is not None
    assert dtype is not None
    assert isinstance(shape[1], int)
    last = norm.nodes[-1]
    scale, bias = constant(norm.scale), constant(norm.bias)
    is_neutral = scale is not None and bias is not None and bool(np.all(scale == 1)) and not np.any(bias)
    variant = Variant(
        dtype=_DTYPES[dtype],
        kind=norm.kind,
        affine="none" if is_neutral else "channel",
        residual=norm.residual is not None,
        splits=_SPLITS,
        block_c=next(c for c in (64, 32, 16) if shape[1] % c == 0),
    )
    values = {"x_ptr": norm.picture}
    if norm.residual is not None:
        values["residual_ptr"] = norm.residual
    if not is_neutral:
        values["weight_ptr"] = _wide(graph, last, norm.scale)
        values["bias_ptr"] = _wide(graph, last, norm.bias)
    height, width = shape[2], shape[3]
    small = isinstance(height, int) and isinstance(width, int) and height * width <= SLAB_PIXELS
    if small and not norm.kind.pad:
        whole = replace(variant, block_c=64)  # the slab has a tile of its own: one name for one kernel
        result = _insert(graph, last, "norm_slab", whole, values, kernels)
    else:
        stats = Variant(dtype=variant.dtype, splits=_SPLITS, block_c=variant.block_c)
        partials = _insert(graph, last, "norm_stats", stats, values, kernels)
        partials.type = ir.TensorType(ir.DataType.FLOAT)
        partials.shape = ir.Shape([shape[0], _SPLITS, 2, shape[1]])
        values["moments_ptr"] = partials
        result = _insert(graph, last, "norm_apply", variant, values, kernels)
    result.type, result.shape = last.outputs[0].type, last.outputs[0].shape
    ir.convenience.replace_all_uses_with(last.outputs[0], result)
    for node in reversed(norm.nodes):
        graph.graph.remove(node, safe=True)


def _wide(graph: ir.Model, before: ir.Node, vector: ir.Value) -> ir.Value:
    """`[C]` as float32, which is what the kernels read."""
    if vector.dtype == ir.DataType.FLOAT:
        return vector
    cast_node = ir.node("Cast", [vector], attributes={"to": ir.DataType.FLOAT})
    graph.graph.insert_before(before, cast_node)
    return cast_node.outputs[0]


def _insert(
    graph: ir.Model,
    before: ir.Node,
    op: Op,
    variant: Variant,
    values: Mapping[str, ir.Value],
    kernels: dict[str, tuple[Op, Variant]],
) -> ir.Value:
    inputs = [values[argument.name] for argument in recipe(op, variant).arguments if argument.role == "input"]
    name = plugin_name(op, variant)
    kernels[name] = (op, variant)
    node = ir.node(
        name, inputs, domain=DOMAIN, attributes={"plugin_namespace": DOMAIN, "plugin_version": "1"}
    )
    node.outputs[0].name = node.name = f"{before.outputs[0].name}/{op}"
    graph.graph.insert_before(before, node)
    return node.outputs[0]


def in_graph_order(argument: Argument) -> tuple[str, ...]:
    """The argument's dimensions as the graph writes them: pictures NCHW, the rest as the kernel has it."""
    if argument.name not in PICTURES:
        return argument.shape
    batch, height, width, channels = argument.shape
    return batch, channels, height, width


def cut_at_plugins(network: PluginNetwork) -> onnx.ModelProto:
    """What TensorRT itself has left to do: every plugin output becomes an input, every plugin input an
    output.

    Plugins are opaque to TensorRT's compiler, so the launches of this graph plus one per plugin node are the
    launches of the whole. Pictures cross the border as `[N, H, W, C]`, the layout that the plugins ask for.
    """
    graph = ir.from_proto(network.model)
    for node in list(graph.graph):
        if node.domain != DOMAIN:
            continue
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if value is None or maker is None or maker.domain == DOMAIN or len(value.shape or ()) != 4:
                continue
            out = _transposed(graph, value, [0, 2, 3, 1], after=maker)
            if out.name not in {entry.name for entry in graph.graph.outputs}:
                graph.graph.outputs.append(out)
    for node in list(graph.graph):
        if node.domain == DOMAIN:
            _replace_by_input(graph, node)
    simplify(graph)
    graph.opset_imports.pop(DOMAIN, None)
    return ir.to_proto(graph)


def _transposed(graph: ir.Model, value: ir.Value, order: list[int], *, after: ir.Node) -> ir.Value:
    name = f"{value.name}/channels_last"
    known = next((entry for entry in graph.graph.outputs if entry.name == name), None)
    if known is not None:
        return known
    node = ir.node("Transpose", [value], attributes={"perm": order}, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = value.type
    assert value.shape is not None
    node.outputs[0].shape = ir.Shape([value.shape[axis] for axis in order])
    graph.graph.insert_after(after, node)
    return node.outputs[0]


def _replace_by_input(graph: ir.Model, node: ir.Node) -> None:
    result = node.outputs[0]
    readers = [use.node for use in result.uses() if use.node.domain != DOMAIN]
    if readers:
        assert result.shape is not None
        batch, channels, height, width = result.shape
        entry = ir.Value(
            name=f"{result.name}/given", shape=ir.Shape([batch, height, width, channels]), type=result.type
        )
        graph.graph.inputs.append(entry)
        turn = ir.node("Transpose", [entry], attributes={"perm": [0, 3, 1, 2]}, name=f"{result.name}/turned")
        turn.outputs[0].name = turn.name
        graph.graph.insert_before(node, turn)
        ir.convenience.replace_all_uses_with(result, turn.outputs[0])
    else:
        ir.convenience.replace_all_uses_with(result, node.inputs[0] or result)
    graph.graph.remove(node, safe=True)
