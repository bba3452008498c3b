"""Nearest-neighbour doubling followed by a convolution, computed at the small size.

A doubled picture holds every pixel four times, so each of the four output phases (even or odd row, even or odd
column) sees a smaller kernel on the small picture: 5x5 becomes four 3x3 (36 multiply-adds instead of 100 for four
output pixels), 3x3 becomes four 2x2 (16 instead of 36). Zero borders carry over as they are. A reflected border of 1
on the doubled picture is the repeated border pixel of the small one. A reflected border of 2 is not: its outermost
row shows the second pixel, so there the outermost lines are computed by the plain form on a strip and put in place.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from i2i_export.rewrites import Array, Writer, constant, nodes_of, only_use

_STRIP = 2
"""Lines of the small picture that the plain form needs to compute two lines of a reflected border."""


def write_wide_upsampling_as_phases(model: ir.Model) -> int:
    """Rewrites every [Resize nearest x2, Pad, Conv 5x5] in place; returns how many."""
    return _write_phases(model, kernel=5)


def write_upsampling_as_phases(model: ir.Model) -> int:
    """Rewrites every [Resize nearest x2, Pad, Conv 3x3] in place; returns how many."""
    return _write_phases(model, kernel=3)


def _write_phases(model: ir.Model, kernel: int) -> int:
    changed = 0
    for convolution in nodes_of(model, "Conv"):
        found = _doubled_convolution(convolution, kernel)
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
                value = _with_plain_border(write, small, value, convolution)
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
            picture, pads = small, [1 - down, 1 - right, down, right]
            if border == "reflect":
                amounts = write.integers(0, 0, *pads[:2], 0, 0, *pads[2:])
                picture, pads = write("Pad", [small, amounts], mode="edge"), [0, 0, 0, 0]
            phases.append(
                write("Conv", [picture, write.weight("phase", kernel), *rest], kernel_shape=[2, 2], pads=pads)
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


def _with_plain_border(write: Writer, small: ir.Value, value: ir.Value, convolution: ir.Node) -> ir.Value:
    """Replaces the two outermost lines on every side by those of the plain form."""
    top = _strip(write, small, convolution, axis=2, far=False)
    bottom = _strip(write, small, convolution, axis=2, far=True)
    left = _cut(write, _strip(write, small, convolution, axis=3, far=False), axes=(2,))
    right = _cut(write, _strip(write, small, convolution, axis=3, far=True), axes=(2,))
    middle = write("Concat", [left, _cut(write, value, axes=(2, 3)), right], axis=3)
    return write("Concat", [top, middle, bottom], axis=2)


def _strip(write: Writer, small: ir.Value, convolution: ir.Node, *, axis: int, far: bool) -> ir.Value:
    """Two output lines along one side, by doubling, reflecting and convolving a strip of the small picture."""
    start, end = (-_STRIP, np.iinfo(np.int64).max) if far else (0, _STRIP)
    lines = write("Slice", [small, write.integers(start), write.integers(end), write.integers(axis)])
    scales = write.weight("double", np.asarray([1, 1, 2, 2], np.float32))
    doubled = write(
        "Resize",
        [lines, None, scales],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    before, after = [0, 0, 2, 2], [0, 0, 2, 2]
    (before if far else after)[axis] = 0
    padded = write("Pad", [doubled, write.integers(*before, *after)], mode="reflect")
    rest = [value for value in convolution.inputs[1:] if value is not None]
    return write("Conv", [padded, *rest], kernel_shape=[5, 5], pads=[0, 0, 0, 0])


def _cut(write: Writer, value: ir.Value, axes: tuple[int, ...]) -> ir.Value:
    """Without the two outermost lines on both sides of these axes."""
    count = len(axes)
    return write(
        "Slice",
        [value, write.integers(*[2] * count), write.integers(*[-2] * count), write.integers(*axes)],
    )


def _doubled_convolution(convolution: ir.Node, kernel: int) -> tuple[ir.Value, str, Array] | None:
    """The small picture, the border (`zero` or `reflect`) and the weights, where the pattern stands."""
    weight, value = constant(convolution.inputs[1]), convolution.inputs[0]
    if weight is None or value is None or weight.shape[2:] != (kernel, kernel) or not _is_plain(convolution):
        return None
    if len(convolution.inputs) > 2 and constant(convolution.inputs[2]) is None:
        return None
    reach = kernel // 2
    border, pads = "zero", list(convolution.attributes.get_ints("pads", [0, 0, 0, 0]))
    pad = value.producer()
    if pads == [0] * 4 and pad is not None and pad.op_type == "Pad" and only_use(value):
        amounts = constant(pad.inputs[1])
        if (
            pad.attributes.get_string("mode", "constant") != "reflect"
            or amounts is None
            or pad.inputs[0] is None
        ):
            return None
        if len(pad.inputs) > 3 or amounts.tolist() != [0, 0, reach, reach] * 2:
            return None
        border, value = "reflect", pad.inputs[0]
    elif pads != [reach] * 4:
        return None
    small = _doubled_from(value)
    return None if small is None else (small, border, weight)


def _is_plain(convolution: ir.Node) -> bool:
    """Whether a convolution has stride 1, one group, no dilation and stated pads."""
    attributes = convolution.attributes
    return (
        attributes.get_int("group", 1) == 1
        and list(attributes.get_ints("strides", [1, 1])) == [1, 1]
        and list(attributes.get_ints("dilations", [1, 1])) == [1, 1]
        and attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    )


def _doubled_from(value: ir.Value) -> ir.Value | None:
    """What a Resize that repeats every pixel twice along both axes was given, None for any other value."""
    resize = value.producer()
    if resize is None or resize.op_type != "Resize" or not only_use(value):
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
