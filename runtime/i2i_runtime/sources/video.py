"""A video file, frame for frame: every one of them, with the time and the colour that the file gives it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any

import av
import av.container
import av.error

from i2i_runtime.errors import SourceError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import alpha_of_frame
from i2i_runtime.media.colour import ColourConverter
from i2i_runtime.media.decode import (
    decoder_of,
    disable_generated_pts,
    film_of,
    is_grey_alpha_targa,
    open_clip,
    pts_of_frame,
    upright_from_stored,
)
from i2i_runtime.media.hdr import ToneMapper
from i2i_runtime.media.interlace import FILTER, deinterlaced, field_order_of
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.media.origin import FULL, LIMITED, Clip, Colour
from i2i_runtime.sources.base import Source, SourceOptions

_PATIENCE_S = 1.0


class VideoSource(Source):
    """Decodes the first video stream of a file.

    Images are delivered upright; `Frame.clip` says how they were stored. If the file is damaged, the frames that
    decode are delivered and `losses` names the others.
    """

    live = False

    def __init__(self, path: Path, options: SourceOptions) -> None:
        self.name = str(path)
        if not path.is_file():
            what = "is a folder without images" if path.is_dir() else "does not exist"
            if path.exists() and not path.is_dir():
                what = "is a pipe or device, and a video is read more than once"
            raise SourceError(f"{path} {what}: give a video file, a folder of images, a camera or a URI.")
        try:
            self._container = open_clip(path)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{path} cannot be read as a video ({reason_of(error)}): "
                "the file is damaged, incomplete or not a video."
            ) from error
        film = film_of(self._container)
        if film is None:
            only = "only a cover image" if self._container.streams.video else "no video stream"
            self._container.close()
            raise SourceError(f"{path} has {only}, so there is nothing to translate.")
        if film.codec_context.name == "targa" and is_grey_alpha_targa(path):
            self._container.close()
            raise SourceError(
                f"{path} is a grey TGA with transparency, which is not supported: save it as PNG."
            )
        disable_generated_pts(self._container)
        self._stream = film
        self._decoder = decoder_of(self._stream)
        self._decoder.thread_type = "AUTO"
        self.frame_count = self._stream.frames or None
        self._losses: list[str] = []
        self._notes: list[str] = []
        self._size: tuple[int, int] | None = None
        decoded = self._decode()
        self._decoded = deinterlaced(decoded, film) if options.deinterlace else decoded
        self._index = 0
        self._last_pts: int | None = None
        self._closed = False
        self._reading = Lock()
        first = self._decode_first(path)
        self._first: av.VideoFrame | None = first
        self.clip = self._describe(path, first)
        if self.clip.fields is not None:
            if options.deinterlace:
                self._notes.append(
                    f"the clip is interlaced; {FILTER} made one progressive frame of each two fields"
                )
                self.clip = replace(self.clip, fields=None)
            else:
                self._notes.append(
                    f"the clip is interlaced ({self.clip.fields} field first) and the engine saw both fields in one "
                    "image: --deinterlace makes progressive frames"
                )
        hdr = self.clip.colour.hdr
        if hdr is not None and not options.tonemap:
            self.close()
            raise SourceError(
                f"{path} is high dynamic range, {hdr}, and engines see standard range: "
                "add --tonemap to bring it down to BT.709."
            )
        self._converter: ColourConverter | ToneMapper
        if hdr is None:
            self._converter = ColourConverter(self.clip.colour, self.clip.pixel_format, self.clip.height)
        else:
            self._converter = ToneMapper(self.clip.colour.transfer, self.clip.colour.range == FULL)
            self.clip = replace(self.clip, colour=Colour(1, LIMITED, 1, 1), pixel_format="yuv420p")
        self._skip = options.skip

    @property
    def losses(self) -> list[str]:
        return self._losses

    @property
    def notes(self) -> list[str]:
        return self._notes

    def _note_size(self, frame: av.VideoFrame) -> None:
        if not any("letterboxed" in note for note in self._notes):
            self._notes.append(
                f"the images change to {frame.width}x{frame.height} at {_seconds(frame)} s; from there on they are "
                f"letterboxed to {self.clip.width}x{self.clip.height}"
            )

    def skip_one(self) -> bool:
        with self._reading:
            return self._index < self._skip and self._next() is not None

    def read(self) -> Frame | None:
        while self.skip_one():
            pass
        with self._reading:
            return self._read()

    def _read(self) -> Frame | None:
        timed = self._next()
        if timed is None:
            return None
        decoded, pts = timed
        alpha = alpha_of_frame(decoded)
        pixels = upright_from_stored(self._converter.rgb_from_frame(decoded), self.clip.rotation)
        self._size = self._size or (pixels.shape[0], pixels.shape[1])
        if pixels.shape[:2] != self._size:
            # The output has one size, and so has what a live source delivers.
            self._note_size(decoded)
            pixels, alpha = letterboxed(pixels, *self._size), None
        return Frame(
            pixels=pixels,
            index=self._index - 1,
            pts=pts,
            time_base=self.clip.time_base,
            captured_s=time.monotonic(),
            clip=self.clip,
            alpha=None if alpha is None else upright_from_stored(alpha, self.clip.rotation),
        )

    def close(self) -> None:
        self._closed = True
        # Closing while another thread decodes would free the decoder it uses, and a disk that is gone blocks that
        # thread for ever.
        if self._reading.acquire(timeout=_PATIENCE_S):
            self._container.close()
            self._reading.release()

    def _next(self) -> tuple[av.VideoFrame, int] | None:
        """The next frame as it is stored, and its pts."""
        if self._closed:
            return None
        decoded, self._first = self._first or next(self._decoded, None), None
        if decoded is None:
            return None
        self._index += 1
        return decoded, self._due(decoded)

    def _decode(self) -> Iterator[av.VideoFrame]:
        """All frames, those included that the decoder still holds when the file ends."""
        awaited: set[int] = set()
        damage: list[str] = []
        for packet in self._packets(damage):
            if packet.pts is not None and not packet.is_discard:
                awaited.add(packet.pts)
            try:
                frames = self._decoder.decode(packet)
            except av.error.FFmpegError as error:
                damage.append(reason_of(error))
                continue
            for frame in frames:
                if frame.pts is not None:
                    awaited.discard(frame.pts)
                if frame.is_corrupt:
                    self._losses.append(
                        f"the frame at {_seconds(frame)} s is damaged and was translated as it is"
                    )
                yield frame
        if damage:
            base = self._stream.time_base or Fraction(1)
            for pts in sorted(awaited):
                self._losses.append(f"the frame at {float(pts * base):.3f} s did not decode ({damage[0]})")
            if not awaited:
                self._losses.append(f"the file is damaged ({damage[0]})")

    def _packets(self, damage: list[str]) -> Iterator[av.Packet[Any]]:
        try:
            yield from self._container.demux(self._stream)
        except av.error.FFmpegError as error:
            if not self._closed:
                damage.append(reason_of(error))

    def _decode_first(self, path: Path) -> av.VideoFrame:
        first = next(self._decoded, None)
        if first is None:
            why = self._losses[0] if self._losses else "the stream is empty"
            self.close()
            raise SourceError(f"{path} holds no frame that decodes: {why}.")
        return first

    def _describe(self, path: Path, frame: av.VideoFrame) -> Clip:
        context = self._stream.codec_context
        return Clip(
            path=path,
            stream_index=self._stream.index,
            width=frame.width,
            height=frame.height,
            pixel_format=frame.format.name,
            time_base=self._stream.time_base or Fraction(1, 1000),
            rate=self._stream.average_rate or self._stream.guessed_rate or Fraction(30),
            colour=Colour(
                matrix=int(frame.colorspace),
                range=int(frame.color_range),
                primaries=int(context.color_primaries),
                transfer=int(context.color_trc),
            ),
            rotation=int(frame.rotation) if frame.rotation != -180 else 180,
            sample_aspect=self._stream.sample_aspect_ratio or None,
            fields=field_order_of(self._stream, frame),
        )

    def _due(self, frame: av.VideoFrame) -> int:
        """The frame's pts, corrected if it goes back."""
        last = self._last_pts
        pts = pts_of_frame(frame, last, self.clip.rate * self.clip.time_base)
        if last is not None and pts <= last:
            self._losses.append(
                f"the time stamp of the frame at {_seconds(frame)} s goes back and was moved on"
            )
            pts = last + 1
        self._last_pts = pts
        return pts


def _seconds(frame: av.VideoFrame) -> str:
    return "?" if frame.pts is None else f"{frame.time:.3f}"
