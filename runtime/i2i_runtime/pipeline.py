"""Source, engine, stages and sinks at work together: own threads, bounded queues, one owner of the end.

    source --> [inbox] --> engine (one thread per slot) --> [outbox] --> stages --> [queue] --> sink
                                                                               \\-> [queue] --> sink

`every-frame` waits if a queue is full, so that nothing is lost. `freshest` lets one frame wait in each queue and drops
it, counted, when a newer one comes: what is shown is never older than what the stages themselves take.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Condition, Thread
from typing import Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import Engine
from i2i_runtime.errors import EngineError, I2IError
from i2i_runtime.frame import Frame
from i2i_runtime.queues import Aborted, Channel, Turnstile
from i2i_runtime.sinks.base import Closed, Sink
from i2i_runtime.sources.base import Source
from i2i_runtime.stages.base import Stage
from i2i_runtime.stats import JobStats, Progress
from i2i_runtime.watchdog import Watchdog

Policy: TypeAlias = Literal["every-frame", "freshest"]

_JOIN_S = 1.5
_CLOSE_S = 5.0
_LOOK_S = 0.2
# The first image of each size: networks are compiled, memory is reserved, a GPU wakes up.
_WARM_UP_TIMES = 5.0


@dataclass(frozen=True)
class Delivery:
    """A translated frame on its way to the sinks, and the source frame it was made from."""

    translated: Frame
    source: Frame


class Pipeline:
    """One job: everything that `source` delivers, through `engine` and `stages`, to all of `sinks`.

    `run` does the job once, and closes source, stages and sinks; the engine stays open, to be used again. `stats` may
    be read from any thread. `style` is the engine's style code, `[1, S] float32`. `size` is (width, height) that
    images are scaled to before the engine, None leaves them. `limit` ends the job after that many frames. A frame that
    is older than `max_staleness_s` when its turn comes is dropped. A call into a source, engine, stage or sink that
    takes longer than `stall_s` ends the job; the engine's first image of each size, for which it prepares itself, may
    take five times as long. The slate of a lost source passes by the engine and is not counted.
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
        self._limit, self._max_staleness_s = limit, max_staleness_s
        fresh = policy == "freshest"
        depth = 1 if fresh else 4
        self._inbox: Channel[Frame] = Channel(depth, keep_newest=fresh)
        self._outbox: Channel[Delivery] = Channel(1 if fresh else 2)
        self._queues: list[Channel[Delivery]] = [Channel(depth, keep_newest=fresh) for _ in self._sinks]
        self._turnstile = Turnstile()
        self._watchdog = Watchdog(stall_s)
        self._state = Condition()
        self._running = 0
        self._workers_left = engine.slots
        self._warm: set[tuple[int, ...]] = set()
        self._stopping = self._stalled = False
        self._failure: BaseException | None = None
        self._done = 0
        self.stats = JobStats(
            source,
            self._sinks,
            policy=policy,
            inbox=self._inbox,
            queues=self._queues,
            max_staleness_s=max_staleness_s,
        )

    def run(self, watch: Callable[[Progress], None] | None = None) -> None:
        """Does the whole job; `watch` is called with its progress several times a second.

        Raises what a source, engine, stage or sink raised, and KeyboardInterrupt after the user's: outputs of a live
        source are then complete, others are left to be resumed. Closing an output that can be closed, such as a
        window, ends the job normally, with all outputs complete.
        """
        self.stats.begin()
        if self._source.live and not self._source.replayable:
            for sink in self._sinks:
                sink.keep_all()
        self._done = sum(sink.done for sink in self._sinks)
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
        for number, sink in enumerate(self._sinks):
            yield f"sink {sink.name}", lambda number=number: self._write(number)  # type: ignore[misc]

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
        stats = self.stats
        while not self._stopping and (self._limit is None or self._done + stats.frames_in < self._limit):
            with self._timed("read", "the source"):
                frame = self._source.read()
            if frame is None:
                break
            stats.count_read(frame)
            self._inbox.put(self._scaled(frame))
        self._inbox.close()

    def _skip(self) -> None:
        """Skips what an earlier run has done; the watchdog times each frame on its own."""
        while not self._stopping:
            with self._watchdog.watching("the source"):
                if not self._source.skip_one():
                    return
            self.stats.frames_skipped += 1

    def _scaled(self, frame: Frame) -> Frame:
        height, width = frame.pixels.shape[:2]
        if self._size is None or (width, height) == self._size:
            return frame
        how = cv2.INTER_AREA if self._size[0] < width else cv2.INTER_LINEAR
        return frame.with_pixels(
            np.asarray(cv2.resize(frame.pixels, self._size, interpolation=how), np.uint8)
        )

    def _infer(self) -> None:
        while (taken := self._inbox.get()) is not None:
            ticket, source = taken
            refusal = None
            try:
                translated = self._translated(source)
            except EngineError as error:
                if source.origin is None or len(source.origin.sources) < 2:
                    raise
                # One image of a folder does not end the job for the others.
                translated, refusal = None, f"{source.origin.path} was not translated: {error}"
            self._turnstile.wait(ticket)
            if translated is not None:
                self._outbox.put(Delivery(translated, source))
            elif refusal is None:
                self.stats.dropped_stale += 1
            else:
                self.stats.refused.append(refusal)
            self._turnstile.advance()
        with self._state:
            self._workers_left -= 1
            last = self._workers_left == 0
        if last:
            self._outbox.close()

    def _translated(self, source: Frame) -> Frame | None:
        """What the engine makes of a frame; None if the frame is too old."""
        if source.is_slate:
            return source
        began_s = time.monotonic()
        waited_s = began_s - source.captured_s
        if self._max_staleness_s is not None and waited_s > self._max_staleness_s:
            return None
        shape = source.pixels.shape
        with self._timed("infer", "the engine", 1.0 if shape in self._warm else _WARM_UP_TIMES):
            pixels = self._engine.infer(source.pixels, self._style)
        self._warm.add(shape)
        self.stats.latencies["wait"].add(waited_s * 1000)
        return replace(source, pixels=pixels, engine_ms=(time.monotonic() - began_s) * 1000)

    def _finish_frames(self) -> None:
        while (taken := self._outbox.get()) is not None:
            delivery = taken[1]
            if self._stages:
                translated = delivery.translated
                with self._timed("stages", "a stage"):
                    for stage in self._stages:
                        translated = stage.process(translated, delivery.source)
                delivery = Delivery(translated, delivery.source)
            for queue in self._queues:
                queue.put(delivery)
        for queue in self._queues:
            queue.close()

    def _write(self, number: int) -> None:
        sink, queue = self._sinks[number], self._queues[number]
        closed = False
        while (taken := queue.get()) is not None:
            if closed:
                continue
            delivery = taken[1]
            counted = number == 0 and not delivery.source.is_slate
            if counted:
                self.stats.count_handed_over(delivery.translated, delivery.source)
            try:
                with self._timed("write", f"the output {sink.name}"):
                    sink.write(delivery.translated, delivery.source)
            except Closed:
                closed = True
                self._end_early()
                continue
            if counted:
                self.stats.count_written()
        if self.stats.refused and not self.stats.frames_out:
            raise EngineError(self.stats.refused[0])
        sink.finish()

    @contextmanager
    def _timed(self, stage: str, part: str, times: float = 1.0) -> Iterator[None]:
        """Around one call into a part of the job: measured, and watched for a stall of `times` the usual limit."""
        with self.stats.timed(stage), self._watchdog.watching(part, times):
            yield

    def _oversee(self, watch: Callable[[Progress], None] | None) -> None:
        """Returns when all threads have ended, or one has failed."""
        while True:
            with self._state:
                ended = self._state.wait_for(
                    lambda: self._running == 0 or (self._failure is not None and not self._draining), _LOOK_S
                )
            if watch is not None:
                total = self._source.frame_count if self._limit is None else self._limit
                watch(self.stats.progress(total))
            if ended:
                return
            stalled = self._watchdog.stalled()
            if stalled is not None:
                part, limit_s = stalled
                self._stalled = True
                self._fail(
                    I2IError(
                        f"{part[0].upper()}{part[1:]} did not respond for {limit_s:.0f} s, "
                        "so the job was stopped: check the device or the connection."
                    )
                )

    @property
    def _draining(self) -> bool:
        """Whether the frames of a live source that were read before the user's stop are still being written."""
        return self._stopping and isinstance(self._failure, KeyboardInterrupt) and self._source.live

    def _end_early(self) -> None:
        """The user closed an output: no more is read, and what was read reaches the other outputs."""
        self._stopping = True
        for sink in self._sinks:
            sink.end_early()
        self._source.close()

    def _stop(self, interrupt: KeyboardInterrupt) -> None:
        """The user interrupted: a live source just ends, any other job is abandoned to be resumed."""
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
        # A part that does not respond may block its own close, too.
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
