"""Notices a call that does not return, such as a read from a device that hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

# Who looks several times a second and finds that more time has passed was stopped itself.
_LONGEST_TURN_S = 1.0


class AwakeClock:
    """Seconds during which this process was running.

    A pause (Ctrl-Z, a debugger, a machine that sleeps) counts as one turn at most, so that what waited through it is
    not taken for stalled. Call `now_s` several times a second.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, longest_turn_s: float = _LONGEST_TURN_S
    ) -> None:
        self._clock, self._longest_turn_s = clock, longest_turn_s
        self._lock = Lock()
        self._seen_s = clock()
        self._awake_s = 0.0

    def now_s(self) -> float:
        with self._lock:
            now_s = self._clock()
            self._awake_s += min(now_s - self._seen_s, self._longest_turn_s)
            self._seen_s = now_s
            return self._awake_s


class Watchdog:
    """Knows which calls are running, at most one per thread, and since when; `limit_s` is how long one may take.

    Call `stalled` several times a second.
    """

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit_s = limit_s
        self._awake = AwakeClock(clock, min(_LONGEST_TURN_S, limit_s / 2))
        self._running: dict[int, tuple[str, float, float]] = {}

    @contextmanager
    def watching(self, part: str, times: float = 1.0) -> Iterator[None]:
        """Around one call; `part` names what is called, for example "the engine".

        `times` is how many times the usual limit this call may take.
        """
        self._running[get_ident()] = (part, self._awake.now_s(), self.limit_s * times)
        try:
            yield
        finally:
            del self._running[get_ident()]

    def stalled(self) -> tuple[str, float] | None:
        """The part whose call has been running for longer than its limit, and that limit; None if there is none."""
        now_s = self._awake.now_s()
        running = list(self._running.values())
        return next(
            ((part, limit_s) for part, since_s, limit_s in running if now_s - since_s > limit_s), None
        )
