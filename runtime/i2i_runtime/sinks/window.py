"""A window on this machine's screen, through OpenCV."""

from __future__ import annotations

import os
import sys

import cv2

from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame


class WindowSink:
    """Shows each frame as it comes; the keys q and Escape, or closing the window, end the job."""

    def __init__(self, title: str = "") -> None:
        self.name = f"display://{title}"
        self._title = f"i2i-stream {title}".strip()
        # OpenCV's window library ends the whole process where there is no screen, so this must be asked first.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError("There is no screen to open a window on: write to a file with --output FILE.mp4.")
        self._open = False

    def write(self, translated: Frame, source: Frame) -> None:
        try:
            if not self._open:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                height, width = translated.pixels.shape[:2]
                cv2.resizeWindow(self._title, width, height)
                self._open = True
            cv2.imshow(self._title, cv2.cvtColor(translated.pixels, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            if key in (ord("q"), 27) or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                raise KeyboardInterrupt
        except cv2.error as error:
            raise SinkError(
                f"The window cannot be shown ({error.err}): install opencv-python, not opencv-python-headless, "
                "or write to a file with --output FILE.mp4."
            ) from error

    def finish(self) -> None:
        return

    def close(self) -> None:
        if self._open:
            self._open = False
            cv2.destroyWindow(self._title)
