"""From the packets of a video file to upright images with exact times; shared by the video source and verify."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import TypeVar, cast

import av
import av.container
import av.error
import cv2
from av.stream import Disposition

from i2i_runtime.media.pixels import Alpha, Image

_Rotated = TypeVar("_Rotated", Image, Alpha)

# Formats that name other files, and the ending under which they are read.
_LISTS = {"concat": "", "concatf": "", "imf": "", "hls": ".m3u8", "dash": ".mpd"}
# Degrees counter-clockwise of the display matrix -> what turns a stored image upright.
_UPRIGHT = {90: cv2.ROTATE_90_COUNTERCLOCKWISE, -90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180}


def open_clip(path: Path) -> av.container.InputContainer:
    """Opens a file as a clip. Raises FFmpegError, and ValueError for a list of other files that pretends to be one.

    Playlists are read only under the ending that says what they are.
    """
    allowed = av.formats_available - _LISTS.keys()
    allowed |= {name for name, ending in _LISTS.items() if path.suffix.lower() == ending}
    return av.open(path, "r", container_options={"format_whitelist": ",".join(sorted(allowed))})


def film_of(container: av.container.InputContainer) -> av.VideoStream | None:
    """The first video stream; None if there is none but cover images."""
    return next((stream for stream in container.streams.video if not is_cover(stream)), None)


def is_grey_alpha_targa(path: Path) -> bool:
    """Whether a TGA has 8 bits of grey and 8 of alpha (Truevision TGA 2.0, image type 3): FFmpeg takes it for RGB."""
    with path.open("rb") as file:
        header = file.read(18)
    return len(header) == 18 and header[2] in (3, 11) and header[16] == 16


def is_cover(stream: av.stream.Stream) -> bool:
    """Whether a video stream is a single image that describes the file."""
    return bool(stream.disposition & Disposition.attached_pic)


def decoder_of(stream: av.VideoStream) -> av.VideoCodecContext:
    """The stream's own decoder, or one that also decodes the alpha of VP8 and VP9 (WebM's AlphaMode)."""
    own = stream.codec_context
    with suppress(av.error.FFmpegError, ValueError):
        if stream.metadata.get("alpha_mode") == "1":
            decoder = av.CodecContext.create({"vp8": "libvpx"}.get(own.name, f"libvpx-{own.name}"), "r")
            assert isinstance(decoder, av.VideoCodecContext)
            decoder.extradata = own.extradata
            return decoder
    return own


def disable_generated_pts(container: av.container.InputContainer) -> None:
    """Stops FFmpeg from inventing pts in decoding order for containers that store none, such as AVI."""
    container.flags &= ~cast(int, av.container.Flags.gen_pts.value)


def pts_of_frame(frame: av.VideoFrame, last: int | None, pace: Fraction) -> int:
    """The frame's pts; `last` is that of the frame before, `pace` the average rate times the time base.

    If the file has no pts, the decoding time is used, which is in presentation order once frames are decoded; if it
    has neither, `pace` continues from `last`.
    """
    if frame.pts is not None:
        return frame.pts
    if frame.dts is not None and (last is None or frame.dts > last):
        return frame.dts
    return 0 if last is None else last + max(1, round(1 / pace))


def upright_from_stored(image: _Rotated, rotation: int) -> _Rotated:
    """`[H, W, 3]` or `[H, W]` rotated as a player rotates it; the array itself if there is no rotation."""
    turn = _UPRIGHT.get(rotation)
    return image if turn is None else cast(_Rotated, cv2.rotate(image, turn))


def stored_from_upright(image: _Rotated, rotation: int) -> _Rotated:
    """The reverse of `upright_from_stored`."""
    return upright_from_stored(image, rotation if rotation == 180 else -rotation)
