"""A clip at its own pace, as a camera would deliver it: the stand-in wherever there is no camera."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from threading import Event

from i2i_runtime.frame import Frame
from i2i_runtime.sources import Skipping, Source


class ReplaySource:
    """Holds back each frame of another source until its time has come; `captured_s` is that moment."""

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = f"replay:{source.name}"
        self.frame_count = source.frame_count
        self._start: tuple[float, Fraction] | None = None
        self._closing = Event()

    @property
    def losses(self) -> Sequence[str]:
        losses: Sequence[str] = getattr(self._source, "losses", ())
        return losses

    def skip_one(self) -> bool:
        return isinstance(self._source, Skipping) and self._source.skip_one()

    def read(self) -> Frame | None:
        frame = self._source.read()
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
        self._source.close()
