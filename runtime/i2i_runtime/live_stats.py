"""What a viewer sees of a live job: age of the image, new frames per second, drops, engine time."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from i2i_runtime.frame import Frame

_WINDOW_S = 2.0


@dataclass(frozen=True)
class LiveStats:
    """One reading. `fps` counts new images alone, neither slates nor repeats; `dropped` those that a newer one
    replaced.
    """

    age_ms: float = 0.0
    fps: float = 0.0
    frames: int = 0
    dropped: int = 0
    engine_ms: float = 0.0
    no_signal: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class LiveMeter:
    """Follows the frames that pass one place; cheap enough for every frame."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        self._last_index: int | None = None
        self.latest = LiveStats()

    def observe(self, translated: Frame, source: Frame) -> LiveStats:
        """Counts a frame; its age is the time from capture until now."""
        now_s = time.monotonic()
        before = self.latest
        skipped = 0 if self._last_index is None else max(0, source.index - self._last_index - 1)
        fresh = self._last_index is None or source.index > self._last_index
        self._last_index = source.index
        no_signal = source.no_signal
        if fresh and no_signal is None:
            self._times.append(now_s)
        while self._times and self._times[0] < now_s - _WINDOW_S:
            self._times.popleft()
        span_s = now_s - self._times[0] if self._times else 0.0
        self.latest = LiveStats(
            age_ms=(now_s - source.captured_s) * 1000,
            fps=(len(self._times) - 1) / span_s if span_s > 0 and len(self._times) > 1 else 0.0,
            frames=before.frames + (no_signal is None),
            dropped=before.dropped + skipped,
            engine_ms=before.engine_ms if translated.engine_ms is None else translated.engine_ms,
            no_signal=no_signal,
        )
        return self.latest
