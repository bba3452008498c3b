"""Exact rewrites of a graph: the same function with fewer multiply-adds, nodes or bytes.

Each takes an `onnx_ir.Model`, changes it in place and returns how many places it changed. They work on any
graph, also on networks trained elsewhere. The fact each rests on is stated at it; the tests prove it equal.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

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
        given = [constant(value) for value in node.inputs]
        unknown = any(
            value is not None and array is None for value, array in zip(node.inputs, given, strict=True)
        )
        if unknown or node.op_type in _NEVER_FOLDED or node.domain not in ("", "ai.onnx"):
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


def remove_bias_before_norm(model: ir.Model) -> int:
    """Drops a convolution's bias where InstanceNormalization follows directly.

    A constant added to a channel is removed again with that channel's mean, so it cancels exactly.
    """
    changed = 0
    for norm in nodes_of(model, "InstanceNormalization"):
        producer = norm.inputs[0].producer() if norm.inputs[0] else None
        if producer is None or producer.op_type not in ("Conv", "ConvTranspose"):
            continue
        if not only_use(producer.outputs[0]) or len(producer.inputs) < 3 or producer.inputs[2] is None:
            continue
        producer.resize_inputs(2)
        changed += 1
    return changed


def nodes_of(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """The main graph's nodes of these standard operators, in order; the graph may change meanwhile."""
    return [node for node in model.graph if node.op_type in op_types and node.domain in ("", "ai.onnx")]


def only_use(value: ir.Value) -> bool:
    """Whether exactly one node reads the value and nothing outside the graph does."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The value's content where it is a weight or constant, else None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def add_weight(model: ir.Model, name: str, array: NDArray[np.generic]) -> ir.Value:
    """Registers an initializer under a name not yet taken, made from `name`."""
    taken = model.graph.initializers
    unique, count = name, 1
    while unique in taken:
        unique, count = f"{name}_{count}", count + 1
    tensor = ir.tensor(np.ascontiguousarray(array), name=unique)
    value = ir.Value(
        name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Makes every reader of `old` read `new`."""
    ir.convenience.replace_all_uses_with(old, new)
