"""A float32 engine as a half-precision one, as plain ONNX types: strongly typed builders take them unchanged.

Half precision goes into everything heavy: convolutions, linear layers, and InstanceNormalization, which stays one
operator so that every engine accumulates its statistics in float32 inside the kernel (casts around it would double
the traffic of the whole network). Float32 stay: reading and writing of the image, statistics that are written out
in operators (layer norm and its mixes: a half-precision sum of squares overflows at 65504), and sampling grids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export import parity
from i2i_export.enginefile import EngineFile
from i2i_export.errors import ExportError
from i2i_export.graph.edit import add_weight, graphs_of, simplify
from i2i_export.graph.match import constant
from i2i_export.precision.calibration import measure_magnitudes
from i2i_runtime.frame import Image

_HEAVY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "InstanceNormalization"}
_STATISTICS = {"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "GlobalAveragePool", "GlobalMaxPool"}
_POINTWISE = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Sqrt",
    "Reciprocal",
    "Pow",
    "Reshape",
    "Unsqueeze",
    "Squeeze",
    "Max",
    "Exp",
}
_WIDE_ALWAYS = {"GridSample", "Range", "ConstantOfShape", "Softmax"}
_FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that the operator's definition wants in float32 whatever the image's type."""

_LARGEST = 65504.0


def half_from_engine(
    engine: EngineFile, gate: Sequence[Image], style: NDArray[np.float32] | None = None
) -> tuple[EngineFile, parity.Report]:
    """A copy in half precision, compared with the original on the frames of `gate`.

    Raises ParityError past `parity.HALF_PRECISION`, ExportError if the engine is not float32, or if a value on a
    frame is beyond half precision.
    """
    if engine.metadata.precision != "fp32":
        raise ExportError(
            f"this engine is already {engine.metadata.precision}: give the float32 one that it was made from."
        )
    half, report = _halved(engine, gate, style, "fp16")
    half.metadata = replace(half.metadata, parity=report.figures())
    return half, report


def half_for_plan(
    engine: EngineFile, gate: Sequence[Image], style: NDArray[np.float32] | None = None
) -> EngineFile:
    """A copy for a strongly typed builder: of a float32 engine in half precision, of an int8 one with half precision
    around its codes, for which QuantizeLinear of opset 19 takes and gives half precision.

    Raises as `half_from_engine`.
    """
    if engine.metadata.precision != "int8":
        return _halved(engine, gate, style, "fp16")[0]
    current = EngineFile(ir.from_proto(engine.to_proto()), engine.metadata)
    # Of the operators that this project writes, opset 19 changes nothing but the types that the quantisers take.
    current.model.opset_imports[""] = max(19, current.model.opset_imports[""])
    return _halved(current, gate, style, "int8")[0]


def _halved(
    engine: EngineFile, gate: Sequence[Image], style: NDArray[np.float32] | None, precision: str
) -> tuple[EngineFile, parity.Report]:
    model = ir.from_proto(engine.to_proto())
    ShapeInferencePass(data_prop=True)(model)
    made = {value.name for node in model.graph for value in node.outputs}
    wide = _wide_nodes(model)
    casts: dict[tuple[str, ir.DataType], ir.Value] = {}
    halved: list[str] = []
    for node in list(model.graph):
        if node in wide or not _is_float(node):
            _feed(model, node, ir.DataType.FLOAT, casts)
            continue
        _feed(model, node, ir.DataType.FLOAT16, casts)
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16)
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                value.type = ir.TensorType(ir.DataType.FLOAT16)
                halved.append(str(value.name))
    # ONNX Runtime computes half precision on processors in float32, so the comparison sees no value overflow.
    halved += [name for name, kind in casts if kind == ir.DataType.FLOAT16 and name in made]
    _require_in_range(measure_magnitudes(engine.to_proto(), halved, gate, style))
    simplify(model)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape, value.type = None, None
    half = EngineFile(model, replace(engine.metadata, precision=precision))
    report = parity.compare(
        f"{precision} in half precision against the engine"
        if precision != "fp16"
        else "fp16 against float32",
        parity.OnnxTranslator(engine.to_proto()),
        parity.OnnxTranslator(half.to_proto()),
        gate,
        parity.HALF_PRECISION,
        style,
    )
    parity.require(report, "the fp16 engine", "some value leaves half precision's range, stay with fp32.")
    return half, report


def _require_in_range(magnitudes: dict[str, float]) -> None:
    name, largest = max(magnitudes.items(), key=lambda item: item[1], default=("", 0.0))
    if largest > _LARGEST:
        raise ExportError(
            f"the tensor {name} reaches {largest:,.0f} on the gate's frames and half precision ends at "
            f"{_LARGEST:,.0f}: stay with fp32, or train the network again with norms behind its convolutions."
        )


def precision_of(model: ir.Model) -> Literal["fp32", "fp16"]:
    """What most of the numbers are that convolutions and linear layers multiply with."""
    counts = {ir.DataType.FLOAT: 0, ir.DataType.FLOAT16: 0}
    for node in model.graph.all_nodes():
        for value in node.inputs if node.op_type in _HEAVY else ():
            array = constant(value)
            if array is not None and value is not None and value.dtype in counts:
                counts[value.dtype] += array.size
    return "fp16" if counts[ir.DataType.FLOAT16] > counts[ir.DataType.FLOAT] else "fp32"


def _is_float(node: ir.Node) -> bool:
    """Whether a node makes floating values, or codes of them in the type of its step."""
    return node.op_type == "QuantizeLinear" or any(value.dtype == ir.DataType.FLOAT for value in node.outputs)


def _wide_nodes(model: ir.Model) -> set[ir.Node]:
    """Nodes that stay in float32."""
    nodes = list(model.graph)
    wide = _before_first_heavy(model) | _after_last_heavy(nodes)
    wide |= {node for node in nodes if node.op_type in _WIDE_ALWAYS or _makes_float_of_integers(node)}
    wide |= _around_subgraphs(model)
    for node in nodes:
        if node.op_type in _STATISTICS:
            wide |= _statistics_around(node)
    return wide


def _around_subgraphs(model: ir.Model) -> set[ir.Node]:
    """If and Loop, whose graphs are left as they are, and whatever makes a value that is read inside one."""
    outside = set(model.graph)
    inside = [node for node in model.graph.all_nodes() if node not in outside]
    read = [value for node in inside for value in node.inputs if value is not None]
    for node in outside:
        for graph in graphs_of(node):
            read += list(graph.outputs)
    makers = {value.producer() for value in read}
    return {node for node in outside if node in makers or any(graphs_of(node))}


def _before_first_heavy(model: ir.Model) -> set[ir.Node]:
    """What reads the image: everything that follows from `frame` alone, up to the first heavy operators."""
    known, reading = {model.graph.inputs[0]}, set()
    for node in model.graph:
        fed = [value for value in node.inputs if value is not None and constant(value) is None]
        if fed and all(value in known for value in fed) and node.op_type not in _HEAVY:
            reading.add(node)
            known.update(node.outputs)
    return reading


def _after_last_heavy(nodes: list[ir.Node]) -> set[ir.Node]:
    """What writes the image: everything from which no heavy operator is reached any more."""
    heavy_ahead: set[ir.Node] = set()
    writing = set()
    for node in reversed(nodes):
        readers = [reader for value in node.outputs for reader in value.consumers()]
        if any(reader in heavy_ahead or reader.op_type in _HEAVY for reader in readers):
            heavy_ahead.add(node)
        elif node.op_type not in _HEAVY:
            writing.add(node)
    return writing


def _makes_float_of_integers(node: ir.Node) -> bool:
    value = node.inputs[0] if node.op_type == "Cast" else None
    return value is not None and value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _statistics_around(start: ir.Node) -> set[ir.Node]:
    """The written-out norm around a mean: pointwise neighbours, not past a sum or product of two whole images."""
    island, open_ = {start}, [start]
    while open_:
        node = open_.pop()
        for neighbour in _neighbours(node):
            joins = neighbour.op_type in _STATISTICS or (
                neighbour.op_type in _POINTWISE and not _meets_two_images(neighbour)
            )
            if joins and neighbour not in island:
                island.add(neighbour)
                open_.append(neighbour)
    return island


def _neighbours(node: ir.Node) -> Iterable[ir.Node]:
    for value in node.inputs:
        producer = value.producer() if value is not None else None
        if producer is not None:
            yield producer
    for value in node.outputs:
        yield from value.consumers()


def _meets_two_images(node: ir.Node) -> bool:
    images = {value for value in node.inputs if value is not None and _has_extent(value)}
    return len(images) > 1


def _has_extent(value: ir.Value) -> bool:
    """Whether a tensor has more than one row or column, or might have."""
    if value.shape is None:
        return True
    return len(value.shape) == 4 and any(size != 1 for size in tuple(value.shape)[2:])


def _feed(
    model: ir.Model, node: ir.Node, kind: ir.DataType, casts: dict[tuple[str, ir.DataType], ir.Value]
) -> None:
    """Gives a node its floating inputs in one type, with a cast or a converted weight if they have another."""
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            continue
        wanted = ir.DataType.FLOAT if index in _FLOAT32_INPUTS.get(node.op_type, ()) else kind
        if value.dtype != wanted:
            node.replace_input_with(index, _converted(model, node, value, wanted, casts))


def _converted(
    model: ir.Model,
    reader: ir.Node,
    value: ir.Value,
    kind: ir.DataType,
    casts: dict[tuple[str, ir.DataType], ir.Value],
) -> ir.Value:
    key = (str(value.name), kind)
    if key not in casts:
        array = constant(value)
        if array is not None:
            limited = np.clip(array, -_LARGEST, _LARGEST).astype(kind.numpy())
            casts[key] = add_weight(model, f"{value.name}_{kind.name.lower()}", limited)
        else:
            name = f"{value.name}_as_{kind.name.lower()}"
            cast = ir.node("Cast", [value], {"to": kind}, name=name)
            cast.outputs[0].name = name
            cast.outputs[0].shape, cast.outputs[0].type = value.shape, ir.TensorType(kind)
            producer = value.producer()
            if producer is None:
                model.graph.insert_before(model.graph[0], cast)
            else:
                model.graph.insert_after(producer, cast)
            casts[key] = cast.outputs[0]
    return casts[key]
