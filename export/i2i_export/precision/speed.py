"""Whether a leaner engine is also a faster one: both timed in turn on this machine, by the runtime's own back end."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from i2i_export.enginefile import EngineFile, write_engine
from i2i_export.errors import ExportError
from i2i_runtime.engines import Backend, Engine, open_engine
from i2i_runtime.frame import Image

LEAST_GAIN = 1.05
"""Below this ratio of times the lean engine is not called faster: timers and caches move that much."""

_ROUNDS, _FEWEST = 101, 5
_BUDGET_S = 10.0
_PERCENTILE = 25
"""Of the times: what a frame takes while little else runs. A median jumps as soon as another program is busy."""


class NotFasterError(ExportError):
    """A leaner engine that this machine does not run faster than the one it was made from."""


@dataclass(frozen=True)
class Speed:
    """One frame's time with the original and the lean engine, measured in turn."""

    backends: tuple[str, str]
    height: int
    width: int
    original_ms: float
    lean_ms: float
    rounds: int

    @property
    def gain(self) -> float:
        """How many times faster the lean engine is."""
        return self.original_ms / self.lean_ms

    def __str__(self) -> str:
        before, after = self.backends
        return (
            f"{self.gain:.2f} times as fast at {self.width}x{self.height}: {self.lean_ms:.1f} ms a frame on {after} "
            f"against {self.original_ms:.1f} ms on {before} (best quarters of {self.rounds}, measured in turn)"
        )


def compare_speed(
    original: EngineFile, lean: EngineFile, frame: Image, backend: Backend | None = None
) -> Speed:
    """Times both on `frame` `[H, W, 3] uint8`, each in the back end and precision that the runtime picks for it.

    Stops after ten seconds, but not before five frames of each. Raises EngineError if a back end refuses one.
    """
    with tempfile.TemporaryDirectory(prefix="i2i-export-") as folder:
        engines: list[Engine] = []
        for name, engine in (("original.onnx", original), ("lean.onnx", lean)):
            write_engine(engine, Path(folder) / name)
            engines.append(open_engine(Path(folder) / name, backend))
        try:
            return _speed(engines, frame)
        finally:
            for opened in engines:
                opened.close()


def require_faster(speed: Speed, remedy: str) -> None:
    """Raises NotFasterError with the figures if the lean engine gains less than `LEAST_GAIN`."""
    if speed.gain < LEAST_GAIN:
        raise NotFasterError(
            f"the leaner engine is {speed}: {remedy}, or write it for another machine with --insist; "
            "no file was written."
        )


def times_in_turn(
    engines: Sequence[Engine], frame: Image, *, rounds: int, fewest: int, budget_s: float
) -> list[list[float]]:
    """Milliseconds of each engine's frames, all in turn so that they meet the same noise.

    Stops after `budget_s` seconds, but not before `fewest` rounds.
    """
    times_ms: list[list[float]] = [[] for _ in engines]
    end_s = time.perf_counter() + budget_s
    while len(times_ms[0]) < rounds and (time.perf_counter() < end_s or len(times_ms[0]) < fewest):
        for engine, times in zip(engines, times_ms, strict=True):
            # The first call after the other engine's finds cold caches; a stream never does.
            engine.infer(frame)
            began_s = time.perf_counter()
            engine.infer(frame)
            times.append((time.perf_counter() - began_s) * 1e3)
    return times_ms


def _speed(engines: list[Engine], frame: Image) -> Speed:
    for engine in engines:
        engine.infer(frame)
    times_ms = times_in_turn(engines, frame, rounds=_ROUNDS, fewest=_FEWEST, budget_s=_BUDGET_S)
    height, width = frame.shape[:2]
    original_ms, lean_ms = (float(np.percentile(times, _PERCENTILE)) for times in times_ms)
    backends = (engines[0].backend, engines[1].backend)
    return Speed(backends, height, width, original_ms, lean_ms, rounds=len(times_ms[0]))
