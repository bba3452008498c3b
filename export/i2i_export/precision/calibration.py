"""How large the values get that an engine's convolutions read: measured on real frames, for int8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from i2i_export.enginefile import extra_feeds
from i2i_export.errors import CalibrationError
from i2i_export.parity import cpu_session
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, STYLE

_BINS = 2048
_SAMPLES = 1 << 18
"""Values per tensor and frame that enter a histogram; their maximum is taken over all."""

_CLIPS = np.linspace(0.3, 1.0, 36)
"""Fractions of the maximum that are tried as the largest value int8 can hold."""

_HEADROOM = 1.25
"""Room above the largest magnitude met: a fifth fewer steps cost less than one clipped headlight."""

_GAMMAS = (2.2, 0.45)


@dataclass(frozen=True)
class Limits:
    """The largest magnitude that each tensor's codes hold, chosen in two ways.

    `widest`: the largest one met, and some room. A network without norms needs it, because another scene's values
    are larger, and clipping them costs far more than coarse steps. `closest`: the one with the least squared rounding
    and clipping error. A network full of norms needs it, whose few outliers would make every step coarse.
    """

    widest: dict[str, float]
    closest: dict[str, float]


def exposures(frames: Sequence[Image]) -> list[Image]:
    """Every frame as it is, darker, lighter, as a negative and with twice the contrast.

    One clip covers one lighting condition. A camera meets others, and int8 has no room beyond what calibration saw.
    """
    shown: list[Image] = []
    for frame in frames:
        values = frame.astype(np.float32) / 255
        contrast = np.clip(2 * values - 0.5, 0, 1)
        others = [*(values**gamma for gamma in _GAMMAS), 1 - values, contrast]
        shown += [frame, *(np.rint(255 * other).astype(np.uint8) for other in others)]
    return shown


def measure_limits(
    model: onnx.ModelProto,
    names: Sequence[str],
    frames: Sequence[Image],
    style: NDArray[np.float32] | None = None,
) -> Limits:
    """The largest magnitudes worth holding in int8, for each tensor of `names`.

    Raises CalibrationError without frames, or if a tensor is not finite.
    """
    if not frames:
        raise CalibrationError(
            "int8 is calibrated on real frames and there are none: name a clip or folder with --frames."
        )
    session = _tapped(model, names)
    maxima = dict.fromkeys(names, 0.0)
    samples: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    feeds = _feeds(model, style)
    for frame in frames:
        outputs = session.run(list(names), {**feeds, FRAME: frame[None]})
        for name, values in zip(names, outputs, strict=True):
            magnitudes = np.abs(values, dtype=np.float32).ravel()
            maxima[name] = max(maxima[name], float(magnitudes.max()))
            samples[name].append(magnitudes[:: max(1, magnitudes.size // _SAMPLES)])
    for name, largest in maxima.items():
        if not np.isfinite(largest):
            raise CalibrationError(
                f"the tensor {name} is not finite on a frame: the float32 engine itself is broken."
            )
    return Limits(
        widest={name: _HEADROOM * largest or 1.0 for name, largest in maxima.items()},
        closest={name: _best_limit(np.concatenate(samples[name]), maxima[name]) for name in names},
    )


def measure_magnitudes(
    model: onnx.ModelProto,
    names: Sequence[str],
    frames: Sequence[Image],
    style: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """The largest magnitude of each tensor of `names` on the frames; the graph reduces each to two numbers itself."""
    reduced = onnx.ModelProto()
    reduced.CopyFrom(model)
    ends = [(f"{name}/{op}", op, name) for name in names for op in ("ReduceMin", "ReduceMax")]
    for output, op, name in ends:
        reduced.graph.node.append(onnx.helper.make_node(op, [name], [output], keepdims=0))
    session = _tapped(reduced, [output for output, _, _ in ends])
    feeds = _feeds(model, style)
    largest = dict.fromkeys(names, 0.0)
    for frame in frames:
        values = session.run([output for output, _, _ in ends], {**feeds, FRAME: frame[None]})
        for (_, _, name), value in zip(ends, values, strict=True):
            largest[name] = max(largest[name], abs(float(value)))
    return largest


def _feeds(model: onnx.ModelProto, style: NDArray[np.float32] | None) -> dict[str, NDArray[Any]]:
    """What every frame is given beside itself."""
    return {**extra_feeds(model), **({} if style is None else {STYLE: style})}


def _best_limit(magnitudes: NDArray[np.float32], largest: float) -> float:
    if largest == 0:
        return 1.0
    counts, edges = np.histogram(magnitudes, bins=_BINS, range=(0.0, largest))
    centres = (edges[:-1] + edges[1:]) / 2
    limits = _CLIPS * largest
    steps = limits[:, None] / 127
    rounded = np.clip(np.rint(centres[None] / steps), 0, 127) * steps
    errors = ((rounded - centres[None]) ** 2 * counts[None]).sum(axis=1)
    return float(limits[int(np.argmin(errors))])


def _tapped(model: onnx.ModelProto, names: Sequence[str]) -> Any:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    return cpu_session(tapped)
