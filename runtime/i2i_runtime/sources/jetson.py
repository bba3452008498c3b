"""GStreamer lines for the cameras of a Jetson, and what NVIDIA's capture element says when it fails.

Nothing here needs a board: the functions return text. The elements are those of NVIDIA's Accelerated GStreamer guide.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from i2i_runtime.errors import UsageError
from i2i_runtime.sources.base import SourceOptions

_SIZE, _RATE = (1280, 720), 30
_RESTART = "sudo systemctl restart nvargus-daemon"
_TO_SYSTEM_MEMORY = "video/x-raw,format=(string)NV12 ! appsink"

# What Argus and its element say -> reason and fix. The texts are those that users report.
_ARGUS = (
    (
        r"No cameras available|Invalid camera device|InvalidState.*sensor",
        "finds no such sensor: check the ribbon cable and list the sensors with v4l2-ctl --list-devices",
    ),
    (
        r"Failed to create CaptureSession|already in use|EOS before the first image",
        f"got no capture session, because another program uses the sensor or the camera daemon hangs: "
        f"end that program, or {_RESTART}",
    ),
    (
        r"no image for|TIMEOUT|CANCELLED|Argus Error|Argus Correctable|Connection reset|Connecting to nvargus",
        f"does not respond, because the camera daemon hangs: {_RESTART}",
    ),
)


def csi_line(location: str, options: SourceOptions) -> str:
    """The line for `N`, or `N?mode=M&flip=F`: Argus capture, turned, as NV12 in system memory. Raises UsageError.

    `mode` is the sensor mode, `flip` nvvidconv's flip-method, 0 to 7 (2 turns by 180 degrees).
    """
    sensor, settings = _split("csi://", location, {"mode", "flip"})
    if not re.fullmatch(r"[0-9]{1,2}", sensor) or int(sensor) > 15:
        raise UsageError(f"csi://{location} does not name a sensor from 0 to 15: write csi://0.")
    mode, flip = _number(settings, "mode", -1, 15), _number(settings, "flip", 0, 7)
    width, height, rate = _wanted(options)
    mode_setting = f" sensor-mode={mode}" if mode >= 0 else ""
    return (
        f"nvarguscamerasrc sensor-id={int(sensor)}{mode_setting} ! "
        f"video/x-raw(memory:NVMM),width=(int){width},height=(int){height},"
        f"framerate=(fraction){rate}/1,format=(string)NV12 ! "
        f"nvvidconv flip-method={flip} ! {_TO_SYSTEM_MEMORY}"
    )


def nvv4l2_line(location: str, options: SourceOptions) -> str:
    """The line for `/dev/video0`, or `/dev/video0?format=uyvy`: a camera through NVIDIA's hardware. Raises UsageError.

    mjpg (usual for USB) is decoded by the JPEG unit; uyvy is captured without a copy by the processor.
    """
    device, settings = _split("nvv4l2://", location, {"format"})
    if not re.fullmatch(r"/dev/[\w./:+-]+", device):
        raise UsageError(f"nvv4l2://{location} does not name a device: write nvv4l2:///dev/video0.")
    width, height, rate = _wanted(options)
    wanted = f"width=(int){width},height=(int){height},framerate=(fraction){rate}/1"
    kind = settings.get("format", "mjpg")
    if kind == "mjpg":
        capture = f"v4l2src device={device} ! image/jpeg,{wanted} ! nvv4l2decoder mjpeg=1"
    elif kind == "uyvy":
        capture = f"nvv4l2camerasrc device={device} ! video/x-raw(memory:NVMM),format=(string)UYVY,{wanted}"
    else:
        raise UsageError(f"nvv4l2:// reads format=mjpg and format=uyvy, not {kind!r}: use v4l2://{device}.")
    return f"{capture} ! nvvidconv ! {_TO_SYSTEM_MEMORY}"


def explain_argus(message: str) -> str | None:
    """Reason and fix for a message of Argus; None if it is not one of its own."""
    return next((known for pattern, known in _ARGUS if re.search(pattern, message)), None)


def _split(scheme: str, location: str, known: set[str]) -> tuple[str, dict[str, str]]:
    place, _, query = location.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := settings.keys() - known:
        raise UsageError(
            f"{scheme}{location} has an unknown setting {min(unknown)!r}; known: {', '.join(sorted(known))}."
        )
    return place, settings


def _number(settings: dict[str, str], name: str, default: int, highest: int) -> int:
    text = settings.get(name, str(default))
    if name in settings and not (re.fullmatch(r"[0-9]{1,2}", text) and int(text) <= highest):
        raise UsageError(f"{name}={text} is not a number from 0 to {highest}: write {name}=0.")
    return int(text)


def _wanted(options: SourceOptions) -> tuple[int, int, int]:
    width, height = options.size or _SIZE
    return width, height, options.rate or _RATE
