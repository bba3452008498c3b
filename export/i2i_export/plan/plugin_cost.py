"""What a network with plugins costs, counted without the TensorRT that takes plugins.

Plugins are opaque to TensorRT's compiler: it fuses nothing across them. So the network is cut at its plugin
nodes, the rest is built by TensorRT for RTX with channels-last ends, and each plugin node counts as one
launch more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx
import onnx_ir as ir

from i2i_export.graph.edit import simplify
from i2i_export.plan.structure import Launch, PlanStructure
from i2i_export.plugins.lowering import DOMAIN, PluginNetwork

_SIZES = {ir.DataType.FLOAT16: 2, ir.DataType.BFLOAT16: 2, ir.DataType.FLOAT: 4}


def structure_with_plugins(
    network: PluginNetwork, count: Callable[[onnx.ModelProto], PlanStructure | None]
) -> PlanStructure | None:
    """Launches and bytes of the whole; `count` builds a cut network with channels-last ends and reads its
    plan.

    A plugin's bytes are those of its inputs and outputs, each read or written once. None if `count` gives
    None.
    """
    rest = count(cut_at_plugins(network))
    if rest is None:
        return None
    graph = ir.from_proto(network.model)
    plugins = [
        Launch("plugin", network.kernels[node.op_type].op, _bytes_of(node) / 1e6)
        for node in graph.graph
        if node.domain == DOMAIN
    ]
    return PlanStructure((*rest.launches, *plugins))


def cut_at_plugins(network: PluginNetwork) -> onnx.ModelProto:
    """What TensorRT has left to do: every plugin's output is an input, every plugin's input an output."""
    graph = ir.from_proto(network.model)
    plugins = [node for node in graph.graph if node.domain == DOMAIN]
    for node in plugins:
        for value in node.inputs:
            maker = value.producer() if value is not None else None
            if value is None or maker is None or maker.domain == DOMAIN:
                continue
            if value not in graph.graph.outputs:
                graph.graph.outputs.append(value)
    for node in plugins:
        for result in node.outputs:
            readers = [use.node for use in result.uses() if use.node.domain != DOMAIN]
            given = ir.Value(name=f"{result.name}/given", shape=result.shape, type=result.type)
            if readers:
                graph.graph.inputs.append(given)
            ir.convenience.replace_all_uses_with(result, given)
    for node in reversed(plugins):
        graph.graph.remove(node, safe=True)
    simplify(graph)
    graph.opset_imports.pop(DOMAIN, None)
    return ir.to_proto(graph)


def _bytes_of(node: ir.Node) -> int:
    total = 0
    for value in (*node.inputs, *node.outputs):
        if value is None or value.shape is None or value.dtype is None:
            continue
        extents = [extent for extent in value.shape if isinstance(extent, int)]
        total += math.prod(extents) * _SIZES[value.dtype]
    return total
