"""A camera that other programs can open, through the v4l2loopback kernel module (Video4Linux2 API, 64-bit
Linux).
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2

from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.sinks.base import Sink
from i2i_runtime.v4l2 import Ioctl, VideoDevice, device_at, device_from_ioctl, ioctl_of, used_by, users_of

# Requests and constants of linux/videodev2.h.
G_FMT, S_FMT, STREAMON = 0xC0D05604, 0xC0D05605, 0x40045612
FORMAT = struct.Struct("=I4x12I152x")  # type, then struct v4l2_pix_format inside its union
BUFFER_TYPE = struct.Struct("=i")
_OUTPUT, _NO_FIELDS, _PRIVATE = 2, 1, 0xFEEDCAFE
_SMPTE170M, _BT601, _LIMITED = 1, 1, 2
YUYV = int.from_bytes(b"YUYV", "little")

MODPROBE = 'sudo modprobe v4l2loopback exclusive_caps=1 card_label="i2i-stream"'
INSTALL = f"sudo apt install v4l2loopback-dkms && {MODPROBE}"
RELOAD = f"sudo modprobe -r v4l2loopback && {MODPROBE}"


@dataclass(frozen=True)
class LoopbackFormat:
    """What the device agreed to take: YUYV images of this size, `line_bytes` per line."""

    width: int
    height: int
    line_bytes: int


def negotiate(ioctl: Ioctl, width: int, height: int) -> LoopbackFormat:
    """Asks for YUYV (4:2:2, BT.601, limited range); the device may insist on the size its readers already
    use.

    Raises SinkError if it does not take YUYV, OSError if it does not respond.
    """
    width += width % 2
    wanted = (_OUTPUT, width, height, YUYV, _NO_FIELDS, 2 * width, 2 * width * height, _SMPTE170M, _PRIVATE)
    request = bytearray(FORMAT.pack(*wanted, 0, _BT601, _LIMITED, 0))
    ioctl(S_FMT, request)
    _, width, height, pixels, _, line_bytes, *_ = FORMAT.unpack(request)
    if pixels != YUYV or width % 2 or line_bytes < 2 * width or height < 1:
        name = pixels.to_bytes(4, "little").decode("ascii", "replace")
        raise SinkError(
            f"The virtual camera insists on {name} {width}x{height}, which is not offered: close the programs that "
            f"read it and load the module again ({MODPROBE})."
        )
    # Without it driver 0.12 forgets at the first image that it takes any, and is of no use to the next job.
    ioctl(STREAMON, bytearray(BUFFER_TYPE.pack(_OUTPUT)))
    return LoopbackFormat(width, height, line_bytes)


class VirtualCameraSink(Sink):
    """Writes each image to a loopback device; the format is agreed on with the first one."""

    def __init__(self, device: str = "") -> None:
        """`device` is a path such as /dev/video10; the first loopback device unless said. Raises
        SinkError.
        """
        _require_linux()
        path = Path(device) if device else find_loopback()
        self.name = f"virtualcam:{path}"
        try:
            self._descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise SinkError(
                f"{path} cannot be opened ({error.strerror}): load the module with: {MODPROBE}."
            ) from error
        self._ioctl = ioctl_of(self._descriptor)
        self._format: LoopbackFormat | None = None
        try:
            found = device_from_ioctl(self._ioctl)
        except OSError:
            found = VideoDevice("", "", False, False)
        if (refusal := refusal_of_loopback(path, found)) is not None:
            self.close()
            raise SinkError(f"{path} {refusal}.")

    def write(self, translated: Frame, source: Frame) -> None:
        height, width = translated.pixels.shape[:2]
        try:
            if self._format is None:
                self._format = negotiate(self._ioctl, width, height)
            data = yuyv_from_frame(translated, self._format)
            if os.write(self._descriptor, data) != len(data):
                raise SinkError(f"{self.name} took only part of an image: close the programs that read it.")
        except OSError as error:
            raise SinkError(
                f"{self.name} refuses the image ({error.strerror}): close other programs that write to it."
            ) from error

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def refusal_of_loopback(path: Path, device: VideoDevice) -> str | None:
    """Why a device cannot be written to, as the end of a sentence; None if it can."""
    if device.takes_images:
        return None
    if not device.is_loopback:
        return f"is not a virtual camera (it takes no images): create one with: {INSTALL}"
    users = users_of(path)
    if device.gives_images or users:
        return f"cannot be written to {used_by(path)}, because a virtual camera takes images from one program at a time"
    return f"takes no images any more, because a program that wrote to it left it so: load the module again: {RELOAD}"


def yuyv_from_frame(frame: Frame, agreed: LoopbackFormat) -> bytes:
    """The image, letterboxed into the agreed size, as YUYV lines of `line_bytes` each."""
    image = letterboxed(frame.pixels, agreed.height, agreed.width)
    packed = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_YUY2).reshape(agreed.height, 2 * agreed.width)
    if agreed.line_bytes == 2 * agreed.width:
        return packed.tobytes()
    return b"".join(line.tobytes().ljust(agreed.line_bytes, b"\0") for line in packed)


def _require_linux() -> None:
    if sys.platform != "linux":
        raise SinkError(
            "virtualcam needs Linux and its v4l2loopback module: use mjpeg://@:8080 on this machine."
        )


def find_loopback(folder: Path = Path("/dev")) -> Path:
    """The first loopback device, one that is free if there is any. Raises SinkError with the command that makes one."""
    _require_linux()
    found = [
        (not device.takes_images, path)
        for path in sorted(folder.glob("video*"))
        if (device := _loopback_at(path)) is not None
    ]
    if found:
        return min(found)[1]
    raise SinkError(f"This machine has no virtual camera: create one with: {INSTALL}.")


def _loopback_at(path: Path) -> VideoDevice | None:
    try:
        device = device_at(path)
    except OSError:
        return None
    return device if device.is_loopback else None
