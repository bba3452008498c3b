"""How a foreign network takes and gives images, as arithmetic on arrays and as operators of a graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from i2i_export.graph.edit import add_weight, graphs_of
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, TRANSLATED, SizePolicy

Layout = Literal["nchw", "nhwc"]
Range = Literal["0,255", "0,1", "-1,1"]
Channels = Literal["rgb", "bgr", "luma"]

_LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in luma (ITU-R BT.601, as JPEG and the luma networks of the field use it)."""

_LEVELS: dict[Range, tuple[float, float]] = {"0,255": (1.0, 0.0), "0,1": (255.0, 0.0), "-1,1": (127.5, 127.5)}
"""Levels 0 to 255 are `value * factor + offset` of the network's values."""


_OURS = "contract/"
"""Prefix of the names of everything that is put around the network."""


@dataclass(frozen=True)
class Interface:
    """Axes, values and channels of the foreign network.

    A luma network sees brightness alone: what it adds to the luma is added to R, G and B, so the colours stay.
    """

    layout: Layout
    range: Range
    output_range: Range
    channels: Channels

    def __str__(self) -> str:
        return f"{self.layout} {self.channels}, {self.range} in, {self.output_range} out"

    def input_from_image(self, image: Image) -> NDArray[np.float32]:
        """`[H, W, 3] uint8 RGB` as the network's input, batch 1, float32."""
        values = image.astype(np.float32)
        if self.channels == "luma":
            values = (values @ np.asarray(_LUMA, np.float32))[..., None]
        elif self.channels == "bgr":
            values = values[..., ::-1]
        factor, offset = _LEVELS[self.range]
        scaled = ((values - np.float32(offset)) / np.float32(factor))[None]
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2) if self.layout == "nchw" else scaled)

    def levels_from_output(self, output: NDArray[np.float32], image: Image) -> NDArray[np.float32]:
        """The network's output for `image` as `[H, W, 3]` RGB levels, neither clipped nor rounded."""
        values = output[0].transpose(1, 2, 0) if self.layout == "nchw" else output[0]
        factor, offset = _LEVELS[self.output_range]
        levels = values * np.float32(factor) + np.float32(offset)
        if levels.shape[-1] == 1:
            wide = image.astype(np.float32)
            return np.asarray(wide + (levels - (wide @ np.asarray(_LUMA, np.float32))[..., None]), np.float32)
        return np.asarray(levels[..., ::-1] if self.channels == "bgr" else levels, np.float32)


def frame_shape(size: SizePolicy | None) -> ir.Shape:
    """`[1, H, W, 3]` of a fixed size, else with `height` and `width` open."""
    if size is None or not size.is_fixed:
        return ir.Shape([1, "height", "width", 3])
    return ir.Shape([1, size.min_height, size.min_width, 3])


def wrap_image_network(
    model: ir.Model, interface: Interface, size: SizePolicy | None, output_channels: int
) -> None:
    """Puts the contract's input and output around the model's single image input and output, in place.

    Height and width stay open if `size` is None; the network gives `output_channels`, 1 or 3.
    """
    graph = model.graph
    _clear_names(model)
    old_input, old_output = graph.inputs[0], graph.outputs[0]
    old_input_type = old_input.dtype
    shape = frame_shape(size)
    frame = ir.Value(name=FRAME, shape=shape, type=ir.TensorType(ir.DataType.UINT8))
    writer = _Wrapper(model)

    levels = writer("Cast", [frame], to=ir.DataType.FLOAT)
    value, luma = levels, None
    if interface.channels == "luma":
        luma = writer("MatMul", [levels, writer.weight(np.asarray(_LUMA, np.float32)[:, None])])
        value = luma
    elif interface.channels == "bgr":
        value = writer("Gather", [value, writer.weight(np.asarray([2, 1, 0]))], axis=3)
    if interface.layout == "nchw":
        value = writer("Transpose", [value], perm=[0, 3, 1, 2])
    factor, offset = _LEVELS[interface.range]
    if offset:
        value = writer("Sub", [value, writer.weight(np.float32(offset))])
    if factor != 1:
        value = writer("Mul", [value, writer.weight(np.float32(1 / factor))])
    if old_input_type != ir.DataType.FLOAT:
        value = writer("Cast", [value], to=old_input_type or ir.DataType.FLOAT)
    ir.convenience.replace_all_uses_with(old_input, value)
    graph.inputs.clear()
    graph.inputs.append(frame)

    value = old_output
    if old_output.dtype != ir.DataType.FLOAT:
        value = writer("Cast", [value], to=ir.DataType.FLOAT)
    factor, offset = _LEVELS[interface.output_range]
    if factor != 1:
        value = writer("Mul", [value, writer.weight(np.float32(factor))])
    if offset:
        value = writer("Add", [value, writer.weight(np.float32(offset))])
    is_brightness = luma is not None and output_channels == 1
    if luma is not None and is_brightness:
        value = _with_colours(writer, interface, value, levels, luma)
    to_nhwc = interface.layout == "nchw" and not is_brightness
    if interface.channels == "bgr":
        value = writer("Gather", [value, writer.weight(np.asarray([2, 1, 0]))], axis=1 if to_nhwc else 3)
    value = writer("Clip", [value, writer.weight(np.float32(0)), writer.weight(np.float32(255))])
    value = writer("Round", [value])
    if to_nhwc:
        value = writer("Transpose", [value], perm=[0, 2, 3, 1])
    value = writer("Cast", [value], to=ir.DataType.UINT8)
    value.name, value.shape, value.type = TRANSLATED, shape, ir.TensorType(ir.DataType.UINT8)
    graph.outputs.clear()
    graph.outputs.append(value)
    graph.name = "i2i"
    model.producer_name, model.producer_version = "i2i-export", None
    graph.sort()


def _with_colours(
    writer: _Wrapper, interface: Interface, value: ir.Value, levels: ir.Value, luma: ir.Value
) -> ir.Value:
    """The image `[1, H, W, 3]` with its luma replaced, R, G and B moved by the same amount."""
    if interface.layout == "nchw":
        value = writer("Transpose", [value], perm=[0, 2, 3, 1])
    return writer("Add", [levels, writer("Sub", [value, luma])])


def _clear_names(model: ir.Model) -> None:
    """Renames what in the foreign network has a name that the contract or its operators will have."""
    graph = model.graph
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph.all_nodes():
        values += node.outputs
        for inner in graphs_of(node):
            values += [*inner.inputs, *inner.initializers.values()]
    taken = {value.name for value in values}
    for value in values:
        name = str(value.name)
        if name in (FRAME, TRANSLATED) or name.startswith(_OURS):
            name = f"network/{name}"
            while name in taken:
                name += "_"
            taken.add(name)
            value.name = name


class _Wrapper:
    """Appends standard operators to a graph that is sorted afterwards."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._count = 0

    def __call__(self, op_type: str, inputs: list[ir.Value], **attributes: int | list[int]) -> ir.Value:
        self._count += 1
        name = f"{_OURS}{op_type}_{self._count}"
        node = ir.node(op_type, inputs, attributes=attributes or None, name=name)
        node.outputs[0].name = name
        self._model.graph.append(node)
        return node.outputs[0]

    def weight(self, array: NDArray[np.generic] | np.generic) -> ir.Value:
        return add_weight(self._model, f"{_OURS}constant", np.asarray(array))
