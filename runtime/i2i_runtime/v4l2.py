"""What a Video4Linux device says about itself, and who uses it (linux/videodev2.h, 64-bit Linux)."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

QUERYCAP = 0x80685600
CAPABILITY = struct.Struct("=16s32s32s3I12x")  # driver, card, bus, version, capabilities, device_caps
_CAPTURE, _CAPTURE_PLANES, _OUTPUT, _DEVICE_CAPS = 0x1, 0x1000, 0x2, 0x80000000
_EXCLUSIVE_CAPS = Path("/sys/module/v4l2loopback/parameters/exclusive_caps")

Ioctl = Callable[[int, bytearray], None]
LIST = "list the cameras of this machine with i2i-doctor"


@dataclass(frozen=True)
class VideoDevice:
    """`gives_images` as a camera does, `takes_images` as a virtual camera waits for them; a coder does both or neither.

    A loopback device of a module with exclusive_caps=1, as browsers need it, takes images while nobody writes to it,
    and gives them from then on.
    """

    driver: str
    card: str
    gives_images: bool
    takes_images: bool

    @property
    def is_loopback(self) -> bool:
        return "loopback" in self.driver.lower()


def device_from_ioctl(ioctl: Ioctl) -> VideoDevice:
    """Asks who the device is. Raises OSError if it is not a video device."""
    answer = bytearray(CAPABILITY.size)
    ioctl(QUERYCAP, answer)
    driver, card, _, _, capabilities, device = CAPABILITY.unpack(answer)
    able = device if capabilities & _DEVICE_CAPS else capabilities
    gives, takes = bool(able & (_CAPTURE | _CAPTURE_PLANES)), bool(able & _OUTPUT)
    return VideoDevice(_text(driver), _text(card), gives, takes)


def device_at(path: Path) -> VideoDevice:
    """The device behind a path. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        return device_from_ioctl(ioctl_of(descriptor))
    finally:
        os.close(descriptor)


def ioctl_of(descriptor: int) -> Ioctl:
    import fcntl

    def ask(request: int, answer: bytearray) -> None:
        fcntl.ioctl(descriptor, request, answer, True)

    return ask


def refusal_of_camera(path: Path, find: Callable[[Path], VideoDevice] = device_at) -> str | None:
    """Why no images can be read from a device, and what to do, as the end of a sentence; None if nothing is wrong."""
    try:
        device = find(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            return f"(it does not exist): {LIST}"
        if error.errno in (errno.EACCES, errno.EPERM):
            return "(you may not use it): run `sudo usermod -aG video $USER` and log in again"
        if error.errno == errno.EBUSY:
            return used_by(path)
        return f"(it is not a video device): {LIST}"
    if not device.gives_images:
        return f"({device.card} delivers no images on this device): {LIST}"
    return None


def used_by(path: Path) -> str:
    """The end of a sentence about a device that others use, with the programs that have it open."""
    users = ", ".join(users_of(path))
    return f"(it is in use{f' by {users}' if users else ''}): close the program that uses it"


def users_of(path: Path) -> list[str]:
    """`ffmpeg (1234)` for each other process that has the file open, as far as this user may look."""
    found = []
    target = path.resolve()
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda entry: int(entry.name)):
        try:
            opened = any(link.resolve() == target for link in (process / "fd").iterdir())
            name = (process / "comm").read_text(errors="replace").strip()
        except OSError:  # another user's, or ended
            continue
        if opened and int(process.name) != os.getpid():
            found.append(f"{name} ({process.name})")
    return found


def browsers_list_loopback(parameter: Path = _EXCLUSIVE_CAPS) -> bool:
    """Whether the loopback module was loaded with exclusive_caps=1; what the device says changes with its use."""
    try:
        return parameter.read_text().lstrip().startswith(("Y", "1"))
    except OSError:
        return False


def camera_path(device: str) -> Path | None:
    """The device file of `0` or `/dev/video0`; None where cameras are not files."""
    if sys.platform != "linux":
        return None
    return Path(f"/dev/video{device}" if device.isdecimal() else device)


def _text(data: bytes) -> str:
    return data.split(b"\0")[0].decode("ascii", "replace")
