"""Built plans are run before one is kept: their images are compared with the engine's, then they are timed in turn.

TensorRT gives no error for a plugin whose arguments stand in another order than it passes them, nor for a value that
overflows in half precision. Two real frames through the runtime's own frame slot show both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_export import parity
from i2i_export.enginefile import EngineFile, default_style
from i2i_export.errors import ExportError
from i2i_export.frames import fit, read_frames
from i2i_export.plan.builder import FrameProfile
from i2i_export.precision.speed import times_in_turn
from i2i_runtime.engines import Engine
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Image

_REFERENCE_MACS = 4e11
"""What a processor translates in seconds; a larger frame of a heavy network would take it minutes."""

_DARK = 8
"""How many times darker the first frame is: values near the lower end of the range overflow first in norms."""

_WARM_UP_S, _ROUNDS, _FEWEST, _BUDGET_S = 1.0, 50, 10, 20.0


@dataclass(frozen=True)
class _Recorded:
    """Translations that were made before, by the frame that they are of."""

    frames: tuple[Image, ...]
    translations: tuple[parity.Translation, ...]

    def translate(self, frame: Image, style: NDArray[np.float32] | None) -> parity.Translation:
        return next(got for known, got in zip(self.frames, self.translations, strict=True) if known is frame)


class Examination:
    """Two real frames, one dark and one as large as the plan takes, and the ONNX engine's translations of them."""

    def __init__(self, engine: EngineFile, profile: FrameProfile, source: Path | None) -> None:
        """`source` names the clip or folder of the frames; they show a rendered street if it is None."""
        self._engine = engine
        first, *rest = read_frames(source, 2)
        second = rest[0] if rest else first
        dark = fit(first // np.uint8(_DARK), *profile.usual)
        self.frames = (dark, fit(second, *_largest_affordable(engine.metadata.macs_per_pixel, profile)))

    def compare(self, name: str, images: Sequence[Image]) -> parity.Report:
        """What a plan made of the frames, beside the engine.

        The bound is 45 dB, of an int8 engine 38 dB and 0.9: a plan gives rounded values, and its float32 products may
        be TF32.
        """
        precision = self._engine.metadata.precision
        got = tuple(
            parity.Translation(image.astype(np.float32) / np.float32(127.5) - 1, image) for image in images
        )
        return parity.compare(
            f"{name} on this GPU against the engine",
            self._wanted,
            _Recorded(self.frames, got),
            self.frames,
            parity.INT8 if precision == "int8" else parity.HALF_PRECISION,
        )

    @cached_property
    def obstacle(self) -> str:
        """Why the engine itself does not run here and nothing can be compared with it; empty if it does."""
        try:
            _ = self._wanted
        except ExportError as error:
            return str(error)
        return ""

    @cached_property
    def _wanted(self) -> _Recorded:
        translator = parity.OnnxTranslator(self._engine.to_proto())
        style = default_style(self._engine.metadata)
        return _Recorded(self.frames, tuple(translator.translate(frame, style) for frame in self.frames))


def _largest_affordable(macs_per_pixel: float, profile: FrameProfile) -> tuple[int, int]:
    for height, width in (profile.largest, profile.usual):
        if height * width * macs_per_pixel <= _REFERENCE_MACS:
            return height, width
    return profile.usual


def require_same(report: parity.Report) -> None:
    """Raises ExportError with the figures if a plan's images are past the bound."""
    if not report.passed:
        raise ExportError(
            f"its images differ too much on this GPU (PSNR {report.psnr_db:.1f} dB, worst SSIM {report.ssim:.3f}, "
            f"asked for {report.bound})"
        )


def latencies_ms(openers: Sequence[Callable[[], Engine]], frame: Image) -> list[float | None]:
    """Median milliseconds of one frame for each plan, copies included; None for one without memory beside the others.

    All are warmed up first and run in turn, so that none is timed while the GPU's clocks still rise.
    """
    engines: list[Engine | None] = []
    try:
        engines.extend(_opened(opener, frame) for opener in openers)
        present = [engine for engine in engines if engine is not None]
        end_s = time.perf_counter() + _WARM_UP_S
        while time.perf_counter() < end_s:
            for warming in present:
                warming.infer(frame)
        times = iter(
            times_in_turn(present, frame, rounds=_ROUNDS, fewest=_FEWEST, budget_s=_BUDGET_S)
            if present
            else []
        )
        return [None if engine is None else statistics.median(next(times)) for engine in engines]
    finally:
        for engine in engines:
            if engine is not None:
                engine.close()


def _opened(opener: Callable[[], Engine], frame: Image) -> Engine | None:
    """A plan that has translated the frame once; None if there is no memory for it beside those that are open."""
    engine = None
    try:
        engine = opener()
        engine.infer(frame)
    except I2IError:
        if engine is not None:
            engine.close()
        return None
    return engine
