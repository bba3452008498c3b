"""The process that encodes and pushes one stream; started by `NetworkSink`, fed through its standard input.

Opening an output through libavformat blocks without a time limit and holds Python's lock meanwhile. In a
process of its own it can be killed, and neither the network nor the encoder slows the pipeline down.

Input: one JSON line (`uri`, `format`, `options`, `height`, `width`, `bitrate`, `codec`), then per image an
int64 pts in microseconds and `height * width * 3` bytes RGB. Output: one JSON line per state change. The end
of the input ends the stream properly.
"""

from __future__ import annotations

import json
import struct
import sys
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.container
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace

from i2i_runtime.files import reason_of

_MICROSECOND = Fraction(1, 1_000_000)
STAMP = struct.Struct("<q")


def push(images: BinaryIO, job: dict[str, Any]) -> None:
    """Encodes H.264 without look-ahead or B-frames, one key frame every two seconds at 30 fps, BT.709
    limited range.
    """
    height, width = job["height"], job["width"]
    with _opened(job["uri"], job["format"], job["options"]) as container:
        stream = container.add_stream(job["codec"], rate=30)
        stream.height, stream.width = height - height % 2, width - width % 2
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = job["bitrate"]
        context = stream.codec_context
        context.time_base = _MICROSECOND
        context.gop_size = 60
        context.max_b_frames = 0
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        if job["codec"] == "libx264":
            context.options = {"preset": "ultrafast", "tune": "zerolatency"}
        size = height * width * 3
        sent = 0
        while len(stamp := images.read(STAMP.size)) == STAMP.size:
            data = images.read(size)
            if len(data) < size:
                break
            image = np.frombuffer(data, np.uint8).reshape(height, width, 3)
            frame = av.VideoFrame.from_ndarray(image[: stream.height, : stream.width], format="rgb24")
            frame = frame.reformat(
                format="yuv420p",
                src_color_range=ColorRange.JPEG,
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = STAMP.unpack(stamp)[0], _MICROSECOND
            container.mux(stream.encode(frame))
            sent += 1
            if sent == 1:
                _report(state="sending")
        container.mux(stream.encode(None))


def _opened(uri: str, kind: str, options: dict[str, str]) -> av.container.OutputContainer:
    """The connection, opened with all of `options`.

    PyAV opens the connection of FLV itself and gives it no options, so the server would not be checked; FFmpeg's tee
    muxer opens the address behind it with the options that stand before it in brackets.
    """
    if kind != "flv" or "tls_verify" not in options:
        return av.open(uri, "w", format=kind, options=options)
    inner = {"f": kind, "onfail": "abort", **options}
    listed = ":".join(f"{name}={_escaped(value, ':]')}" for name, value in inner.items())
    return av.open(_escaped(f"[{listed}]{uri}", "|"), "w", format="tee")


def _escaped(text: str, special: str) -> str:
    return "".join(f"\\{char}" if char in f"\\'{special}" else char for char in text)


def _report(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> int:
    av.logging.set_level(av.logging.PANIC)
    images = sys.stdin.buffer
    job = json.loads(images.readline())
    try:
        push(images, job)
    except (FFmpegError, OSError, ValueError) as error:
        _report(state="failed", reason=reason_of(error))
        return 1
    _report(state="finished")
    return 0


if __name__ == "__main__":
    sys.exit(main())
