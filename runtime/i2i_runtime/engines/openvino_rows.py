"""Pixel unshuffles, bilinear shuffles and doubled halves in the form that OpenVINO runs fastest on a processor.

An image `[1, H, W, 3]` lies in memory as `[1, H, W/b, 3b]` too: half of a pixel unshuffle by `b` is a view. The other
half is the stride of the convolution that reads it. The way back is the same: where a low-resolution map is spread
over the image by bilinear weights, which are a product of a vertical and a horizontal part, the horizontal part is a
small convolution, the vertical one a matrix product that writes whole rows. Neither shuffle moves a byte any more, and
the arithmetic between reads and writes the image's own bytes. `day2night` at 720p: three quarters of the time.

The engine file keeps the form that its trainer exported. What is not found here stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NCHW = [0, 3, 1, 2]
NHWC = [0, 2, 3, 1]
_ARITHMETIC = {"Add", "Subtract", "Multiply", "Divide"}
_ELEMENTWISE = _ARITHMETIC | {"Maximum", "Minimum", "Clamp", "Round", "Relu"}


def arrange_rows(model: Any) -> list[str]:
    """Rewrites an `openvino.Model` of fixed size in place; returns what was found, in words.

    The function stays the same up to rounding.
    """
    from openvino.passes import ConstantFolding, Manager

    # Folded, the int8 weights of a quantised network would be plain numbers again.
    if not any(node.get_type_name() == "FakeQuantize" for node in model.get_ordered_ops()):
        manager = Manager()
        manager.register_pass(ConstantFolding())
        manager.run_passes(model)
    changes = []
    positions = next(_unshuffled(model), None)
    spread = None if positions is None else _find_spread(positions)
    if positions is not None and spread is not None:
        for reader in _readers(positions):
            _read_rows(positions, reader)
            changes.append("unshuffle read by stride")
        _write_rows(positions, spread)
        changes.append("shuffle written in rows")
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Concat" and _split_doubled(node):
            changes.append("doubled half as transposed convolution")  # noqa: PERF401 - the graph changes here
    model.validate_nodes_and_infer_types()
    return changes


@dataclass(frozen=True)
class _Positions:
    """A pixel-unshuffled frame: `value [1, 3*block^2, h, w]`, made from `frame [1, H, W, 3] uint8`."""

    value: Any
    frame: Any
    arithmetic: list[Any]
    """Elementwise nodes with scalars between frame and unshuffle, in order."""
    block: int
    order: NDArray[np.int64]
    """Of each channel: (row in the block * block + column) * 3 + colour."""

    @property
    def height(self) -> int:
        return int(self.value.get_shape()[2])

    @property
    def width(self) -> int:
        return int(self.value.get_shape()[3])

    @property
    def row(self) -> int:
        """Values of one position in one image row."""
        return 3 * self.block


@dataclass(frozen=True)
class _Separable:
    """A convolution of `source` whose weights are vertical `[b, kh]` times horizontal `[3b, I, 1, kw]`."""

    source: Any
    vertical: NDArray[np.float32]
    horizontal: NDArray[np.float32]


@dataclass(frozen=True)
class _Spread:
    """`shuffle(positions * gain + bias)`."""

    gain: _Separable
    bias: _Separable
    shuffle: Any
    last: Any
    """The last elementwise node behind the shuffle, or the shuffle itself."""
    to_bytes: Any
    """Conversion to uint8, behind the transpose to NHWC."""
    result: Any


def _unshuffled(model: Any) -> Iterator[_Positions]:
    for node in model.get_ordered_ops():
        if node.get_type_name() != "SpaceToDepth" or node.get_attributes()["mode"] != "blocks_first":
            continue
        block = int(node.get_attributes()["block_size"])
        arithmetic: list[Any] = []
        source = _parent(node)
        while source.get_type_name() in _ARITHMETIC and _is_scalar(source.input_value(1)):
            arithmetic.insert(0, source)
            source = _parent(source)
        if source.get_type_name() != "Transpose" or _constant(source.input_value(1)).tolist() != NCHW:
            continue
        converted = _parent(source)
        frame = _parent(converted)
        if converted.get_type_name() != "Convert" or frame.get_type_name() != "Parameter":
            continue
        order = np.arange(3 * block**2)
        value = node.output(0)
        gather = _only_reader(node, "Gather")
        if gather is not None:
            order = _constant(gather.input_value(1)).ravel().astype(np.int64)
            value = gather.output(0)
        if sorted(order) == list(range(3 * block**2)):
            yield _Positions(value, frame.output(0), arithmetic, block, order)


def _find_spread(positions: _Positions) -> _Spread | None:
    for product in _reading_nodes(positions.value):
        total = _only_reader(product, "Add") if product.get_type_name() == "Multiply" else None
        shuffle = total and _only_reader(total, "DepthToSpace")
        if shuffle is None or not _undoes(shuffle, positions):
            continue
        last = shuffle
        while (after := _only_reader(last)) is not None and after.get_type_name() in _ELEMENTWISE:
            last = after
        transpose = _only_reader(last, "Transpose")
        to_bytes = transpose and _only_reader(transpose, "Convert")
        result = to_bytes and _only_reader(to_bytes, "Result")
        gain = _separable(_other_input(product, positions.value), positions)
        bias = _separable(_other_input(total, product.output(0)), positions)
        if (
            result is not None
            and transpose is not None
            and _constant(transpose.input_value(1)).tolist() == NHWC
            and gain is not None
            and bias is not None
        ):
            return _Spread(gain, bias, shuffle, last, to_bytes, result)
    return None


def _undoes(shuffle: Any, positions: _Positions) -> bool:
    attributes = shuffle.get_attributes()
    blocks, colours = np.divmod(positions.order, 3)
    depth_first = attributes["mode"] == "depth_first"
    channels = colours * positions.block**2 + blocks if depth_first else positions.order
    return bool(
        attributes["block_size"] == positions.block and np.array_equal(channels, np.arange(len(channels)))
    )


def _separable(convolution: Any, positions: _Positions) -> _Separable | None:
    """The parts of weights `[3b^2, I, kh, kw]`, or None if they are not a product."""
    if not _is_plain_convolution(convolution):
        return None
    weights = _constant(convolution.input_value(1))
    block = positions.block
    if len(weights) != 3 * block**2:
        return None
    ordered = np.empty_like(weights)
    ordered[positions.order] = weights
    _, inputs, height, width = weights.shape
    parts = ordered.reshape(block, positions.row, inputs, height, width).transpose(0, 3, 1, 2, 4)
    left, strength, right = np.linalg.svd(parts.reshape(block * height, -1), full_matrices=False)
    if len(strength) > 1 and strength[1] > 1e-5 * strength[0]:
        return None
    scale = np.abs(left[:, 0]).sum() / block * np.sign(left[:, 0].sum() or 1.0)
    vertical = (left[:, 0] / scale).reshape(block, height)
    horizontal = (right[0] * strength[0] * scale).reshape(positions.row, inputs, 1, width)
    return _Separable(convolution.input_value(0), vertical.astype(np.float32), horizontal.astype(np.float32))


def _readers(positions: _Positions) -> list[Any]:
    """1x1 convolutions of the positions, straight or behind a repeated border."""
    found = []
    for node in _reading_nodes(positions.value):
        reader = node
        if node.get_type_name() == "Pad" and node.get_attributes()["pad_mode"] == "edge":
            reader = _only_reader(node)
        if reader is not None and _is_plain_convolution(reader):
            weights = _constant(reader.input_value(1))
            if weights.shape[1:] == (len(positions.order), 1, 1):
                found.append(reader)
    return found


def _read_rows(positions: _Positions, convolution: Any) -> None:
    """A repeated border goes behind convolution and activation: it repeats what they made, which is less."""
    import openvino.opset13 as ops

    block, row = positions.block, positions.row
    weights = _constant(convolution.input_value(1))
    ordered = np.empty_like(weights)
    ordered[:, positions.order] = weights
    ordered = ordered.reshape(-1, block, row, 1).transpose(0, 2, 1, 3)
    _, height, width, _ = positions.frame.get_shape()
    view = ops.reshape(positions.frame, np.array([1, height, width // block, row]), special_zero=False)
    planes = ops.convert(ops.transpose(view, NCHW), "f32")
    read = ops.convolution(
        _replayed(positions.arithmetic, planes),
        np.ascontiguousarray(ordered),
        [block, 1],
        [0, 0],
        [0, 0],
        [1, 1],
    )
    pad = _parent(convolution)
    last = convolution
    while (after := _only_reader(last)) is not None and (
        after.get_type_name() == "Relu" or (after.get_type_name() == "Add" and _is_bias(after.input_value(1)))
    ):
        last = after
    convolution.output(0).replace(read.output(0))
    if pad.get_type_name() == "Pad":
        last = read if last is convolution else last
        readers = list(last.output(0).get_target_inputs())
        padded = ops.pad(last, pad.input_value(1), pad.input_value(2), "edge")
        for reader in readers:
            reader.replace_source_output(padded.output(0))


def _write_rows(positions: _Positions, spread: _Spread) -> None:
    import openvino.opset13 as ops

    rows = np.array([positions.height, positions.block, positions.width * positions.row])
    _, height, width, _ = positions.frame.get_shape()
    image = ops.convert(ops.reshape(positions.frame, rows, special_zero=False), "f32")
    gain, bias = (_in_rows(part, positions) for part in (spread.gain, spread.bias))
    translated = ops.add(ops.multiply(_replayed(positions.arithmetic, image), gain), bias)

    end = translated if spread.last is spread.shuffle else spread.last
    spread.shuffle.output(0).replace(translated.output(0))
    spread.to_bytes.input(0).replace_source_output(end.output(0))
    names = spread.to_bytes.output(0).get_names()
    spread.to_bytes.output(0).get_tensor().set_names(set())
    frame = ops.reshape(spread.to_bytes, np.array([1, height, width, 3]), special_zero=False)
    frame.output(0).get_tensor().set_names(names)
    spread.result.input(0).replace_source_output(frame.output(0))


def _in_rows(part: _Separable, positions: _Positions) -> Any:
    """What the convolution spreads over the blocks, as `[h, b, w * 3b]`."""
    import openvino.opset13 as ops

    taps, rows = part.vertical.shape[1], positions.height
    across = ops.convolution(part.source, part.horizontal, [1, 1], [0, 0], [0, 0], [1, 1])
    shape = np.array([rows + taps - 1, 1, positions.width * positions.row])
    lines = ops.reshape(ops.transpose(across, NHWC), shape, special_zero=False)
    first = [ops.slice(lines, [tap], [tap + rows], [1], [0]) for tap in range(taps)]
    return ops.matmul(part.vertical, ops.concat(first, 1), False, False)


def _split_doubled(concat: Any) -> bool:
    """A 3x3 convolution of `[fine, doubled coarse]`: its second half becomes a transposed convolution of the coarse."""
    import openvino.opset13 as ops

    convolution = _only_reader(concat)
    if convolution is None or concat.get_input_size() != 2 or not _is_same_3x3(convolution):
        return False
    fine, doubled = (concat.input_value(i) for i in range(2))
    resize = doubled.get_node()
    if not _doubles(resize) or _only_reader(resize) is None:
        return False
    weights = _constant(convolution.input_value(1))
    split = int(fine.get_shape()[1])
    # Pixel 2p+r of the doubled map is pixel p of the coarse one: three taps fall on two coarse pixels.
    tap = np.zeros((4, 3), np.float32)
    for side in range(2):
        for t in range(3):
            tap[side - 2 * ((side + t - 1) // 2) + 1, t] += 1
    transposed = np.einsum("oist,as,bt->ioab", weights[:, split:], tap, tap).astype(np.float32)
    coarse = ops.convolution_backprop_data(resize.input_value(0), transposed, [2, 2], None, [1, 1], [1, 1])
    total = ops.convolution(fine, np.ascontiguousarray(weights[:, :split]), [1, 1], [1, 1], [1, 1], [1, 1])
    replaced = convolution
    bias = _only_reader(convolution)
    if bias is not None and bias.get_type_name() == "Add" and _is_bias(bias.input_value(1)):
        total, replaced = ops.add(total, bias.input_value(1)), bias
    replaced.output(0).replace(ops.add(total, coarse).output(0))
    return True


def _doubles(node: Any) -> bool:
    if node.get_type_name() != "Interpolate":
        return False
    attributes = node.get_attributes()
    given, made = node.input_value(0).get_shape(), node.output(0).get_shape()
    return (
        attributes["mode"] == "nearest"
        and attributes["coordinate_transformation_mode"] == "asymmetric"
        and attributes["nearest_mode"] == "floor"
        and list(made[2:]) == [2 * side for side in given[2:]]
    )


def _replayed(arithmetic: list[Any], value: Any) -> Any:
    import openvino.opset13 as ops

    builders: dict[str, Callable[[Any, Any], Any]] = {
        "Add": ops.add,
        "Subtract": ops.subtract,
        "Multiply": ops.multiply,
        "Divide": ops.divide,
    }
    for node in arithmetic:
        value = builders[node.get_type_name()](value, _constant(node.input_value(1)).reshape(()))
    return value


def _has_known_weights(node: Any) -> bool:
    return bool(node.get_type_name() == "Convolution") and _is_constant(node.input_value(1))


def _is_constant(value: Any) -> bool:
    return bool(value.get_node().get_type_name() == "Constant")


def _is_plain_convolution(node: Any) -> bool:
    """Stride 1, no border, weights known."""
    if not _has_known_weights(node):
        return False
    attributes = node.get_attributes()
    return not any([*attributes["pads_begin"], *attributes["pads_end"]]) and all(
        step == 1 for step in [*attributes["strides"], *attributes["dilations"]]
    )


def _is_same_3x3(node: Any) -> bool:
    if not _has_known_weights(node):
        return False
    attributes = node.get_attributes()
    numbers = (attributes[key] for key in ("strides", "dilations", "pads_begin", "pads_end"))
    return list(node.input_value(1).get_shape()[2:]) == [3, 3] and all(list(n) == [1, 1] for n in numbers)


def _is_bias(value: Any) -> bool:
    return _is_constant(value) and list(value.get_shape()[2:]) == [1, 1]


def _is_scalar(value: Any) -> bool:
    return _is_constant(value) and int(np.prod(list(value.get_shape()))) == 1


def _constant(value: Any) -> NDArray[Any]:
    return np.array(value.get_node().get_data())


def _parent(node: Any) -> Any:
    return node.input_value(0).get_node()


def _other_input(node: Any, known: Any) -> Any:
    return next(v.get_node() for v in (node.input_value(0), node.input_value(1)) if v != known)


def _reading_nodes(value: Any) -> list[Any]:
    return [entry.get_node() for entry in value.get_target_inputs()]


def _only_reader(node: Any, kind: str | None = None) -> Any | None:
    """The one node that reads this one, if there is one and it is of that kind."""
    readers = _reading_nodes(node.output(0))
    return readers[0] if len(readers) == 1 and kind in (None, readers[0].get_type_name()) else None
