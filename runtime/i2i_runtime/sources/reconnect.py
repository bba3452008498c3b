"""A live source that reconnects: back-off with jitter, a watchdog, and a slate while there is no image."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.logs import event
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.media.no_signal import draw_slate
from i2i_runtime.queues import Mailbox
from i2i_runtime.sources.base import Source
from i2i_runtime.uri import redact
from i2i_runtime.watchdog import AwakeClock

_log = logging.getLogger(__name__)
_MICROSECOND = Fraction(1, 1_000_000)
_STUCK_LIMIT = 4


@dataclass(frozen=True)
class Patience:
    """How long a missing image is waited for, in seconds.

    After `slate_after_s` the slate is shown, every `slate_every_s`. A call into the source (open or read) that
    blocks for `stall_s` is abandoned and the source opened again, even if the driver never returns; `stall_s`
    must exceed the source's own time-outs.
    """

    slate_after_s: float = 1.0
    slate_every_s: float = 0.2
    stall_s: float = 12.0


class ReconnectingSource(Source):
    """Wraps a live source that may be lost; reads never end and never block longer than `slate_after_s`.

    Opens it at once, so that a wrong address is an error for the caller; from then on it reconnects in the
    background after every loss. Images keep the size of the first one: a camera that returns with another
    size is letterboxed. `pts` counts microseconds since the start, by capture time; a gap in `index` is
    images that were not read in time.
    """

    live = True
    outages = 0
    recoveries = 0

    def __init__(
        self,
        open_source: Callable[[], Source],
        *,
        backoff: Backoff | None = None,
        patience: Patience | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Raises SourceError if the first attempt delivers no image."""
        self._open = open_source
        self._backoff = backoff or Backoff()
        self._patience = patience or Patience()
        self._rng = rng or random.Random()
        self._box: Mailbox[Frame] = Mailbox()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._turn = 0
        self._awake = AwakeClock()
        self._busy_since_s: float | None = None
        self._stuck: list[threading.Thread] = []
        self._reason = ""
        self._delivered = 0
        self._last_pts = -1
        inner = self._open()
        self.name, self.delivers = inner.name, inner.delivers
        self._start_s = self._heard_s = time.monotonic()
        first = self._first_image(inner)
        self._size = (first.pixels.shape[0], first.pixels.shape[1])
        self._box.put(first)
        self._feeder = self._start_feeder(inner)

    @staticmethod
    def _first_image(inner: Source) -> Frame:
        try:
            first = inner.read()
        except SourceError:
            inner.close()
            raise
        if first is None:
            inner.close()
            raise SourceError(f"{inner.name} responds but sends no image: check that its sender is running.")
        return first

    @property
    def dropped(self) -> int:
        """Images that were replaced by a newer one before anybody read them."""
        return self._box.replaced

    def read(self) -> Frame | None:
        """The newest image, or a slate (`Frame.no_signal` holds the reason); None once closed."""
        self._give_up_if_stuck()
        silent_s = time.monotonic() - self._heard_s
        wait_s = max(self._patience.slate_every_s, self._patience.slate_after_s - silent_s)
        frame = self._box.get(wait_s)
        if self._box.closed:
            return None
        return self._stamped(frame if frame is not None else self._slate())

    def close(self) -> None:
        with self._lock:
            self._turn += 1
        self._box.close()
        self._wake.set()
        self._feeder.join(timeout=1.0)

    def _start_feeder(self, inner: Source | None) -> threading.Thread:
        with self._lock:
            self._turn += 1
            self._busy_since_s = None
            arguments = (inner, self._turn)
        feeder = threading.Thread(target=self._feed, args=arguments, name=f"{self.name} feeder", daemon=True)
        feeder.start()
        return feeder

    def _feed(self, inner: Source | None, turn: int) -> None:
        while self._turn == turn:
            if inner is None:
                inner = self._reopen(turn)
            if inner is not None:
                reason = self._pump(inner, turn)
                inner.close()
                inner = None
                self._note_loss(reason, turn)

    def _pump(self, inner: Source, turn: int) -> str:
        """Reads until the source is lost; says why."""
        while True:
            self._set_busy(turn)
            try:
                frame = inner.read()
            except SourceError as error:
                return str(error)
            if frame is None:
                return f"{self.name} ended"
            if not self._take(frame, turn):
                return f"{self.name} was abandoned"

    def _take(self, frame: Frame, turn: int) -> bool:
        """Puts an image into the box; False if this feeder has been replaced meanwhile."""
        with self._lock:
            if self._turn != turn:
                return False
            now_s = time.monotonic()
            away_s, self._heard_s = now_s - self._heard_s, now_s
            was_lost, self._reason = bool(self._reason), ""
            self.recoveries += was_lost
            self._box.put(frame)
        if was_lost:
            fields = event("source_back", source=self.name, away_s=round(away_s, 3))
            _log.info("%s is back after %.1f s", self.name, away_s, extra=fields)
        return True

    def _reopen(self, turn: int) -> Source | None:
        for delay in self._backoff.delays(self._rng):
            self._set_busy(turn, False)
            self._wake.wait(delay)
            if self._turn != turn:
                return None
            self._set_busy(turn)
            try:
                inner = self._open()
            except SourceError as error:
                self._note_loss(str(error), turn)
                continue
            if self._turn == turn:
                return inner
            inner.close()
            return None
        raise AssertionError("the waiting times never end")

    def _set_busy(self, turn: int, busy: bool = True) -> None:
        with self._lock:
            if self._turn == turn:
                self._busy_since_s = self._awake.now_s() if busy else None

    def _note_loss(self, reason: str, turn: int) -> None:
        with self._lock:
            if self._turn != turn:
                return
            first = not self._reason
            self._reason = reason
            self.outages += first
        if first:
            fields = event("source_lost", source=self.name, reason=reason)
            _log.warning("%s is lost (%s); trying again", self.name, reason, extra=fields)

    def _give_up_if_stuck(self) -> None:
        """Replaces a feeder whose driver neither delivers nor fails; few, so that threads do not pile up."""
        busy_since_s = self._busy_since_s
        now_s = self._awake.now_s()
        if busy_since_s is None or now_s - busy_since_s < self._patience.stall_s:
            return
        self._note_loss(f"no response for {self._patience.stall_s:.0f} s", self._turn)
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        if len(self._stuck) < _STUCK_LIMIT:
            self._stuck.append(self._feeder)
            self._feeder = self._start_feeder(None)

    def _slate(self) -> Frame:
        now_s = time.monotonic()
        reason = redact(self._reason or "the source is silent")
        image = draw_slate(*self._size, reason, now_s - self._heard_s)
        return Frame(image, 0, 0, _MICROSECOND, now_s, no_signal=reason)

    def _stamped(self, frame: Frame) -> Frame:
        """Number and time in this session's own order; the image in the session's size."""
        index = self._delivered + self._box.replaced
        self._delivered += 1
        self._last_pts = max(self._last_pts + 1, round((frame.captured_s - self._start_s) * 1e6))
        pixels = letterboxed(frame.pixels, *self._size)
        return replace(frame, pixels=pixels, index=index, pts=self._last_pts, time_base=_MICROSECOND)
