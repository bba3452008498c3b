"""Writing int8 into a graph: QuantizeLinear and DequantizeLinear around what a back end computes in integers.

Two forms. The signed one is what TensorRT takes as well: symmetric int8 in front of each convolution. The unsigned one
is for processors, whose integer products multiply uint8 by int8: a value that is never negative gets 255 steps
instead of 127, biases are integers, and so are sums and copies between two convolutions, because ONNX Runtime
computes an operator in integers only if everything around it is quantised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from i2i_export.enginefile import EngineFile
from i2i_export.graph.edit import Writer, add_weight, simplify
from i2i_export.graph.match import Array, constant, only_use

_CARRIES = ("Add", "Concat", "Resize", "Pad", "MaxPool", "DepthToSpace", "SpaceToDepth")
"""What may stand between two convolutions and still be done on codes."""


@dataclass(frozen=True)
class Form:
    """How values become codes."""

    unsigned: bool = False

    def step_and_zero(self, value: ir.Value, limit: float) -> tuple[Array, Array]:
        """Step and zero point of a value whose magnitude stays at or under `limit`."""
        if not self.unsigned:
            return np.asarray(limit / 127, np.float32), np.asarray(0, np.int8)
        if _is_never_negative(value):
            return np.asarray(limit / 255, np.float32), np.asarray(0, np.uint8)
        return np.asarray(limit / 127, np.float32), np.asarray(128, np.uint8)


def quantised_values(model: ir.Model, convolutions: set[str], form: Form) -> list[ir.Value]:
    """The values that become codes when the convolutions with these outputs compute in int8."""
    found: dict[str, ir.Value] = {}
    for node in model.graph:
        if node.outputs[0].name in convolutions and node.inputs[0] is not None:
            found.setdefault(str(node.inputs[0].name), node.inputs[0])
    if form.unsigned:
        for node in model.graph:
            value = _after_relu(node.outputs[0])
            given = [entry for entry in node.inputs if entry is not None and constant(entry) is None]
            is_carried = node.op_type in _CARRIES and all(str(entry.name) in found for entry in given)
            if (node.outputs[0].name in convolutions or is_carried) and _feeds_codes(value, convolutions):
                found.setdefault(str(value.name), value)
    return list(found.values())


def quantised(
    engine: EngineFile, convolutions: Sequence[str], limits: Mapping[str, float], form: Form
) -> EngineFile:
    """A copy in which the convolutions with these outputs read int8 and have int8 weights."""
    model = ir.from_proto(engine.to_proto())
    wanted = set(convolutions)
    writers = {node: Writer(model, node) for node in model.graph}
    steps: dict[ir.Value, Array] = {}
    for value in quantised_values(model, wanted, form):
        step, zero = form.step_and_zero(value, limits[str(value.name)])
        uses = [use for use in value.uses() if form.unsigned or use.node.outputs[0].name in wanted]
        readers = {use.node for use in uses}
        write = next(writer for node, writer in writers.items() if node in readers)
        parameters = [
            add_weight(model, f"{value.name}.step", step),
            add_weight(model, f"{value.name}.zero", zero),
        ]
        codes = write("QuantizeLinear", [value, *parameters])
        read = write("DequantizeLinear", [codes, *parameters])
        steps[read] = step
        for use in uses:
            use.node.replace_input_with(use.idx, read)
    for node, write in writers.items():
        if node.outputs[0].name in wanted and node.inputs[0] is not None:
            _quantise_weights(node, write, steps[node.inputs[0]], form)
    simplify(model)
    return EngineFile(model, replace(engine.metadata, precision="int8"))


def _quantise_weights(convolution: ir.Node, write: Writer, step: Array, form: Form) -> None:
    weight = constant(convolution.inputs[1])
    assert weight is not None  # chosen for it
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    codes = np.clip(np.rint(weight / steps[:, None, None, None]), -127, 127).astype(np.int8)
    if form.unsigned:
        # Weights on the grid of their codes: a back end that folds constants first would make floats of stored codes,
        # and then computes in floats. It never folds a quantiser.
        grid = write.weight("grid", codes * steps[:, None, None, None])
        scale, zero = write.weight("steps", steps), write.weight("zeros", np.zeros(len(codes), np.int8))
        stored = write("QuantizeLinear", [grid, scale, zero], axis=0)
        convolution.replace_input_with(1, write("DequantizeLinear", [stored, scale, zero], axis=0))
    else:
        convolution.replace_input_with(1, _decoded(write, codes, steps))
    bias = constant(convolution.inputs[2]) if len(convolution.inputs) > 2 else None
    if bias is not None and form.unsigned:
        # A sum of products has the product of both steps: the only one in which a bias can be added to it.
        products = (steps * step).astype(np.float32)
        counts = np.clip(np.rint(bias.astype(np.float64) / products), -(2**31), 2**31 - 1).astype(np.int32)
        convolution.replace_input_with(2, _decoded(write, counts, products))


def _decoded(write: Writer, codes: Array, steps: Array) -> ir.Value:
    inputs = [
        write.weight("codes", codes),
        write.weight("steps", steps),
        write.weight("zeros", np.zeros(len(codes), codes.dtype)),
    ]
    return write("DequantizeLinear", inputs, axis=0)


def _after_relu(value: ir.Value) -> ir.Value:
    """A value, or what its only reader makes of it by Relu: back ends do both in one step."""
    if only_use(value) and value.consumers()[0].op_type == "Relu":
        return value.consumers()[0].outputs[0]
    return value


def _feeds_codes(value: ir.Value, convolutions: set[str]) -> bool:
    """Whether a convolution in int8 reads the value, directly or through operators that carry codes."""
    return any(
        reader.outputs[0].name in convolutions
        or (reader.op_type in _CARRIES and _feeds_codes(_after_relu(reader.outputs[0]), convolutions))
        for reader in value.consumers()
    )


def _is_never_negative(value: ir.Value | None) -> bool:
    """Whether the value follows from others in a way that gives no number below 0; False if it is not certain."""
    number = constant(value)
    if number is not None:
        return bool((number >= 0).all())
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type in ("Relu", "Sigmoid"):
        return True
    if node.op_type in ("Add", "Concat"):
        return all(_is_never_negative(entry) for entry in node.inputs)
    if node.op_type == "Pad":
        filled = len(node.inputs) > 2 and node.inputs[2] is not None
        return _is_never_negative(node.inputs[0]) and (not filled or _is_never_negative(node.inputs[2]))
    copies = node.op_type in ("MaxPool", "DepthToSpace", "SpaceToDepth") or (
        node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "cubic"
    )
    return copies and _is_never_negative(node.inputs[0])
