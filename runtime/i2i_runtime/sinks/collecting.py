"""An output that keeps every frame in memory, for tests and for short clips."""

from __future__ import annotations

from collections.abc import Callable

from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink


class CollectingSink(Sink):
    """`frames` holds the translated frames in order, `finished` and `closed` how the job ended.

    `before` is called with each frame; it may wait or raise, to test what a program does then.
    """

    def __init__(self, name: str = "collecting", before: Callable[[Frame], None] | None = None) -> None:
        self.name = name
        self.frames: list[Frame] = []
        self.finished = self.closed = False
        self._before = before

    def write(self, translated: Frame, source: Frame) -> None:
        if self._before is not None:
            self._before(translated)
        self.frames.append(translated)

    def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        self.closed = True
