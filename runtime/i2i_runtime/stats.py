"""Latencies and counts of a running pipeline, in memory that does not grow however long it runs."""

from __future__ import annotations

import math
from collections import Counter
from threading import Lock

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
        """The duration that `percent` of all stay at or under; 0 where there is none."""
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
    """A value over time in at most `points` points: when it is full, every second point goes and half as many come."""

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
