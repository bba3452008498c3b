"""Nearest-neighbour doubling followed by a convolution, computed at the small size.

A doubled image holds every pixel four times, so each of the four output phases (even or odd row, even or odd
column) sees a smaller kernel on the small image: 5x5 becomes four 3x3 (36 multiply-adds instead of 100 for four
output pixels), 3x3 becomes four 2x2 (16 instead of 36). Zero borders carry over as they are. A reflected border of 1
on the doubled image is the repeated border pixel of the small one. A reflected border of 2 is not: its outermost
row shows the second pixel, so what that changes is added to the outermost lines of the result.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from i2i_export.graph.edit import Writer
from i2i_export.graph.match import Array, Convolution, constant, nodes_of, only_use, producer, reflection_of

_END = np.iinfo(np.int64).max


def write_wide_upsampling_as_phases(model: ir.Model) -> int:
    """Rewrites every [Resize nearest x2, Pad, Conv 5x5] in place; returns how many."""
    return _write_phases(model, kernel=5)


def write_upsampling_as_phases(model: ir.Model) -> int:
    """Rewrites every [Resize nearest x2, Pad, Conv 3x3] in place; returns how many."""
    return _write_phases(model, kernel=3)


def _write_phases(model: ir.Model, kernel: int) -> int:
    changed = 0
    for convolution in nodes_of(model, "Conv"):
        found = doubled_convolution(convolution, kernel)
        if found is None:
            continue
        small, border, weight = found
        write = Writer(model, convolution)
        rest = [value for value in convolution.inputs[2:] if value is not None]
        if kernel == 3:
            value = _phases_3(write, small, weight, rest, border)
        else:
            value = _phases_5(write, small, weight, rest, border)
            if border == "reflect":
                value = _with_reflected_border(write, small, value, weight)
        write.finish(value)
        changed += 1
    return changed


def _phases_3(write: Writer, small: ir.Value, weight: Array, rest: list[ir.Value], border: str) -> ir.Value:
    """Four 2x2 convolutions, one per phase, interleaved."""
    phases = []
    for down in (0, 1):
        for right in (0, 1):
            kernel = _phase(_phase(weight, 2, down), 3, right)
            # Phase 0 looks one pixel back, phase 1 one pixel ahead.
            image, pads = small, [1 - down, 1 - right, down, right]
            if border == "reflect":
                amounts = write.integers(0, 0, *pads[:2], 0, 0, *pads[2:])
                image, pads = write("Pad", [small, amounts], mode="edge"), [0, 0, 0, 0]
            phases.append(
                write("Conv", [image, write.weight("phase", kernel), *rest], kernel_shape=[2, 2], pads=pads)
            )
    return write("DepthToSpace", [write("Concat", phases, axis=1)], blocksize=2, mode="DCR")


def _phases_5(write: Writer, small: ir.Value, weight: Array, rest: list[ir.Value], border: str) -> ir.Value:
    """One 3x3 convolution to four times the channels, interleaved."""
    kernels = [_phase(_phase(weight, 2, down), 3, right) for down in (0, 1) for right in (0, 1)]
    kernel = write.weight("phases", np.concatenate(kernels))
    bias = [
        write.weight("phases.bias", np.tile(values, 4))
        for values in map(constant, rest)
        if values is not None
    ]
    pads = [1, 1, 1, 1]
    if border == "reflect":
        small, pads = write("Pad", [small, write.integers(0, 0, 1, 1, 0, 0, 1, 1)], mode="edge"), [0, 0, 0, 0]
    joined = write("Conv", [small, kernel, *bias], kernel_shape=[3, 3], pads=pads)
    return write("DepthToSpace", [joined], blocksize=2, mode="DCR")


def _phase(weight: Array, axis: int, phase: int) -> Array:
    """The taps of one axis summed where they meet the same small pixel: 5 to 3, or 3 to 2."""
    taps = weight.shape[axis]
    first = (phase - taps // 2) // 2
    small = [(phase - taps // 2 + tap) // 2 - first for tap in range(taps)]
    shape = list(weight.shape)
    shape[axis] = max(small) + 1
    summed = np.zeros(shape, np.float64)
    for tap, target in enumerate(small):
        np.moveaxis(summed, axis, 0)[target] += np.moveaxis(weight, axis, 0)[tap]
    return summed.astype(weight.dtype)


def _with_reflected_border(write: Writer, small: ir.Value, value: ir.Value, weight: Array) -> ir.Value:
    """Adds to the outermost lines what reflection shows there and repetition does not.

    Only the outermost line of the border differs, and it meets only the outermost line of the result, by the first or
    last row (or column) of weights. Corners count as part of the rows.
    """
    both = weight.shape[0]
    near, edge = (write("Gather", [small, write.integers(*lines)], axis=2) for lines in ((1, -2), (0, -1)))
    near, edge = _doubled_along(write, near, 3), _doubled_along(write, edge, 3)
    sides = write.integers(0, 0, 0, 2, 0, 0, 0, 2)
    rows = write(
        "Sub", [write("Pad", [near, sides], mode="reflect"), write("Pad", [edge, sides], mode="edge")]
    )
    kernel = write.weight("rows", np.concatenate([weight[:, :, :1], weight[:, :, -1:]]))
    rows = write("Conv", [rows, kernel], kernel_shape=[1, 5], pads=[0] * 4)

    near, edge = (write("Gather", [small, write.integers(*lines)], axis=3) for lines in ((1, -2), (0, -1)))
    columns = _doubled_along(write, write("Sub", [near, edge]), 2)
    ends = write.integers(0, 0, 1, 0, 0, 0, 1, 0)
    columns = write("Pad", [columns, ends], mode="edge")
    kernel = write.weight("columns", np.concatenate([weight[..., :1], weight[..., -1:]]))
    columns = write("Conv", [columns, kernel], kernel_shape=[5, 1], pads=[1, 0, 1, 0])
    for axis, lines in ((3, columns), (2, rows)):
        parts = [_cut(write, value, axis, start, stop) for start, stop in ((0, 1), (1, -1), (-1, _END))]
        for index, (line, end) in ((0, (0, both)), (2, (both, 2 * both))):
            own = _cut(write, _cut(write, lines, 1, line, end), axis, index // 2, index // 2 + 1)
            parts[index] = write("Add", [parts[index], own])
        value = write("Concat", parts, axis=axis)
    return value


def _doubled_along(write: Writer, value: ir.Value, axis: int) -> ir.Value:
    """Every line along an axis twice."""
    scales = np.ones(4, np.float32)
    scales[axis] = 2
    return write(
        "Resize",
        [value, None, write.weight("double", scales)],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )


def _cut(write: Writer, value: ir.Value, axis: int, start: int, stop: int) -> ir.Value:
    return write("Slice", [value, *(write.integers(number) for number in (start, stop, axis))])


def doubled_convolution(node: ir.Node, kernel: int) -> tuple[ir.Value, str, Array] | None:
    """The small image, the border (`zero` or `reflect`) and the weights, if the pattern ends in this node."""
    convolution = Convolution.of(node)
    if convolution is None or convolution.weight is None or convolution.kernel != (kernel, kernel):
        return None
    if not convolution.is_plain or not convolution.is_known:
        return None
    border, value, reach = "zero", convolution.image, kernel // 2
    pad = producer(value, "Pad")
    if pad is not None and only_use(value) and not any(convolution.pads):
        if reflection_of(pad) != reach or pad.inputs[0] is None:
            return None
        border, value = "reflect", pad.inputs[0]
    elif convolution.pads != (reach,) * 4:
        return None
    small = _doubled_from(value)
    return None if small is None else (small, border, convolution.weight)


def _doubled_from(value: ir.Value) -> ir.Value | None:
    """What a Resize that repeats every pixel twice along both axes was given, None for any other value."""
    resize = producer(value, "Resize")
    if resize is None or not only_use(value):
        return None
    attributes = resize.attributes
    scales = constant(resize.inputs[2]) if len(resize.inputs) > 2 else None
    coordinates = attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = attributes.get_string("nearest_mode", "round_prefer_floor")
    repeats = (coordinates == "asymmetric" and rounding == "floor") or (
        coordinates in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer")
    )
    if attributes.get_string("mode", "nearest") != "nearest" or not repeats:
        return None
    if scales is None or scales.tolist() != [1.0, 1.0, 2.0, 2.0]:
        return None
    return resize.inputs[0]
