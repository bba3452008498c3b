"""What stands before or behind a convolution becomes part of its weights. All exact.

Each pass is written in three steps: `_find_...` knows the pattern, checks what must hold and returns the match, and
the pass itself rewrites what was found. A pass changes an `onnx_ir.Model` in place and returns how many places it
changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from i2i_export.graph.edit import add_weight, skip
from i2i_export.graph.match import (
    Array,
    Convolution,
    ScaleOrShift,
    constant,
    is_per_channel,
    nodes_of,
    only_reader,
    only_use,
    producer,
)

# Conv or ConvTranspose -> batch norm, or a constant scale or shift


@dataclass(frozen=True)
class _Scaled:
    """A convolution with constant weights, and what follows it: `y * scale + shift` per output channel."""

    weight: Array
    bias: Array
    follower: ir.Node
    scale: Array
    shift: Array


def fold_into_convolution(model: ir.Model) -> int:
    """BatchNormalization, and constant scales and shifts per channel, behind a convolution become its weights.

    Evaluation-mode batch norm is `x * g / sqrt(v + eps) + (b - m * g / sqrt(v + eps))`, linear in the convolution.
    """
    changed = 0
    for convolution in nodes_of(model, "Conv", "ConvTranspose"):
        while (found := _find_scaled(convolution)) is not None:
            weight = _scaled_by_output(convolution, found)
            bias = (found.bias * found.scale + found.shift).astype(weight.dtype)
            name = convolution.outputs[0].name
            convolution.replace_input_with(1, add_weight(model, f"{name}.weight", weight))
            convolution.resize_inputs(3)
            convolution.replace_input_with(2, add_weight(model, f"{name}.bias", bias))
            skip(model, found.follower, convolution.outputs[0])
            changed += 1
    return changed


def _find_scaled(convolution: ir.Node) -> _Scaled | None:
    weight = constant(convolution.inputs[1])
    given = convolution.inputs[2] if len(convolution.inputs) > 2 else None
    bias = constant(given)
    found = _scale_and_shift_behind(convolution.outputs[0])
    if weight is None or weight.ndim != 4 or found is None or (given is not None and bias is None):
        return None
    follower, scale, shift = found
    groups = convolution.attributes.get_int("group", 1)
    channels = weight.shape[0] if convolution.op_type == "Conv" else weight.shape[1] * groups
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        return None
    start = np.zeros(channels, weight.dtype) if bias is None else bias
    return _Scaled(weight, start, follower, np.broadcast_to(scale, channels), shift)


def _scale_and_shift_behind(value: ir.Value) -> tuple[ir.Node, Array, Array] | None:
    """The only reader, if it is such an operator, with its scale and shift: one number, or `[C]`."""
    found = ScaleOrShift.behind(value)
    if found is not None:
        kind = found.values.dtype
        return found.node, *found.after(np.ones(1, kind), np.zeros(1, kind))
    norm = only_reader(value, "BatchNormalization")
    if norm is None or norm.attributes.get_int("training_mode", False):
        return None
    gamma, beta, mean, variance = (constant(entry) for entry in norm.inputs[1:5])
    if gamma is None or beta is None or mean is None or variance is None:
        return None
    scale = gamma / np.sqrt(variance + norm.attributes.get_float("epsilon", 1e-5))
    return norm, scale.astype(gamma.dtype), (beta - mean * scale).astype(gamma.dtype)


def _scaled_by_output(convolution: ir.Node, found: _Scaled) -> Array:
    """The weights times one number per output channel, which transposed ones keep in their second axis."""
    weight, scale = found.weight, found.scale
    if convolution.op_type == "Conv":
        scaled = weight * scale[:, None, None, None]
    else:
        groups = convolution.attributes.get_int("group", 1)
        blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        scaled = (blocks * scale.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return scaled.astype(weight.dtype)


# Concat of one image, scaled differently -> 1x1 Conv


@dataclass(frozen=True)
class _Copies:
    """Copies of one image `[N, C, H, W]`, each times its own scale, and the weights `[O, C, 1, 1]` that read them."""

    image: ir.Value
    scales: tuple[Array, ...]
    weights: tuple[Array, ...]


def fold_attention_maps(model: ir.Model) -> int:
    """A class activation map's weighted copies of one image, concatenated before a 1x1 convolution, fold into it.

    `conv([x * a, x * b]) = conv'(x)` with weights `W_a * a + W_b * b` (U-GAT-IT and NICE-GAN without heat maps).
    """
    changed = 0
    for convolution in nodes_of(model, "Conv"):
        found = _find_copies(convolution)
        if found is None:
            continue
        kind, channels = found.weights[0].dtype, found.weights[0].shape[1]
        folded = sum(
            weight * np.broadcast_to(scale, channels)[None, :, None, None]
            for weight, scale in zip(found.weights, found.scales, strict=True)
        )
        convolution.replace_input_with(0, found.image)
        name = f"{convolution.outputs[0].name}.weight"
        convolution.replace_input_with(1, add_weight(model, name, np.asarray(folded, kind)))
        changed += 1
    return changed


def _find_copies(node: ir.Node) -> _Copies | None:
    convolution = Convolution.of(node)
    if convolution is None or convolution.weight is None or convolution.kernel != (1, 1):
        return None
    joined = producer(convolution.image, "Concat")
    if joined is None or joined.attributes.get_int("axis") != 1 or not only_use(convolution.image):
        return None
    parts = [_image_and_scale(value) for value in joined.inputs if value is not None]
    image, inputs = parts[0][0], convolution.weight.shape[1]
    if convolution.groups != 1 or inputs % len(parts) or any(other is not image for other, _ in parts):
        return None
    channels = inputs // len(parts)
    # A scale can also widen an image of one channel, which then is not what the convolution reads.
    if image.shape is None or image.shape[1] != channels:
        return None
    if any(scale.size not in (1, channels) for _, scale in parts):
        return None
    weights = np.split(convolution.weight, len(parts), axis=1)
    return _Copies(image, tuple(scale for _, scale in parts), tuple(weights))


def _image_and_scale(value: ir.Value) -> tuple[ir.Value, Array]:
    """`x * constant` as (x, constant); anything else as itself times one."""
    product = producer(value, "Mul")
    if product is not None:
        for image, factor in (product.inputs, reversed(product.inputs)):
            array = constant(factor)
            if image is not None and array is not None and is_per_channel(array.shape):
                return image, array.reshape(-1)
    return value, np.ones(1, np.float32)


# Gather of all channels -> Conv, one or several


@dataclass(frozen=True)
class _Reordered:
    """What is reordered, the order, and every convolution that reads the result."""

    image: ir.Value
    order: Array
    readers: tuple[Convolution, ...]


def fold_channel_order(model: ir.Model) -> int:
    """A reordering of channels before a convolution becomes a reordering of its weights (torch's pixel unshuffle)."""
    changed = 0
    for gather in nodes_of(model, "Gather"):
        found = _find_reordered(gather)
        if found is None:
            continue
        for reader in found.readers:
            reordered = np.empty_like(reader.weight)
            reordered[:, found.order] = reader.weight
            name = f"{reader.node.outputs[0].name}.weight"
            reader.node.replace_input_with(1, add_weight(model, name, reordered))
        skip(model, gather, found.image)
        changed += 1
    return changed


def _find_reordered(gather: ir.Node) -> _Reordered | None:
    image, order = gather.inputs[0], constant(gather.inputs[1])
    if image is None or order is None or order.ndim != 1 or gather.attributes.get_int("axis", 0) != 1:
        return None
    if sorted(order.tolist()) != list(range(order.size)) or gather.outputs[0].is_graph_output():
        return None
    convolutions = [Convolution.of(reader) for reader in gather.outputs[0].consumers()]
    readers = tuple(one for one in convolutions if one is not None and one.weight is not None)
    if len(readers) != len(convolutions) or any(reader.groups != 1 for reader in readers):
        return None
    return _Reordered(image, order, readers)
