"""Small questions that passes ask of a graph: who made a value, who alone reads it, what a convolution is like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether a node is a standard ONNX operator, and one of `op_types` if any are named."""
    return node.domain in ("", "ai.onnx") and (not op_types or node.op_type in op_types)


def nodes_of(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """The main graph's nodes of these standard operators, in order; the graph may change meanwhile."""
    return [node for node in model.graph if is_standard(node, *op_types)]


def producer(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The standard operator that made the value, if it is one of `op_types`."""
    node = value.producer() if value is not None else None
    return node if node is not None and is_standard(node, *op_types) else None


def only_use(value: ir.Value) -> bool:
    """Whether exactly one node reads the value and nothing outside the graph does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def only_reader(value: ir.Value, *op_types: str) -> ir.Node | None:
    """The standard operator that alone reads the value, if it is one of `op_types` (any, if none are named)."""
    node = value.consumers()[0] if only_use(value) else None
    return node if node is not None and is_standard(node, *op_types) else None


def constant(value: ir.Value | None) -> Array | None:
    """The content of a weight or constant; None for a value that is known only when the network runs."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def fixed_size(image: ir.Value | None) -> tuple[int, int] | None:
    """Height and width of an image `[N, C, H, W]`, if they are fixed."""
    if image is None or image.shape is None or len(image.shape) != 4:
        return None
    height, width = image.shape[2], image.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional `Conv` with stated pads."""

    node: ir.Node
    image: ir.Value
    weight: Array | None
    """`[O, I / groups, kH, kW]`; None if it is known only when the network runs."""
    bias: Array | None
    """`[O]`; None without one, or if it is known only when the network runs."""
    has_bias: bool
    pads: tuple[int, ...]
    """Top, left, bottom, right."""
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, node: ir.Node | None) -> Convolution | None:
        """None for any other operator, automatic padding, or another number of dimensions."""
        if node is None or not is_standard(node, "Conv") or node.inputs[0] is None:
            return None
        attributes, weight = node.attributes, constant(node.inputs[1])
        pads = tuple(attributes.get_ints("pads", [0] * 4))
        is_image = len(pads) == 4 and (weight is None or weight.ndim == 4)
        if not is_image or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return cls(
            node,
            node.inputs[0],
            weight,
            constant(bias),
            bias is not None,
            pads,
            tuple(attributes.get_ints("strides", [1, 1])),
            tuple(attributes.get_ints("dilations", [1, 1])),
            attributes.get_int("group", 1),
        )

    @property
    def kernel(self) -> tuple[int, ...]:
        """Height and width of the kernel, none if the weights are not known."""
        return () if self.weight is None else self.weight.shape[2:]

    @property
    def is_known(self) -> bool:
        """Whether weights and bias are constants."""
        return self.weight is not None and (self.bias is not None or not self.has_bias)

    @property
    def moves_by_one(self) -> bool:
        """Whether it has stride 1 and no dilation."""
        return set(self.strides) == {1} and set(self.dilations) == {1}

    @property
    def is_plain(self) -> bool:
        """Whether it has stride 1, no dilation and one group."""
        return self.moves_by_one and self.groups == 1


def reflection_of(node: ir.Node | None) -> int:
    """Rows and columns that a reflection pad adds on every side of an image, 0 for anything else."""
    if node is None or not is_standard(node, "Pad") or len(node.inputs) > 3:
        return 0
    pads = constant(node.inputs[1])
    if node.attributes.get_string("mode", "constant") != "reflect" or pads is None:
        return 0
    amount = int(pads[2]) if pads.size == 8 else 0
    return amount if amount > 0 and pads.tolist() == [0, 0, amount, amount] * 2 else 0


def is_per_channel(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape meets `[N, C, H, W]` as one number, or one number per channel."""
    trailing = shape[-2:] == (1, 1) and all(size == 1 for size in shape[:-3])
    return int(np.prod(shape)) == 1 or (len(shape) >= 3 and trailing)


@dataclass(frozen=True)
class ScaleOrShift:
    """The only reader of an image, which scales or shifts it by constants."""

    node: ir.Node
    values: Array
    """One number, or `[C]`."""

    @classmethod
    def behind(cls, image: ir.Value) -> ScaleOrShift | None:
        node = only_reader(image, "Mul", "Add", "Sub", "Div")
        if node is None or (node.op_type in ("Sub", "Div") and node.inputs[0] is not image):
            return None
        values = constant(node.inputs[1] if node.inputs[0] is image else node.inputs[0])
        return None if values is None or not is_per_channel(values.shape) else cls(node, values.reshape(-1))

    def after(self, scale: Array, shift: Array) -> tuple[Array, Array]:
        """Scale and shift of `x * scale + shift` followed by this operator."""
        if self.node.op_type == "Mul":
            return scale * self.values, shift * self.values
        if self.node.op_type == "Div":
            return scale / self.values, shift / self.values
        return scale, shift + self.values if self.node.op_type == "Add" else shift - self.values
