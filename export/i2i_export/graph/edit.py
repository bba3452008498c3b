"""The tools that passes change a graph with: nodes and weights added, values replaced, constants computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnx.reference import ReferenceEvaluator

from i2i_export.graph.match import Array, constant, is_standard

Attribute: TypeAlias = int | float | str | list[int]

_NEVER_FOLDED = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Bernoulli",
    "If",
    "Loop",
}


def simplify(model: ir.Model) -> None:
    """Identity, repeated and unreachable nodes and weights go, and every constant becomes an initializer."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.IdentityEliminationPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.DeduplicateInitializersPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    passes.TopologicalSortPass()(model)


def fold_constants(model: ir.Model) -> int:
    """Whatever follows from weights alone is computed now (the style's MLP under a fixed style, for one)."""
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    changed = 0
    for node in list(model.graph):
        given = [_known_content(node, value) for value in node.inputs]
        unknown = any(
            value is not None and array is None for value, array in zip(node.inputs, given, strict=True)
        )
        if unknown or node.op_type in _NEVER_FOLDED or not is_standard(node):
            continue
        evaluator = ReferenceEvaluator(ir.to_proto(node), opsets=dict(model.opset_imports))
        feeds = {
            str(value.name): array
            for value, array in zip(node.inputs, given, strict=True)
            if value is not None
        }
        for value, array in zip(node.outputs, evaluator.run(None, feeds), strict=True):
            if value.is_graph_output():
                break
            replace_value(value, add_weight(model, f"{value.name}_folded", np.asarray(array)))
        else:
            model.graph.remove(node, safe=True)
            changed += 1
    return changed


def _known_content(reader: ir.Node, value: ir.Value | None) -> Array | None:
    """A constant's content; for Shape, whose answer needs no content, anything of the value's known shape."""
    if (
        reader.op_type == "Shape"
        and value is not None
        and value.shape is not None
        and value.shape.is_static()
    ):
        return np.broadcast_to(np.float32(0), value.shape.numpy())
    return constant(value)


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside an If, Loop or Scan."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += attribute.as_graphs()
    return found


def add_weight(model: ir.Model, name: str, array: Array) -> ir.Value:
    """Registers an initializer under a name not yet taken, made from `name`."""
    taken = model.graph.initializers
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    tensor = ir.tensor(np.array(array, order="C"), name=unique)
    value = ir.Value(
        name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes every reader of `old` read `new`, which also takes its name if it is an output of the graph."""
    if old.is_graph_output():
        name = old.name
        old.name, new.name = f"{name}_before", name
        new.shape, new.type = old.shape, old.type
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


class Writer:
    """Writes nodes in front of one that they will replace."""

    def __init__(self, model: ir.Model, replaced: ir.Node) -> None:
        self._model = model
        self._replaced = replaced
        self._count = 0

    def __call__(self, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Attribute) -> ir.Value:
        """Adds a standard operator with one output, which is returned."""
        self._count += 1
        name = f"{self._replaced.outputs[0].name}/{op_type}_{self._count}"
        node = ir.node(op_type, inputs, attributes=attributes or None, name=name)
        node.outputs[0].name = name
        self._model.graph.insert_before(self._replaced, node)
        return node.outputs[0]

    def weight(self, name: str, array: Array) -> ir.Value:
        """Adds an initializer named after the replaced node."""
        return add_weight(self._model, f"{self._replaced.outputs[0].name}/{name}", array)

    def integers(self, *values: int) -> ir.Value:
        """Adds an int64 vector."""
        return self.weight("integers", np.asarray(values, np.int64))

    def finish(self, value: ir.Value) -> None:
        """`value` takes the replaced node's place."""
        replace_value(self._replaced.outputs[0], value)
        self._model.graph.remove(self._replaced, safe=True)


def skip(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Takes a node with one output out of the graph; its readers read `value` instead."""
    replace_value(node.outputs[0], value)
    model.graph.remove(node, safe=True)
