"""Closed segments and all other streams of the source become one file."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from i2i_runtime.clip import Clip
from i2i_runtime.sinks.journal import Journal

_Timed: TypeAlias = "tuple[Fraction, int, av.Packet[Any]]"
"""When a packet is due to be decoded, in seconds; its stream; and the packet."""


def assemble(
    journal: Journal, clip: Clip | None, time_base: Fraction, target: Path, *, whole: bool = True
) -> list[str]:
    """Writes the journal's segments to `target`, with the audio, subtitles, chapters and tags of `clip`.

    `time_base` is the unit of the journal's pts in seconds; a segment's own container may count in another. Nothing
    is encoded again. `whole=False` cuts the other streams where the pictures end. Returns one sentence for each
    stream that the container cannot hold. Raises OSError and FFmpegError.
    """
    pts = [value for segment in journal.segments for value in segment.pts]
    first = journal.folder / journal.segments[0].file
    notes: list[str] = []
    with av.open(target, "w") as output, av.open(first) as template:
        pictures = template.streams.video[0]
        stream = output.add_stream_from_template(pictures)
        stream.time_base = time_base
        if clip is not None and clip.rotation:
            stream.set_display_rotation(clip.rotation)
        packets = _picture_packets(journal, stream, pts, time_base)
        if clip is None:
            for _, _, packet in packets:
                output.mux_one(packet)
            return notes
        with av.open(clip.path) as source:
            carried = _carry(source, output, clip, notes)
            end = None if whole else max(pts) * time_base
            for _, _, packet in heapq.merge(
                packets, _other_packets(source, carried, end), key=lambda e: e[:2]
            ):
                output.mux_one(packet)
    return notes


def _picture_packets(
    journal: Journal, stream: av.VideoStream, pts: list[int], time_base: Fraction
) -> Iterator[_Timed]:
    """All packets of all segments with decode times that never go back, however irregular the pts are."""
    due = sorted(pts)
    rank = {value: place for place, value in enumerate(due)}
    # How many packets a frame may be decoded before it is shown (ISO/IEC 14496-10: the reorder depth).
    depth = max(place - rank[value] for place, value in enumerate(pts))
    step = due[1] - due[0] if len(due) > 1 else 1
    place = 0
    for segment in journal.segments:
        with av.open(journal.folder / segment.file) as container:
            for packet in container.demux(container.streams.video[0]):
                if packet.size == 0:
                    continue
                value = pts[place]
                packet.stream = stream
                packet.time_base = time_base
                packet.pts = value
                packet.dts = due[place - depth] if place >= depth else due[0] - (depth - place) * step
                after = rank[value] + 1
                packet.duration = due[after] - value if after < len(due) else step
                place += 1
                yield packet.dts * time_base, stream.index, packet


def _carry(
    source: av.container.InputContainer,
    output: av.container.OutputContainer,
    clip: Clip,
    notes: list[str],
) -> dict[int, av.stream.Stream]:
    """Opens in `output` a stream for each of `source` beside the pictures; source index -> new stream."""
    carried: dict[int, av.stream.Stream] = {}
    output.metadata.update(source.metadata)
    output.set_chapters(source.chapters())
    for stream in source.streams:
        if stream.index == clip.stream_index:
            continue
        codec = stream.codec_context.codec if stream.codec_context is not None else None
        name = codec.canonical_name if codec is not None else stream.type
        if isinstance(stream, av.stream.AttachmentStream):
            if output.format.name == "matroska":
                output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            else:
                notes.append(f"an attachment was left out, as {output.format.name} holds none")
        elif codec is None or name not in output.supported_codecs:
            notes.append(
                f"the {stream.type} stream {stream.index} ({name}) was left out, as {output.format.name} cannot hold it"
            )
        else:
            carried[stream.index] = output.add_stream_from_template(stream)
            carried[stream.index].metadata.update(stream.metadata)
            carried[stream.index].disposition = stream.disposition
    return carried


def _other_packets(
    source: av.container.InputContainer, carried: dict[int, av.stream.Stream], end: Fraction | None
) -> Iterator[_Timed]:
    if not carried:
        return
    wanted: Iterable[av.stream.Stream] = [source.streams[index] for index in carried]
    for packet in source.demux(*wanted):
        due = packet.dts if packet.dts is not None else packet.pts
        if due is None or packet.size == 0:
            continue
        when = due * packet.time_base
        if end is not None and when > end:
            continue
        stream = carried[packet.stream_index]
        packet.stream = stream
        yield when, stream.index, packet
