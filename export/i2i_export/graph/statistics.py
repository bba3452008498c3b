"""Statistics of images in a graph, recognised by what their operators compute: means, variances, roots, counts.

Each operator's rule says what its result is, given what its inputs are ("the mean of this image over a channel",
"the image minus that mean"). The order of factors, casts to a wider type, flattened images and the place of a square
do not matter. Counts may be constants or read off the image's shape when the network runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from i2i_export.graph.match import constant, is_standard
from i2i_export.graph.moments import (
    Centred,
    CentredSquare,
    CentredSum,
    Extents,
    Flat,
    InverseRoot,
    Layout,
    Lifted,
    Mean,
    MeanOfSquare,
    Moment,
    Over,
    Root,
    Square,
    SquareOfMean,
    Statistic,
    Variance,
)

M = TypeVar("M", bound=Moment)


class Statistics:
    """What each value is."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, Statistic] = {}

    def learn(self, node: ir.Node) -> None:
        """Takes the next node in graph order. Shapes must have been inferred."""
        rule = _RULES.get(node.op_type)
        if rule is None or not is_standard(node):
            return
        found = rule(self, node)
        if found is not None:
            self._found[node.outputs[0]] = found

    def of(self, value: ir.Value | None) -> Statistic | None:
        return self._found.get(value) if value is not None else None

    def find(self, value: ir.Value | None, kind: type[M]) -> M | None:
        """The statistic that the value is, if it is of this kind."""
        found = self.of(value)
        return found if isinstance(found, kind) else None

    def missing_from_count(self, value: ir.Value | None, moment: Moment) -> int | None:
        """How much this divisor is below the number of values in the statistic: 0 or 1; None for anything else."""
        found = self.of(value)
        if isinstance(found, Extents):
            is_count = found.is_product and (found.image, found.over) == (moment.image, moment.over)
            return found.without if is_count else None
        divisor, count = number(value), count_of(moment.image, moment.over)
        if divisor is None or count is None:
            return None
        # Float32 holds whole numbers up to 2^24; above, one less is the same number.
        return next((less for less in (1, 0) if np.float32(count - less) == np.float32(divisor)), None)


def number(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def count_of(image: ir.Value, over: Over) -> int | None:
    """How many values one statistic of the image is made of, if that is known."""
    assert image.shape is not None
    extents = image.shape[2:] if over == "channel" else image.shape[1:]
    whole = [extent for extent in extents if isinstance(extent, int)]
    return int(np.prod(whole)) if len(whole) == len(tuple(extents)) else None


def image_of(value: ir.Value | None) -> ir.Value | None:
    """An image of known channels, before any cast to a wider type."""
    while value is not None and (node := value.producer()) is not None and node.op_type == "Cast":
        given = node.inputs[0]
        if given is None or given.dtype is None or value.dtype is None or not given.dtype.is_floating_point():
            break
        if given.dtype.itemsize > value.dtype.itemsize:
            break
        value = given
    if value is None or value.shape is None or len(value.shape) != 4 or not isinstance(value.shape[1], int):
        return None
    return value


def fits(value: ir.Value | None, image: ir.Value, over: Over) -> bool:
    """Whether a statistic has the shape in which it meets the image."""
    if value is None or value.shape is None or image.shape is None:
        return False
    extents, batch = list(value.shape), image.shape[0]
    trailing = [image.shape[1] if over == "channel" else 1, 1, 1]
    is_short = len(extents) < 3 and trailing == [1, 1, 1]
    if not is_short and extents[-3:] != trailing:
        return False
    return all(extent == 1 for extent in extents[:-3]) if batch == 1 else extents[:-3] == [batch]


def _layout_of(reshape: ir.Node, image: ir.Value) -> Layout | None:
    """The extents that a Reshape gives to an image."""
    target = constant(reshape.inputs[1])
    if target is None or image.shape is None:
        return None
    kept = [
        image.shape[axis] if extent == 0 and axis < 4 else extent
        for axis, extent in enumerate(target.tolist())
    ]
    return tuple(extent if isinstance(extent, int) else -1 for extent in kept)


def _over(node: ir.Node, image: ir.Value, layout: Layout) -> Over | None:
    """Over what a reduction of the image, in this layout, goes."""
    reduced = (2, 3) if node.op_type == "GlobalAveragePool" else _reduced_axes(node, len(layout) or 4)
    if not layout:
        whole: dict[tuple[int, ...], Over] = {(2, 3): "channel", (1, 2, 3): "sample"}
        return whole.get(reduced)
    if not reduced or reduced != tuple(range(reduced[0], len(layout))) or image.shape is None:
        return None
    kept = [extent for extent in layout[: reduced[0]] if extent != 1]
    batch = [extent for extent in image.shape[:1] if extent != 1]
    if kept == batch:
        return "sample"
    return "channel" if kept == [*batch, image.shape[1]] else None


def _reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes of a reduction, all of them if it names none."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    stated = axes.tolist() if axes is not None else node.attributes.get_ints("axes", None)
    return tuple(range(rank) if stated is None else sorted(int(axis) % rank for axis in stated))


def _mean(known: Statistics, node: ir.Node) -> Statistic | None:
    found, image = known.of(node.inputs[0]), image_of(node.inputs[0])
    if isinstance(found, CentredSquare):
        is_same = _over(node, found.image, found.layout) == found.over
        return Variance(found.image, found.over) if is_same else None
    if isinstance(found, Moment):
        return None
    if isinstance(found, Square):
        over = _over(node, found.image, found.layout)
        return None if over is None else MeanOfSquare(found.image, over)
    over = None if image is None else _over(node, image, ())
    if isinstance(found, Flat) and over is None:
        image = found.image
        over = _over(node, image, found.layout)
    return None if over is None or image is None else Mean(image, over)


def _sum(known: Statistics, node: ir.Node) -> Statistic | None:
    given = node.inputs[0]
    found: Centred | CentredSquare | None = known.find(given, CentredSquare)
    if node.op_type == "ReduceSumSquare":
        found = known.find(given, Centred)
    if found is None or _over(node, found.image, found.layout) != found.over:
        return None
    return CentredSum(found.image, found.over)


def _sub(known: Statistics, node: ir.Node) -> Statistic | None:
    left, right = node.inputs
    mean, image, found = known.find(right, Mean), image_of(left), known.of(left)
    if mean is not None and image is mean.image and fits(right, image, mean.over):
        return Centred(image, mean.over)
    if mean is not None and isinstance(found, Flat) and found.image is mean.image:
        # One number for the whole image meets every layout of it.
        is_one = right is not None and right.shape is not None and all(extent == 1 for extent in right.shape)
        return Centred(mean.image, mean.over, found.layout) if is_one else None
    power, squared = known.find(left, MeanOfSquare), known.find(right, SquareOfMean)
    if power is not None and squared is not None and squared.is_of_same(power):
        return Variance(power.image, power.over)
    if isinstance(found, Extents) and found.is_product and not found.without and number(right) == 1:
        return replace(found, without=1)
    return None


def _add(known: Statistics, node: ir.Node) -> Statistic | None:
    for left, right in (node.inputs, reversed(node.inputs)):
        found, amount = known.of(left), number(right)
        if amount is None:
            continue
        if isinstance(found, Variance) and not found.eps:
            return replace(found, eps=amount)
        if isinstance(found, Root) and not found.eps:
            return replace(found, eps=amount, eps_inside=False)
        if isinstance(found, Centred):
            return Lifted(found)
    return None


def _mul(known: Statistics, node: ir.Node) -> Statistic | None:
    left, right = node.inputs
    if left is right:
        return _squared(known, left)
    for one, other in ((left, right), (right, left)):
        centred, lifted = known.find(one, Centred), known.of(other)
        if centred is not None and isinstance(lifted, Lifted) and lifted.centred == centred:
            return CentredSquare(centred.image, centred.over, centred.layout)
        variance = known.find(one, Variance)
        if variance is not None:
            return _corrected(variance, number(other))
    return None


def _squared(known: Statistics, value: ir.Value | None) -> Statistic | None:
    found = known.of(value)
    if isinstance(found, Centred):
        return CentredSquare(found.image, found.over, found.layout)
    if isinstance(found, Mean):
        return SquareOfMean(found.image, found.over)
    if isinstance(found, Flat):
        return Square(found.image, found.layout)
    image = image_of(value)
    return None if image is None or found is not None else Square(image)


def _corrected(variance: Variance, factor: float | None) -> Variance | None:
    """A biased variance times `count / (count - 1)`."""
    count = count_of(variance.image, variance.over)
    if factor is None or count is None or count < 2 or variance.unbiased or variance.eps:
        return None
    return replace(variance, unbiased=True) if np.isclose(factor, count / (count - 1), rtol=1e-7) else None


def _div(known: Statistics, node: ir.Node) -> Statistic | None:
    left, right = node.inputs
    total, root = known.find(left, CentredSum), known.find(right, Root)
    if total is not None:
        less = known.missing_from_count(right, total)
        return None if less is None else Variance(total.image, total.over, unbiased=less == 1)
    return _inverse(root) if number(left) == 1 else None


def _sqrt(known: Statistics, node: ir.Node) -> Statistic | None:
    return _root(known.find(node.inputs[0], Variance))


def _reciprocal(known: Statistics, node: ir.Node) -> Statistic | None:
    return _inverse(known.find(node.inputs[0], Root))


def _pow(known: Statistics, node: ir.Node) -> Statistic | None:
    exponent = number(node.inputs[1])
    if exponent == 2:
        return _squared(known, node.inputs[0])
    root = _root(known.find(node.inputs[0], Variance))
    if exponent == 0.5:
        return root
    return _inverse(root) if exponent == -0.5 else None


def _root(variance: Variance | None) -> Root | None:
    if variance is None:
        return None
    return Root(variance.image, variance.over, variance.unbiased, variance.eps)


def _inverse(root: Root | None) -> InverseRoot | None:
    return None if root is None else InverseRoot(root.image, root.over, root)


def _cast(known: Statistics, node: ir.Node) -> Statistic | None:
    result = node.outputs[0]
    is_float = result.dtype is not None and result.dtype.is_floating_point()
    found = known.of(node.inputs[0])
    return found if is_float or isinstance(found, Extents) else None


def _reshaped(known: Statistics, node: ir.Node) -> Statistic | None:
    """A statistic or a count in another shape, or an image laid flat."""
    given = node.inputs[0]
    found, image = known.of(given), image_of(given)
    is_image = isinstance(found, Centred | CentredSquare)
    if (isinstance(found, Moment) and not is_image) or (isinstance(found, Extents) and found.is_product):
        return found
    if node.op_type != "Reshape" or image is None:
        return None
    if isinstance(found, Centred | CentredSquare | Square):
        layout = _layout_of(node, found.image) if not found.layout else None
        return None if layout is None else replace(found, layout=layout)
    layout = _layout_of(node, image) if found is None else None
    return None if layout is None else Flat(image, layout)


def _shape(known: Statistics, node: ir.Node) -> Statistic | None:
    image = image_of(node.inputs[0])
    if image is None:
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 4)
    over: dict[tuple[int, int], Over] = {(2, 4): "channel", (1, 4): "sample"}
    if (start, end) != (0, 4) and (start, end) not in over:
        return None
    return Extents(image, over.get((start, end)))


def _gather(known: Statistics, node: ir.Node) -> Statistic | None:
    found, index = known.of(node.inputs[0]), constant(node.inputs[1])
    if not isinstance(found, Extents) or found.over is not None or index is None:
        return None
    over: dict[tuple[int, ...], Over] = {(2, 3): "channel", (1, 2, 3): "sample"}
    picked = over.get(tuple(sorted(int(axis) % 4 for axis in index.reshape(-1).tolist())))
    return None if picked is None else replace(found, over=picked)


def _product(known: Statistics, node: ir.Node) -> Statistic | None:
    found = known.of(node.inputs[0])
    return replace(found, is_product=True) if isinstance(found, Extents) and found.over is not None else None


_RULES: dict[str, Callable[[Statistics, ir.Node], Statistic | None]] = {
    "ReduceMean": _mean,
    "GlobalAveragePool": _mean,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum,
    "Sub": _sub,
    "Add": _add,
    "Mul": _mul,
    "Div": _div,
    "Sqrt": _sqrt,
    "Reciprocal": _reciprocal,
    "Pow": _pow,
    "Cast": _cast,
    "Reshape": _reshaped,
    "Unsqueeze": _reshaped,
    "Squeeze": _reshaped,
    "Expand": _reshaped,
    "Shape": _shape,
    "Gather": _gather,
    "ReduceProd": _product,
}
