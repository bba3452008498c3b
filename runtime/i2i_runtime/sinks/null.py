"""An output that keeps nothing: for measuring, and for looking at the report alone."""

from __future__ import annotations

from i2i_runtime.frame import Frame


class NullSink:
    """Takes frames and forgets them."""

    name = "null:"

    def write(self, translated: Frame, source: Frame) -> None:
        return

    def finish(self) -> None:
        return

    def close(self) -> None:
        return
