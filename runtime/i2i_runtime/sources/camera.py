"""A camera by its number or device file, through OpenCV."""

from __future__ import annotations

import time
from fractions import Fraction
from threading import Lock

import cv2
import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source, SourceOptions
from i2i_runtime.v4l2 import LIST, camera_path, refusal_of_camera, used_by, users_of

# Microseconds, as Video4Linux stamps its buffers.
_TIME_BASE = Fraction(1, 1_000_000)
_PATIENCE_S = 1.0
# What is asked for unless the user does, in this order: OpenCV's own choice is 640x480, whatever the camera can do.
_SIZES = ((1280, 720), (640, 480))
_FLUENT_FPS = 25


class CameraSource(Source):
    """Frames of one camera, stamped with the moment they arrive.

    Motion JPEG is asked for, because uncompressed 720p does not fit through USB 2 at more than ten frames a second.
    """

    live = True

    def __init__(self, device: str, options: SourceOptions) -> None:
        self.name = f"camera {device}"
        path = camera_path(device)
        if path is not None and (refusal := refusal_of_camera(path)) is not None:
            raise SourceError(f"Camera {device} cannot be opened {refusal}.")
        target = int(device) if device.isdecimal() else device
        # Silence OpenCV's own error output; the SourceError below says what is wrong.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        known = cv2.videoio_registry.getCameraBackends()
        self._capture = cv2.VideoCapture(target, cv2.CAP_V4L2 if cv2.CAP_V4L2 in known else cv2.CAP_ANY)
        if not self._capture.isOpened():
            why = used_by(path) if path is not None and users_of(path) else f"(its driver refuses): {LIST}"
            raise SourceError(f"Camera {device} cannot be opened {why}.")
        self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        # One buffer: what waits in the driver is already old.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, options.timeout_s * 1000)
        if options.rate is not None:
            self._capture.set(cv2.CAP_PROP_FPS, options.rate)
        for width, height in [options.size] if options.size is not None else _SIZES:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
            # A driver that does not know its rate states 0.
            if not 0 < self._capture.get(cv2.CAP_PROP_FPS) < _FLUENT_FPS:
                break
        self.delivers = _described(self._capture)
        self._index = 0
        self._reading = Lock()
        self._began_s = time.monotonic()
        self._closed = False

    def read(self) -> Frame | None:
        if self._closed:
            return None
        with self._reading:
            got, bgr = self._capture.read()
        captured_s = time.monotonic()
        if not got:
            raise SourceError(f"{self.name} stopped delivering images: check its cable and start again.")
        frame = Frame(
            pixels=np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8),
            index=self._index,
            pts=round((captured_s - self._began_s) / _TIME_BASE),
            time_base=_TIME_BASE,
            captured_s=captured_s,
        )
        self._index += 1
        return frame

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # Releasing a camera while another thread reads it crashes inside OpenCV, and a driver may never respond.
            if self._reading.acquire(timeout=_PATIENCE_S):
                self._capture.release()
                self._reading.release()


def _described(capture: cv2.VideoCapture) -> str:
    """What the camera agreed to: `1280x720 MJPG at 30 frames per second`."""
    width, height = (int(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    code = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    kind = code.decode("ascii", "replace").strip("\0 ") or "unnamed format"
    return f"{width}x{height} {kind} at {capture.get(cv2.CAP_PROP_FPS):g} frames per second"
