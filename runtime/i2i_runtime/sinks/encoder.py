"""The encoder of a video file: which one, its pixel format, and its options."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import cv2
import numpy as np
from av.codec.codec import Capabilities

from i2i_runtime.errors import SinkError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Frame
from i2i_runtime.media.alpha import alpha_bits, fitting_alpha
from i2i_runtime.media.colour import is_rgb
from i2i_runtime.media.origin import FULL, LIMITED, Clip, Colour
from i2i_runtime.media.pixels import Image
from i2i_runtime.sinks.base import SinkOptions

# What is written if the user names no codec, by the suffix of the container.
_SOFTWARE = "libx264"
_DEFAULT_CODEC = {".webm": "libvpx-vp9"}
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""The suffixes of videos that can be written, and FFmpeg's name of each container."""
_DEFAULTS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libx265": {"preset": "veryfast", "crf": "23", "x265-params": "log-level=error"},
    "libvpx-vp9": {"crf": "30", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"crf": "32", "preset": "9"},
}
_HOLD_ALPHA = {"ffv1", "libvpx-vp9", "png", "prores_ks", "qtrle"}
_AVX_512F = 13  # OpenCV's number for the instruction set
_WIDER = {
    "yuvj420p": "yuv420p",
    "yuvj422p": "yuv422p",
    "yuvj444p": "yuv444p",
    "nv12": "yuv420p",
    "p010le": "yuv420p10le",
}


@dataclass(frozen=True)
class Encoding:
    """All that decides the bytes of a segment; the same for every segment of a job.

    `width` and `height` are those of the stored image, before `rotation` (see `Clip`).
    """

    codec: str
    options: dict[str, str]
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    colour: Colour
    sample_aspect: Fraction | None
    rotation: int = 0

    @property
    def has_alpha(self) -> bool:
        return self.codec in _HOLD_ALPHA and alpha_bits(self.pixel_format) > 0


def choose_codec(path: Path, options: SinkOptions) -> tuple[str, list[str]]:
    """The encoder for a file of this name, and what is to be said about the choice.

    A hardware encoder that is in this build but does not open on this machine gives way to H.264 in software. Raises
    SinkError.
    """
    # Else SVT-AV1 writes its settings to the terminal for each segment.
    os.environ.setdefault("SVT_LOG", "1")
    name = options.codec or _DEFAULT_CODEC.get(path.suffix.lower(), _SOFTWARE)
    codec = _codec(name)
    notes: list[str] = []
    if codec.capabilities & Capabilities.hardware and (why := refusal_of_encoder(name)) is not None:
        notes.append(f"{name} {why} on this machine, so {_SOFTWARE} was used")
        name, codec = _SOFTWARE, _codec(_SOFTWARE)
    if not _holds(CONTAINERS[path.suffix.lower()], codec):
        raise SinkError(
            f"{path}: a {path.suffix} file cannot hold {name}: use another suffix, or omit --codec."
        )
    return name, notes


def choose_segments(codec: str) -> str:
    """The container of a job's segments: NUT keeps any time base exactly, QuickTime holds what NUT does not.

    Matroska alone holds the alpha that VP9 has beside its images.
    """
    if codec == "libvpx-vp9":
        return "matroska"
    return "nut" if _holds("nut", _codec(codec)) else "mov"


def _holds(container: str, codec: av.Codec) -> bool:
    with av.open(io.BytesIO(), "w", format=container) as probe:
        return codec.canonical_name in probe.supported_codecs


def choose_encoding(
    codec: str,
    options: SinkOptions,
    translated: Frame,
    source: Frame,
) -> Encoding:
    """How a file whose first frame is `translated` is encoded.

    Time base, rate, colour, rotation and pixel shape are those of the source's clip if there is one. The encoding has
    alpha if the source has it, the image kept its shape and the codec can hold it.
    """
    settings = dict(_DEFAULTS.get(codec, {}))
    if options.crf is not None:
        settings["crf"] = str(options.crf)
    if options.preset is not None:
        settings["preset"] = options.preset
    settings.update(options.encoder)
    if codec == "libx264" and cv2.checkHardwareSupport(_AVX_512F):
        # x264's AVX-512 code reads memory that it never wrote, so that the same images can give other bytes: a
        # resumed job would not equal one that was never stopped.
        settings["x264-params"] = ":".join(filter(None, ["asm=avx2", settings.get("x264-params")]))
    clip = source.clip
    if codec == "libx264" and clip is not None and keeps_fields(clip, translated):
        field_first = {"top": "tff=1", "bottom": "bff=1", None: ""}[clip.fields]
        settings["x264-params"] = ":".join(filter(None, [settings.get("x264-params"), field_first]))
    rotation = 0 if clip is None else clip.rotation
    width, height = _stored_size(translated.pixels, rotation)
    source_format = "yuv420p" if clip is None else clip.pixel_format
    alpha = fitting_alpha(source.alpha, source.pixels, translated.pixels)
    pixel_format = None if alpha is None else _alpha_format(codec, source_format, 8 * alpha.itemsize)
    if pixel_format is None:
        pixel_format = _pixel_format(_codec(codec), source_format, (width, height))
    if codec == "prores_ks" and "444" in pixel_format:
        settings.setdefault(
            "profile", "4444"
        )  # else the file is labelled 4:2:2, and editors take it for that
    return Encoding(
        codec=codec,
        options=settings,
        width=width,
        height=height,
        pixel_format=pixel_format,
        time_base=translated.time_base,
        rate=_rate(options, clip),
        colour=Colour(1, LIMITED, 1, 1) if clip is None else _encoded_colour(clip, pixel_format),
        sample_aspect=None if clip is None else _sample_aspect(clip, _stored_size(source.pixels, rotation)),
        rotation=rotation,
    )


def keeps_fields(clip: Clip, translated: Frame) -> bool:
    """Whether the lines of a translated frame are still those of the fields of an interlaced clip."""
    return clip.fields is not None and clip.rotation == 0 and translated.pixels.shape[0] == clip.height


def _rate(options: SinkOptions, clip: Clip | None) -> Fraction:
    """Frames per second for rate control; what a clip states is nonsense if a frame would be shorter than a tick."""
    if clip is None or clip.rate * clip.time_base > 1:
        return Fraction(options.rate or 30)
    return clip.rate


def _stored_size(upright: Image, rotation: int) -> tuple[int, int]:
    """(width, height) of an image before it is rotated."""
    height, width = upright.shape[:2]
    return (height, width) if rotation % 180 else (width, height)


def use_ordinary_priority() -> None:
    """Takes real-time priority from the threads of this process, on Linux.

    SVT-AV1 gives it to its own threads and to the caller's if root opens it, which blocks every other program.
    """
    if sys.platform == "linux":
        for task in os.listdir("/proc/self/task"):
            with suppress(OSError):
                os.sched_setscheduler(int(task), os.SCHED_OTHER, os.sched_param(0))


def open_encoder(container: av.container.OutputContainer, encoding: Encoding) -> av.VideoStream:
    """A new video stream in `container` that encodes as told. Raises SinkError for an unknown option."""
    # The rate serves rate control alone; time stamps carry the timing.
    rate = encoding.rate.limit_denominator(65535)
    stream = container.add_stream(encoding.codec, rate=rate, options=encoding.options)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = encoding.width, encoding.height
    context.pix_fmt = encoding.pixel_format
    context.time_base = encoding.time_base
    stream.time_base = encoding.time_base
    if encoding.sample_aspect is not None:
        context.sample_aspect_ratio = encoding.sample_aspect
    context.colorspace, context.color_range = encoding.colour.matrix, encoding.colour.range
    context.color_primaries, context.color_trc = encoding.colour.primaries, encoding.colour.transfer
    try:
        context.open()
    except (av.error.FFmpegError, ValueError) as error:
        raise SinkError(
            f"{encoding.codec} does not take images of {encoding.width}x{encoding.height} as {encoding.pixel_format} "
            f"with these options ({reason_of(error)}): "
            "choose another --codec, or omit --crf, --preset and -e."
        ) from error
    finally:
        use_ordinary_priority()
    # The encoder leaves the options it does not know.
    if context.options:
        unknown = ", ".join(context.options)
        raise SinkError(
            f"{encoding.codec} has no option {unknown}: ffmpeg -h encoder={encoding.codec} lists them."
        )
    return stream


def _codec(name: str) -> av.Codec:
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise SinkError(
            f"Unknown encoder {name!r}: list those of this machine with i2i-doctor, or omit --codec."
        ) from error
    if codec.type != "video":
        raise SinkError(f"{name} encodes {codec.type}, not video: omit --codec for H.264.")
    return codec


def refusal_of_encoder(name: str) -> str | None:
    """Why this encoder cannot encode a frame of 256x256 pixels on this machine; None if it can."""
    try:
        codec = av.Codec(name, "w")
    except (av.error.FFmpegError, ValueError) as error:
        return f"not part of this build of PyAV ({type(error).__name__})"
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width = context.height = 256
    context.pix_fmt = _pixel_format(codec, "yuv420p", (256, 256))
    context.framerate = Fraction(25)
    frame = av.VideoFrame.from_ndarray(np.zeros((256, 256, 3), np.uint8), "rgb24")
    try:
        packets = [*context.encode(frame.reformat(format=context.pix_fmt)), *context.encode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        return f"cannot be opened ({reason_of(error)})"
    finally:
        use_ordinary_priority()
    return None if packets else "returned no data"


def _encoded_colour(clip: Clip, pixel_format: str) -> Colour:
    """The clip's own; but what says how RGB became YCbCr does not apply to RGB, nor the reverse."""
    was, becomes = is_rgb(clip.pixel_format), is_rgb(pixel_format)
    if was == becomes:
        return clip.colour
    return (
        replace(clip.colour, matrix=0, range=FULL)
        if becomes
        else replace(clip.colour, matrix=1, range=LIMITED)
    )


def _sample_aspect(clip: Clip, size: tuple[int, int]) -> Fraction | None:
    """The shape of a pixel that keeps the shape of the image, if the user had it scaled to `size`."""
    if size == (clip.width, clip.height):
        return clip.sample_aspect
    shape = (clip.sample_aspect or Fraction(1)) * clip.width * size[1] / (clip.height * size[0])
    # Sizes are whole numbers, so an image scaled evenly can miss its shape slightly.
    return None if abs(shape - 1) < Fraction(1, 100) else shape.limit_denominator(255)


def _alpha_format(codec: str, source: str, bits: int) -> str | None:
    """The pixel format with alpha of this encoder that is nearest to the source's; None if it has none."""
    formats = _codec(codec).video_formats or ()
    offered = [entry for entry in formats if len(entry.components) == 4 and alpha_bits(entry.name)]
    if codec not in _HOLD_ALPHA or not offered:
        return None
    if codec == "libvpx-vp9":
        return "yuva420p"  # it offers more, and opens no other with alpha
    wanted = av.VideoFormat(source if alpha_bits(source) else "rgba")
    bits = alpha_bits(source) or bits

    def distance(entry: av.VideoFormat) -> tuple[bool, bool, int, int, bool]:
        have = alpha_bits(entry.name)
        chroma = entry.chroma_width(16) - wanted.chroma_width(16)
        chroma += entry.chroma_height(16) - wanted.chroma_height(16)
        return (
            entry.name != wanted.name,
            have < bits,
            abs(have - bits),
            abs(chroma),
            entry.is_rgb != wanted.is_rgb,
        )

    return min(offered, key=distance).name


def _coloured(pixel_format: str) -> str:
    """The format of the same depth that holds the engine's colours, if a grey one would lose them."""
    if not pixel_format.startswith(("gray", "ya", "mono")):
        return pixel_format
    bits = max(entry.bits for entry in av.VideoFormat(pixel_format).components)
    return "yuv420p" if bits <= 8 else "yuv420p10le" if bits <= 10 else "yuv420p12le"


def _pixel_format(codec: av.Codec, source: str, size: tuple[int, int]) -> str:
    """The source's own pixel format if the encoder takes it, else the nearest that keeps what the source has."""
    offered = [entry.name for entry in codec.video_formats or ()]
    source = _coloured(source)
    wanted = source.replace("yuva", "yuv").replace("gbrap", "gbrp")
    odd = size[0] % 2 == 1 or size[1] % 2 == 1
    if odd and "420" in wanted:
        # Encoders refuse odd sizes at 4:2:0; full chroma keeps the size.
        wanted = wanted.replace("420", "444")
    candidates = [wanted, _WIDER.get(wanted, wanted)]
    if "10" in source or "12" in source:
        candidates += ["yuv444p10le" if "444" in wanted or odd else "yuv420p10le"]
    candidates += ["yuv444p" if "444" in wanted or odd else "yuv420p"]
    for candidate in candidates:
        if not offered or candidate in offered:
            return candidate
    return offered[0]
