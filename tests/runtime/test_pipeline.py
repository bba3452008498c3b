"""The pipeline: order, back-pressure, freshness, drops that are counted, and ends that never hang."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from i2i_runtime.engines.fake import FakeEngine
from i2i_runtime.errors import EngineError, I2IError, SinkError, SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import Closed, SinkOptions
from i2i_runtime.sinks.collecting import CollectingSink
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources import SourceOptions, SourceWrapper
from i2i_runtime.sources.video import VideoSource
from i2i_runtime.stages import Stage
from i2i_runtime.stats import Progress


def never(_: object = None) -> None:
    """Blocks for longer than any test waits; the threads that call it are daemons."""
    threading.Event().wait(60)


def test_every_frame_arrives_once_and_in_order(fake_source: Any) -> None:
    sink, source = CollectingSink(), fake_source(50)
    pipeline = Pipeline(source, FakeEngine(), [sink])
    pipeline.run()
    assert [frame.index for frame in sink.frames] == list(range(50))
    assert [frame.pts for frame in sink.frames] == [512 * index for index in range(50)]
    assert (pipeline.stats.frames_in, pipeline.stats.frames_out, pipeline.stats.dropped) == (50, 50, 0)
    assert (sink.finished, sink.closed, source.closed) == (True, True, True)
    assert pipeline.stats.latencies["infer"].count == 50


def test_several_slots_keep_the_order(fake_source: Any) -> None:
    # Every third image is held back until a later one has been begun.
    later = [threading.Event() for _ in range(60)]

    def hold(turn: int) -> None:
        later[turn].set()
        if turn % 3 == 0 and turn + 1 < 40:
            assert later[turn + 1].wait(10)

    sink = CollectingSink()
    Pipeline(fake_source(40), FakeEngine(3, hold), [sink]).run()
    assert [frame.index for frame in sink.frames] == list(range(40))


def test_images_are_the_engines(fake_source: Any) -> None:
    seen: list[tuple[Frame, Frame]] = []

    class Pairs(CollectingSink):
        def write(self, translated: Frame, source: Frame) -> None:
            seen.append((translated, source))

    Pipeline(fake_source(5), FakeEngine(), [Pairs()]).run()
    for translated, source in seen:
        np.testing.assert_array_equal(translated.pixels, 255 - source.pixels)
        assert translated.engine_ms is not None
        assert translated.engine_ms >= 0


def test_freshest_shows_the_newest_and_counts_the_rest(fake_source: Any) -> None:
    """A source ten times as fast as the engine, kept in step without a clock."""
    source = fake_source(1000, live=True)
    turns, moved = [0], threading.Condition()

    def come(index: int) -> bool:
        with moved:
            moved.notify_all()
            return moved.wait_for(lambda: index < 10 * (turns[0] + 1), 10)

    def lag(turn: int) -> None:
        with moved:
            turns[0] = turn + 1
            moved.notify_all()
            assert moved.wait_for(lambda: source.given >= min(source.count - 1, 10 * (turn + 1)), 10)

    source.wait = come
    behind: list[int] = []
    sink = CollectingSink(before=lambda frame: behind.append(source.given - frame.index))
    pipeline = Pipeline(source, FakeEngine(1, lag), [sink], policy="freshest")
    pipeline.run()
    assert pipeline.stats.frames_in == 1000
    assert pipeline.stats.dropped > 800
    assert pipeline.stats.frames_out + pipeline.stats.dropped == 1000
    # However long it runs, what is shown is a few rounds behind the source: nothing queues up.
    assert max(behind) <= 100
    shown = [frame.index for frame in sink.frames]
    assert shown == sorted(shown)


def test_every_frame_waits_for_a_slow_sink(fake_source: Any) -> None:
    source = fake_source(200)
    gate = threading.Event()
    ahead: list[int] = []

    def hold(frame: Frame) -> None:
        if frame.index == 0:
            # The source must come to rest although the sink has taken nothing yet.
            while True:
                given = source.given
                if not gate.wait(0.1) and source.given == given:
                    break
            ahead.append(source.given)

    Pipeline(source, FakeEngine(), [CollectingSink(before=hold)]).run()
    assert ahead[0] < 20
    assert source.given == 200


def test_a_slow_sink_does_not_slow_the_other_when_live(fake_source: Any) -> None:
    release = threading.Event()
    fast = CollectingSink("fast")
    slow = CollectingSink("slow", before=lambda frame: never() if not release.wait(20) else None)

    def pace(index: int) -> bool:
        deadline_s = time.monotonic() + 10
        while len(fast.frames) < index and time.monotonic() < deadline_s:
            time.sleep(0.0005)
        if index == 99:
            release.set()
        return True

    pipeline = Pipeline(fake_source(100, live=True, wait=pace), FakeEngine(), [fast, slow], policy="freshest")
    pipeline.run()
    assert len(fast.frames) == 100
    assert pipeline.stats.dropped == 0
    assert pipeline.stats.dropped_by_sink[1] >= 95


def test_stale_frames_are_dropped_and_counted(fake_source: Any) -> None:
    sink = CollectingSink()
    pipeline = Pipeline(fake_source(20), FakeEngine(), [sink], max_staleness_s=-1.0)
    pipeline.run()
    assert (pipeline.stats.dropped_stale, pipeline.stats.dropped, len(sink.frames)) == (20, 20, 0)


def test_limit_ends_whole(fake_source: Any) -> None:
    sink = CollectingSink()
    Pipeline(fake_source(50), FakeEngine(), [sink], limit=7).run()
    assert len(sink.frames) == 7
    assert sink.finished


def test_size_scales_before_the_engine(fake_source: Any) -> None:
    sink = CollectingSink()
    Pipeline(fake_source(2), FakeEngine(), [sink], size=(10, 6)).run()
    assert sink.frames[0].pixels.shape == (6, 10, 3)


def test_stages_run_in_order_and_are_closed(fake_source: Any) -> None:
    class Add(Stage):
        closed = False

        def __init__(self, factor: int, offset: int) -> None:
            self.factor, self.offset = factor, offset

        def process(self, translated: Frame, source: Frame) -> Frame:
            return translated.with_pixels(translated.pixels // self.factor + self.offset)

        def close(self) -> None:
            self.closed = True

    sink, stages = CollectingSink(), [Add(2, 10), Add(4, 1)]
    Pipeline(fake_source(1), FakeEngine(), [sink], stages=stages).run()
    assert sink.frames[0].pixels[0, 0, 0] == ((255 - 64) // 2 + 10) // 4 + 1
    assert all(stage.closed for stage in stages)


def failing(turn_of_failure: int, error: Exception) -> Callable[[Any], None]:
    def check(turn: Any) -> None:
        if (turn.index if isinstance(turn, Frame) else turn) >= turn_of_failure:
            raise error

    return check


@pytest.mark.parametrize("where", ["source", "engine", "stage", "sink", "finish"])
@pytest.mark.parametrize("policy", ["every-frame", "freshest"])
def test_a_failing_stage_ends_the_job_with_its_own_error(fake_source: Any, where: str, policy: Any) -> None:
    source, engine, sink = fake_source(10_000), FakeEngine(), CollectingSink()
    witness, stages = CollectingSink("witness"), []
    error: I2IError = EngineError("The engine broke: mend it.")
    if where == "source":
        error = SourceError("The fake camera lost its image: plug it in.")
        source.fail_at = 20
    elif where == "engine":
        engine = FakeEngine(2, failing(20, error))
    elif where == "stage":

        class Broken(Stage):
            def process(self, translated: Frame, source: Frame) -> Frame:
                failing(20, error)(translated)
                return translated

        stages = [Broken()]
    elif where == "sink":
        error = SinkError("The disk is full: free some space.")
        sink = CollectingSink(before=failing(0, error))
    else:
        error, source.count = SinkError("The disk is full: free some space."), 30

        class Unfinished(CollectingSink):
            def finish(self) -> None:
                raise error

        sink = Unfinished()
    with pytest.raises(I2IError, match=str(error)):
        Pipeline(source, engine, [sink, witness], stages=stages, policy=policy).run()
    assert (sink.closed, witness.closed, source.closed) == (True, True, True)
    assert not sink.finished or where == "finish"
    if where != "finish":
        assert not witness.finished


def test_a_hanging_engine_is_noticed(fake_source: Any) -> None:
    pipeline = Pipeline(fake_source(5), FakeEngine(1, never), [CollectingSink()], stall_s=0.3)
    with pytest.raises(I2IError, match="The engine did not respond"):
        pipeline.run()


def ended_with(work: Callable[[], None]) -> BaseException | None:
    """What `work` raised; fails where it does not come to an end."""
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the job hangs"
    return raised[0] if raised else None


def test_a_clip_whose_disk_is_gone_ends_the_job(
    make_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = VideoSource(make_clip("gone.mp4", pts=[512 * index for index in range(12)]), SourceOptions())
    following, left = source._next, [8]

    def answering_no_more() -> Any:
        left[0] -= 1
        return never() if left[0] == 0 else following()

    monkeypatch.setattr(source, "_next", answering_no_more)
    error = ended_with(Pipeline(source, FakeEngine(), [CollectingSink()], stall_s=0.5).run)
    assert "The source did not respond" in str(error)


@pytest.mark.parametrize("part", ["source", "sink"])
def test_what_hangs_and_cannot_be_closed_is_left_behind(fake_source: Any, part: str) -> None:
    source, sink = fake_source(50), CollectingSink()
    if part == "source":
        source.wait, source.close = never, never
    else:
        sink = CollectingSink(before=never)
        sink.close = never  # type: ignore[method-assign]
    error = ended_with(Pipeline(source, FakeEngine(), [sink], stall_s=0.5).run)
    assert "did not respond" in str(error)


@pytest.mark.parametrize("live", [False, True])
def test_ctrl_c_ends_soon_and_only_a_recording_is_whole(fake_source: Any, live: bool) -> None:
    source, sink = fake_source(10**9, live=live), CollectingSink()

    def slowly(_: int) -> bool:
        time.sleep(0.001)
        return True

    source.wait = slowly

    def interrupt(progress: Progress) -> None:
        if progress.frames_out > 0 and not source.closed:
            signal.raise_signal(signal.SIGINT)

    pipeline = Pipeline(source, FakeEngine(), [sink], policy="freshest" if live else "every-frame")
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(interrupt)
    assert sink.finished is live
    assert (sink.closed, source.closed) == (True, True)


def test_progress_counts_up_to_the_whole(fake_source: Any) -> None:
    seen: list[Progress] = []
    Pipeline(fake_source(30), FakeEngine(), [CollectingSink()]).run(seen.append)
    assert seen[-1].frames_out == seen[-1].total == 30


def test_every_frame_passed_over_is_an_answer_and_moves_the_line(fake_source: Any) -> None:
    """What an earlier run has done is passed over one watched call at a time, and counts as done."""
    began_s: list[float] = []

    class Resumed(fake_source):  # type: ignore[misc]
        def skip_one(self) -> bool:
            if self.given == 20:
                return False
            self.given += 1
            began_s.extend(since_s for _, since_s, _ in pipeline._watchdog._running.values())
            time.sleep(0.001)
            return True

    pipeline, seen = Pipeline(Resumed(30), FakeEngine(), [CollectingSink()]), list[Progress]()
    pipeline.run(seen.append)
    assert len(set(began_s)) == 20, "the watchdog hears of every one of them"
    assert (seen[-1].skipped, seen[-1].frames_in, seen[-1].frames_out) == (20, 10, 10)
    assert pipeline.stats.latencies["read"].count == 11, "they are no part of what reading takes"


def closing_at(index: int) -> Callable[[Frame], None]:
    """The user closes the output at that frame."""

    def check(frame: Frame) -> None:
        if frame.index >= index:
            raise Closed

    return check


@pytest.mark.parametrize("live", [False, True])
def test_a_closed_output_ends_the_job_normally(fake_source: Any, live: bool) -> None:
    source, kept = fake_source(10**9, live=live), CollectingSink("kept")
    window = CollectingSink("window", closing_at(20))
    pipeline = Pipeline(source, FakeEngine(), [window, kept])
    pipeline.run()
    assert [frame.index for frame in window.frames] == list(range(20))
    assert pipeline.stats.frames_out == 20
    assert (window.finished, kept.finished, kept.closed, source.closed) == (True, True, True, True)
    # What was read before the end reaches the other output, and nothing is missing on the way.
    assert [frame.index for frame in kept.frames] == list(range(pipeline.stats.frames_in))
    assert len(kept.frames) > 20


def test_a_video_that_is_ended_early_is_complete_and_its_audio_ends_with_it(
    make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip("ended.mp4", pts=[512 * index for index in range(100)], audio_tracks=1)
    output = VideoSink(tmp_path / "out.mp4", SinkOptions())
    window = CollectingSink("window", closing_at(30))
    Pipeline(VideoSource(clip, SourceOptions()), FakeEngine(), [window, output]).run()
    with av.open(tmp_path / "out.mp4") as container:
        ends = dict.fromkeys(("video", "audio"), 0.0)
        for packet in container.demux():
            if packet.pts is not None:
                kind = packet.stream.type
                ends[kind] = max(ends[kind], float((packet.pts + (packet.duration or 0)) * packet.time_base))
    assert 30 * 0.04 <= ends["video"] <= 60 * 0.04
    assert ends["audio"] == pytest.approx(ends["video"], abs=0.1)
    assert any("ends where the job was ended" in note for note in output.notes)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_a_wrapped_source_tells_what_the_source_tells(fake_source: Any) -> None:
    class Damaged(fake_source):  # type: ignore[misc]
        losses = ("the frame at 1.000 s did not decode",)
        outages, recoveries, replayable = 3, 2, True

        def skip_one(self) -> bool:
            self.given += 1
            return bool(self.given < 4)

    inner = Damaged(9, live=True)
    wrapped = SourceWrapper(inner)
    assert (wrapped.name, wrapped.live, wrapped.frame_count, wrapped.replayable) == ("fake", True, 9, True)
    assert (wrapped.losses, wrapped.outages, wrapped.recoveries) == (Damaged.losses, 3, 2)
    assert [wrapped.skip_one() for _ in range(4)] == [True, True, True, False]
    frame = wrapped.read()
    assert frame is not None
    assert frame.index == 4
    wrapped.close()
    assert inner.closed
