"""A float32 engine as an int8 one, by explicit QuantizeLinear and DequantizeLinear around convolutions.

Weights: symmetric int8 per output channel. Activations: symmetric int8 per tensor, the form that TensorRT, OpenVINO
and ONNX Runtime all take. Norms, sums and activations between convolutions stay float32, and so do the first and the
last convolution, which see or make the picture itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from i2i_export import parity
from i2i_export.calibration import measure_limits
from i2i_export.enginefile import EngineFile
from i2i_export.errors import ExportError
from i2i_export.macs import infer_shapes, node_macs
from i2i_export.rewrites import Array, Writer, add_weight, constant, nodes_of, simplify
from i2i_runtime.frame import Picture

LEAST_SHARE = 0.5
"""Below this share of multiply-adds in int8 the engine is no longer worth its loss, and is refused."""


@dataclass(frozen=True)
class _Candidate:
    """A convolution that can be quantised: its output's name, its input's name, its share of the work."""

    output: str
    source: str
    macs: int


def int8_from_engine(
    engine: EngineFile,
    calibration: Sequence[Picture],
    gate: Sequence[Picture],
    style: NDArray[np.float32] | None = None,
) -> tuple[EngineFile, parity.Report]:
    """Quantises as many convolutions as the bound allows, the harmless ones first.

    Every convolution is tried alone on one frame; then the most harmful are given back to float32 until the picture
    keeps `parity.INT8` on the frames of `gate`. Raises ParityError with the figures where less than half of the
    work could stay int8, CalibrationError where the frames are of no use.
    """
    if engine.metadata.precision != "fp32":
        raise ExportError(
            f"this engine is already {engine.metadata.precision}: give the float32 one that it was made from."
        )
    candidates, total = _candidates(engine)
    if not candidates or _macs(candidates) < LEAST_SHARE * total:
        raise ExportError(
            "less than half of this network's work is in convolutions that int8 suits: use fp16."
        )
    sources = sorted({candidate.source for candidate in candidates})
    limits = measure_limits(engine.to_proto(), sources, calibration, style)
    truth = parity.OnnxTranslator(engine.to_proto())
    kept = _by_harm(engine, candidates, limits, truth, gate[0], style)
    while True:
        quantised = _quantised(engine, kept, limits)
        report = parity.compare(
            "int8 against float32",
            truth,
            parity.OnnxTranslator(quantised.to_proto()),
            gate,
            parity.INT8,
            style,
        )
        share = _macs(kept) / total
        fewer = kept[: -max(1, len(candidates) // 8)]
        if report.passed or _macs(fewer) < LEAST_SHARE * total:
            break
        kept = fewer
    parity.require(
        report,
        f"the int8 engine, with {share:.0%} of its work in int8,",
        "this network does not suit int8, use fp16; no file was written.",
    )
    notes = {**engine.metadata.notes, "int8": f"{len(kept)} convolutions, {share:.0%} of the multiply-adds"}
    quantised.metadata = replace(engine.metadata, precision="int8", parity=report.figures(), notes=notes)
    return quantised, report


def _candidates(engine: EngineFile) -> tuple[list[_Candidate], int]:
    """Convolutions with constant weights apart from those that read or make three channels, and all multiply-adds."""
    proto, size = engine.to_proto(), engine.metadata.size
    shapes = infer_shapes(proto, size.min_height, size.min_width)
    macs = {node.output[0]: node_macs(node, shapes) for node in proto.graph.node}
    found = []
    for node in nodes_of(engine.model, "Conv"):
        weight, source, output = constant(node.inputs[1]), node.inputs[0], node.outputs[0]
        if weight is None or source is None or weight.shape[0] <= 3 or weight.shape[1] <= 3:
            continue
        if macs[str(output.name)]:
            found.append(_Candidate(str(output.name), str(source.name), macs[str(output.name)]))
    return found, sum(macs.values())


def _by_harm(
    engine: EngineFile,
    candidates: Sequence[_Candidate],
    limits: dict[str, float],
    truth: parity.Translator,
    frame: Picture,
    style: NDArray[np.float32] | None,
) -> list[_Candidate]:
    """The candidates, those that change the picture least per multiply-add first."""
    wanted = truth.translate(frame, style).unrounded
    harm = {}
    for candidate in candidates:
        alone = parity.OnnxTranslator(_quantised(engine, [candidate], limits).to_proto())
        error = float(np.mean((alone.translate(frame, style).unrounded - wanted) ** 2))
        harm[candidate.output] = error / candidate.macs
    return sorted(candidates, key=lambda candidate: harm[candidate.output])


def _macs(candidates: Sequence[_Candidate]) -> int:
    return sum(candidate.macs for candidate in candidates)


def _quantised(engine: EngineFile, kept: Sequence[_Candidate], limits: dict[str, float]) -> EngineFile:
    """A copy in which these convolutions read int8 and have int8 weights."""
    model = ir.from_proto(engine.to_proto())
    wanted = {candidate.output for candidate in kept}
    read: dict[str, ir.Value] = {}
    for node in nodes_of(model, "Conv"):
        source, weight = node.inputs[0], constant(node.inputs[1])
        if node.outputs[0].name not in wanted or source is None or weight is None:
            continue
        name, write = str(source.name), Writer(model, node)
        if name not in read:
            step = add_weight(model, f"{name}.step", np.asarray(limits[name] / 127, np.float32))
            zero = add_weight(model, f"{name}.zero", np.asarray(0, np.int8))
            codes = write("QuantizeLinear", [source, step, zero])
            read[name] = write("DequantizeLinear", [codes, step, zero])
        node.replace_input_with(0, read[name])
        node.replace_input_with(1, _int8_weight(model, write, weight))
    simplify(model)
    return EngineFile(model, replace(engine.metadata, precision="int8"))


def _int8_weight(model: ir.Model, write: Writer, weight: Array) -> ir.Value:
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    codes = np.clip(np.rint(weight / steps[:, None, None, None]), -127, 127).astype(np.int8)
    inputs = [
        write.weight("codes", codes),
        write.weight("steps", steps),
        write.weight("zeros", np.zeros(len(weight), np.int8)),
    ]
    return write("DequantizeLinear", inputs, axis=0)
