"""Exact rewrites of norms: written-out ones become one operator, and what has no effect before or behind them goes.

Each takes an `onnx_ir.Model`, changes it in place and returns how many places it changed.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.graph.edit import Writer, add_weight, skip
from i2i_export.graph.match import ScaleOrShift, constant, nodes_of, only_use, producer
from i2i_export.graph.norms import norms_of


def collapse_written_norms(model: ir.Model) -> int:
    """Instance norm written out in nine or more operators, as older exporters did, becomes the one operator.

    `centred = x - mean(x); centred / sqrt(mean(centred^2) + eps)`, means over height and width, in any of the ways
    that `i2i_export.graph.norms` knows; the operator has no unbiased variance and no epsilon outside the root.
    """
    ShapeInferencePass(data_prop=True)(model)
    written: dict[ir.Value, ir.Value] = {}
    for norm in norms_of(model):
        node, dtype = norm.result.producer(), norm.image.dtype
        if norm.is_operator or not norm.is_instance or norm.unbiased or not norm.eps_inside:
            continue
        if node is None or dtype is None or norm.scale is not None or norm.drift is not None:
            continue
        write = Writer(model, node)
        scale, shift = (
            write.weight(name, np.broadcast_to(array, norm.channels).astype(dtype.numpy()))
            for name, array in (("scale", norm.instance), ("shift", norm.shift))
        )
        image = written.get(norm.image, norm.image)
        value = write("InstanceNormalization", [image, scale, shift], epsilon=norm.eps)
        if norm.result.dtype not in (None, dtype):
            assert norm.result.dtype is not None
            value = write("Cast", [value], to=norm.result.dtype)
        write.finish(value)
        written[norm.result] = value
    return len(written)


def remove_bias_before_norm(model: ir.Model) -> int:
    """Drops the bias of a convolution that InstanceNormalization follows directly.

    A constant added to a channel is removed again with that channel's mean, so it cancels exactly.
    """
    changed = 0
    for norm in nodes_of(model, "InstanceNormalization"):
        convolution = producer(norm.inputs[0], "Conv", "ConvTranspose")
        if convolution is None or not only_use(convolution.outputs[0]):
            continue
        if len(convolution.inputs) < 3 or convolution.inputs[2] is None:
            continue
        convolution.resize_inputs(2)
        changed += 1
    return changed


def fold_adain(model: ir.Model) -> int:
    """A constant scale or shift per channel behind InstanceNormalization moves into it (AdaIN under a fixed style)."""
    changed = 0
    for norm in nodes_of(model, "InstanceNormalization"):
        while (follower := ScaleOrShift.behind(norm.outputs[0])) is not None:
            scale, bias = constant(norm.inputs[1]), constant(norm.inputs[2])
            if scale is None or bias is None or follower.values.size not in (1, scale.size):
                break
            scale, bias = follower.after(scale, bias)
            norm.replace_input_with(1, add_weight(model, f"{norm.outputs[0].name}.scale", scale))
            norm.replace_input_with(2, add_weight(model, f"{norm.outputs[0].name}.bias", bias))
            skip(model, follower.node, norm.outputs[0])
            changed += 1
    return changed
