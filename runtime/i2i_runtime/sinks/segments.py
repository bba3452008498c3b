"""Encodes frames into closed segments, one file after another."""

from __future__ import annotations

from typing import Any

import av

from i2i_runtime.sinks.encoder import Encoding, open_encoder
from i2i_runtime.sinks.journal import Journal, Segment


class SegmentWriter:
    """Writes the segments of one job into the folder of its journal.

    `container` is FFmpeg's name of their format. `time_base` is noted with each segment if there is no clip to read it
    from again, else it is empty. Methods raise OSError, FFmpegError, and SinkError for an option the encoder does not
    know.
    """

    def __init__(self, journal: Journal, encoding: Encoding, container: str, time_base: str) -> None:
        self._journal, self._encoding = journal, encoding
        self._format, self._time_base = container, time_base
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._file = ""
        self._pts: list[int] = []
        self.frames = 0
        """How many frames the open segment has taken."""

    def add(self, frame: av.VideoFrame) -> None:
        """Encodes a frame into the open segment; opens one if there is none."""
        if self._container is None or self._stream is None:
            self._file = self._journal.next_file(self._format)
            self._container = av.open(self._journal.folder / self._file, "w", format=self._format)
            self._stream = open_encoder(self._container, self._encoding)
        self._mux(self._container, self._stream.encode(frame))
        self.frames += 1

    def close(self) -> None:
        """Closes the open segment, if there is one, and records it in the journal."""
        segment = self.end()
        if segment is not None:
            self._journal.record(segment)

    def end(self) -> Segment | None:
        """Closes the open segment, if there is one, without recording it."""
        if self._container is None or self._stream is None:
            return None
        container, stream = self._container, self._stream
        self._container = self._stream = None
        try:
            self._mux(container, stream.encode(None))
        finally:
            container.close()
        segment = Segment(self._file, tuple(self._pts), self._time_base)
        self._pts, self.frames = [], 0
        return segment

    def _mux(self, container: av.container.OutputContainer, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            base = packet.time_base or self._encoding.time_base
            assert packet.pts is not None
            self._pts.append(round(packet.pts * base / self._encoding.time_base))
            container.mux(packet)
