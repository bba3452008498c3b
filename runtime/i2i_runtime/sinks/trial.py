"""Tries in memory what a job is about to write, so that nothing fails after hours of it."""

from __future__ import annotations

from fractions import Fraction
from io import BytesIO

import av
import av.error

from i2i_runtime.files import reason_of
from i2i_runtime.sinks.copies import Copies
from i2i_runtime.sinks.encoder import Encoding, open_encoder
from i2i_runtime.sinks.remux import JoinedFile

_FRAMES = 2
_SPACING_S = Fraction(1, 25)


def refusal_of_file(encoding: Encoding, segments: str, container: str, copies: Copies | None) -> str | None:
    """Why a file of two blank frames and the beginning of the other streams cannot be written; None if it can.

    `segments` and `container` are FFmpeg's names. Raises SinkError for an option that the encoder does not know.
    """
    segment = BytesIO()
    # The rate of a file may be nonsense, so frames come as usual.
    step = max(1, round(_SPACING_S / encoding.time_base))
    try:
        with av.open(segment, "w", format=segments) as output:
            stream = open_encoder(output, encoding)
            for index in range(_FRAMES):
                frame = av.VideoFrame(encoding.width, encoding.height, encoding.pixel_format)
                frame.pts, frame.time_base = index * step, encoding.time_base
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        segment.seek(0)
        joined = JoinedFile(BytesIO(), container, segment, copies, encoding.time_base)
        try:
            segment.seek(0)
            with av.open(segment, "r") as made:
                packets = [packet for packet in made.demux(video=0) if packet.size]
            for index, packet in enumerate(packets):
                packet.time_base = encoding.time_base
                packet.pts = packet.dts = index * step
                packet.duration = step
                joined.add(packet)
        finally:
            joined.close()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return _reason(error)
    return None if packets else "the encoder returned no image"


def _reason(error: Exception) -> str:
    """FFmpeg's own message, which says more than the number of the error, if it was kept."""
    log = getattr(error, "log", None)
    return log[2].strip().rstrip(".") if log else reason_of(error)
