"""A float32 engine as an int8 one: which convolutions can compute in int8 without harm to the image.

Weights: symmetric int8 per output channel. Activations: 8 bits per tensor (qdq.py). Norms and what follows them stay
float32, and so do the first and the last convolution, which see or make the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from i2i_export import parity
from i2i_export.enginefile import EngineFile
from i2i_export.errors import ExportError
from i2i_export.graph.macs import infer_shapes, node_macs
from i2i_export.graph.match import constant, nodes_of
from i2i_export.precision.calibration import Limits, exposures, measure_limits
from i2i_export.precision.qdq import Form, quantised, quantised_values
from i2i_runtime.frame import Image

LEAST_SHARE = 0.5
"""Below this share of multiply-adds in int8 the engine is refused: it would lose quality for little speed."""


@dataclass(frozen=True)
class _Candidate:
    """A convolution that can be quantised: its output's name and its share of the work."""

    output: str
    macs: int


def int8_from_engine(
    engine: EngineFile,
    calibration: Sequence[Image],
    gate: Sequence[Image],
    style: NDArray[np.float32] | None = None,
    *,
    for_cpu: bool = False,
) -> tuple[EngineFile, parity.Report]:
    """Quantises as many convolutions as the bound allows, the harmless ones first.

    The frames of `calibration` are seen in several exposures; those of `gate` should be others. Every convolution is
    tried alone; then the most harmful are given back to float32 until the image keeps `parity.INT8` on the gate.
    `for_cpu` writes the form of qdq.py that processors are fastest with and TensorRT does not take. Raises
    ParityError with the figures if less than half of the work could stay int8, CalibrationError if the frames
    cannot be used.
    """
    if engine.metadata.precision != "fp32":
        raise ExportError(
            f"this engine is already {engine.metadata.precision}: give the float32 one that it was made from."
        )
    instead = "keep float32" if for_cpu else "use fp16"
    candidates, total = _candidates(engine)
    if not candidates or _macs(candidates) < LEAST_SHARE * total:
        raise ExportError(
            f"less than half of this network's work is in convolutions that int8 suits: {instead}."
        )
    trial = _Trial(engine, Form(unsigned=for_cpu), gate, style)
    limits = trial.better_limits(candidates, calibration)
    kept = trial.by_harm(candidates, limits)
    while True:
        lean = trial.quantised(kept, limits)
        report = trial.compare(lean, gate)
        share = _macs(kept) / total
        fewer = kept[: -max(1, len(candidates) // 8)]
        if report.passed or _macs(fewer) < LEAST_SHARE * total:
            break
        kept = fewer
    parity.require(
        report,
        f"the int8 engine, with {share:.0%} of its work in int8,",
        f"this network does not suit int8, {instead}; no file was written.",
    )
    notes = {**engine.metadata.notes, "int8": f"{len(kept)} convolutions, {share:.0%} of the multiply-adds"}
    lean.metadata = replace(engine.metadata, precision="int8", parity=report.figures(), notes=notes)
    return lean, report


class _Trial:
    """Tries choices of convolutions and limits on the frames of the gate."""

    def __init__(
        self, engine: EngineFile, form: Form, gate: Sequence[Image], style: NDArray[np.float32] | None
    ) -> None:
        self._engine = engine
        self._form = form
        self._few = (gate[0], gate[-1])
        self._style = style
        self._truth = parity.OnnxTranslator(engine.to_proto())

    def quantised(self, candidates: Sequence[_Candidate], limits: dict[str, float]) -> EngineFile:
        return quantised(self._engine, [candidate.output for candidate in candidates], limits, self._form)

    def compare(self, lean: EngineFile, frames: Sequence[Image]) -> parity.Report:
        return parity.compare(
            "int8 against float32",
            self._truth,
            parity.OnnxTranslator(lean.to_proto()),
            frames,
            parity.INT8,
            self._style,
        )

    def better_limits(
        self, candidates: Sequence[_Candidate], calibration: Sequence[Image]
    ) -> dict[str, float]:
        """Of the two ways to choose limits the one that harms the worst frame less."""
        outputs = {candidate.output for candidate in candidates}
        names = [str(value.name) for value in quantised_values(self._engine.model, outputs, self._form)]
        limits: Limits = measure_limits(self._engine.to_proto(), names, exposures(calibration), self._style)
        return max(
            (limits.widest, limits.closest),
            key=lambda chosen: self.compare(self.quantised(candidates, chosen), self._few).psnr_db,
        )

    def by_harm(self, candidates: Sequence[_Candidate], limits: dict[str, float]) -> list[_Candidate]:
        """The candidates, those that change the image least per multiply-add first."""
        wanted = [self._truth.translate(frame, self._style).unrounded for frame in self._few]
        harm = {}
        for candidate in candidates:
            alone = parity.OnnxTranslator(self.quantised([candidate], limits).to_proto())
            got = [alone.translate(frame, self._style).unrounded for frame in self._few]
            error = max(float(np.mean((one - two) ** 2)) for one, two in zip(got, wanted, strict=True))
            harm[candidate.output] = error / candidate.macs
        return sorted(candidates, key=lambda candidate: harm[candidate.output])


def _candidates(engine: EngineFile) -> tuple[list[_Candidate], int]:
    """Convolutions with constant weights apart from those that read or make the image, and all multiply-adds."""
    proto, size = engine.to_proto(), engine.metadata.size
    shapes = infer_shapes(proto, size.min_height, size.min_width)
    macs = {node.output[0]: node_macs(node, shapes) for node in proto.graph.node}
    found, read = [], _readers_of_the_image(engine.model)
    for node in nodes_of(engine.model, "Conv"):
        weight, output = constant(node.inputs[1]), str(node.outputs[0].name)
        if weight is None or weight.shape[0] <= 3 or weight.shape[1] <= 3:
            continue
        if macs[output] and node not in read:
            found.append(_Candidate(output, macs[output]))
    return found, sum(macs.values())


def _readers_of_the_image(model: ir.Model) -> set[ir.Node]:
    """Convolutions that follow from `frame` through no other one, as behind a pixel unshuffle of 48 channels."""
    known, readers = {model.graph.inputs[0]}, set()
    for node in model.graph:
        if not any(value in known for value in node.inputs):
            continue
        if node.op_type == "Conv":
            readers.add(node)
        else:
            known.update(node.outputs)
    return readers


def _macs(candidates: Sequence[_Candidate]) -> int:
    return sum(candidate.macs for candidate in candidates)
