"""Rewrites that make TensorRT plans small: the same image from fewer kernel launches and fewer bytes.

They fit TensorRT's graph compiler, not every back end, so the portable file is not changed and only the plan
is built from the rewritten graph. What they rest on was read off plans.

Each pass takes an `onnx_ir.Model` with shapes inferred, changes it in place and returns how many places it
changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.errors import ExportError
from i2i_export.graph.edit import Writer, simplify
from i2i_export.graph.match import constant, fixed_size, nodes_of, only_reader, only_use, producer
from i2i_export.passes.convolutions import crop_before_convolutions, join_equal_convolutions
from i2i_export.passes.nhwc_norms import write_norms_in_nhwc
from i2i_export.passes.upsampling import doubled_convolution
from i2i_export.plan.structure import PlanStructure

Pass = Callable[[ir.Model], int]


@dataclass(frozen=True)
class Rewritten:
    """A model and the passes that were kept; the structures are None if no plan could be counted."""

    model: onnx.ModelProto
    kept: tuple[str, ...]
    before: PlanStructure | None
    after: PlanStructure | None


def smallest_rewrite(
    model: onnx.ModelProto, count: Callable[[onnx.ModelProto], PlanStructure | None]
) -> Rewritten:
    """Tries each pass on top of those kept; keeps it only when the counted launches or bytes fall.

    `count` builds a plan and counts it; if it cannot (None), no pass is kept.
    """
    before = best = count(model)
    kept: list[str] = []
    for name in PASSES:
        trial = rewritten(model, (name,))
        structure = _counted(count, trial) if trial is not None and best is not None else None
        if trial is None or structure is None or best is None or not structure.is_smaller_than(best):
            continue
        model, best = trial, structure
        kept.append(name)
    return Rewritten(model, tuple(kept), before, best)


def _counted(
    count: Callable[[onnx.ModelProto], PlanStructure | None], trial: onnx.ModelProto
) -> PlanStructure | None:
    """The structure of a trial, None if TensorRT cannot build it: the network before the pass is there still."""
    try:
        return count(trial)
    except ExportError:
        return None


def rewritten(model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto | None:
    """A copy of the model after these passes, None if none of them found a place."""
    graph = ir.from_proto(model)
    simplify(graph)
    ShapeInferencePass()(graph)
    changed = 0
    for name in names:
        changed += PASSES[name](graph)
        simplify(graph)
        ShapeInferencePass()(graph)
    return ir.to_proto(graph) if changed else None


def write_reflection_as_gather(model: ir.Model) -> int:
    """A reflection pad of known height and width reads its rows and columns by index, inside the kernel
    before it."""
    return _write_border_as_gather(model, "reflect")


def write_repeated_border_as_gather(model: ir.Model) -> int:
    """The same for a pad that repeats the outermost pixel."""
    return _write_border_as_gather(model, "edge")


def _write_border_as_gather(model: ir.Model, mode: Literal["reflect", "edge"]) -> int:
    changed = 0
    for pad in nodes_of(model, "Pad"):
        image, pads = pad.inputs[0], constant(pad.inputs[1] if len(pad.inputs) > 1 else None)
        if pad.attributes.get_string("mode", "constant") != mode or image is None or pads is None:
            continue
        sizes = fixed_size(image)
        if sizes is None or len(pad.inputs) > 3 or pads.size != 8:
            continue
        before, after = pads.reshape(2, 4).tolist()
        if any(before[:2]) or any(after[:2]) or min(before + after) < 0:
            continue
        build = Writer(model, pad)
        value = image
        for axis, size in zip((2, 3), sizes, strict=True):
            index = np.pad(np.arange(size), (int(before[axis]), int(after[axis])), mode=mode)
            value = build("Gather", [value, build.integers(*index.tolist())], axis=axis)
        build.finish(value)
        changed += 1
    return changed


def write_upsampled_convolution_as_transposed(model: ir.Model) -> int:
    """Nearest-neighbour doubling before a convolution of width 3 becomes one transposed convolution of width
    4.

    Each output pixel then meets 4 weights instead of 9 and the doubled image is never written. A reflection
    pad of 1 on the doubled image equals repeating the border pixel of the small one, because the border
    pixel was doubled.
    """
    changed = 0
    for convolution in nodes_of(model, "Conv"):
        found = doubled_convolution(convolution, 3)
        if found is None:
            continue
        small, border, weight = found
        build = Writer(model, convolution)
        rest = [value for value in convolution.inputs[2:] if value is not None]
        crop = 1
        if border == "reflect":
            small = build("Pad", [small, build.integers(0, 0, 1, 1, 0, 0, 1, 1)], mode="edge")
            crop = 3
        kernel = build.weight("doubled", _doubled_kernel(weight))
        build.finish(
            build(
                "ConvTranspose", [small, kernel, *rest], strides=[2, 2], pads=[crop] * 4, kernel_shape=[4, 4]
            )
        )
        changed += 1
    return changed


def write_equal_slopes_as_leaky(model: ir.Model) -> int:
    """PRelu with one slope for everything becomes LeakyRelu, which fuses into the convolution before."""
    changed = 0
    for activation in nodes_of(model, "PRelu"):
        slopes = constant(activation.inputs[1])
        if slopes is None or np.ptp(slopes) != 0:
            continue
        build = Writer(model, activation)
        build.finish(build("LeakyRelu", [activation.inputs[0]], alpha=float(slopes.reshape(-1)[0])))
        changed += 1
    return changed


def _doubled_kernel(weight: NDArray[np.generic]) -> NDArray[np.generic]:
    """`[O, I, 3, 3]` of a convolution -> `[I, O, 4, 4]` of the transposed one: flipped, and summed over 2x2
    boxes."""
    wide = weight.astype(np.float64)[:, :, ::-1, ::-1]
    doubled = np.zeros((*weight.shape[:2], 4, 4))
    for row in (0, 1):
        for column in (0, 1):
            doubled[:, :, row : row + 3, column : column + 3] += wide
    return doubled.transpose(1, 0, 2, 3).astype(weight.dtype)


def write_pixel_shuffle_last(model: ir.Model) -> int:
    """DepthToSpace moves behind the arithmetic that follows it and becomes one with the turn to NHWC.

    Arithmetic with constants of one value is the same wherever a pixel stands, and fuses with the convolution
    or the kernel before while the channels are still deep.
    """
    changed = 0
    for shuffle in nodes_of(model, "DepthToSpace"):
        deep, factor = shuffle.inputs[0], shuffle.attributes.get_int("blocksize", 1)
        chain, value = [], shuffle.outputs[0]
        while (reader := _pixelwise_reader(value)) is not None:
            chain.append(reader)
            value = reader.outputs[0]
        turn = only_reader(value, "Transpose")
        if deep is None or deep.shape is None or turn is None:
            continue
        batch, channels, height, width = deep.shape
        sizes = [extent for extent in (batch, channels, height, width) if isinstance(extent, int)]
        if len(sizes) != 4 or list(turn.attributes.get_ints("perm", [])) != [0, 2, 3, 1]:
            continue
        build = Writer(model, turn)
        colours = sizes[1] // factor**2
        for node in chain:
            node.outputs[0].shape = None
        ir.convenience.replace_all_uses_with(shuffle.outputs[0], deep)
        end = chain[-1].outputs[0] if chain else deep
        is_crd = shuffle.attributes.get_string("mode", "DCR") == "CRD"
        split = [colours, factor, factor] if is_crd else [factor, factor, colours]
        parted = build("Reshape", [end, build.integers(sizes[0], *split, *sizes[2:])])
        down, right, colour = (2, 3, 1) if is_crd else (1, 2, 3)
        turned = build("Transpose", [parted], perm=[0, 4, down, 5, right, colour])
        shape = build.integers(sizes[0], sizes[2] * factor, sizes[3] * factor, colours)
        build.finish(build("Reshape", [turned, shape]))
        model.graph.remove(shuffle, safe=True)
        changed += 1
    return changed


def write_pixel_unshuffle_first(model: ir.Model) -> int:
    """SpaceToDepth moves in front of the arithmetic before it and becomes one with the turn from NHWC.

    A channel order behind it that is PyTorch's (colour, row, column) joins in.
    """
    changed = 0
    for unshuffle in nodes_of(model, "SpaceToDepth"):
        factor, value = unshuffle.attributes.get_int("blocksize", 1), unshuffle.inputs[0]
        chain: list[ir.Node] = []
        while value is not None and _is_pixelwise(value):
            node = value.producer()
            assert node is not None
            chain.append(node)
            value = next(given for given in node.inputs if given is not None and constant(given) is None)
        turn = producer(value, "Transpose") if value is not None and only_use(value) else None
        image = turn.inputs[0] if turn is not None else None
        if turn is None or image is None or image.shape is None or value is None:
            continue
        sizes = [extent for extent in image.shape if isinstance(extent, int)]
        if len(sizes) != 4 or list(turn.attributes.get_ints("perm", [])) != [0, 3, 1, 2]:
            continue
        batch, height, width, colours = sizes
        last, order = unshuffle, [0, 2, 4, 5, 1, 3]
        reordered = _reorders_by_colour(unshuffle, factor, colours)
        if reordered is not None:
            last, order = reordered, [0, 5, 2, 4, 1, 3]
        build = Writer(model, turn)
        rows, columns = height // factor, width // factor
        parted = build("Reshape", [image, build.integers(batch, rows, factor, columns, factor, colours)])
        turned = build("Transpose", [parted], perm=order)
        deep = build("Reshape", [turned, build.integers(batch, factor**2 * colours, rows, columns)])
        for node in chain:
            node.outputs[0].shape = None
        ir.convenience.replace_all_uses_with(value, deep)
        ir.convenience.replace_all_uses_with(last.outputs[0], chain[0].outputs[0] if chain else deep)
        for node in dict.fromkeys((last, unshuffle, turn)):
            model.graph.remove(node, safe=True)
        changed += 1
    return changed


def _is_pixelwise(value: ir.Value) -> bool:
    """Whether arithmetic with constants of one value made this and only one node reads it."""
    node = producer(value, *_PIXELWISE)
    if node is None or not only_use(value):
        return False
    numbers = [constant(given) for given in node.inputs if given is not None]
    return sum(number is None for number in numbers) == 1 and all(
        number is None or number.size == 1 for number in numbers
    )


def _reorders_by_colour(unshuffle: ir.Node, factor: int, colours: int) -> ir.Node | None:
    """The only reader, if it turns SpaceToDepth's (row, column, colour) into (colour, row, column)."""
    reader = only_reader(unshuffle.outputs[0], "Gather")
    if reader is None or reader.attributes.get_int("axis", 0) != 1:
        return None
    index = constant(reader.inputs[1])
    wanted = np.arange(factor**2 * colours).reshape(-1, colours).T.reshape(-1)
    return reader if index is not None and np.array_equal(index, wanted) else None


_PIXELWISE = ("Add", "Sub", "Mul", "Div", "Clip", "Round", "Tanh", "Sigmoid", "Relu", "Cast", "Max", "Min")


def _pixelwise_reader(value: ir.Value) -> ir.Node | None:
    """The only reader, if it does the same to every pixel and channel."""
    reader = only_reader(value, *_PIXELWISE)
    if reader is None:
        return None
    others = [other for other in reader.inputs if other is not None and other is not value]
    numbers = [constant(other) for other in others]
    is_same = all(number is not None and number.size == 1 for number in numbers)
    return reader if is_same else None


PASSES: dict[str, Pass] = {
    "equal slopes as leaky ReLU": write_equal_slopes_as_leaky,
    "upsampled convolutions as transposed ones": write_upsampled_convolution_as_transposed,
    "norms in NHWC": write_norms_in_nhwc,
    "reflection as gather": write_reflection_as_gather,
    "repeated border as gather": write_repeated_border_as_gather,
    "equal convolutions as one": join_equal_convolutions,
    "crops before convolutions": crop_before_convolutions,
    "pixel unshuffle first": write_pixel_unshuffle_first,
    "pixel shuffle last": write_pixel_shuffle_last,
}
