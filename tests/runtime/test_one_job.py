"""One job, one output: no second job beside it, no other job's film taken for its own, no foreign file deleted."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sinks.journal import Journal, Segment, unfinished_folder
from i2i_runtime.sinks.stamp import put_stamp, read_stamp
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources import SourceOptions
from i2i_runtime.sources.video import VideoSource
from i2i_runtime.verify import compare_files

PTS = [512 * index for index in range(30)]


def run(engine: Path, source: Path | str, output: Path | str, **more: Any) -> int:
    options = {"backend": "onnxruntime", "quiet": True, **more}
    return stream(StreamOptions(str(engine), input=str(source), output=[str(output)], **options))


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip("one_job.mp4", pts=PTS)


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("i2i_runtime.sinks.video.SEGMENT_FRAMES", 8)


@pytest.mark.usefixtures("short_segments")
@pytest.mark.parametrize("begun", [4, 12], ids=["before the first segment", "later"])
@pytest.mark.parametrize(
    "asks", [{}, {"resume": True}, {"restart": True}], ids=["plain", "resume", "restart"]
)
def test_a_second_job_is_refused_and_the_first_ends_complete(
    engines: Any, clip: Path, tmp_path: Path, begun: int, asks: dict[str, bool]
) -> None:
    output = tmp_path / "film.mp4"
    first, source = VideoSink(output, SinkOptions()), VideoSource(clip, SourceOptions())
    for index in range(len(PTS)):
        frame = source.read()
        assert frame is not None
        first.write(frame, frame)
        if index == begun:
            (tmp_path / "sub").mkdir()
            with pytest.raises(UsageError, match=r"Another job is writing .*film\.mp4 now: wait"):
                run(engines.invert, clip, tmp_path / "sub" / ".." / "film.mp4", **asks)
    first.finish()
    first.close()
    source.close()
    assert all(check.agrees for check in compare_files(clip, output))
    assert sorted(os.listdir(tmp_path)) == ["film.mp4", "sub"]


def test_a_disk_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    sink = VideoSink(tmp_path / "film.mp4", SinkOptions())
    assert "without locks" in sink.notes[0]
    sink.close()
    assert os.listdir(tmp_path) == []


def test_resume_takes_no_other_jobs_film_for_its_own(
    engines: Any, clip: Path, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "film.mp4"
    assert run(engines.identity, clip, output) == 0
    made = output.read_bytes()
    other = make_clip("another.mp4", pts=PTS[:10])
    for engine, source, more in (
        (engines.identity, other, {}),
        (engines.invert, clip, {}),
        (engines.identity, clip, {"crf": 30}),
    ):
        with pytest.raises(UsageError, match=r"is not the output of this job .* omit --resume"):
            run(engine, source, output, resume=True, **more)
        assert output.read_bytes() == made
    # Another spelling, place or time of the same clip is the same job.
    monkeypatch.chdir(clip.parent)
    os.utime(clip, (1, 1))
    assert run(engines.identity, f"./{clip.name}", output, resume=True) == 0
    assert output.read_bytes() == made
    assert sorted(os.listdir(tmp_path)) == ["film.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_mark_behind_the_film_disturbs_nobody(
    engines: Any, clip: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"film{suffix}"
    assert run(engines.identity, clip, output) == 0
    marked, stamp = output.read_bytes(), read_stamp(output)
    assert stamp is not None
    differing = [check.name for check in compare_files(clip, output) if not check.agrees]
    output.write_bytes(marked[:-100])
    assert read_stamp(output) is None
    output.write_bytes(marked[: -(50 if suffix in (".mkv", ".webm") else 56)])
    assert differing == [check.name for check in compare_files(clip, output) if not check.agrees]
    put_stamp(output, stamp)
    assert output.read_bytes() == marked


@pytest.mark.usefixtures("short_segments")
def test_another_spelling_of_the_input_resumes(
    engines: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a journal that an earlier version wrote, with the path as it was typed and fewer entries."""
    output = tmp_path / "film.mp4"
    sink = VideoSink(output, SinkOptions(job={}))
    frames = VideoSource(clip, SourceOptions())
    for _ in range(20):
        frame = frames.read()
        assert frame is not None
        sink.write(frame, frame)
    del sink
    file = unfinished_folder(output) / "journal.jsonl"
    monkeypatch.chdir(clip.parent)
    from i2i_runtime.cli.build import job_from_options, translation_from_options
    from i2i_runtime.run import _identity

    options = StreamOptions(
        str(engines.identity), input=str(clip), output=[str(output)], backend="onnxruntime"
    )
    job = job_from_options(options)
    identity = _identity(translation_from_options(options, job), job) | {"input": clip.name}
    identity.pop("deinterlace", None)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([json.dumps({"job": identity}) + "\n", *lines[1:]]))
    assert run(engines.identity, clip, output, resume=True) == 0
    assert all(check.agrees for check in compare_files(clip, output))


@pytest.mark.parametrize(
    "asks", [{}, {"resume": True}, {"restart": True}], ids=["plain", "resume", "restart"]
)
def test_a_link_in_place_of_the_unfinished_folder_deletes_nothing(
    engines: Any, clip: Path, tmp_path: Path, asks: dict[str, bool]
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    names = ("000000.nut", "0001.pdf", "2024.jpg", "journal.jsonl")
    for name in names:
        (victim / name).write_text("precious")
    folder = unfinished_folder(tmp_path / "film.mp4")
    folder.symlink_to(victim)
    with pytest.raises(UsageError, match="is a symbolic link, so it is not the unfinished job"):
        run(engines.identity, clip, tmp_path / "film.mp4", **asks)
    assert sorted(os.listdir(victim)) == sorted(names)
    folder.unlink()
    folder.mkdir()
    (folder / "000000.nut").symlink_to(victim / "000000.nut")
    with pytest.raises(UsageError, match=r"holds 000000\.nut, which is not a file"):
        run(engines.identity, clip, tmp_path / "film.mp4", **asks)
    assert (victim / "000000.nut").read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a folder to another user")
def test_the_folder_of_another_user_is_refused(engines: Any, clip: Path, tmp_path: Path) -> None:
    folder = unfinished_folder(tmp_path / "film.mp4")
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to another user"):
        run(engines.identity, clip, tmp_path / "film.mp4")


def test_only_own_files_are_deleted(engines: Any, clip: Path, tmp_path: Path) -> None:
    folder = unfinished_folder(tmp_path / "film.mp4")
    folder.mkdir()
    foreign = ("0001.pdf", "2024.jpg", "000000.jpg", "0000000.nut", "notes.txt")
    for name in (*foreign, "000000.nut", "000003.again.nut", "whole.mp4"):
        (folder / name).write_text("x")
    assert run(engines.identity, clip, tmp_path / "film.mp4") == 0
    assert sorted(os.listdir(folder)) == sorted(foreign)
    assert run(engines.identity, clip, tmp_path / "film.mp4", resume=True) == 0, "it is complete all the same"


HEADER: dict[str, object] = {"job": {"engine": "e"}}
TAMPERED = {
    "absolute": {"file": "/etc/passwd", "pts": [9]},
    "parent": {"file": "../victim.nut", "pts": [9]},
    "other suffix": {"file": "000001.mp4", "pts": [9]},
    "pts a number": {"file": "000001.nut", "pts": 5},
    "no pts": {"file": "000001.nut"},
    "no frames": {"file": "000001.nut", "pts": []},
    "a list": [1, 2],
    "infinite": {"file": "000001.nut", "pts": [float("inf")]},
    "text": {"file": "000001.nut", "pts": ["9"]},
    "huge": {"file": "000001.nut", "pts": [10**30]},
    "backwards": {"file": "000001.nut", "pts": [0]},
    "no time base": {"file": "000001.nut", "pts": [9], "time_base": "1/0"},
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_journal_that_no_job_wrote_is_refused(tmp_path: Path, name: str) -> None:
    output, victim = tmp_path / "film.mp4", tmp_path / "victim.nut"
    victim.write_text("precious")
    folder = unfinished_folder(output)
    folder.mkdir()
    for number in range(2):
        (folder / f"{number:06d}.nut").write_bytes(b"x")
    lines = [HEADER, {"file": "000000.nut", "pts": [0, 1]}, TAMPERED[name]]
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UsageError, match=r"damaged \(line 3 of .*--restart"):
        Journal(output, {"engine": "e"}).resume()
    assert victim.read_text() == "precious"
    assert len(os.listdir(folder)) == 3


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
LINES = ANYTHING | st.fixed_dictionaries(
    {},
    optional={
        "file": ANYTHING | st.just("000001.nut"),
        "pts": ANYTHING,
        "time_base": ANYTHING,
        "job": ANYTHING,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(LINES, max_size=4), headed=st.booleans(), tail=st.binary(max_size=20))
def test_no_content_of_a_journal_is_a_bug(
    tmp_path: Path, lines: list[Any], headed: bool, tail: bytes
) -> None:
    output = tmp_path / "film.mp4"
    folder = unfinished_folder(output)
    folder.mkdir(exist_ok=True)
    (folder / "000000.nut").write_bytes(b"x")
    (folder / "000001.nut").write_bytes(b"x")
    text = "".join(json.dumps(line) + "\n" for line in ([HEADER] if headed else []) + lines)
    (folder / "journal.jsonl").write_bytes(text.encode() + tail)
    before = sorted(os.listdir(tmp_path))
    journal = Journal(output, {"engine": "e"})
    with suppress(I2IError):
        journal.resume()
        journal.record(Segment("000001.nut", (2**40,)))
        Journal(output, {"engine": "e"}).resume()
    assert sorted(os.listdir(tmp_path)) == before


def test_the_names_of_segments_are_on_the_disk_before_the_journal_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may otherwise leave a journal of files that are not there, or neither film nor segments."""
    steps: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to name what is synced")
    monkeypatch.setattr("os.fsync", recorded)
    journal = Journal(tmp_path / "film.mp4", {})
    journal.begin()
    folder = journal.folder.name
    assert steps == ["journal.jsonl", folder, tmp_path.name]
    steps.clear()
    (journal.folder / "000000.nut").write_bytes(b"x")
    journal.record(Segment("000000.nut", (0,)))
    assert steps == ["000000.nut", folder, "journal.jsonl"]


def test_a_film_of_other_images_is_another_job(engines: Any, tmp_path: Path) -> None:
    import cv2

    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((16, 16, 3), number, np.uint8))
    output = tmp_path / "film.mkv"
    assert run(engines.identity, tmp_path, output) == 0
    assert run(engines.identity, tmp_path, output, resume=True) == 0
    cv2.imwrite(str(tmp_path / "3.png"), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match="is not the output of this job"):
        run(engines.identity, tmp_path, output, resume=True)
