"""Joins closed segments and copies all other streams of the source, while later segments are still encoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from i2i_runtime.errors import SinkError
from i2i_runtime.media.timecode import fits_timecode_track, timecode_of
from i2i_runtime.sinks.copies import WITH_EDIT_LISTS, Copied, Copies, add_copy, played_packets
from i2i_runtime.sinks.journal import Journal, Segment

_Timed: TypeAlias = "tuple[Fraction, int, av.Packet[Any]]"
"""When a packet is due to be decoded, in seconds; its stream; and the packet."""


class Assembly:
    """The file that a journal's segments become, with `copies` of the other streams, the chapters and tags of a clip.

    Nothing is encoded again, and the bytes depend on the segments alone, not on when they were joined. The newest
    segment waits: how long its last image lasts is known only from the next. `time_base` is the unit of the
    journal's pts in seconds; a segment's own container may count in another. `container` is FFmpeg's name.
    Methods raise OSError, FFmpegError,
    and SinkError for a damaged segment.
    """

    def __init__(
        self, journal: Journal, container: str, copies: Copies | None, time_base: Fraction, target: Path
    ) -> None:
        self.target = target
        self._journal, self._container, self._copies, self._time_base = journal, container, copies, time_base
        self._file: JoinedFile | None = None
        self._joined = 0
        self._depth = 0
        self._step = 1
        self._ahead: list[int] = []
        """The decode times, as many as images are decoded ahead, that the next segment's first packets take."""

    def join_next(self) -> None:
        """Joins one segment if one waits: little enough work to be done beside any frame."""
        if self._joined + 1 < len(self._journal.segments):
            self._join()

    def finish(self, *, whole: bool = True) -> list[str]:
        """Joins what is left and completes the file; `whole=False` cuts the other streams where the images end.

        Returns one sentence for each stream that the container cannot hold.
        """
        segments = self._journal.segments
        while self._joined < len(segments):
            self._join()
        assert self._file is not None
        try:
            self._file.finish(None if whole else max(segments[-1].pts) * self._time_base)
        except BaseException:
            self.close()
            raise
        notes, self._file = self._file.notes, None
        return notes

    def close(self) -> None:
        """Deletes what is joined and not finished; joining then starts over. Safe to call twice."""
        self._joined = 0
        if self._file is not None:
            film, self._file = self._file, None
            with suppress(av.error.FFmpegError, OSError):
                film.close()
            self.target.unlink(missing_ok=True)

    def _join(self) -> None:
        """Joins one more segment, or starts over if it reorders its images more than those before."""
        segments = self._journal.segments
        segment = segments[self._joined]
        following = segments[self._joined + 1].pts if self._joined + 1 < len(segments) else ()
        depth = _reorder_depth(segment)
        if depth > self._depth:
            self.close()
            self._depth = depth
            return
        try:
            self._add(segment, following)
        except BaseException:
            self.close()
            raise
        self._joined += 1

    def _add(self, segment: Segment, following: tuple[int, ...]) -> None:
        file = self._journal.folder / segment.file
        due = sorted(segment.pts)
        if self._file is None:
            self._file = JoinedFile(self.target, self._container, file, self._copies, self._time_base)
            second = [*due, *sorted(following)][1:2]
            self._step = second[0] - due[0] if second else 1
            self._ahead = [due[0] - back * self._step for back in range(self._depth, 0, -1)]
        decoded = [*self._ahead, *due]
        ends = [*due[1:], min(following, default=due[-1] + self._step)]
        lasts = {pts: end - pts for pts, end in zip(due, ends, strict=True)}
        with av.open(file) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            if len(packets) != len(due):
                raise SinkError(
                    f"{file} is damaged (it holds {len(packets)} of {len(due)} images): use --restart to start over."
                )
            for packet, pts, dts in zip(packets, segment.pts, decoded, strict=False):
                packet.time_base = self._time_base
                packet.pts, packet.dts, packet.duration = pts, dts, lasts[pts]
                self._file.add(packet)
        self._ahead = decoded[len(due) :]


def _reorder_depth(segment: Segment) -> int:
    """How many packets an image may be decoded before it is shown (the reorder depth of ISO/IEC 14496-10)."""
    rank = {value: place for place, value in enumerate(sorted(segment.pts))}
    return max(place - rank[value] for place, value in enumerate(segment.pts))


class JoinedFile:
    """An open file that takes images in decoding order and interleaves the other streams.

    `target` and `segment`, of which the first image tells how all are encoded, are paths or files in memory.
    """

    def __init__(
        self,
        target: Path | BytesIO,
        container: str,
        segment: Path | BytesIO,
        copies: Copies | None,
        time_base: Fraction,
    ) -> None:
        self.notes: list[str] = []
        # Edit lists count in the movie's own unit, which is a millisecond unless it is told otherwise.
        exact = {"movie_timescale": str(time_base.denominator)} if container in WITH_EDIT_LISTS else {}
        self._output = av.open(target, "w", format=container, container_options=exact)
        with av.open(segment) as template:
            made = template.streams.video[0]
            self._images = _stream_from_segment(self._output, made)
            if container in WITH_EDIT_LISTS:
                # A new stream forgets the label: ProRes 4444 would be taken for 4:2:2, and Apple's players need hvc1.
                label = {"prores": made.codec_context.codec_tag, "hevc": "hvc1"}.get(made.codec_context.name)
                self._images.codec_context.codec_tag = label or self._images.codec_context.codec_tag
            if made.metadata.get("alpha_mode") == "1":
                # WebM's flag (AlphaMode) is set by the pixel format, which the template does not know.
                self._images.codec_context.pix_fmt = "yuva420p"
                if container not in ("matroska", "webm"):
                    self.notes.append(
                        f"the alpha channel was dropped, because {container} cannot hold that of VP9: "
                        "a .webm or .mkv keeps it"
                    )
        self._images.time_base = time_base
        self._source = None
        self._others: Iterator[_Timed] = iter(())
        if copies is not None:
            if copies.clip.rotation:
                self._images.set_display_rotation(copies.clip.rotation)
            self._source = av.open(copies.clip.path)
            if (timecode := timecode_of(self._source, copies.clip.stream_index)) is not None:
                self._begin_at(timecode, copies.clip.rate)
            self.notes += copies.notes
            self._others = _other_packets(self._source, self._output, copies)
        self._waiting = next(self._others, None)

    def _begin_at(self, timecode: str, rate: Fraction) -> None:
        """Tags the images with the timecode of the first, of which QuickTime and MP4 make a track."""
        if (container := self._output.format.name) in WITH_EDIT_LISTS:
            # FFmpeg would fail at the end of the job.
            if not fits_timecode_track(timecode, round(rate)):
                self.notes.append(
                    f"the timecode {timecode} was dropped, because {container} cannot hold one of this kind for "
                    f"{float(rate):.2f} frames per second"
                )
                return
            self._images.codec_context.framerate = rate.limit_denominator(65535)
        self._images.metadata["timecode"] = timecode

    def add(self, image: av.Packet[Any]) -> None:
        """A packet of the images, its times in the file's time base, its dts later than those before."""
        assert image.dts is not None
        image.stream = self._images
        due = (image.dts * image.time_base, self._images.index)
        while self._waiting is not None and self._waiting[:2] < due:
            self._output.mux_one(self._waiting[2])
            self._waiting = next(self._others, None)
        self._output.mux_one(image)

    def finish(self, end: Fraction | None) -> None:
        """Adds what the other streams still hold, up to `end` in seconds, and closes the file."""
        over: set[int] = set()
        while self._waiting is not None:
            due, stream, packet = self._waiting
            if end is None or due <= end:
                self._output.mux_one(packet)
            else:
                over.add(stream)
                if len(over) == len(self._output.streams) - 1:
                    break
            self._waiting = next(self._others, None)
        self.close()

    def close(self) -> None:
        self._others = iter(())
        if self._source is not None:
            self._source.close()
        self._output.close()


def _stream_from_segment(output: av.container.OutputContainer, made: av.VideoStream) -> av.VideoStream:
    """A stream for images that are encoded as those of a segment."""
    try:
        return output.add_stream_from_template(made)
    except ValueError:
        # The decoder of some codecs has a name of its own, by which no encoder is found: AV1's is libdav1d.
        return output.add_stream_from_template(made, opaque=True)


def _other_packets(
    source: av.container.InputContainer, output: av.container.OutputContainer, copies: Copies
) -> Iterator[_Timed]:
    """Opens in `output` what is copied, and gives the packets."""
    output.metadata.update({key: text for key, text in source.metadata.items() if key.lower() != "timecode"})
    output.set_chapters(source.chapters())
    streams = {}
    for plan in copies.streams:
        first = None
        if plan.padding_s:
            with av.open(copies.clip.path) as again:
                packets = again.demux(again.streams[plan.index])
                first = next((packet for packet in packets if packet.size), None)
        streams[plan] = add_copy(output, source.streams[plan.index], plan, first)
    for stream in source.streams:
        if isinstance(stream, av.stream.AttachmentStream) and output.format.name == "matroska":
            output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
    return _timed_packets(source, copies, streams)


def _timed_packets(
    source: av.container.InputContainer, copies: Copies, streams: dict[Copied, av.stream.Stream]
) -> Iterator[_Timed]:
    for when, plan, packet in played_packets(source, copies):
        packet.stream = streams[plan]
        yield when, packet.stream.index, packet
