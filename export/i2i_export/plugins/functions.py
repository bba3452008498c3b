"""Fused norms that every back end can run: the plugin network's operators with their meaning as ONNX local functions.

Full TensorRT replaces such a node by our kernel, because the node names a plugin namespace. Everywhere else the
function's body stands for it: ONNX Runtime and TensorRT for RTX inline it themselves, `onnx.inliner` does it for the
rest. So the fused graph can be compared with the master on any machine.

The bodies give the statistics of the whole image to each of a kernel's splits; merged, that is the same.
"""

from __future__ import annotations

import onnx
import onnx.parser

from i2i_export.plugins.lowering import DOMAIN, PluginKernel, PluginNetwork
from i2i_kernels.kind import Kind
from i2i_kernels.pack.recipes import recipe

_TYPES = {
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float32": onnx.TensorProto.FLOAT,
}
_END = 2**62
"""Behind the last row or column of any image."""


def model_with_functions(network: PluginNetwork) -> onnx.ModelProto:
    """A copy of the plugin network in which every fused operator carries its body."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.functions[:]
    model.functions.extend(function_from_kernel(kernel) for kernel in network.kernels.values())
    return model


def function_from_kernel(kernel: PluginKernel) -> onnx.FunctionProto:
    """What a kernel computes, in standard operators: images `[N, C, H, W]`, everything else as the kernel has it."""
    arguments = recipe(kernel.op, kernel.variant).arguments
    given = [argument.name.removesuffix("_ptr") for argument in arguments if argument.role == "input"]
    made = [argument.name.removesuffix("_ptr") for argument in arguments if argument.role == "output"]
    body = _BODIES[kernel.op](kernel, given)
    text = (
        f'<domain: "{DOMAIN}", opset_import: ["" : 18]>\n'
        f"{kernel.name} ({', '.join(given)}) => ({', '.join(made)}) {{\n{body}\n}}"
    )
    return onnx.parser.parse_function(text)


def _stats(kernel: PluginKernel, given: list[str]) -> str:
    return "wide = Cast <to = 1> (x)\n" + _partials(kernel.variant.splits)


def _partials(splits: int) -> str:
    """`wide` `[N, C, H, W]` to `partials` `[N, splits, 2, C]`: mean and centred second moment of each split."""
    return f"""
        plane = Constant <value_ints = [2, 3]> ()
        centre = ReduceMean <keepdims = 1> (wide, plane)
        centred = Sub (wide, centre)
        square = Mul (centred, centred)
        moment = ReduceSum <keepdims = 1> (square, plane)
        splits = Constant <value_float = {float(splits)}> ()
        share = Div (moment, splits)
        both = Concat <axis = 2> (centre, share)
        rows = Transpose <perm = [0, 3, 2, 1]> (both)
        times = Constant <value_ints = [1, {splits}, 1, 1]> ()
        partials = Tile (rows, times)"""


def _merged(source: str, count: str) -> str:
    """`source` `[N, splits, 2, C]` and the number of `pixels` to `mean` and `total` `[N, 1, 1, C]`."""
    return f"""
        one = Constant <value_float = 1.0> ()
        {count}
        means, moments2 = Split <axis = 2, num_outputs = 2> ({source})
        parts = Constant <value_ints = [1]> ()
        mean = ReduceMean <keepdims = 1> (means, parts)
        total = ReduceSum <keepdims = 1> (moments2, parts)"""


def _inverted(kind: Kind, total: str, pixels: str, result: str) -> str:
    """The second moment and its count to one over the deviation."""
    free = f"Sub ({pixels}, one)" if kind.unbiased else f"Identity ({pixels})"
    root = (
        f"{result}_safe = Add ({result}_variance, {result}_eps)\n {result}_root = Sqrt ({result}_safe)"
        if kind.eps_inside
        else f"{result}_bare = Sqrt ({result}_variance)\n {result}_root = Add ({result}_bare, {result}_eps)"
    )
    return f"""
        {result}_eps = Constant <value_float = {kind.eps:.10f}> ()
        {result}_free = {free}
        {result}_variance = Div ({total}, {result}_free)
        {root}
        {result} = Div (one, {result}_root)"""


_PIXELS_OF_X = """shape = Shape <start = 2> (x)
        area = ReduceProd <keepdims = 0> (shape)
        pixels = Cast <to = 1> (area)"""


def _apply(kernel: PluginKernel, given: list[str]) -> str:
    lines = "wide = Cast <to = 1> (x)"
    if kernel.variant.splits:
        lines += _merged("moments", _PIXELS_OF_X) + _inverted(
            kernel.variant.kind, "total", "pixels", "factor"
        )
        lines += """
        mean_c = Transpose <perm = [0, 3, 1, 2]> (mean)
        factor_c = Transpose <perm = [0, 3, 1, 2]> (factor)
        centred = Sub (wide, mean_c)
        normal = Mul (centred, factor_c)"""
    else:
        lines += _mapped("moments", "wide")
    return lines + _tail(kernel, given)


def _mapped(coefficients: str, wide: str) -> str:
    """`normal`: a float32 image under the affine map per channel of coefficients `[N, 3, C]`."""
    return f"""
        columns = Transpose <perm = [0, 2, 1]> ({coefficients})
        last = Constant <value_ints = [3]> ()
        four = Unsqueeze (columns, last)
        mean_in, scale, offset = Split <axis = 2, num_outputs = 3> (four)
        gap = Sub ({wide}, mean_in)
        scaled_gap = Mul (gap, scale)
        normal = Add (scaled_gap, offset)"""


def _slab(kernel: PluginKernel, given: list[str]) -> str:
    return (
        "wide = Cast <to = 1> (x)\n"
        + _partials(1)
        + _merged("partials", _PIXELS_OF_X)
        + _inverted(kernel.variant.kind, "total", "pixels", "factor")
        + """
        factor_c = Transpose <perm = [0, 3, 1, 2]> (factor)
        normal = Mul (centred, factor_c)"""
        + _tail(kernel, given)
    )


def _tail(kernel: PluginKernel, given: list[str]) -> str:
    """`normal` to `y`: affine, activation, residual, reflection, the image's own type."""
    kind, value = kernel.variant.kind, "normal"
    is_vector = kernel.variant.affine == "channel"
    lines = [f"column = Constant <value_ints = {[1, -1, 1, 1] if is_vector else [0, 0, 1, 1]}> ()"]
    if "weight" in given:
        lines += ["weight_c = Reshape (weight, column)", "bias_c = Reshape (bias, column)"]
        lines += ["scaled = Mul (normal, weight_c)", "shifted = Add (scaled, bias_c)"]
        value = "shifted"
    lines.append(_activated(kind, value, "active"))
    value = "active"
    if "residual" in given:
        around = kernel.variant.residual_pad
        lines += [
            "residual_f = Cast <to = 1> (residual)",
            f"inner = Constant <value_ints = {[around] * 2}> ()",
            f"outer = Constant <value_ints = {[-around] * 2 if around else [_END] * 2}> ()",
            "sides = Constant <value_ints = [2, 3]> ()",
            "residual_i = Slice (residual_f, inner, outer, sides)",
            f"amount = Constant <value_float = {kind.residual_scale}> ()",
        ]
        lines += ["residual_s = Mul (residual_i, amount)", "summed = Add (active, residual_s)"]
        value = "summed"
    if kind.pad:
        lines.append(f"border = Constant <value_ints = {[0, 0, kind.pad, kind.pad] * 2}> ()")
        lines.append(f'padded = Pad <mode = "reflect"> ({value}, border)')
        value = "padded"
    lines.append(f"y = Cast <to = {_TYPES[kernel.variant.dtype]}> ({value})")
    return "\n" + "\n".join(lines)


def _activated(kind: Kind, value: str, result: str) -> str:
    if kind.activation == "relu":
        return f"{result} = Relu ({value})"
    if kind.activation == "leaky":
        return f"{result} = LeakyRelu <alpha = {kind.slope}> ({value})"
    return f"{result} = Identity ({value})"


def _coefficients(kernel: PluginKernel, given: list[str]) -> str:
    """`[N, 3, C]`: mean, scale and offset; layer norm's moments follow from the channels'."""
    assert kernel.size is not None
    kind = kernel.variant.kind
    pixels = float(kernel.size[0] * kernel.size[1])
    lines = [_merged("partials", f"pixels = Constant <value_float = {pixels}> ()")]
    samples = 0 if kernel.variant.affine == "sample" else 1
    lines.append(f"row = Constant <value_ints = {[samples, 1, 1, -1]}> ()")
    if kind.family != "layer":
        lines.append(_inverted(kind, "total", "pixels", "own"))
    if kind.family != "instance":
        lines.append(
            """
            across = Constant <value_ints = [3]> ()
            middle = ReduceMean <keepdims = 1> (mean, across)
            away = Sub (mean, middle)
            away2 = Mul (away, away)
            spread = Mul (away2, pixels)
            both_moments = Add (total, spread)
            whole = ReduceSum <keepdims = 1> (both_moments, across)
            shape = Shape <start = 3> (mean)
            channels = Cast <to = 1> (shape)
            numbers = Mul (channels, pixels)"""
            + _inverted(kind, "whole", "numbers", "common")
        )
    if kind.family == "clamp":
        lines.append(
            """
            line = Constant <value_ints = [1, 1, 1, -1]> ()
            own_part = Reshape (mix, line)
            rest = Sub (one, own_part)
            own_share = Mul (own, own_part)
            layer_share = Mul (common, rest)
            factor = Add (own_share, layer_share)"""
        )
    elif kind.family == "layer":
        lines.append(
            "layer_share = Identity (common)\n zero = Sub (mean, mean)\n factor = Add (common, zero)"
        )
    else:
        lines.append("factor = Identity (own)")
    if kind.family != "instance":
        lines.append("drift = Mul (layer_share, away)")
    else:
        lines.append("drift = Sub (mean, mean)")
    if "weight" in given:
        lines += [
            "weight_r = Reshape (weight, row)",
            "scale = Mul (factor, weight_r)",
            "drift_w = Mul (drift, weight_r)",
            "bias_r = Reshape (bias, row)",
            "offset = Add (drift_w, bias_r)",
        ]
    else:
        lines += ["scale = Identity (factor)", "offset = Identity (drift)"]
    lines += ["joined = Concat <axis = 2> (mean, scale, offset)", "first = Constant <value_ints = [1]> ()"]
    return "\n".join([*lines, "coefficients = Squeeze (joined, first)"])


def _convolution(kernel: PluginKernel, given: list[str]) -> str:
    """Normalises what it loads, reflects by 1, convolves 3x3, and takes the statistics of the result."""
    dtype = _TYPES[kernel.variant.dtype]
    return (
        "x_f = Cast <to = 1> (x)"
        + _mapped("coefficients", "x_f")
        + "\n"
        + _activated(kernel.variant.kind, "normal", "active")
        + f"""
        border = Constant <value_ints = [0, 0, 1, 1, 0, 0, 1, 1]> ()
        padded = Pad <mode = "reflect"> (active, border)
        weight_f = Cast <to = 1> (weight)
        kernel = Transpose <perm = [0, 3, 1, 2]> (weight_f)
        wide_y = Conv (padded, kernel)
        y = Cast <to = {dtype}> (wide_y)
        wide = Cast <to = 1> (y)"""
        + _partials(kernel.variant.splits)
    )


_BODIES = {
    "norm_stats": _stats,
    "norm_apply": _apply,
    "norm_slab": _slab,
    "norm_coefficients": _coefficients,
    "conv_norm": _convolution,
}
