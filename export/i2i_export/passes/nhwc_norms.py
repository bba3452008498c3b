"""Norms written so that TensorRT's graph compiler makes two or three kernels of each.

What this rests on was read off plans: convolutions run in NHWC, an InstanceNormalization in NCHW, so each norm costs
two transposes; a mean over height and width of an NHWC tensor is one kernel, and the arithmetic behind it,
activation, residual and padding included, fuses into one more.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from i2i_export.graph.edit import Writer
from i2i_export.graph.match import Array
from i2i_export.graph.norms import Norm, norms_of

_ROWS_PER_MEAN = 16384
"""Longer means are split in two: the compiler writes the float32 image to memory for them otherwise."""


def write_norms_in_nhwc(model: ir.Model) -> int:
    """Every norm as means over an NHWC tensor and one affine map per channel; returns how many there were.

    Statistics are float32 whatever the network's type. Both moments are taken around the channel's first
    pixel (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983), so a mean far from
    zero cancels nothing, at no launch and no byte more. Those of a whole sample follow from its channels'.
    """
    return _write(model, norms_of(model))


def write_spelled_norms_in_nhwc(model: ir.Model) -> int:
    """The same for the norms that are not an operator of their own: TensorRT has kernels for those that are."""
    return _write(model, [norm for norm in norms_of(model) if not norm.is_operator])


def _write(model: ir.Model, found: list[Norm]) -> int:
    new: dict[ir.Value, ir.Value] = {}
    for norm in found:
        node, result = norm.result.producer(), norm.result
        assert node is not None
        build = Writer(model, node)
        # What a norm reads may be another's result, which has just been written anew.
        current = {
            name: new.get(value, value)
            for name in ("image", "scale", "drift")
            if (value := getattr(norm, name)) is not None
        }
        written = _written(build, replace(norm, **current))
        written.shape, written.type = result.shape, result.type
        build.finish(written)
        new[result] = written
    return len(found)


def _written(build: Writer, norm: Norm) -> ir.Value:
    image = norm.image
    assert image.shape is not None
    assert norm.result.dtype is not None
    # Two casts on purpose: one shared cast would be fused into the convolution, which then writes float32.
    nhwc = build("Transpose", [image], perm=[0, 2, 3, 1])
    nhwc = build("Cast", [nhwc], to=ir.DataType.FLOAT)
    wide = build("Cast", [image], to=ir.DataType.FLOAT)
    pixel = build("Slice", [nhwc, build.integers(0, 0), build.integers(1, 1), build.integers(1, 2)])
    nhwc = build("Sub", [nhwc, pixel])
    pixel = build("Transpose", [pixel], perm=[0, 3, 1, 2])
    wide = build("Sub", [wide, pixel])
    mean = _mean_over_image(build, nhwc, image.shape)
    power = _mean_over_image(build, build("Mul", [nhwc, nhwc]), image.shape)
    variance = build("Sub", [power, build("Mul", [mean, mean])])
    variance = build("Max", [variance, _scalar(build, 0.0)])
    factor: ir.Value | None = None
    offset: ir.Value | None = None
    if not norm.is_layer:
        factor = _times(
            build, _inverse(build, norm, _corrected(build, norm, variance, over_sample=False)), norm.instance
        )
    if not norm.is_instance:
        # Around the first channel's first pixel, so that both means over the channels are taken at once.
        corner = build("Slice", [pixel, build.integers(0), build.integers(1), build.integers(1)])
        away = build("Add", [build("Sub", [pixel, corner]), mean])
        spread = build("Add", [variance, build("Mul", [away, away])])
        middle = build("ReduceMean", [away, build.integers(1)], keepdims=1)
        power = build("ReduceMean", [spread, build.integers(1)], keepdims=1)
        whole = build("Sub", [power, build("Mul", [middle, middle])])
        whole = build("Max", [whole, _scalar(build, 0.0)])
        whole = _corrected(build, norm, whole, over_sample=True)
        part = _times(build, _inverse(build, norm, whole), norm.layer)
        gap = build("Sub", [away, middle])
        offset = build("Mul", [part, gap])
        factor = part if factor is None else build("Add", [factor, part])
    assert factor is not None
    if norm.scale is not None:
        scale = _wide(build, norm.scale)
        factor = build("Mul", [factor, scale])
        offset = None if offset is None else build("Mul", [offset, scale])
    if np.any(norm.shift):
        offset = _plus(build, offset, _per_channel(build, norm.shift))
    if norm.drift is not None:
        offset = _plus(build, offset, _times(build, _wide(build, norm.drift), norm.drift_factor))
    value = build("Mul", [build("Sub", [wide, mean]), factor])
    if offset is not None:
        value = build("Add", [value, offset])
    return build("Cast", [value], to=norm.result.dtype)


def _plus(build: Writer, left: ir.Value | None, right: ir.Value) -> ir.Value:
    return right if left is None else build("Add", [left, right])


def _times(build: Writer, value: ir.Value, factor: Array) -> ir.Value:
    return value if np.all(factor == 1) else build("Mul", [value, _per_channel(build, factor)])


def _corrected(build: Writer, norm: Norm, variance: ir.Value, *, over_sample: bool) -> ir.Value:
    """The unbiased variance, if the norm takes that."""
    if not norm.unbiased:
        return variance
    shape = norm.image.shape
    assert shape is not None
    extents = shape[1:] if over_sample else shape[2:]
    whole = [extent for extent in extents if isinstance(extent, int)]
    if len(whole) == len(tuple(extents)):
        count = int(np.prod(whole))
        return build("Mul", [variance, _scalar(build, count / (count - 1))])
    counted = build("Shape", [norm.image], start=1 if over_sample else 2)
    number = build("Cast", [build("ReduceProd", [counted], keepdims=1)], to=ir.DataType.FLOAT)
    free = build("Sub", [number, _scalar(build, 1.0)])
    return build("Mul", [variance, build("Div", [number, free])])


def _inverse(build: Writer, norm: Norm, variance: ir.Value) -> ir.Value:
    epsilon = _scalar(build, norm.eps)
    if norm.eps_inside:
        root = build("Sqrt", [build("Add", [variance, epsilon])])
    else:
        root = build("Add", [build("Sqrt", [variance]), epsilon])
    return build("Reciprocal", [root])


def _mean_over_image(build: Writer, nhwc: ir.Value, nchw_shape: ir.Shape) -> ir.Value:
    """Mean over H and W of `[N, H, W, C]`, as `[N, C, 1, 1]`."""
    batch, channels, height, width = nchw_shape
    rows = height * width if isinstance(height, int) and isinstance(width, int) else 0
    parts = next((n for n in range(2, 513) if rows % n == 0 and rows // n <= _ROWS_PER_MEAN), 1)
    if rows > _ROWS_PER_MEAN and parts > 1 and isinstance(channels, int) and isinstance(batch, int):
        split = build("Reshape", [nhwc, build.integers(batch, parts, rows // parts, channels)])
        inner = build("ReduceMean", [split, build.integers(2)], keepdims=1)
        mean = build("ReduceMean", [inner, build.integers(1)], keepdims=1)
    else:
        mean = build("ReduceMean", [nhwc, build.integers(1, 2)], keepdims=1)
    return build("Transpose", [mean], perm=[0, 3, 1, 2])


def _wide(build: Writer, value: ir.Value) -> ir.Value:
    """`[C]` or `[N, C, 1, 1]` of any float type as float32 that meets an image."""
    wide = value if value.dtype == ir.DataType.FLOAT else build("Cast", [value], to=ir.DataType.FLOAT)
    is_vector = value.shape is not None and len(value.shape) == 1
    return build("Reshape", [wide, build.integers(1, -1, 1, 1)]) if is_vector else wide


def _per_channel(build: Writer, vector: Array) -> ir.Value:
    """One number, or `[C]`, as `[1, C, 1, 1] float32`."""
    return build.weight("per_channel", vector.astype(np.float32).reshape(1, -1, 1, 1))


def _scalar(build: Writer, value: float) -> ir.Value:
    return build.weight("scalar", np.asarray([value], np.float32))
