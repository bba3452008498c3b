"""Joins closed segments and copies all other streams of the source, while later segments are still encoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import av
import av.error

from i2i_runtime.errors import SinkError
from i2i_runtime.media.origin import Clip
from i2i_runtime.media.timecode import fits_timecode_track, is_timecode, timecode_of
from i2i_runtime.sinks.journal import Journal, Segment

_Timed: TypeAlias = "tuple[Fraction, int, av.Packet[Any]]"
"""When a packet is due to be decoded, in seconds; its stream; and the packet."""


class Assembly:
    """The file that a journal's segments become, with the audio, subtitles, chapters and tags of `clip`.

    Nothing is encoded again, and the bytes depend on the segments alone, not on when they were joined. The newest
    segment waits: how long its last image lasts is known only from the next. `time_base` is the unit of the
    journal's pts in seconds; a segment's own container may count in another. Methods raise OSError, FFmpegError,
    and SinkError for a damaged segment.
    """

    def __init__(self, journal: Journal, clip: Clip | None, time_base: Fraction, target: Path) -> None:
        self.target = target
        self._journal, self._clip, self._time_base = journal, clip, time_base
        self._file: _JoinedFile | None = None
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
            self._file = _JoinedFile(self.target, file, self._clip, self._time_base)
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


class _JoinedFile:
    """An open file that takes images in decoding order and interleaves the other streams."""

    def __init__(self, target: Path, segment: Path, clip: Clip | None, time_base: Fraction) -> None:
        self.notes: list[str] = []
        self._output = av.open(target, "w")
        with av.open(segment) as template:
            made = template.streams.video[0]
            self._images = self._output.add_stream_from_template(made)
            if self._output.format.name in ("mov", "mp4"):
                # A new stream forgets the label: ProRes 4444 would be taken for 4:2:2, and Apple's players need hvc1.
                label = {"prores": made.codec_context.codec_tag, "hevc": "hvc1"}.get(made.codec_context.name)
                self._images.codec_context.codec_tag = label or self._images.codec_context.codec_tag
            if made.metadata.get("alpha_mode") == "1":
                # WebM's flag (AlphaMode) is set by the pixel format, which the template does not know.
                self._images.codec_context.pix_fmt = "yuva420p"
                if self._output.format.name not in ("matroska", "webm"):
                    self.notes.append(
                        f"the alpha channel was dropped, because {self._output.format.name} cannot hold that of VP9: "
                        "a .webm or .mkv keeps it"
                    )
        self._images.time_base = time_base
        self._source = None
        self._others: Iterator[_Timed] = iter(())
        if clip is not None:
            if clip.rotation:
                self._images.set_display_rotation(clip.rotation)
            self._source = av.open(clip.path)
            if (timecode := timecode_of(self._source, clip.stream_index)) is not None:
                self._begin_at(timecode, clip.rate)
            carried = _carry(self._source, self._output, clip, self.notes)
            self._others = _other_packets(self._source, carried)
        self._waiting = next(self._others, None)

    def _begin_at(self, timecode: str, rate: Fraction) -> None:
        """Tags the images with the timecode of the first, of which QuickTime and MP4 make a track."""
        if (container := self._output.format.name) in ("mov", "mp4"):
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


def _carry(
    source: av.container.InputContainer,
    output: av.container.OutputContainer,
    clip: Clip,
    notes: list[str],
) -> dict[int, av.stream.Stream]:
    """Opens in `output` a stream for each of `source` beside the images; source index -> new stream."""
    carried: dict[int, av.stream.Stream] = {}
    output.metadata.update({key: text for key, text in source.metadata.items() if key.lower() != "timecode"})
    output.set_chapters(source.chapters())
    for stream in source.streams:
        if stream.index == clip.stream_index:
            continue
        codec: Any = getattr(stream.codec_context, "codec", None)
        if isinstance(stream, av.stream.AttachmentStream):
            if output.format.name == "matroska":
                output.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
            else:
                notes.append(f"an attachment was dropped, because {output.format.name} cannot hold one")
        elif codec is None:
            kind = getattr(stream, "name", None) or "unknown kind"
            # QuickTime keeps chapters in a track, too.
            if is_timecode(stream) or (kind == "bin_data" and source.chapters()):
                continue
            notes.append(
                f"the {stream.type} stream {stream.index} ({kind}) was dropped: only audio, subtitle, timecode and "
                "attachment streams are copied"
            )
        elif codec.canonical_name not in output.supported_codecs:
            notes.append(
                f"the {stream.type} stream {stream.index} ({codec.canonical_name}) was dropped, because "
                f"{output.format.name} cannot hold it"
            )
        else:
            carried[stream.index] = output.add_stream_from_template(stream)
            carried[stream.index].metadata.update(stream.metadata)
            carried[stream.index].disposition = stream.disposition
    return carried


def _other_packets(
    source: av.container.InputContainer, carried: dict[int, av.stream.Stream]
) -> Iterator[_Timed]:
    if not carried:
        return
    wanted: Iterable[av.stream.Stream] = [source.streams[index] for index in carried]
    for packet in source.demux(*wanted):
        due = packet.dts if packet.dts is not None else packet.pts
        if due is None or packet.size == 0:
            continue
        stream = carried[packet.stream_index]
        when = due * packet.time_base
        packet.stream = stream
        yield when, stream.index, packet
