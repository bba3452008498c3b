"""The contents of a screen of this machine, through mss."""

from __future__ import annotations

import importlib.util
import re
import time
from fractions import Fraction
from threading import Event
from typing import Any

import cv2
import numpy as np

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.extras import install_command
from i2i_runtime.frame import Frame
from i2i_runtime.sources.base import Source

_MICROSECOND = Fraction(1, 1_000_000)
_WHERE = re.compile(
    r"^(?P<number>\d{1,3})?(?:,(?P<x>-?\d{1,6}),(?P<y>-?\d{1,6}),(?P<w>\d{1,6}),(?P<h>\d{1,6}))?$"
)


class ScreenSource(Source):
    """`screen`, `screen:1` or `screen:1,X,Y,WIDTH,HEIGHT` (pixels from the screen's upper left corner).

    Screen 0 is all screens together. At most `rate` images a second: a grab costs processor time.
    """

    live = True

    def __init__(self, where: str = "", rate: int = 30) -> None:
        """Raises UsageError for a malformed region, SourceError if the screen does not exist."""
        match = _WHERE.match(where)
        if match is None:
            raise UsageError(
                f"screen:{where} is not a screen: write screen, screen:1 or screen:1,X,Y,WIDTH,HEIGHT."
            )
        if importlib.util.find_spec("mss") is None:
            raise SourceError(f"screen needs mss: run `{install_command('serve')}` in the project's folder.")
        self.name = f"screen:{where}" if where else "screen"
        number = int(match["number"] or 1)
        self._grabber, screens = _open_grabber()
        if number >= len(screens):
            self._grabber.close()
            raise SourceError(
                f"Screen {number} does not exist: this machine has {len(screens) - 1}, counted from 1."
            )
        self._region = _region(screens[number], match)
        if min(self._region["width"], self._region["height"]) < 1:
            self._grabber.close()
            raise SourceError(
                f"{self.name} lies outside the screen of {screens[number]['width']}x{screens[number]['height']}."
            )
        self._period_s = 1.0 / rate
        self._index = 0
        self._start_s = self._due_s = time.monotonic()
        self._closing = Event()

    def read(self) -> Frame | None:
        """The screen as it is now, `[H, W, 3] uint8 RGB`; waits for the next period. Raises SourceError."""
        if self._closing.wait(max(0.0, self._due_s - time.monotonic())):
            self._grabber.close()
            return None
        captured_s = time.monotonic()
        self._due_s = max(self._due_s + self._period_s, captured_s)
        try:
            shot = self._grabber.grab(self._region)
        except Exception as error:  # mss raises its own and the display library's errors alike
            raise SourceError(
                f"{self.name} cannot be read any more ({error}): is the session still open?"
            ) from error
        pixels = cv2.cvtColor(np.asarray(shot), cv2.COLOR_BGRA2RGB)
        index, self._index = self._index, self._index + 1
        pts = round((captured_s - self._start_s) * 1e6)
        return Frame(np.asarray(pixels, np.uint8), index, pts, _MICROSECOND, captured_s)

    def close(self) -> None:
        """Ends the next `read`, which releases the screen on the thread that uses it."""
        self._closing.set()


def _open_grabber() -> tuple[Any, list[dict[str, int]]]:
    import mss

    try:
        grabber = mss.MSS()
        return grabber, [dict(screen) for screen in grabber.monitors]
    except Exception as error:  # mss raises its own and the display library's errors alike
        raise SourceError(
            f"The screen cannot be read ({error}): start inside a graphical session; on Wayland use an X11 session."
        ) from error


def _region(screen: dict[str, int], match: re.Match[str]) -> dict[str, int]:
    """The asked part of the screen, cut off at its edges, in desktop coordinates."""
    x, y = (int(match[name] or 0) for name in ("x", "y"))
    width = int(match["w"]) if match["w"] else screen["width"]
    height = int(match["h"]) if match["h"] else screen["height"]
    left, top = max(0, x), max(0, y)
    right, bottom = min(screen["width"], x + width), min(screen["height"], y + height)
    return {
        "left": screen["left"] + left,
        "top": screen["top"] + top,
        "width": right - left,
        "height": bottom - top,
    }
