"""A clip at its own pace, as a camera would deliver it: the stand-in if there is no camera."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction
from threading import Event

from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, SourceWrapper


class ReplaySource(SourceWrapper):
    """Holds back each frame of another source until it is due; `captured_s` is that moment."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.name = f"replay:{source.name}"
        self.live = self.replayable = True
        self._start: tuple[float, Fraction] | None = None
        self._closing = Event()

    def read(self) -> Frame | None:
        frame = super().read()
        if frame is None:
            return None
        if self._start is None:
            self._start = (time.monotonic(), frame.time_s)
        began_s, first_time_s = self._start
        due_s = began_s + float(frame.time_s - first_time_s)
        if self._closing.wait(max(0.0, due_s - time.monotonic())):
            return None
        return replace(frame, captured_s=time.monotonic())

    def close(self) -> None:
        self._closing.set()
        super().close()
