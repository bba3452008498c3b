"""Sinks: files, windows, pages and network peers behind one verb."""

from __future__ import annotations

from typing import Protocol

from i2i_runtime.frame import Frame


class Sink(Protocol):
    """Takes translated frames in order.

    `finish` makes the output whole (flushes the encoder, renames the partial file); without it `close` leaves
    nothing under the final name that could be taken for a finished file.
    """

    name: str

    def write(self, translated: Frame, source: Frame) -> None:
        """Takes one translated frame and the source frame it came from. Raises SinkError."""

    def finish(self) -> None:
        """Completes the output. Raises SinkError."""

    def close(self) -> None:
        """Releases everything; safe to call twice, and after a failure."""
