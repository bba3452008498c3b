"""Exact rewrites of a graph: the same function with fewer multiply-adds, nodes or bytes.

Each takes an `onnx_ir.Model`, changes it in place and returns how many places it changed. They work on any
graph, also on networks trained elsewhere. The fact each rests on is stated at it; the tests prove it equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Array: TypeAlias = NDArray[Any]
Attribute: TypeAlias = int | float | str | list[int]

_NEVER_FOLDED = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "If",
    "Loop",
}


def simplify(model: ir.Model) -> None:
    """Identity, repeated and unreachable nodes and weights go, and every constant becomes an initializer."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.IdentityEliminationPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.DeduplicateInitializersPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.TopologicalSortPass()(model)


def fold_constants(model: ir.Model) -> int:
    """Whatever follows from weights alone is computed now (the style's MLP under a fixed style, for one)."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    changed = 0
    for node in list(model.graph):
        given = [_known_content(node, value) for value in node.inputs]
        unknown = any(
            value is not None and array is None for value, array in zip(node.inputs, given, strict=True)
        )
        if unknown or node.op_type in _NEVER_FOLDED or node.domain not in ("", "ai.onnx"):
            continue
        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets=dict(model.opset_imports))
        feeds = {
            str(value.name): array
            for value, array in zip(node.inputs, given, strict=True)
            if value is not None
        }
        for value, array in zip(node.outputs, evaluator.run(None, feeds), strict=True):
            if value.is_graph_output():
                break
            replace_value(value, add_weight(model, f"{value.name}_folded", np.asarray(array)))
        else:
            model.graph.remove(node, safe=True)
            changed += 1
    return changed


def _known_content(reader: ir.Node, value: ir.Value | None) -> Array | None:
    """A constant's content; for Shape, whose answer needs no content, anything of the value's known shape."""
    if (
        reader.op_type == "Shape"
        and value is not None
        and value.shape is not None
        and value.shape.is_static()
    ):
        return np.broadcast_to(np.float32(0), value.shape.numpy())
    return constant(value)


def fold_into_convolution(model: ir.Model) -> int:
    """BatchNormalization, and constant scales and shifts per channel, behind a convolution become its weights.

    Evaluation-mode batch norm is `x * g / sqrt(v + eps) + (b - m * g / sqrt(v + eps))`, linear in the convolution.
    """
    changed = 0
    for convolution in nodes_of(model, "Conv", "ConvTranspose"):
        weight = constant(convolution.inputs[1])
        while weight is not None and weight.ndim == 4:
            step = _scale_and_shift_behind(convolution.outputs[0])
            if step is None:
                break
            node, scale, shift = step
            channels = _output_channels(convolution, weight)
            if scale.size not in (1, channels) or shift.size not in (1, channels):
                break
            given = constant(convolution.inputs[2]) if len(convolution.inputs) > 2 else None
            if len(convolution.inputs) > 2 and convolution.inputs[2] is not None and given is None:
                break
            bias = np.zeros(channels, weight.dtype) if given is None else given
            weight = _scaled_by_output(convolution, weight, np.broadcast_to(scale, channels))
            bias = (bias * scale + shift).astype(weight.dtype)
            name = convolution.outputs[0].name
            convolution.replace_input_with(1, add_weight(model, f"{name}.weight", weight))
            convolution.resize_inputs(3)
            convolution.replace_input_with(
                2, add_weight(model, f"{name}.bias", np.broadcast_to(bias, channels))
            )
            skip(model, node, convolution.outputs[0])
            changed += 1
    return changed


def fold_attention_maps(model: ir.Model) -> int:
    """A class activation map's weighted copies of one image, concatenated before a 1x1 convolution, fold into it.

    `conv([x * a, x * b]) = conv'(x)` with weights `W_a * a + W_b * b` (U-GAT-IT and NICE-GAN without heat maps).
    """
    changed = 0
    for convolution in nodes_of(model, "Conv"):
        weight, joined = constant(convolution.inputs[1]), _maker(convolution.inputs[0], "Concat")
        if (
            weight is None
            or joined is None
            or weight.shape[2:] != (1, 1)
            or convolution.attributes.get_int("group", 1) != 1
            or joined.attributes.get_int("axis") != 1
        ):
            continue
        parts = [_image_and_scale(value) for value in joined.inputs if value is not None]
        images = {id(image) for image, _ in parts}
        if len(images) != 1 or not only_use(joined.outputs[0]) or weight.shape[1] % len(parts):
            continue
        channels = weight.shape[1] // len(parts)
        # A scale can also widen an image of one channel, which then is not what the convolution reads.
        shape = parts[0][0].shape
        if (
            shape is None
            or shape[1] != channels
            or any(scale.size not in (1, channels) for _, scale in parts)
        ):
            continue
        folded = sum(
            block * np.broadcast_to(scale, channels)[None, :, None, None]
            for block, (_, scale) in zip(np.split(weight, len(parts), axis=1), parts, strict=True)
        )
        convolution.replace_input_with(0, parts[0][0])
        name = f"{convolution.outputs[0].name}.weight"
        convolution.replace_input_with(1, add_weight(model, name, np.asarray(folded, weight.dtype)))
        changed += 1
    return changed


def fold_channel_order(model: ir.Model) -> int:
    """A reordering of channels before a convolution becomes a reordering of its weights (torch's pixel unshuffle)."""
    changed = 0
    for gather in nodes_of(model, "Gather"):
        order, readers = constant(gather.inputs[1]), gather.outputs[0].consumers()
        if order is None or order.ndim != 1 or gather.attributes.get_int("axis", 0) != 1:
            continue
        if sorted(order.tolist()) != list(range(order.size)) or gather.inputs[0] is None:
            continue
        weights = [constant(reader.inputs[1]) for reader in readers]
        if any(reader.op_type != "Conv" or reader.attributes.get_int("group", 1) != 1 for reader in readers):
            continue
        if any(weight is None for weight in weights) or gather.outputs[0].is_graph_output():
            continue
        for reader, weight in zip(readers, weights, strict=True):
            reordered = np.empty_like(weight)
            reordered[:, order] = weight
            reader.replace_input_with(1, add_weight(model, f"{reader.outputs[0].name}.weight", reordered))
        skip(model, gather, gather.inputs[0])
        changed += 1
    return changed


def nodes_of(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """The main graph's nodes of these standard operators, in order; the graph may change meanwhile."""
    return [node for node in model.graph if node.op_type in op_types and node.domain in ("", "ai.onnx")]


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside an If, Loop or Scan."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def only_use(value: ir.Value) -> bool:
    """Whether exactly one node reads the value and nothing outside the graph does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def constant(value: ir.Value | None) -> Array | None:
    """The value's content where it is a weight or constant, else None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def add_weight(model: ir.Model, name: str, array: Array) -> ir.Value:
    """Registers an initializer under a name not yet taken, made from `name`."""
    taken = model.graph.initializers
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    tensor = ir.tensor(np.array(array, order="C"), name=unique)
    value = ir.Value(
        name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes every reader of `old` read `new`, which also takes its name where it is an output of the graph."""
    if old.is_graph_output():
        name = old.name
        old.name, new.name = f"{name}_before", name
        new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


class Writer:
    """Writes nodes in front of one that they will replace."""

    def __init__(self, model: ir.Model, replaced: ir.Node) -> None:
        self._model = model
        self._replaced = replaced
        self._count = 0

    def __call__(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Attribute) -> ir.Value:
        """Adds a standard operator with one output, which is returned."""
        self._count += 1
        name = f"{self._replaced.outputs[0].name}/{op_type}_{self._count}"
        node = ir.node(op_type, inputs, attributes=attributes or None, name=name)
        node.outputs[0].name = name
        self._model.graph.insert_before(self._replaced, node)
        return node.outputs[0]

    def weight(self, name: str, array: Array) -> ir.Value:
        """Adds an initializer named after the replaced node."""
        return add_weight(self._model, f"{self._replaced.outputs[0].name}/{name}", array)

    def integers(self, *values: int) -> ir.Value:
        """Adds an int64 vector."""
        return self.weight("integers", np.asarray(values, np.int64))

    def finish(self, value: ir.Value) -> None:
        """`value` takes the replaced node's place."""
        replace_value(self._replaced.outputs[0], value)
        self._model.graph.remove(self._replaced, safe=True)


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def skip(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Takes a node with one output out of the graph; its readers read `value` instead."""
    replace_value(node.outputs[0], value)
    model.graph.remove(node, safe=True)


def constant_follower(value: ir.Value) -> tuple[ir.Node, Array] | None:
    """The only reader of a `[N, C, H, W]` value if it scales or shifts it by `[C, 1, 1]`-like constants."""
    if not only_use(value):
        return None
    node = value.consumers()[0]
    if node.op_type not in ("Mul", "Add", "Sub", "Div") or node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type in ("Sub", "Div") and node.inputs[0] is not value:
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    values = constant(other)
    if values is None or not _is_per_channel(values.shape):
        return None
    return node, values


def _is_per_channel(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape meets `[N, C, H, W]` as one number, or one number per channel."""
    trailing = shape[-2:] == (1, 1) and all(size == 1 for size in shape[:-3])
    return int(np.prod(shape)) == 1 or (len(shape) >= 3 and trailing)


def affine_after(op_type: str, scale: Array, bias: Array, values: Array) -> tuple[Array, Array]:
    """Scale and bias of `x * scale + bias` followed by one more operator with constants."""
    if op_type == "Mul":
        return scale * values, bias * values
    if op_type == "Div":
        return scale / values, bias / values
    return scale, bias + values if op_type == "Add" else bias - values


def _scale_and_shift_behind(
    value: ir.Value,
) -> tuple[ir.Node, Array, Array] | None:
    follower = constant_follower(value)
    if follower is not None:
        node, values = follower
        one, zero = np.ones(1, values.dtype), np.zeros(1, values.dtype)
        return node, *affine_after(node.op_type, one, zero, values.reshape(-1))
    if not only_use(value):
        return None
    node = value.consumers()[0]
    if node.op_type != "BatchNormalization" or node.attributes.get_int("training_mode", False):
        return None
    gamma, beta, mean, variance = (constant(entry) for entry in node.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return node, scale.astype(gamma.dtype), (beta - mean * scale).astype(gamma.dtype)


def _output_channels(convolution: ir.Node, weight: Array) -> int:
    if convolution.op_type == "Conv":
        return int(weight.shape[0])
    return int(weight.shape[1]) * convolution.attributes.get_int("group", 1)


def _scaled_by_output(convolution: ir.Node, weight: Array, scale: Array) -> Array:
    if convolution.op_type == "Conv":
        scaled = weight * scale[:, None, None, None]
    else:
        groups = convolution.attributes.get_int("group", 1)
        blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        scaled = (blocks * scale.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return scaled.astype(weight.dtype)


def _image_and_scale(value: ir.Value) -> tuple[ir.Value, Array]:
    """`x * constant` as (x, constant); anything else as itself times one."""
    product = _maker(value, "Mul")
    if product is not None:
        for image, factor in (product.inputs, reversed(product.inputs)):
            array = constant(factor)
            if image is not None and array is not None and _is_per_channel(array.shape):
                return image, array.reshape(-1)
    return value, np.ones(1, np.float32)
