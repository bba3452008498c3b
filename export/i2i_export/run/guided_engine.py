"""Any engine, also one with a foreign network, becomes one that translates a smaller image (see guided.py).

The filter is traced around one operator that stands for the engine; then the engine's own operators, from their cast
from uint8 to their cast back, take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import Tensor

from i2i_export import parity
from i2i_export.enginefile import EngineFile
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all
from i2i_export.graph.edit import graphs_of, replace_value
from i2i_export.graph.macs import cost_of
from i2i_export.passes.order import optimise
from i2i_export.run.guided import GuidedInference
from i2i_export.run.trace import Origin, check_against_torch, engine_from_inference
from i2i_export.sizes import gate_sizes
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, STYLE, TRANSLATED, SizePolicy
from i2i_trainer.method import Inference

_STAND_IN = "i2i.engine"
"""Domain of an operator that no file holds: it keeps the place of the engine while the graph around it is traced."""


def guided_from_engine(
    engine: EngineFile, factor: int, frames: Sequence[Image], *, name: str
) -> tuple[EngineFile, parity.Report]:
    """The engine behind a guided filter, which lets it see the image `factor` times smaller.

    It is compared, on `frames` of any size, with the filter in torch around the untouched engine. Raises ExportError
    where the engine is not float32 or has further inputs, UsageError if `factor` is none, ParityError.
    """
    own = engine.metadata
    if own.precision != "fp32":
        raise ExportError(
            f"--guided takes a float32 engine, and {own.name} is {own.precision}: "
            "guide the float32 one, and give --precision with it."
        )
    known = {FRAME} if own.style is None else {FRAME, STYLE}
    if further := [str(value.name) for value in engine.model.graph.inputs if value.name not in known]:
        raise ExportError(
            f"--guided takes an engine with `frame` and a declared `style` alone, and {own.name} has the input "
            f"{further[0]} too: guide the run or network that it was made from."
        )
    inference = GuidedInference(EngineInference(engine), factor)
    size = _enlarged(own.size, factor)
    origin = Origin(name, own.method, own.direction, own.provenance, own.licence)
    guided = engine_from_inference(inference, size, origin)
    _put_in(body_of(engine), guided.model)
    optimise(guided.model)
    macs, macs_per_pixel = cost_of(guided.model, size)
    guided.metadata = replace(
        guided.metadata,
        style=own.style,
        macs=macs,
        macs_per_pixel=macs_per_pixel,
        notes={**guided.metadata.notes, **own.notes},
    )
    return guided, check_against_torch(guided, inference, fit_all(frames, gate_sizes(size)))


class EngineInference(Inference):
    """An engine as a method's network: run by ONNX Runtime, and traced as one operator."""

    def __init__(self, engine: EngineFile) -> None:
        super().__init__()
        size, style = engine.metadata.size, engine.metadata.style
        self.stride = size.stride
        if size.is_fixed:
            self.fixed_size = (size.min_height, size.min_width)
        if style is not None:
            self.style_size = style.size
            self.default_style = style.default
            self.presets = style.presets
        self._session = parity.cpu_session(ir.to_proto(body_of(engine)))

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        levels = (image.permute(0, 2, 3, 1) + 1) * 127.5
        if torch.compiler.is_exporting():
            inputs = [levels] if style is None else [levels, style]
            translated: Tensor = torch.onnx.ops.symbolic(
                f"{_STAND_IN}::Engine", inputs, dtype=torch.float32, shape=levels.shape, version=1
            )
        else:
            feeds = {FRAME: np.ascontiguousarray(levels.numpy())}
            if style is not None:
                feeds[STYLE] = style.numpy()
            translated = torch.from_numpy(self._session.run(None, feeds)[0])
        return translated.permute(0, 3, 1, 2) * (1 / 127.5) - 1


def body_of(engine: EngineFile) -> ir.Model:
    """A copy of the engine whose `frame` is float32 `[1, H, W, 3]`, 0 to 255, and so is what it gives."""
    body = ir.from_proto(engine.to_proto())
    graph = body.graph
    ShapeInferencePass()(body)
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    frame = next(value for value in graph.inputs if value.name == FRAME)
    levels = ir.Value(name=FRAME, shape=frame.shape, type=ir.TensorType(ir.DataType.FLOAT))
    for cast in frame.consumers():
        if cast.attributes.get_int("to") == ir.DataType.FLOAT:
            replace_value(cast.outputs[0], levels)
            graph.remove(cast, safe=True)
        else:
            cast.replace_input_with(0, levels)
    graph.inputs[list(graph.inputs).index(frame)] = levels
    last = next(value for value in graph.outputs if value.name == TRANSLATED).producer()
    assert last is not None  # the contract: a cast
    made = last.inputs[0]
    assert made is not None
    if made is levels or made.dtype != ir.DataType.FLOAT:
        wide = ir.node("Cast", [made], attributes={"to": ir.DataType.FLOAT})
        wide.outputs[0].name = TRANSLATED
        graph.append(wide)
        made = wide.outputs[0]
    graph.outputs.clear()
    graph.outputs.append(made)
    made.type = ir.TensorType(ir.DataType.FLOAT)
    graph.remove(last, safe=True)
    return body


def _put_in(body: ir.Model, model: ir.Model) -> None:
    """Puts the body's operators in place of the operator that stands for them."""
    graph = model.graph
    place = next(node for node in graph if node.domain == _STAND_IN)
    given = dict(zip((FRAME, STYLE), place.inputs, strict=False))
    for entry in list(body.graph.inputs):
        outer = given[str(entry.name)]
        assert outer is not None
        ir.convenience.replace_all_uses_with(entry, outer)
    result = body.graph.outputs[0]
    inside = list(body.graph.all_nodes())
    weights = list(body.graph.initializers.values())
    inner = [graph for node in inside for graph in graphs_of(node)]
    for value in (
        *weights,
        *(output for node in inside for output in node.outputs),
        *(value for graph in inner for value in (*graph.inputs, *graph.initializers.values())),
    ):
        value.name = f"engine/{value.name}"
    for number, node in enumerate(inside):
        node.name = f"engine/{node.op_type}_{number}"
    body.graph.outputs.clear()
    nodes = list(body.graph)
    body.graph.initializers.clear()
    body.graph.remove(nodes)
    for weight in weights:
        graph.register_initializer(weight)
    graph.insert_before(place, nodes)
    replace_value(place.outputs[0], result)
    graph.remove(place, safe=True)
    # What the filter is made of means the same in every newer opset; the gate compares anyway.
    newest = max(model.opset_imports[""], body.opset_imports[""])
    del model.opset_imports[_STAND_IN]
    model.opset_imports[""] = newest


def _enlarged(size: SizePolicy, factor: int) -> SizePolicy:
    """The images whose smaller form the engine takes."""
    if size.is_fixed:
        return SizePolicy.fixed(factor * size.min_height, factor * size.min_width)
    stride, whole = factor * size.stride, SizePolicy()
    return SizePolicy(
        stride,
        factor * size.min_height,
        min(factor * size.max_height, whole.max_height // stride * stride),
        factor * size.min_width,
        min(factor * size.max_width, whole.max_width // stride * stride),
    )
