"""A 2x2 pixel shuffle sinks behind what works on each pixel by itself, so that convolutions are wide and less moves.

    f(shuffle(x)) = shuffle(f(x))

for elementwise operators, and for 1x1 convolutions that have their weights once per place of the block. What else
enters is brought to the same form: a doubled value (nearest) is the same number at every place, a plain image is
unshuffled. The Laplacian pyramid of LPTN then works on blocks from the band it takes off to the band it puts back:
convolutions of 12 channels instead of 3, and half of the shuffles. Exact but for the order of sums. For
processors, whose convolutions waste most of a register on three channels.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from i2i_export.graph.edit import Writer
from i2i_export.graph.match import Array, Convolution, constant, is_standard, producer

_ALONE = ("LeakyRelu", "Relu")
_TOGETHER = ("Add", "Sub", "Mul")
_PLACES = 4
_NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
"""How the exporter writes that every pixel is repeated."""


def sink_shuffles(model: ir.Model) -> int:
    """Moves every 2x2 shuffle behind what follows it, if that includes a 1x1 convolution.

    Returns how many operators the shuffles passed.
    """
    passed = _passed_nodes(model)
    if not any(node.op_type == "Conv" for node in passed):
        return 0
    blocks: dict[ir.Value, ir.Value] = {}
    entered: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        write = Writer(model, node)
        if node in passed:
            blocks[node.outputs[0]] = _on_blocks(node, write, blocks, entered)
        elif _is_shuffle(node):
            blocks[node.outputs[0]] = _places_first(node, write)
        else:
            for value in [entry for entry in node.inputs if entry in blocks]:
                block = blocks.pop(value)
                whole = write("DepthToSpace", [block], blocksize=2, mode="DCR")
                ir.convenience.replace_all_uses_with(value, whole)
                blocks[whole] = block
    return len(passed)


def _passed_nodes(model: ir.Model) -> set[ir.Node]:
    """What a shuffle can pass: it reads shuffled values, and what it makes belongs to blocks of the same shape."""
    shuffled: set[ir.Value] = set()
    passed = set()
    for node in model.graph:
        made = node.outputs[0]
        if _is_shuffle(node):
            shuffled.add(made)
        elif _can_pass(node) and any(value in shuffled for value in node.inputs):
            shuffled.add(made)
            passed.add(node)
    return passed


def _can_pass(node: ir.Node) -> bool:
    if node.outputs[0].is_graph_output():
        return False
    if node.op_type == "Conv":
        convolution = Convolution.of(node)
        return (
            convolution is not None
            and convolution.is_known
            and convolution.kernel == (1, 1)
            and convolution.is_plain
            and not any(convolution.pads)
        )
    # Constants stand in the scaling that ends a network; a shuffle gains nothing by passing that.
    together = node.op_type in _TOGETHER and all(constant(value) is None for value in node.inputs)
    return together or node.op_type in _ALONE


def _is_shuffle(node: ir.Node) -> bool:
    """A 2x2 shuffle right behind a convolution with known weights, whose output channels can be put in any order."""
    if not is_standard(node, "DepthToSpace") or node.attributes.get_int("blocksize") != 2:
        return False
    convolution = Convolution.of(producer(node.inputs[0]))
    return convolution is not None and convolution.weight is not None and not convolution.has_bias


def _places_first(shuffle: ir.Node, write: Writer) -> ir.Value:
    """The convolution before a shuffle without groups, its channels in the order (place, colour)."""
    convolution = Convolution.of(producer(shuffle.inputs[0]))
    assert convolution is not None
    weight = _without_groups(convolution)
    if shuffle.attributes.get_string("mode", "DCR") == "CRD":
        order = np.arange(len(weight)).reshape(-1, _PLACES).T.reshape(-1)
        weight = weight[order]
    given = convolution.node.attributes
    attributes = {
        name: list(given.get_ints(name))
        for name in ("pads", "strides", "dilations", "kernel_shape")
        if name in given
    }
    return write("Conv", [convolution.image, write.weight("places", weight)], **attributes)


def _without_groups(convolution: Convolution) -> Array:
    weight, groups = convolution.weight, convolution.groups
    assert weight is not None
    outputs, inputs = len(weight) // groups, weight.shape[1]
    whole = np.zeros((len(weight), groups * inputs, *weight.shape[2:]), weight.dtype)
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        whole[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return whole


def _on_blocks(
    node: ir.Node, write: Writer, blocks: dict[ir.Value, ir.Value], entered: dict[ir.Value, ir.Value]
) -> ir.Value:
    """What the node makes, made of blocks."""
    if node.op_type == "Conv":
        weight = constant(node.inputs[1])
        assert weight is not None
        wide = np.kron(np.eye(_PLACES, dtype=weight.dtype), weight[:, :, 0, 0])[:, :, None, None]
        inputs = [blocks[_given(node)], write.weight("places", wide)]
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if bias is not None:
            inputs.append(write.weight("places.bias", np.tile(bias, _PLACES)))
        return write("Conv", inputs, kernel_shape=[1, 1])
    if node.op_type == "LeakyRelu":
        return write("LeakyRelu", [blocks[_given(node)]], alpha=node.attributes.get_float("alpha", 0.01))
    return write(node.op_type, [_in_blocks(value, write, blocks, entered) for value in node.inputs])


def _given(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _in_blocks(
    value: ir.Value | None, write: Writer, blocks: dict[ir.Value, ir.Value], entered: dict[ir.Value, ir.Value]
) -> ir.Value:
    assert value is not None
    if value in blocks:
        return blocks[value]
    if value not in entered:
        doubled = _doubled(value)
        if doubled is not None:
            entered[value] = _copies(doubled, write)
        else:
            entered[value] = write("SpaceToDepth", [value], blocksize=2)
    return entered[value]


def _copies(value: ir.Value, write: Writer) -> ir.Value:
    """The value once per place; what was doubled on the way to it is doubled after copying, which moves less."""
    doubled, resize = _doubled(value), value.producer()
    if doubled is None or resize is None:
        return write("Concat", [value] * _PLACES, axis=1)
    inputs = [_copies(doubled, write), None, resize.inputs[2]]
    return write("Resize", inputs, **_NEAREST)


def _doubled(value: ir.Value) -> ir.Value | None:
    """What a Resize repeats twice along both axes to make this value; None for any other value."""
    resize = producer(value, "Resize")
    if resize is None or len(resize.inputs) < 3:
        return None
    scales, attributes = constant(resize.inputs[2]), resize.attributes
    if any(attributes.get_string(name, "") != wanted for name, wanted in _NEAREST.items()):
        return None
    return resize.inputs[0] if scales is not None and scales.tolist() == [1, 1, 2, 2] else None
