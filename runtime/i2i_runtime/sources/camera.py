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

# Microseconds, as Video4Linux stamps its buffers.
_TIME_BASE = Fraction(1, 1_000_000)
_PATIENCE_S = 1.0


class CameraSource(Source):
    """Frames of one camera, stamped with the moment they arrive.

    Motion JPEG is asked for, because uncompressed 720p does not fit through USB 2 at more than ten frames a second.
    """

    live = True

    def __init__(self, device: str, options: SourceOptions) -> None:
        self.name = f"camera {device}"
        target = int(device) if device.isdecimal() else device
        # Silence OpenCV's own error output; the SourceError below says what is wrong.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        known = cv2.videoio_registry.getCameraBackends()
        self._capture = cv2.VideoCapture(target, cv2.CAP_V4L2 if cv2.CAP_V4L2 in known else cv2.CAP_ANY)
        if not self._capture.isOpened():
            raise SourceError(
                f"Camera {device} cannot be opened (it does not exist, or another program uses it): "
                "list the cameras of this machine with i2i-doctor."
            )
        self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        # One buffer: what waits in the driver is already old.
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._capture.set(cv2.CAP_PROP_READ_TIMEOUT_MSEC, options.timeout_s * 1000)
        if options.size is not None:
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, options.size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, options.size[1])
        if options.rate is not None:
            self._capture.set(cv2.CAP_PROP_FPS, options.rate)
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
