"""The encoder of a video file: which one, its pixel format, and its options."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error

from i2i_runtime.clip import Clip
from i2i_runtime.colour import Colour
from i2i_runtime.errors import SinkError
from i2i_runtime.sinks import SinkOptions

# What is written where the user names no codec, by the container's suffix.
_DEFAULT_CODEC = {".webm": "libvpx-vp9", ".mov": "libx264", ".mp4": "libx264", ".mkv": "libx264"}
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libx265": {"preset": "veryfast", "crf": "23", "x265-params": "log-level=error"},
    "libvpx-vp9": {"crf": "30", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"crf": "32", "preset": "9"},
}
_WIDER = {
    "yuvj420p": "yuv420p",
    "yuvj422p": "yuv422p",
    "yuvj444p": "yuv444p",
    "nv12": "yuv420p",
    "p010le": "yuv420p10le",
}


@dataclass(frozen=True)
class Encoding:
    """All that decides the bytes of a segment; the same for every segment of a job."""

    codec: str
    options: dict[str, str]
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    colour: Colour
    sample_aspect: Fraction | None


def choose_encoding(
    path: Path, options: SinkOptions, clip: Clip | None, size: tuple[int, int], time_base: Fraction
) -> Encoding:
    """The encoding for pictures of (width, height) from `clip`, None where they come from no file.

    Raises SinkError for a codec that this installation cannot open.
    """
    codec = options.codec or _DEFAULT_CODEC.get(path.suffix.lower(), "libx264")
    known = _codec(codec)
    settings = dict(_DEFAULTS.get(codec, {}))
    if options.crf is not None:
        settings["crf"] = str(options.crf)
    if options.preset is not None:
        settings["preset"] = options.preset
    settings.update(options.encoder)
    default_rate = Fraction(options.rate or 30)
    return Encoding(
        codec=codec,
        options=settings,
        width=size[0],
        height=size[1],
        pixel_format=_pixel_format(known, clip.pixel_format if clip is not None else "yuv420p", size),
        time_base=time_base,
        rate=default_rate if clip is None else clip.rate,
        colour=Colour(1, 1, 1, 1) if clip is None else clip.colour,
        sample_aspect=None if clip is None else clip.sample_aspect,
    )


def open_encoder(container: av.container.OutputContainer, encoding: Encoding) -> av.VideoStream:
    """A new video stream in `container` that encodes as told."""
    # The rate serves rate control alone; time stamps carry the timing.
    stream = container.add_stream(
        encoding.codec, rate=encoding.rate.limit_denominator(65535), options=encoding.options
    )
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = encoding.width, encoding.height
    context.pix_fmt = encoding.pixel_format
    context.time_base = encoding.time_base
    stream.time_base = encoding.time_base
    if encoding.sample_aspect is not None:
        context.sample_aspect_ratio = encoding.sample_aspect
    tags = encoding.colour
    context.colorspace = tags.matrix
    context.color_range = tags.range
    context.color_primaries = tags.primaries
    context.color_trc = tags.transfer
    return stream


def _codec(name: str) -> av.Codec:
    try:
        codec = av.Codec(name, "w")
    except av.error.FFmpegError as error:
        raise SinkError(
            f"No encoder is called {name}: see those of this machine with i2i-doctor, or leave out --codec."
        ) from error
    if codec.type != "video":
        raise SinkError(f"{name} encodes {codec.type}, not video: leave out --codec for H.264.")
    return codec


def _pixel_format(codec: av.Codec, source: str, size: tuple[int, int]) -> str:
    """The source's own pixel format where the encoder takes it, else the nearest that keeps what the source has."""
    offered = [entry.name for entry in codec.video_formats or ()]
    wanted = source
    odd = size[0] % 2 == 1 or size[1] % 2 == 1
    if odd and "420" in wanted:
        # Encoders refuse odd sizes at 4:2:0; full chroma keeps the size where cutting a line would not.
        wanted = wanted.replace("420", "444")
    candidates = [wanted, _WIDER.get(wanted, wanted)]
    if "10" in source or "12" in source:
        candidates += ["yuv444p10le" if "444" in wanted or odd else "yuv420p10le"]
    candidates += ["yuv444p" if "444" in wanted or odd else "yuv420p"]
    for candidate in candidates:
        if not offered or candidate in offered:
            return candidate
    return offered[0]
