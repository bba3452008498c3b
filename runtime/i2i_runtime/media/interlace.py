"""Interlaced video: two fields, taken at different moments, in the lines of one image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import av
import av.error
import av.filter

FieldOrder: TypeAlias = Literal["top", "bottom"]
"""Which field comes first."""

FILTER = "bwdif"
# AVFieldOrder: top coded first, bottom coded first, and those that are stored the other way round.
_ORDERS: dict[int, FieldOrder] = {2: "top", 3: "bottom", 4: "top", 5: "bottom"}


def field_order_of(stream: av.VideoStream, first: av.VideoFrame) -> FieldOrder | None:
    """The order of the fields of a video; None if it is progressive."""
    stated = _ORDERS.get(int(stream.codec_context.field_order))
    return stated or ("top" if first.interlaced_frame else None)


def deinterlaced(frames: Iterator[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """One progressive frame for each interlaced one, at its own time; progressive frames pass unchanged.

    Raises FFmpegError.
    """
    graph: av.filter.Graph | None = None
    shape: tuple[int, int, str] | None = None
    for frame in frames:
        if graph is None or shape != (frame.width, frame.height, frame.format.name):
            if graph is not None:
                yield from _pulled(graph, None, stream)
            graph, shape = _graph(stream, frame), (frame.width, frame.height, frame.format.name)
        yield from _pulled(graph, frame, stream)
    if graph is not None:
        yield from _pulled(graph, None, stream)


def _graph(stream: av.VideoStream, frame: av.VideoFrame) -> av.filter.Graph:
    graph = av.filter.Graph()
    begin = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
    )
    fields = graph.add(FILTER, "mode=send_frame:parity=auto:deint=interlaced")
    end = graph.add("buffersink")
    begin.link_to(fields)
    fields.link_to(end)
    graph.configure()
    return graph


def _pulled(
    graph: av.filter.Graph, frame: av.VideoFrame | None, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    graph.push(frame)
    while True:
        try:
            made = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(made, av.VideoFrame)
        if made.pts is not None and made.time_base and stream.time_base:
            # The filter counts twice as finely.
            made.pts = round(made.pts * made.time_base / stream.time_base)
            made.time_base = stream.time_base
        yield made
