"""An output that keeps nothing: for measuring, and for looking at the report alone."""

from __future__ import annotations

from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink


class NullSink(Sink):
    """Takes frames and forgets them."""

    name = "null:"

    def write(self, translated: Frame, source: Frame) -> None:
        return
