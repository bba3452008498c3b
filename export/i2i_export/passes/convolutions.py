"""Rewrites of convolutions that make plans small: equal ones become one, and none computes what a crop throws away.

Each pass takes an `onnx_ir.Model` with shapes inferred, changes it in place and returns how many places it changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from i2i_export.graph.edit import Writer
from i2i_export.graph.match import Convolution, constant, is_standard, nodes_of, only_use, producer

_END = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Part:
    """A convolution and the range of channels that it reads."""

    convolution: ir.Node
    start: int
    stop: int


def join_equal_convolutions(model: ir.Model) -> int:
    """Convolutions with the same weights on the parts of one tensor become one on the whole tensor.

    Its weights are block-diagonal: each part meets its own block and exact zeros elsewhere. Parts must cover the
    tensor, and be at most four, because the multiply-adds grow with their number.
    """
    groups: dict[object, list[_Part]] = {}
    for convolution in nodes_of(model, "Conv"):
        cut = producer(convolution.inputs[0], "Slice")
        part = None if cut is None else _part_of(convolution, cut)
        if part is not None and cut is not None:
            attributes = tuple(
                sorted((name, str(entry.value)) for name, entry in convolution.attributes.items())
            )
            groups.setdefault((cut.inputs[0], convolution.inputs[1], attributes), []).append(part)
    return sum(_join(model, sorted(parts, key=lambda part: part.start)) for parts in groups.values())


def _part_of(node: ir.Node, cut: ir.Node) -> _Part | None:
    """The channels that a convolution without bias reads, if a Slice picks them."""
    bounds, convolution = _bounds_of(cut), Convolution.of(node)
    if bounds is None or convolution is None or convolution.weight is None:
        return None
    start, stop, axis = bounds
    shape = cut.inputs[0].shape if cut.inputs[0] else None
    if axis != 1 or start < 0 or shape is None or convolution.has_bias or convolution.groups != 1:
        return None
    if not isinstance(shape[1], int):
        return None
    return _Part(node, start, min(stop, shape[1]) if stop > 0 else shape[1] + stop)


def _bounds_of(cut: ir.Node) -> tuple[int, int, int] | None:
    """Start, stop and axis of a Slice along one axis in steps of 1."""
    given = [constant(value) for value in cut.inputs[1:]]
    if len(given) < 3 or any(entry is None or entry.size != 1 for entry in given):
        return None
    start, stop, axis, *step = (int(entry.item()) for entry in given if entry is not None)
    return (start, stop, axis) if step in ([], [1]) else None


def _join(model: ir.Model, parts: list[_Part]) -> int:
    first = parts[0].convolution
    cut, weight = first.inputs[0].producer() if first.inputs[0] else None, constant(first.inputs[1])
    whole = cut.inputs[0] if cut is not None else None
    if whole is None or whole.shape is None or weight is None or not 2 <= len(parts) <= 4:
        return 0
    bounds = [0, *(part.stop for part in parts)]
    if [part.start for part in parts] != bounds[:-1] or bounds[-1] != whole.shape[1]:
        return 0
    count, (outputs, inputs, *kernel) = len(parts), weight.shape
    joined = np.zeros((count, outputs, count, inputs, *kernel), weight.dtype)
    for index in range(count):
        joined[index, :, index] = weight
    build = Writer(model, first)
    attributes = {name: entry.value for name, entry in first.attributes.items()}
    both = build(
        "Conv",
        [whole, build.weight("joined", joined.reshape(count * outputs, count * inputs, *kernel))],
        **attributes,
    )
    for index, part in enumerate(parts):
        build = Writer(model, part.convolution)
        ends = build.integers(index * outputs), build.integers((index + 1) * outputs)
        build.finish(build("Slice", [both, *ends, build.integers(1)]))
    return 1


@dataclass(frozen=True)
class _Crop:
    """Lines that a Slice cuts off both ends of height (axis 2) or width (axis 3)."""

    axis: int
    before: int
    after: int


def crop_before_convolutions(model: ir.Model) -> int:
    """A crop behind convolutions of stride 1 moves in front of them, and takes their padding away.

    A cropped line was computed for nothing; with a crop of at least the padding, no pixel that is kept ever saw a
    padded one, so the numbers stay the same.
    """
    changed = 0
    for cut in nodes_of(model, "Slice"):
        crop = _crop_of(cut)
        node: ir.Node | None = cut
        while node is not None and crop is not None:
            above = node.inputs[0].producer() if node.inputs[0] is not None else None
            if above is None or not only_use(above.outputs[0]):
                break
            inner = _crop_above(above, crop)
            if inner is None:
                break
            node, crop = _swap(model, node, above, inner), inner
            changed += 1
    return changed


def _crop_of(cut: ir.Node) -> _Crop | None:
    bounds = _bounds_of(cut)
    if bounds is None:
        return None
    start, stop, axis = bounds
    # A crop that is stated from the far end holds at every size.
    if axis not in (2, 3) or start < 0 or 0 <= stop < 2**31 - 1:
        return None
    return _Crop(axis, start, max(0, -stop))


def _crop_above(node: ir.Node, crop: _Crop) -> _Crop | None:
    """What to cut off the operator's input so that its result is the cropped one, None if that is not possible."""
    if is_standard(node, "Relu", "LeakyRelu"):
        return crop
    convolution = Convolution.of(node)
    if convolution is None or not convolution.moves_by_one:
        return None
    before = crop.before - convolution.pads[crop.axis - 2]
    after = crop.after - convolution.pads[crop.axis]
    return _Crop(crop.axis, before, after) if before >= 0 and after >= 0 else None


def _swap(model: ir.Model, cut: ir.Node, above: ir.Node, crop: _Crop) -> ir.Node | None:
    """Writes the operator behind its crop; returns the crop's new node, None if nothing is left to cut."""
    build = Writer(model, cut)
    given, *rest = above.inputs
    assert given is not None
    moved = None
    if crop.before or crop.after:
        stop = build.integers(-crop.after if crop.after else _END)
        given = build("Slice", [given, build.integers(crop.before), stop, build.integers(crop.axis)])
        moved = given.producer()
    attributes = {name: entry.value for name, entry in above.attributes.items()}
    if above.op_type == "Conv":
        pads = list(above.attributes.get_ints("pads", [0] * 4))
        pads[crop.axis - 2] = pads[crop.axis] = 0
        attributes["pads"] = pads
    build.finish(build(above.op_type, [given, *rest], **attributes))
    model.graph.remove(above, safe=True)
    return moved
