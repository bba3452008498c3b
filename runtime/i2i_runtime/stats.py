"""Counters and latencies of a running job, in memory that does not grow however long it runs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from i2i_runtime.frame import Frame
from i2i_runtime.queues import Channel
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sources.base import Source

_GROWTH = 1.02
_SMALLEST_MS = 0.001


class Histogram:
    """Durations in milliseconds, kept to within one per cent."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self._lock = Lock()

    def add(self, duration_ms: float) -> None:
        bucket = math.floor(math.log(max(duration_ms, _SMALLEST_MS) / _SMALLEST_MS, _GROWTH))
        with self._lock:
            self._buckets[bucket] += 1

    @property
    def count(self) -> int:
        with self._lock:
            return sum(self._buckets.values())

    def percentile_ms(self, percent: float) -> float:
        """The duration that `percent` of all do not exceed; 0 if there are none."""
        with self._lock:
            ordered = sorted(self._buckets.items())
        total = sum(number for _, number in ordered)
        seen = 0
        for bucket, number in ordered:
            seen += number
            if seen * 100 >= percent * total:
                return float(_SMALLEST_MS * _GROWTH ** (bucket + 0.5))
        return 0.0

    def summary(self) -> dict[str, float]:
        """p50, p95 and p99 in milliseconds, and how many were counted."""
        percentiles = {f"p{p}_ms": round(self.percentile_ms(p), 3) for p in (50, 95, 99)}
        return {**percentiles, "count": self.count}


class Curve:
    """A value over time in at most `points` points: when full, it drops every second point and keeps half as many."""

    def __init__(self, points: int = 600) -> None:
        self._points = points
        self._every = 1
        self._seen = 0
        self._kept: list[tuple[float, float]] = []

    def add(self, time_s: float, value: float) -> None:
        if self._seen % self._every == 0:
            self._kept.append((round(time_s, 3), round(value, 3)))
            if len(self._kept) >= self._points:
                self._kept = self._kept[::2]
                self._every *= 2
        self._seen += 1

    @property
    def kept(self) -> list[tuple[float, float]]:
        return list(self._kept)


@dataclass(frozen=True)
class Progress:
    """Where a job stands; `total` is None if the source cannot know.

    `skipped` counts the frames that an earlier run has done, `written` what all outputs took, slates included.
    """

    frames_in: int
    frames_out: int
    dropped: int
    total: int | None
    elapsed_s: float
    age_ms: float
    skipped: int = 0
    written: int = 0


class JobStats:
    """Counters and latencies of one job, for progress, report and metrics.

    Any thread may read. Each field has one writer: the source's thread (`frames_skipped`, `frames_in`,
    `dropped_by_source`), the engine's threads in turn (`dropped_stale`, `refused`: images that the engine cannot
    take), the first sink's thread (`frames_out`, `overdue`, `age_ms`, `age_curve`). Every thread adds to the
    histogram of its own stage in `latencies`; these have locks. Slates are not counted.
    """

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        *,
        policy: str,
        inbox: Channel[Frame],
        queues: Sequence[Channel[Any]],
        max_staleness_s: float | None,
    ) -> None:
        self.source, self.sinks, self.policy = source, tuple(sinks), policy
        self._inbox, self._queues, self._max_staleness_s = inbox, tuple(queues), max_staleness_s
        self._began_s = self._first_out_s = self._last_out_s = time.monotonic()
        self._last_index: int | None = None
        self.frames_skipped = 0
        self.frames_in = 0
        self.dropped_by_source = 0
        self.dropped_stale = 0
        self.frames_out = 0
        self.overdue = 0
        self.refused: list[str] = []
        self.age_ms = 0.0
        self.age_curve = Curve()
        self.latencies = {
            name: Histogram() for name in ("read", "wait", "infer", "stages", "write", "added", "age")
        }

    def begin(self) -> None:
        """Starts the clock."""
        self._began_s = time.monotonic()

    def count_read(self, frame: Frame) -> None:
        """A frame came from the source; a gap in the numbers of a live source is frames that it dropped itself."""
        if self.source.live and self._last_index is not None:
            self.dropped_by_source += max(0, frame.index - self._last_index - 1)
        self._last_index = frame.index
        self.frames_in += not frame.is_slate

    def count_handed_over(self, translated: Frame, source: Frame) -> None:
        """A frame is about to be written to the first sink."""
        self.age_ms = (time.monotonic() - source.captured_s) * 1000
        self.latencies["age"].add(self.age_ms)
        self.latencies["added"].add(max(0.0, self.age_ms - (translated.engine_ms or 0.0)))
        self.age_curve.add(self.elapsed_s, self.age_ms)
        if self._max_staleness_s is not None and self.age_ms > self._max_staleness_s * 1000:
            self.overdue += 1

    def count_written(self) -> None:
        """The first sink took the frame."""
        self._last_out_s = time.monotonic()
        if self.frames_out == 0:
            self._first_out_s = self._last_out_s
        self.frames_out += 1

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the duration of one call to the histogram of `stage`."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.latencies[stage].add((time.monotonic() - began_s) * 1000)

    @property
    def dropped(self) -> int:
        """Frames that the source had and the first sink never got."""
        first = self._queues[0].dropped if self._queues else 0
        return self.dropped_by_source + self._inbox.dropped + self.dropped_stale + first

    @property
    def dropped_by_sink(self) -> tuple[int, ...]:
        """Frames that each sink missed because a newer one came, in the order of `sinks`."""
        return tuple(queue.dropped for queue in self._queues)

    @property
    def losses(self) -> Sequence[str]:
        """What of a damaged input could not be translated, one sentence each."""
        return [*self.source.losses, *self.refused]

    @property
    def fps(self) -> float:
        """New frames per second between the first and the last that reached the first sink."""
        span_s = self._last_out_s - self._first_out_s
        return (self.frames_out - 1) / span_s if self.frames_out > 1 and span_s > 0 else 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def progress(self, total: int | None) -> Progress:
        counts = (self.frames_in, self.frames_out, self.dropped, total, self.elapsed_s, self.age_ms)
        return Progress(*counts, self.frames_skipped, self.latencies["write"].count)
