"""A job that is killed, fails or runs out of room goes on where it stopped, and gives what it would have given."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.engines import open_engine
from i2i_runtime.errors import I2IError, SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sinks.journal import Journal, Segment, unfinished_folder
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources import Source, SourceOptions
from i2i_runtime.sources.video import VideoSource
from i2i_runtime.verify import compare_files

PTS = [512 * index + (37 if index % 5 == 0 else 0) for index in range(60)]

# Runs the command with short segments, and kills itself with SIGKILL at the n-th call of the function named.
KILLED = """
import os, signal, sys
import i2i_runtime.sinks.video as video, i2i_runtime.sinks.journal as journal
from i2i_runtime.sinks.remux import Assembly
video.SEGMENT_FRAMES = 8
name, left = sys.argv[1], int(sys.argv[2])
owner = {"write": video.VideoSink, "record": journal.Journal, "_append": journal.Journal, "_join": Assembly}
owner |= {"finish": Assembly}
def wrap(call):
    def wrapped(*args, **more):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **more)
    return wrapped
if name in ("replace", "unlink"):
    from pathlib import Path
    setattr(Path, name, wrap(getattr(Path, name)))
elif name in owner:
    setattr(owner[name], name, wrap(getattr(owner[name], name)))
sys.argv = ["i2i-stream", *sys.argv[3:]]
from i2i_runtime.cli.entry import stream
stream()
"""


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip("resumed.mp4", pts=PTS, audio_tracks=1)


def images_of(path: Path) -> list[tuple[int, bytes]]:
    with av.open(path) as container:
        return [(f.pts or 0, f.to_ndarray().tobytes()) for f in container.decode(video=0)]


def run(engine: Path, source: Path, output: Path, **more: Any) -> int:
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], quiet=True, **more))


@pytest.mark.parametrize(
    ("where", "turn"),
    [
        ("_append", 1),
        ("write", 3),
        ("write", 30),
        ("record", 3),
        ("_append", 4),
        ("_join", 4),
        ("finish", 1),
        ("replace", 1),
        ("unlink", 5),
    ],
)
def test_killed_at_any_point_the_result_is_the_same(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, turn: int
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    undisturbed, output = tmp_path / "whole" / "out.mp4", tmp_path / "out.mp4"
    assert run(engines.invert, clip, undisturbed) == 0
    job = ["-m", str(engines.invert), "-i", str(clip), "-o", str(output), "--quiet"]
    killed = subprocess.run([sys.executable, "-c", KILLED, where, str(turn), *job], check=False)
    assert killed.returncode == -signal.SIGKILL
    # Killed while it tidied up, the job had put the whole film in its place already.
    assert output.exists() is (where == "unlink")
    assert run(engines.invert, clip, output, resume=True) == 0
    assert images_of(output) == images_of(undisturbed)
    assert all(check.agrees for check in compare_files(clip, output))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "whole"]


def test_an_unfinished_job_is_not_thrown_away_unasked(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    output = tmp_path / "out.mp4"
    interrupt_after(monkeypatch, 30, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run(engines.invert, clip, output)
    monkeypatch.undo()
    assert not output.exists()
    # What is there plays: every frame up to the one that was interrupted.
    assert len(images_of(tmp_path / "out.partial.mp4")) == 30
    with pytest.raises(UsageError, match="--resume"):
        run(engines.invert, clip, output)
    with pytest.raises(UsageError, match=r"engine [0-9a-f]+.*--restart"):
        run(engines.identity, clip, output, resume=True)
    with pytest.raises(UsageError, match="crf None"):
        run(engines.invert, clip, output, resume=True, crf=40)
    assert run(engines.invert, clip, output, restart=True) == 0
    assert len(images_of(output)) == len(PTS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"], "the partial film has served"


def test_segments_are_joined_while_later_ones_are_made(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the clip, no more than the last two are left for the end."""
    from i2i_runtime.sinks.remux import Assembly

    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    finish, left = Assembly.finish, []

    def counted(self: Assembly, *, whole: bool = True) -> list[str]:
        left.append(len(self._journal.segments) - self._joined)
        return finish(self, whole=whole)

    monkeypatch.setattr(Assembly, "finish", counted)
    assert run(engines.invert, clip, tmp_path / "out.mp4") == 0
    assert left == [2]


def test_a_damaged_segment_is_named_and_never_called_whole(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    output = tmp_path / "out.mp4"
    with monkeypatch.context() as broken:
        interrupt_after(broken, 40, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(engines.invert, clip, output)
    segment = tmp_path / ".out.mp4.unfinished" / "000001.nut"
    segment.write_bytes(segment.read_bytes()[: segment.stat().st_size // 2])
    with pytest.raises(SinkError, match=r"000001\.nut is damaged .*--restart"):
        run(engines.invert, clip, output, resume=True)
    assert not output.exists()


def interrupt_after(monkeypatch: pytest.MonkeyPatch, frames: int, error: BaseException) -> None:
    """Makes the encoder's input raise at that frame."""
    from i2i_runtime.media.colour import ColourConverter

    convert, left = ColourConverter.frame_from_rgb, [frames]

    def counted(self: ColourConverter, *given: Any) -> av.VideoFrame:
        left[0] -= 1
        if left[0] < 0:
            raise error
        return convert(self, *given)

    monkeypatch.setattr(ColourConverter, "frame_from_rgb", counted)


def test_a_full_disk_is_a_sentence_and_can_be_resumed(engines: Any, clip: Path, tmp_path: Path) -> None:
    """The limit on file size stands for the full disk: both fail in the middle of a write."""
    output = tmp_path / "out.mp4"
    script = (
        "import resource, signal, sys\n"
        "import i2i_runtime.sinks.video as video\n"
        "video.SEGMENT_FRAMES = 8\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))\n"
        "from i2i_runtime.cli.entry import stream\n"
        "stream()\n"
    )
    job = ["-m", str(engines.invert), "-i", str(clip), "-o", str(output), "--quiet", "--crf", "1"]
    full = subprocess.run(
        [sys.executable, "-c", script, "9000", *job], capture_output=True, text=True, check=False
    )
    assert full.returncode == 1
    assert "cannot be written" in full.stderr
    assert "Traceback" not in full.stderr
    assert not output.exists()
    resumed = subprocess.run([sys.executable, "-c", script, "1000000", *job, "--resume"], check=False)
    assert resumed.returncode == 0
    assert all(check.agrees for check in compare_files(clip, output))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_broken_frame_ends_the_job_and_resume_goes_on(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    assert run(engines.invert, clip, whole) == 0
    with monkeypatch.context() as broken:
        interrupt_after(broken, 20, SinkError("The encoder broke: try again."))
        with pytest.raises(SinkError, match="The encoder broke"):
            run(engines.invert, clip, output)
    assert run(engines.invert, clip, output, resume=True) == 0
    assert images_of(output) == images_of(whole)


def frame_at(index: int, first_s: float = 0.0) -> Frame:
    """A frame as cameras and images give it: from no clip, 25 a second."""
    pixels = np.full((32, 48, 3), index * 4 % 256, np.uint8)
    return Frame(pixels, index, round(first_s * 1e6) + index * 40_000, Fraction(1, 1_000_000), 0.0)


def feed(sink: VideoSink, indices: Iterable[int]) -> None:
    for index in indices:
        sink.write(frame_at(index), frame_at(index))


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output of which five segments of 8 frames are done, and five frames of the sixth were under way."""
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    killed = VideoSink(tmp_path / "begun.mp4", SinkOptions())
    feed(killed, range(45))
    return tmp_path / "begun.mp4"


def journal_of(output: Path) -> list[Any]:
    lines = (unfinished_folder(output) / "journal.jsonl").read_text().splitlines()
    return [json.loads(line).get("pts") for line in lines]


def test_a_resumed_job_that_ends_early_loses_nothing(begun: Path) -> None:
    before = journal_of(begun)
    for new in (0, 0, 3, 3):
        sink = VideoSink(begun, SinkOptions(resume=True))
        assert sink.done == 32, "the last segment is made again, and no other"
        feed(sink, range(32, 32 + new))
        sink.close()
        assert journal_of(begun) == before
    assert len(images_of(begun.with_name("begun.partial.mp4"))) == 40
    whole = VideoSink(begun.with_name("whole.mp4"), SinkOptions())
    feed(whole, range(50))
    whole.finish()
    sink = VideoSink(begun, SinkOptions(resume=True))
    feed(sink, range(32, 50))
    sink.finish()
    assert begun.read_bytes() == begun.with_name("whole.mp4").read_bytes()
    assert sorted(path.name for path in begun.parent.iterdir()) == ["begun.mp4", "whole.mp4"]


def test_the_last_segment_stands_until_it_is_made_again(begun: Path) -> None:
    """Killed at any of these points, every file that the journal names is the one that it describes."""
    before, folder = journal_of(begun), unfinished_folder(begun)
    for upto in (33, 40, 39, 40):
        killed = VideoSink(begun, SinkOptions(resume=True))
        feed(killed, range(32, upto))
        assert journal_of(begun) == before
        for line in (folder / "journal.jsonl").read_text().splitlines()[1:]:
            with av.open(folder / json.loads(line)["file"]) as container:
                assert sum(1 for packet in container.demux(video=0) if packet.size) == 8
        del killed  # the system takes back the lock of a job that was killed


def test_one_segment_is_worth_resuming(begun: Path) -> None:
    file = unfinished_folder(begun) / "journal.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    before = journal_of(begun)
    VideoSink(begun, SinkOptions(resume=True)).close()
    sink = VideoSink(begun, SinkOptions(resume=True))
    with pytest.raises(SinkError, match="had no frames; use --resume to continue it"):
        sink.finish()
    sink.close()
    assert journal_of(begun) == before


class Camera(Source):
    """Gives frames for ever, whose times begin anew with each session."""

    live, name = True, "camera"

    def __init__(self) -> None:
        self._index = 0

    def read(self) -> Frame:
        self._index += 1
        return frame_at(self._index - 1, 0.01)


def test_a_live_recording_that_was_killed_goes_on(begun: Path, engines: Any) -> None:
    sink = VideoSink(begun, SinkOptions(resume=True))
    engine = open_engine(engines.identity, "onnxruntime")
    Pipeline(Camera(), engine, [sink], policy="every-frame", limit=60).run()
    with av.open(begun) as container:
        times = [round(float(time_of(frame)), 3) for frame in container.decode(video=0)]
    assert times == [round(0.04 * index, 3) for index in range(60)], "all 40 of before, and 20 new ones"
    assert len(sink.notes) == 1
    assert "interrupted after 1.6 s" in sink.notes[0]
    assert [path.name for path in begun.parent.iterdir()] == ["begun.mp4"]


def test_what_a_camera_gave_plays_although_it_does_not_come_back(begun: Path) -> None:
    before = journal_of(begun)
    VideoSink(begun, SinkOptions(resume=True)).close()
    with av.open(begun.with_name("begun.partial.mp4")) as container:
        times = [round(float(time_of(frame)), 3) for frame in container.decode(video=0)]
    assert times == [round(0.04 * index, 3) for index in range(40)]
    assert journal_of(begun) == before


def time_of(frame: av.VideoFrame) -> Fraction:
    """Seconds, exactly."""
    assert frame.pts is not None
    assert frame.time_base is not None
    return frame.pts * frame.time_base


def times_of(clip: Path) -> list[int]:
    source, times = VideoSource(clip, SourceOptions()), list[int]()
    while (frame := source.read()) is not None:
        times.append(frame.pts)
    source.close()
    return times


def test_a_replay_that_dropped_frames_goes_on_after_the_last(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    output = tmp_path / "out.mp4"
    killed, source = VideoSink(output, SinkOptions()), VideoSource(clip, SourceOptions())
    for turn in range(40):
        frame = source.read()
        if turn % 2 == 0 and frame is not None:
            killed.write(frame, frame)
    del killed
    sink = VideoSink(output, SinkOptions(resume=True))
    replay = VideoSource(clip, SourceOptions(skip=sink.done))
    while (again := replay.read()) is not None:
        sink.write(again, again)
    sink.finish()
    with av.open(output) as container:
        times = [time_of(frame) for frame in container.decode(video=0)]
    due = times_of(clip)
    assert times == [Fraction(pts, 12800) for pts in [*due[:16:2], *due[15:]]]


def test_the_limit_counts_what_an_earlier_run_has_done(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    output = tmp_path / "out.mp4"
    with monkeypatch.context() as broken:
        interrupt_after(broken, 20, SinkError("The encoder broke: try again."))
        with pytest.raises(SinkError):
            run(engines.invert, clip, output, limit=30)
    assert run(engines.invert, clip, output, limit=30, resume=True) == 0
    assert len(images_of(output)) == 30


def test_resume_without_anything_begun_is_a_plain_job(engines: Any, clip: Path, tmp_path: Path) -> None:
    assert run(engines.identity, clip, tmp_path / "out.mp4", resume=True) == 0
    assert len(images_of(tmp_path / "out.mp4")) == len(PTS)


def test_resume_leaves_a_whole_output_as_it_is(
    engines: Any, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.mp4"
    assert run(engines.identity, clip, output) == 0
    made = output.stat()
    options = StreamOptions(str(engines.identity), input=str(clip), output=[str(output)], resume=True)
    assert stream(options) == 0
    assert "out.mp4 is already complete" in capsys.readouterr().err
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (made.st_ino, made.st_mtime_ns)


def test_resume_of_several_outputs_is_refused(engines: Any, clip: Path, tmp_path: Path) -> None:
    options = StreamOptions(
        str(engines.identity),
        input=str(clip),
        output=[str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")],
        resume=True,
    )
    with pytest.raises(UsageError, match="exactly one"):
        stream(options)


def test_a_clip_changed_meanwhile_is_another_job(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(make_clip("before.mp4", pts=PTS).read_bytes())
    with monkeypatch.context() as broken:
        interrupt_after(broken, 20, SinkError("The encoder broke: try again."))
        with pytest.raises(SinkError):
            run(engines.invert, clip, tmp_path / "out.mp4")
    os.utime(clip, (1, 1))
    with pytest.raises(UsageError, match="input_modified_ns"):
        run(engines.invert, clip, tmp_path / "out.mp4", resume=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_torn_journal_is_true_up_to_the_tear(tmp_path: Path, seed: int) -> None:
    output = tmp_path / "film.mp4"
    journal = Journal(output, {"engine": "e"})
    journal.begin()
    for number in range(4):
        (journal.folder / f"{number:06d}.nut").write_bytes(b"x")
        journal.record(Segment(f"{number:06d}.nut", (number * 2, number * 2 + 1)))
    file = journal.folder / "journal.jsonl"
    text = file.read_bytes()
    header = text.index(b"\n") + 1
    cut = int(np.random.default_rng(seed).integers(header, len(text)))
    file.write_bytes(text[:cut])
    again = Journal(output, {"engine": "e"})
    again.resume()
    kept = [pts for segment in again.segments for pts in segment.pts]
    assert kept == list(range(len(kept)))
    (journal.folder / "000009.nut").write_bytes(b"x")
    again.record(Segment("000009.nut", (100,)))
    lines = file.read_text().splitlines()
    assert json.loads(lines[0]) == {"job": {"engine": "e"}}
    assert len(lines) == len(again.segments) + 1


def test_a_journal_of_noise_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "film.mp4", {"engine": "e"})
    journal.begin()
    (journal.folder / "journal.jsonl").write_bytes(b"\xff\x00noise")
    (journal.folder / "000000.nut").write_bytes(b"six hours")
    with pytest.raises(I2IError, match="--restart"):
        Journal(tmp_path / "film.mp4", {"engine": "e"}).resume()


@pytest.mark.parametrize("live", [False, True])
def test_ctrl_c_leaves_a_film_that_plays(engines: Any, clip: Path, tmp_path: Path, live: bool) -> None:
    """130 either way; a recording is whole, a file job is partial and can be resumed."""
    output = tmp_path / "out.mp4"
    script = (
        "import sys, threading\n"
        "from i2i_runtime.cli.entry import stream\n"
        "from i2i_runtime.sinks.video import VideoSink\n"
        "write, seen = VideoSink.write, []\n"
        "def held(self, translated, source):\n"
        "    write(self, translated, source)\n"
        "    seen.append(source.index)\n"
        "    if len(seen) == 10:\n"
        "        print('ten', flush=True)\n"
        "        threading.Event().wait(0.5)\n"
        "VideoSink.write = held\n"
        "stream()\n"
    )
    source = f"replay:{clip}" if live else str(clip)
    job = ["-m", str(engines.invert), "-i", source, "-o", str(output), "--quiet", "--policy", "every-frame"]
    with subprocess.Popen([sys.executable, "-c", script, *job], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ten\n"
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    film = output if live else tmp_path / "out.partial.mp4"
    assert len(images_of(film)) >= 10
    assert output.exists() is live


def test_passing_over_what_is_done_goes_frame_by_frame(clip: Path) -> None:
    """Hours of finished frames in one call would look like a source that does not answer."""
    source = VideoSource(clip, SourceOptions(skip=50))
    assert [source.skip_one() for _ in range(51)] == [True] * 50 + [False]
    frame = source.read()
    assert frame is not None
    assert (frame.index, frame.pts) == (50, times_of(clip)[50])
    source.close()
    over = VideoSource(clip, SourceOptions(skip=len(PTS) + 5))
    assert over.read() is None
    over.close()
