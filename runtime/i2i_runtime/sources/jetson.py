"""CSI cameras on Jetson, through NVIDIA's capture element and OpenCV's GStreamer reader."""

from __future__ import annotations

import time
from fractions import Fraction

import cv2
import numpy as np

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source

_MICROSECOND = Fraction(1, 1_000_000)


def csi_pipeline(sensor: int, width: int, height: int, rate: int, flip: int = 0) -> str:
    """The GStreamer line for sensor number `sensor`: Argus capture in NVMM memory, NV12, converted to BGR.

    `flip` is nvvidconv's flip-method, 0 to 7 (2 turns by 180 degrees). The queue of one buffer drops what is
    old.
    """
    if not (0 <= sensor <= 15 and 0 <= flip <= 7 and rate > 0 and width > 0 and height > 0):
        raise UsageError(
            "A CSI camera has a sensor number from 0 to 15, a positive size and rate, and a flip from 0 to 7."
        )
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        f"video/x-raw(memory:NVMM), width=(int){width}, height=(int){height}, framerate=(fraction){rate}/1, "
        "format=(string)NV12 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw, format=(string)BGRx ! videoconvert ! "
        "video/x-raw, format=(string)BGR ! appsink drop=true max-buffers=1 sync=false"
    )


def opencv_has_gstreamer() -> bool:
    """Whether this OpenCV can read GStreamer lines; the wheels on the package index cannot, JetPack's
    build can.
    """
    lines = [line for line in cv2.getBuildInformation().splitlines() if "GStreamer" in line]
    return any("YES" in line for line in lines)


class CsiSource(Source):
    """One CSI camera; images as the sensor's pipeline delivers them."""

    live = True

    def __init__(self, location: str, size: tuple[int, int] | None = None, rate: int | None = None) -> None:
        """`location` is the sensor's number, `size` (width, height). Raises UsageError and SourceError."""
        if not (location.isascii() and location.isdecimal()):
            raise UsageError(f"csi://{location} names no sensor: write csi://0.")
        self.name = f"csi://{location}"
        width, height = size or (1280, 720)
        line = csi_pipeline(int(location), width, height, rate or 30)
        if not opencv_has_gstreamer():
            raise SourceError(
                f"{self.name} needs an OpenCV with GStreamer: on a Jetson remove the one from pip (pip uninstall "
                "opencv-python) so that JetPack's own is used."
            )
        self._capture = cv2.VideoCapture(line, cv2.CAP_GSTREAMER)
        if not self._capture.isOpened():
            raise SourceError(
                f"{self.name} cannot be opened: check that v4l2-ctl --list-devices lists the sensor, and restart "
                "the capture service with: sudo systemctl restart nvargus-daemon."
            )
        self._index = 0
        self._start_s = time.monotonic()

    def read(self) -> Frame | None:
        taken, bgr = self._capture.read()
        captured_s = time.monotonic()
        if not taken:
            raise SourceError(
                f"{self.name} stopped delivering images: check the ribbon cable and the sensor."
            )
        index, self._index = self._index, self._index + 1
        pixels = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)
        return Frame(pixels, index, round((captured_s - self._start_s) * 1e6), _MICROSECOND, captured_s)

    def close(self) -> None:
        self._capture.release()
