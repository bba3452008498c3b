"""Holds a recorded source to its own pace for an output that is watched in real time."""

from __future__ import annotations

import time

from i2i_runtime.frame import Frame


class Pacer:
    """Waits until a frame is due, counted from the first one's capture.

    A live frame is captured when it is due and never waits; a file is decoded ahead of its time and does.
    """

    def __init__(self) -> None:
        self._first: Frame | None = None

    def wait(self, source: Frame) -> None:
        if self._first is None:
            self._first = source
        due_s = self._first.captured_s + float(source.time_s - self._first.time_s)
        ahead_s = due_s - time.monotonic()
        if ahead_s > 0 and source.captured_s < due_s - 0.002:
            time.sleep(ahead_s)
