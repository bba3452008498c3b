"""Stopping a training by Ctrl-C or SIGTERM without losing what it learned since its last checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether a signal asked the training to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Turns the first SIGINT or SIGTERM into a stop request; ignored signals stay ignored."""
        self._before = {
            number: handler
            for number in SIGNALS
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        }
        for number in self._before:
            signal.signal(number, self._ask)

    def restore(self) -> None:
        """Puts back the handlers of before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self.restore()  # a second signal ends the program at once


@contextmanager
def stopping(alone: bool) -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM sets `asked`, and a second one does what it always did.

    Only if the process trains `alone`: of several, one that stops would leave the others waiting. Python delivers
    signals to the main thread alone.
    """
    stop = Stop()
    if alone and threading.current_thread() is threading.main_thread():
        stop.install()
    try:
        yield stop
    finally:
        stop.restore()
