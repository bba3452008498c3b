"""Notices a call that does not return, such as a read from a device that hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


class Watchdog:
    """Knows which calls are running, at most one per thread, and since when; `limit_s` is how long one may take."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._running: dict[int, tuple[str, float]] = {}

    @contextmanager
    def watching(self, part: str) -> Iterator[None]:
        """Around one call; `part` names what is called, for example "the engine"."""
        self._running[get_ident()] = (part, time.monotonic())
        try:
            yield
        finally:
            del self._running[get_ident()]

    def stalled(self) -> str | None:
        """The part whose call has been running for longer than the limit; None if there is none."""
        now_s = time.monotonic()
        running = list(self._running.values())
        return next((part for part, since_s in running if now_s - since_s > self.limit_s), None)
