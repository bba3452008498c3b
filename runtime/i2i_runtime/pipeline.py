"""Source, engine and sinks at work together: own threads, bounded queues, one owner of the end.

    source --> [inbox] --> engine (one thread per slot) --> [outbox] --> stages --> [queue] --> sink
                                                                               \\-> [queue] --> sink

`every-frame` waits wherever a queue is full, so that nothing is lost. `freshest` lets one frame wait in each queue and
drops it, counted, when a newer one comes: what is shown is never older than what the stages themselves take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Condition, Thread, get_ident
from typing import Literal, Protocol, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import Engine
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Frame
from i2i_runtime.queues import Aborted, Channel, Turnstile
from i2i_runtime.sinks import Resumable, Sink
from i2i_runtime.sources import Skipping, Source
from i2i_runtime.stats import Curve, Histogram

Policy: TypeAlias = Literal["every-frame", "freshest"]

_JOIN_S = 1.5
_CLOSE_S = 5.0
_LOOK_S = 0.2


class Stage(Protocol):
    """Something done to every translated frame between engine and sinks, in order: an overlay, a filter."""

    def process(self, translated: Frame, source: Frame) -> Frame:
        """The frame that goes on; may be `translated` itself, whose pixels it may change."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Delivery:
    """A translated frame on its way to the sinks."""

    translated: Frame
    source: Frame
    infer_ms: float


@dataclass(frozen=True)
class Progress:
    """Where a job stands; `total` is None where the source cannot know.

    `skipped` counts the frames passed over because an earlier run has done them.
    """

    frames_in: int
    frames_out: int
    dropped: int
    total: int | None
    elapsed_s: float
    age_ms: float
    skipped: int = 0


class Pipeline:
    """One job: everything that `source` gives, through `engine` and `stages`, to all of `sinks`.

    `run` closes source, stages and sinks; the engine stays open, to be used again. `size` is (width, height) that
    images are scaled to before the engine, None leaves them. A frame older than `max_staleness_s` when its turn
    comes is dropped. A stage that is busy with one frame for longer than `stall_s` ends the job. The card of a lost
    source passes by the engine and is not counted.
    """

    def __init__(
        self,
        source: Source,
        engine: Engine,
        sinks: Sequence[Sink],
        *,
        policy: Policy = "every-frame",
        stages: Sequence[Stage] = (),
        style: NDArray[np.float32] | None = None,
        size: tuple[int, int] | None = None,
        limit: int | None = None,
        max_staleness_s: float | None = None,
        stall_s: float = 60.0,
    ) -> None:
        self._source, self._engine, self._sinks = source, engine, tuple(sinks)
        self._stages, self._style, self._size = tuple(stages), style, size
        self._limit, self._max_staleness_s, self._stall_s = limit, max_staleness_s, stall_s
        fresh = policy == "freshest"
        depth = 1 if fresh else 4
        self._inbox: Channel[Frame] = Channel(depth, keep_newest=fresh)
        self._outbox: Channel[Delivery] = Channel(1 if fresh else 2)
        self._queues: list[Channel[Delivery]] = [Channel(depth, keep_newest=fresh) for _ in self._sinks]
        self._turnstile = Turnstile()
        self._state = Condition()
        self._busy: dict[int, tuple[str, float]] = {}
        self._running = 0
        self._workers_left = engine.slots
        self._stopping = self._stalled = False
        self._failure: BaseException | None = None
        self._began_s = self._first_out_s = self._last_out_s = time.monotonic()
        self.policy: Policy = policy
        self._done = 0
        self.frames_skipped = 0
        self.frames_in = 0
        self.frames_out = 0
        self.dropped_stale = 0
        self.dropped_by_source = 0
        self.overdue = 0
        self.age_ms = 0.0
        self.latencies = {
            name: Histogram() for name in ("read", "wait", "infer", "stages", "write", "added", "age")
        }
        self.age_curve = Curve()

    @property
    def dropped(self) -> int:
        """Frames that were there and never reached the first sink."""
        first = self._queues[0].dropped if self._queues else 0
        return self.dropped_by_source + self._inbox.dropped + self.dropped_stale + first

    @property
    def dropped_by_sink(self) -> dict[str, int]:
        return {sink.name: queue.dropped for sink, queue in zip(self._sinks, self._queues, strict=True)}

    @property
    def losses(self) -> Sequence[str]:
        """What of a damaged input could not be translated."""
        losses: Sequence[str] = getattr(self._source, "losses", ())
        return losses

    @property
    def fps(self) -> float:
        """New frames per second between the first and the last that reached the sinks."""
        span_s = self._last_out_s - self._first_out_s
        return (self.frames_out - 1) / span_s if self.frames_out > 1 and span_s > 0 else 0.0

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def run(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Does the whole job; `watch` is told of it several times a second.

        Raises what a stage raised, and KeyboardInterrupt after the user's: a live source's outputs are then whole,
        others are left to be resumed.
        """
        self._began_s = time.monotonic()
        resumed = [sink for sink in self._sinks if isinstance(sink, Resumable)]
        if self._source.live and not isinstance(self._source, Skipping):
            for sink in resumed:
                sink.keep_all()
        self._done = sum(sink.done for sink in resumed)
        threads = [
            Thread(target=self._guard, args=(work,), name=name, daemon=True) for name, work in self._work()
        ]
        self._running = len(threads)
        try:
            for thread in threads:
                thread.start()
            self._oversee(watch)
        except KeyboardInterrupt as interrupt:
            self._stop(interrupt)
            with suppress(KeyboardInterrupt):
                self._oversee(watch)
        except BaseException as error:
            self._fail(error)
        finally:
            self._close(threads)
        if self._failure is not None:
            raise self._failure

    def _work(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "source", self._read
        for slot in range(self._engine.slots):
            yield f"engine {slot}", self._infer
        yield "stages", self._finish_frames
        for sink, queue in zip(self._sinks, self._queues, strict=True):
            yield f"sink {sink.name}", lambda sink=sink, queue=queue: self._write(sink, queue)  # type: ignore[misc]

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Aborted:
            pass
        except KeyboardInterrupt as interrupt:
            self._stop(interrupt)
        except BaseException as error:
            self._fail(error)
        finally:
            with self._state:
                self._running -= 1
                self._state.notify_all()

    def _read(self) -> None:
        self._skip()
        last_index: int | None = None
        while not self._stopping and (self._limit is None or self._done + self.frames_in < self._limit):
            with self._timed("read", "the source"):
                frame = self._source.read()
            if frame is None:
                break
            if self._size is not None and (frame.pixels.shape[1], frame.pixels.shape[0]) != self._size:
                shrinks = self._size[0] < frame.pixels.shape[1]
                how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
                frame = frame.with_pixels(
                    np.asarray(cv2.resize(frame.pixels, self._size, interpolation=how), np.uint8)
                )
            # A live source that overtakes itself shows it by a gap in its numbers.
            if self._source.live and last_index is not None:
                self.dropped_by_source += max(0, frame.index - last_index - 1)
            last_index = frame.index
            self.frames_in += not frame.is_slate
            self._inbox.put(frame)
        self._inbox.close()

    def _skip(self) -> None:
        """Passes over what an earlier run has done; each frame is an answer of its own to the watchdog."""
        more = isinstance(self._source, Skipping)
        while more and not self._stopping:
            assert isinstance(self._source, Skipping)
            with self._watched("the source"):
                more = self._source.skip_one()
            self.frames_skipped += more

    def _infer(self) -> None:
        while (taken := self._inbox.get()) is not None:
            ticket, source = taken
            began_s = time.monotonic()
            waited_s = began_s - source.captured_s
            delivery = None
            if source.is_slate:
                delivery = Delivery(source, source, 0.0)
            elif self._max_staleness_s is None or waited_s <= self._max_staleness_s:
                with self._timed("infer", "the engine"):
                    pixels = self._engine.infer(source.pixels, self._style)
                self.latencies["wait"].add(waited_s * 1000)
                infer_ms = (time.monotonic() - began_s) * 1000
                translated = replace(source, pixels=pixels, engine_ms=infer_ms)
                delivery = Delivery(translated, source, infer_ms)
            self._turnstile.wait(ticket)
            if delivery is None:
                self.dropped_stale += 1
            else:
                self._outbox.put(delivery)
            self._turnstile.advance()
        with self._state:
            self._workers_left -= 1
            last = self._workers_left == 0
        if last:
            self._outbox.close()

    def _finish_frames(self) -> None:
        while (taken := self._outbox.get()) is not None:
            delivery = taken[1]
            translated = delivery.translated
            if self._stages:
                with self._timed("stages", "a stage"):
                    for stage in self._stages:
                        translated = stage.process(translated, delivery.source)
            for queue in self._queues:
                queue.put(Delivery(translated, delivery.source, delivery.infer_ms))
        for queue in self._queues:
            queue.close()

    def _write(self, sink: Sink, queue: Channel[Delivery]) -> None:
        while (taken := queue.get()) is not None:
            delivery = taken[1]
            age_ms = (time.monotonic() - delivery.source.captured_s) * 1000
            counted = sink is self._sinks[0] and not delivery.source.is_slate
            if counted:
                self.age_ms = age_ms
                self.latencies["age"].add(age_ms)
                self.latencies["added"].add(max(0.0, age_ms - delivery.infer_ms))
                self.age_curve.add(self.elapsed_s, age_ms)
                if self._max_staleness_s is not None and age_ms > self._max_staleness_s * 1000:
                    self.overdue += 1
            with self._timed("write", f"the output {sink.name}"):
                sink.write(delivery.translated, delivery.source)
            if counted:
                self._count()
        sink.finish()

    def _count(self) -> None:
        self._last_out_s = time.monotonic()
        if self.frames_out == 0:
            self._first_out_s = self._last_out_s
        self.frames_out += 1

    @contextmanager
    def _timed(self, stage: str, what: str) -> Iterator[None]:
        """Measures one call of a stage and lets the watchdog know of it."""
        began_s = time.monotonic()
        try:
            with self._watched(what):
                yield
        finally:
            self.latencies[stage].add((time.monotonic() - began_s) * 1000)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        self._busy[get_ident()] = (what, time.monotonic())
        try:
            yield
        finally:
            del self._busy[get_ident()]

    def _oversee(self, watch: Callable[[Progress], None] | None) -> None:
        """Returns when all threads have ended, or one has failed."""
        while True:
            with self._state:
                ended = self._state.wait_for(
                    lambda: self._running == 0 or (self._failure is not None and not self._draining), _LOOK_S
                )
            if watch is not None:
                watch(self._progress())
            if ended:
                return
            self._look_for_stalls()

    @property
    def _draining(self) -> bool:
        """Whether the user's stop lets a live recording come to a proper end."""
        return self._stopping and isinstance(self._failure, KeyboardInterrupt) and self._source.live

    def _look_for_stalls(self) -> None:
        now_s = time.monotonic()
        for what, since_s in list(self._busy.values()):
            if now_s - since_s > self._stall_s:
                self._stalled = True
                self._fail(
                    I2IError(
                        f"The job was ended because {what} has not answered for {self._stall_s:.0f} s: "
                        "see that the device or peer behind it is alive."
                    )
                )

    def _progress(self) -> Progress:
        total = self._source.frame_count if self._limit is None else self._limit
        counts = (self.frames_in, self.frames_out, self.dropped, total, self.elapsed_s, self.age_ms)
        return Progress(*counts, self.frames_skipped)

    def _stop(self, interrupt: KeyboardInterrupt) -> None:
        """The user wants no more: a live source just ends, anything else is abandoned to be resumed."""
        self._stopping = True
        if not self._source.live:
            self._fail(interrupt)
            return
        with self._state:
            self._failure = self._failure or interrupt
        self._source.close()

    def _fail(self, error: BaseException) -> None:
        with self._state:
            if self._failure is None or isinstance(self._failure, KeyboardInterrupt):
                self._failure = error
            self._stopping = True
            self._state.notify_all()
        self._inbox.abort()
        self._outbox.abort()
        for queue in self._queues:
            queue.abort()
        self._turnstile.abort()

    def _close(self, threads: Sequence[Thread]) -> None:
        if not self._stalled:
            self._close_all(threads)
            return
        # What has not answered may not let itself be closed either.
        closing = Thread(target=self._close_all, args=(threads,), name="closing", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _close_all(self, threads: Sequence[Thread]) -> None:
        self._source.close()
        deadline_s = time.monotonic() + _JOIN_S
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        for stage in self._stages:
            stage.close()
        for sink in self._sinks:
            sink.close()
