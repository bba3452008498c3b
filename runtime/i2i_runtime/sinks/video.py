"""A video file, written in closed segments that are joined as they come, so that nothing done is ever lost."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any

import av
import av.error

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import fitting_alpha, is_opaque, put_alpha
from i2i_runtime.media.colour import ColourConverter
from i2i_runtime.media.decode import stored_from_upright
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sinks.encoder import (
    CONTAINERS,
    Encoding,
    choose_codec,
    choose_encoding,
    choose_segments,
    open_encoder,
)
from i2i_runtime.sinks.journal import Journal, Segment
from i2i_runtime.sinks.remux import Assembly

SEGMENT_FRAMES = 240
_PATIENCE_S = 1.0


class VideoSink:
    """Encodes frames with the times, colour, rotation and pixel shape of the clip they come from.

    Segments always end after the same number of frames, whether or not a job was interrupted: a resumed job gives
    the same images as one that was not. The file appears under its name only when it is whole; an unfinished job
    leaves `NAME.partial.EXT`, which plays, and its segments, with which `resume` goes on.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.name = str(path)
        self._path = path
        self._options = options
        if path.suffix.lower() not in CONTAINERS:
            raise UsageError(
                f"{path} has an ending that no video is written to: use one of {', '.join(CONTAINERS)}, "
                "or a folder for images."
            )
        self._codec, self.notes = choose_codec(path, options)
        """The notes say what was not done as asked, one sentence each; complete after `finish`."""
        self._segment_format = choose_segments(self._codec)
        self._journal = Journal(path, options.job)
        try:
            if options.resume:
                self._journal.resume()
            elif self._journal.holds_frames() and not options.restart:
                raise UsageError(
                    f"{path} was begun before and not finished: add --resume to go on with it, "
                    "or --restart to begin anew."
                )
            else:
                self._journal.begin()
        except OSError as error:
            raise self._failure(error) from error
        self.done = self._journal.frames
        """How many frames an earlier run of the same job has already made."""
        self._live = False
        self._recorded_to = self._journal.last_pts
        self._moved: int | None = None
        self._encoding: Encoding | None = None
        self._converter: ColourConverter | None = None
        self._assembly: Assembly | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: av.VideoStream | None = None
        self._file = self._time_base = ""
        self._pts: list[int] = []
        self._segment_frames = 0
        self._alpha_dropped = False
        self._finished = False
        self._working = Lock()

    def keep_all(self) -> None:
        self._journal.keep_all()
        self.done = self._journal.frames
        self._live, self._recorded_to = True, self._journal.last_pts

    def write(self, translated: Frame, source: Frame) -> None:
        with self._working:
            self._write(translated, source)

    def _write(self, translated: Frame, source: Frame) -> None:
        if not self._live and self._recorded_to is not None and translated.pts <= self._recorded_to:
            return  # a replay that had dropped frames gives again what is recorded
        clip = source.clip
        rotation = 0 if clip is None else clip.rotation
        image = stored_from_upright(translated.pixels, rotation)
        alpha = fitting_alpha(source.alpha, source.pixels, translated.pixels)
        height, width = image.shape[:2]
        if self._encoding is None:
            if clip is not None and self._path.exists() and self._path.samefile(clip.path):
                raise SinkError(f"{self._path} would overwrite its own source: choose another --output.")
            given = stored_from_upright(source.pixels, rotation).shape
            self._encoding = choose_encoding(
                self._codec, self._options, clip, (given[1], given[0]), translated.with_pixels(image), alpha
            )
            self._converter = ColourConverter(self._encoding.colour, self._encoding.pixel_format, height)
            self._time_base = str(translated.time_base) if clip is None else ""
            self._assembly = Assembly(self._journal, clip, self._encoding.time_base, self._film)
        encoding = self._encoding
        if (width, height) != (encoding.width, encoding.height):
            raise SinkError(
                f"{self._path} was begun with images of {encoding.width}x{encoding.height} and frame "
                f"{source.index} is {width}x{height}: add --size, or write to a folder of images."
            )
        assert self._converter is not None
        assert self._assembly is not None
        frame = self._converter.frame_from_rgb(image, encoding.pixel_format)
        if encoding.has_alpha:
            put_alpha(frame, None if alpha is None else stored_from_upright(alpha, rotation))
        elif not self._alpha_dropped and source.alpha is not None:
            self._alpha_dropped = not is_opaque(source.alpha)
        if self._moved is None:
            self._moved = self._gap(translated)
        frame.pts, frame.time_base = translated.pts + self._moved, encoding.time_base
        # ProRes writes the tags of the image, not those of the stream.
        frame.color_primaries, frame.color_trc = encoding.colour.primaries, encoding.colour.transfer
        try:
            container, stream = self._open_segment()
            self._mux(container, stream.encode(frame))
            self._segment_frames += 1
            if self._segment_frames == SEGMENT_FRAMES:
                self._close_segment()
            self._assembly.join_next()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _gap(self, first: Frame) -> int:
        """By how much times are moved, so that a live recording goes on where an earlier run left it."""
        if not self._live or self._recorded_to is None:
            return 0
        due = self._recorded_to + self._journal.pace
        self.notes.append(
            f"the recording was interrupted after {float(due * first.time_base):.1f} s, and the "
            f"{self._journal.idle_s:.0f} s from then until it went on are missing"
        )
        return due - first.pts

    def finish(self) -> None:
        with self._working:
            self._finish()

    def _finish(self) -> None:
        try:
            self._close_segment()
            if self._assembly is None:
                done = "; --resume goes on with what is done" if self._journal.holds_frames() else ""
                raise SinkError(f"Nothing was written to {self._path}, as the input gave no frame{done}.")
            self.notes += self._assembly.finish(whole=not self._options.cut)
            if self._alpha_dropped:
                self.notes.append(
                    f"the alpha channel was left out, as {self._codec} holds none: "
                    "--codec prores_ks in a .mov or --codec ffv1 in a .mkv keeps it"
                )
            with self._assembly.target.open("rb") as file:
                os.fsync(file.fileno())
            self._assembly.target.replace(self._path)
            if self._options.resume or self._options.restart:
                self._partial.unlink(missing_ok=True)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error
        self._finished = True
        self._journal.discard()

    def close(self) -> None:
        # A user may give up while a slow disk still takes the last of it: what is recorded stays then.
        if self._working.acquire(timeout=_PATIENCE_S):
            try:
                self._close()
            finally:
                self._working.release()

    def _close(self) -> None:
        if self._finished:
            return
        self._finished = True
        if not self._journal.holds_frames() and not self._pts and self._segment_frames == 0:
            self._journal.discard()
            return
        if self._assembly is None and not self._partial.exists():
            # Resumed, and failed before its first frame: a camera may be gone for good.
            self._journal.keep_all()
            base = self._journal.segments[-1].time_base if self._journal.segments else ""
            self._assembly = Assembly(self._journal, None, Fraction(base), self._film) if base else None
        if self._assembly is None:
            return
        try:
            # A segment cut short is no part of a resumed job: it plays in the partial file and is made again.
            self._journal.add_cut(self._end_segment())
            self._assembly.finish(whole=False)
            self._assembly.target.replace(self._partial)
        except (av.error.FFmpegError, OSError, ValueError, SinkError):
            # The job has failed already, with an error of its own; what was recorded stays.
            self._assembly.close()

    def _open_segment(self) -> tuple[av.container.OutputContainer, av.VideoStream]:
        if self._container is None or self._stream is None:
            assert self._encoding is not None
            self._file = self._journal.next_file(self._segment_format)
            self._container = av.open(self._journal.folder / self._file, "w", format=self._segment_format)
            self._stream = open_encoder(self._container, self._encoding)
        return self._container, self._stream

    @property
    def _film(self) -> Path:
        return self._journal.folder / f"whole{self._path.suffix}"

    @property
    def _partial(self) -> Path:
        return self._path.with_name(f"{self._path.stem}.partial{self._path.suffix}")

    def _mux(self, container: av.container.OutputContainer, packets: list[av.Packet[Any]]) -> None:
        assert self._encoding is not None
        for packet in packets:
            base = packet.time_base or self._encoding.time_base
            assert packet.pts is not None
            self._pts.append(round(packet.pts * base / self._encoding.time_base))
            container.mux(packet)

    def _close_segment(self) -> None:
        segment = self._end_segment()
        if segment is not None:
            self._journal.record(segment)

    def _end_segment(self) -> Segment | None:
        if self._container is None or self._stream is None:
            return None
        container, stream = self._container, self._stream
        self._container = self._stream = None
        try:
            self._mux(container, stream.encode(None))
        finally:
            container.close()
        segment = Segment(self._file, tuple(self._pts), self._time_base)
        self._pts, self._segment_frames = [], 0
        return segment

    def _failure(self, error: Exception) -> SinkError:
        reason = getattr(error, "strerror", None) or str(error)
        done = "; --resume goes on with what is done" if self._journal.holds_frames() else ""
        return SinkError(
            f"{self._path} cannot be written ({str(reason).rstrip('.')}): "
            f"see that the folder exists, is yours and has room{done}."
        )
