"""A video file, frame for frame: every one of them, with the time and the colour that the file gives it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import av
import av.container
import av.error
import cv2

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.media.alpha import ALPHA, Alpha, alpha_of_frame
from i2i_runtime.media.clip import CLIP, Clip
from i2i_runtime.media.colour import FULL, LIMITED, Colour, ColourConverter
from i2i_runtime.media.hdr import ToneMapper
from i2i_runtime.sources import SourceOptions

_Turned = TypeVar("_Turned", Image, Alpha)

_PATIENCE_S = 1.0
# Degrees counter-clockwise of the display matrix -> what turns a stored image upright.
_UPRIGHT = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180}


class VideoSource:
    """Decodes the first video stream of a file.

    Images are delivered upright; `Frame.extra["clip"]` says how they were stored. Where the file is damaged, the
    frames that decode are delivered and `losses` tells of the others.
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
            self._container = av.open(path)
        except (av.error.FFmpegError, ValueError) as error:
            raise SourceError(
                f"{path} cannot be read as a video ({_reason(error)}): "
                "the file is damaged, incomplete or no video."
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{path} has no video stream, so there is nothing to translate.")
        keep_times(self._container)
        self._stream = self._container.streams.video[0]
        self._decoder = decoder_of(self._stream)
        self._decoder.thread_type = "AUTO"
        self.frame_count: int | None = self._stream.frames or None
        self._losses: list[str] = []
        self._decoded = self._decode()
        self._index = 0
        self._last_pts: int | None = None
        self._closed = False
        self._reading = Lock()
        first = self._decode_first(path)
        self._first: av.VideoFrame | None = first
        self.clip = self._describe(path, first)
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
        extra: dict[str, Any] = {CLIP: self.clip}
        alpha = alpha_of_frame(decoded)
        if alpha is not None:
            extra[ALPHA] = upright_from_stored(alpha, self.clip.rotation)
        return Frame(
            pixels=upright_from_stored(self._converter.rgb_from_frame(decoded), self.clip.rotation),
            index=self._index - 1,
            pts=pts,
            time_base=self.clip.time_base,
            captured_s=time.monotonic(),
            extra=extra,
        )

    def close(self) -> None:
        self._closed = True
        # Closing while another thread decodes would free the decoder under its feet, and a disk that is gone keeps that
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
                damage.append(_reason(error))
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
                damage.append(_reason(error))

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
        )

    def _due(self, frame: av.VideoFrame) -> int:
        """The frame's pts, mended where it goes back."""
        last = self._last_pts
        pts = pts_of_frame(frame, last, self.clip.rate * self.clip.time_base)
        if last is not None and pts <= last:
            self._losses.append(
                f"the time stamp of the frame at {_seconds(frame)} s goes back and was moved on"
            )
            pts = last + 1
        self._last_pts = pts
        return pts


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's own, or where VP8 and VP9 carry alpha beside the images (WebM's AlphaMode) one that reads it."""
    own = stream.codec_context
    with suppress(av.error.FFmpegError, ValueError):
        if stream.metadata.get("alpha_mode") == "1":
            decoder = av.CodecContext.create({"vp8": "libvpx"}.get(own.name, f"libvpx-{own.name}"), "r")
            assert isinstance(decoder, av.VideoCodecContext)
            decoder.extradata = own.extradata
            return decoder
    return own


def keep_times(container: av.container.InputContainer) -> None:
    """Where a container has no pts, as AVI, FFmpeg would make them up in the order of decoding: it shall not."""
    container.flags &= ~cast(int, av.container.Flags.gen_pts.value)


def pts_of_frame(frame: av.VideoFrame, last: int | None, pace: Fraction) -> int:
    """The frame's pts; `last` is that of the frame before, `pace` the average rate times the time base.

    Where the file has none it is the time of decoding, which has the order of showing once frames are decoded; where
    it has neither, `pace` leads on from the last.
    """
    if frame.pts is not None:
        return frame.pts
    if frame.dts is not None and (last is None or frame.dts > last):
        return frame.dts
    return 0 if last is None else last + max(1, round(1 / pace))


def upright_from_stored(image: _Turned, rotation: int) -> _Turned:
    """`[H, W, 3]` or `[H, W]` turned as a player turns it; the image itself where nothing is to turn."""
    turn = _UPRIGHT.get(rotation)
    return image if turn is None else cast(_Turned, cv2.rotate(image, turn))


def stored_from_upright(image: _Turned, rotation: int) -> _Turned:
    """The reverse of `upright_from_stored`."""
    return upright_from_stored(image, rotation if rotation == 180 else -rotation)


def _seconds(frame: av.VideoFrame) -> str:
    return "?" if frame.pts is None else f"{frame.time:.3f}"


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return str(text).rstrip(".")
