"""Losses and recoveries of a live source, without a network: the lost camera is played by a small real
source.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.logs import event, log_opened
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.media.no_signal import draw_slate
from i2i_runtime.queues import Mailbox
from i2i_runtime.sources import Source
from i2i_runtime.sources.reconnect import Patience, ReconnectingSource

if TYPE_CHECKING:
    from tests.runtime.net.conftest import NextFrame

QUICK = Backoff(first_s=0.001, limit_s=0.004)
EAGER = Patience(slate_after_s=0.05, slate_every_s=0.02, stall_s=0.2)


class Camera(Source):
    """Delivers `count` images as they are fetched, then acts as `ending` says: fail, end or hang."""

    live = True

    def __init__(self, paint: Callable[..., Frame], count: int, ending: str, height: int = 180) -> None:
        self.name = "rtsp://***@door/1"
        self.released = threading.Event()
        self._paint, self._count, self._ending, self._height = paint, count, ending, height
        self._index = itertools.count()

    def read(self) -> Frame | None:
        index = next(self._index)
        if index < self._count:
            return self._paint(index, (9, 9, 9), self._height)
        if self._ending == "hang":
            self.released.wait(60.0)
        if self._ending == "fail":
            raise SourceError(f"{self.name} broke off (cable): check the network.")
        return None

    def close(self) -> None:
        return


def test_every_loss_is_followed_by_a_recovery(paint: Callable[..., Frame], next_frame: NextFrame) -> None:
    source = ReconnectingSource(lambda: Camera(paint, 3, "fail"), backoff=QUICK, patience=EAGER)
    seen = []
    while source.recoveries < 20:
        seen.append(next_frame(source))
    source.close()
    assert source.outages - source.recoveries in (0, 1)
    assert all(later.pts > earlier.pts for earlier, later in itertools.pairwise(seen))
    assert all(later.index > earlier.index for earlier, later in itertools.pairwise(seen))


def test_a_card_with_the_reason_stands_in(paint: Callable[..., Frame], next_frame: NextFrame) -> None:
    cameras = iter([Camera(paint, 1, "fail")])

    def open_once() -> Camera:
        for camera in cameras:
            return camera
        raise SourceError("rtsp://me:secret@door/1 cannot be opened (no route): check the address.")

    source = ReconnectingSource(open_once, backoff=QUICK, patience=EAGER)
    first = next_frame(source)
    card = next_frame(source)
    while "no route" not in (card.no_signal or ""):
        card = next_frame(source)
    source.close()
    assert not first.is_slate
    assert "secret" not in (card.no_signal or "")
    assert card.pixels.shape == first.pixels.shape
    assert card.pixels.max() > 200, "something is written on the card"


def test_a_driver_that_hangs_is_replaced(paint: Callable[..., Frame]) -> None:
    hanging = Camera(paint, 2, "hang")
    cameras = itertools.chain([hanging], (Camera(paint, 1000, "end") for _ in itertools.count()))
    source = ReconnectingSource(lambda: next(cameras), backoff=QUICK, patience=EAGER)
    end_s = time.monotonic() + 20.0
    while source.recoveries < 1 and time.monotonic() < end_s:
        source.read()
    recovered = source.recoveries
    hanging.released.set()
    source.close()
    assert recovered == 1, "while the first driver still hangs"
    assert source.outages == 1


def test_close_ends_a_waiting_read_although_the_driver_hangs(paint: Callable[..., Frame]) -> None:
    hanging = Camera(paint, 1, "hang")
    patience = Patience(slate_after_s=30.0, slate_every_s=30.0, stall_s=0.05)
    source = ReconnectingSource(lambda: hanging, backoff=QUICK, patience=patience)
    source.read()
    results: list[Frame | None] = []
    reader = threading.Thread(target=lambda: results.append(source.read()))
    reader.start()
    source.close()
    reader.join(timeout=5.0)
    hanging.released.set()
    assert results == [None]


def test_a_source_that_never_responded_is_refused_at_once(paint: Callable[..., Frame]) -> None:
    with pytest.raises(SourceError, match="responds but sends no image"):
        ReconnectingSource(lambda: Camera(paint, 0, "end"))
    with pytest.raises(SourceError, match="broke off"):
        ReconnectingSource(lambda: Camera(paint, 0, "fail"))


def test_another_size_after_the_loss_is_letterboxed(
    paint: Callable[..., Frame], next_frame: NextFrame
) -> None:
    cameras = itertools.chain(
        [Camera(paint, 1, "end")], (Camera(paint, 1, "end", 320) for _ in itertools.count())
    )
    source = ReconnectingSource(lambda: next(cameras), backoff=QUICK, patience=EAGER)
    shapes = {next_frame(source).pixels.shape for _ in range(8)}
    source.close()
    assert shapes == {(180, 320, 3)}


def test_letterbox_stretches_nothing() -> None:
    image = np.full((100, 100, 3), 255, np.uint8)
    boxed = letterboxed(image, 50, 200)
    columns = np.flatnonzero(boxed.any(axis=(0, 2)))
    assert columns.min() == 75
    assert columns.max() == 124
    assert boxed.any(axis=(1, 2)).all()


def test_backoff_grows_to_its_limit_and_is_never_the_same_for_two() -> None:
    backoff = Backoff(first_s=1.0, limit_s=8.0, jitter=0.5)
    first, second = (list(itertools.islice(backoff.delays(random.Random(seed)), 8)) for seed in (1, 2))
    assert first != second
    for delay, full in zip(first, [1, 2, 4, 8, 8, 8, 8, 8], strict=True):
        assert 0.5 * full <= delay <= full


def test_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    box: Mailbox[int] = Mailbox()
    for item in range(5):
        box.put(item)
    assert (box.get(0.0), box.replaced) == (4, 4)
    assert box.get(0.0) is None


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 640), (144, 256), (360, 640), (1080, 1920)])
def test_a_card_fits_any_size(height: int, width: int) -> None:
    card = draw_slate(height, width, "rtsp://kamera/tür cannot be opened: " + "x" * 300, 4000.0)
    assert card.shape == (height, width, 3)
    assert card.dtype == np.uint8


def test_json_log_is_one_object_per_line_without_secrets(caplog: Any) -> None:
    import logging

    stream = io.StringIO()
    log = logging.getLogger("i2i_runtime.test")
    uri = "rtsp://admin:hunter2@cam/1?token=abc123"
    with log_opened(as_json=True, stream=stream):
        log.warning("%s is lost", uri, extra=event("source_lost", source=uri, away_s=1.5))
    text = stream.getvalue()
    line = json.loads(text)
    assert text.count("\n") == 1
    assert (line["event"], line["level"], line["away_s"]) == ("source_lost", "warning", 1.5)
    assert "hunter2" not in text
    assert "abc123" not in text
