"""A window on this machine's screen, through OpenCV."""

from __future__ import annotations

import os
import sys
from threading import get_ident

import cv2

from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.opencv import HEADLESS, WITH_WINDOWS, has_windows
from i2i_runtime.sinks.base import Closed, Sink
from i2i_runtime.sinks.pacing import Pacer


class WindowSink(Sink):
    """Shows each frame as it comes; the keys q and Escape, or closing the window, end the job normally."""

    def __init__(self, title: str = "") -> None:
        self.name = f"display://{title}"
        self._title = f"i2i-stream {title}".strip()
        # OpenCV's window library ends the whole process if there is no screen, so this must be asked first.
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise SinkError(
                "This machine has no screen to open a window on: write to a file with --output FILE.mp4."
            )
        if not has_windows():
            raise SinkError(
                f"This OpenCV ({HEADLESS}) has no windows: install {WITH_WINDOWS} in its place, or write to a file "
                "with --output FILE.mp4."
            )
        if _av_was_first():
            raise SinkError(
                "A window needs OpenCV loaded before PyAV: import i2i_runtime.media or cv2 before av."
            )
        # Silence Qt's warnings about fonts and timers.
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        self._open = False
        self._owner = 0
        self._pacer = Pacer()

    def write(self, translated: Frame, source: Frame) -> None:
        self._pacer.wait(source)
        try:
            if not self._open:
                cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
                height, width = translated.pixels.shape[:2]
                cv2.resizeWindow(self._title, width, height)
                self._open, self._owner = True, get_ident()
            cv2.imshow(self._title, cv2.cvtColor(translated.pixels, cv2.COLOR_RGB2BGR))
            key = cv2.waitKey(1) & 0xFF
            if key in (ord("q"), 27) or cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
                self.close()
                raise Closed
        except cv2.error as error:
            raise SinkError(
                f"The window cannot be shown ({error.err}): write to a file with --output FILE.mp4."
            ) from error

    def finish(self) -> None:
        self.close()

    def close(self) -> None:
        # The library complains about any other thread than the one that opened the window; the end of the process
        # closes it then.
        if self._open and self._owner == get_ident():
            self._open = False
            cv2.destroyWindow(self._title)
            cv2.waitKey(1)


def _av_was_first() -> bool:
    """Whether PyAV was imported before OpenCV, so that its X libraries would make the window hang."""
    loaded = list(sys.modules)
    return sys.platform == "linux" and "av" in loaded and loaded.index("av") < loaded.index("cv2")
