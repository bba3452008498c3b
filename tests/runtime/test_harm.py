"""Nothing that exists is harmed: what a command writes never replaces what it reads, a device or a stranger's file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i2i_runtime.bench.chart import draw_bars
from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.cli.verify import main as verify
from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.files import Kept, refusal_of_target, replacing, same_file, write_whole

PTS = [512 * index for index in range(5)]


def run(engine: Path, source: Path | str, *outputs: Path | str, **more: Any) -> int:
    options = {"backend": "onnxruntime", "quiet": True, **more}
    return stream(
        StreamOptions(str(engine), input=str(source), output=[str(one) for one in outputs], **options)
    )


@pytest.fixture
def clip(make_clip: Callable[..., Path], tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip("harmless.mp4", pts=PTS).read_bytes())
    return path


def spellings(path: Path) -> list[Path]:
    """Other names of a file: over another folder, through a symbolic link, and through a hard link."""
    (path.parent / "deeper").mkdir()
    around = path.parent / "deeper" / ".." / path.name
    link, hard = path.parent / "link", path.parent / "hard"
    link.symlink_to(path.name)
    os.link(path, hard)
    return [path, around, link, hard]


def test_a_report_replaces_neither_source_nor_engine_nor_output(
    engines: Any, clip: Path, tmp_path: Path
) -> None:
    engine = tmp_path / "engine.onnx"
    engine.write_bytes(engines.identity.read_bytes())
    for victim in (clip, engine):
        before = victim.read_bytes()
        for report in spellings(victim):
            with pytest.raises(UsageError, match=r"^The report .*[^.]\.$"):
                run(engine, clip, "null:", report=report)
            assert victim.read_bytes() == before
        for name in ("link", "hard"):
            (tmp_path / name).unlink()
        (tmp_path / "deeper").rmdir()
    for report in (tmp_path / "OUT.json", tmp_path / "out.json"):
        with pytest.raises(UsageError, match="is an output of this job"):
            run(engine, clip, tmp_path / "out.json" / "..", f"file:{tmp_path / 'out.json'}/", report=report)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "picture", "text", "package"])
def test_a_report_replaces_nothing_but_a_report(engines: Any, clip: Path, tmp_path: Path, kind: str) -> None:
    report = tmp_path / ("a.png" if kind == "picture" else "a.json")
    if kind == "pipe":
        os.mkfifo(report)
    elif kind == "device":
        report = Path("/dev/null")
    elif kind == "folder":
        report.mkdir()
    else:
        report.write_text('{"name": "package"}' if kind == "package" else "the only copy")
    before = report.lstat()
    with pytest.raises(UsageError, match=r"^The report ") as refused:
        run(engines.identity, clip, "null:", report=report)
    assert "\n" not in str(refused.value)
    with pytest.raises(UsageError, match=r"^The report "):
        verify([str(clip), str(clip), "--report", str(report)])
    now = report.lstat()
    assert (now.st_ino, now.st_mtime_ns, now.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)


def test_a_report_replaces_an_earlier_report(engines: Any, clip: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    report.touch()
    for _ in range(2):
        assert run(engines.identity, clip, "null:", report=report) == 0
        assert json.loads(report.read_text())["outcome"] == "done"
    folder = tmp_path / "in"
    folder.mkdir()
    clip.rename(folder / "clip.mp4")
    assert run(engines.identity, folder, tmp_path / "out", report=report) == 0
    with pytest.raises(UsageError, match="The report"):
        run(engines.identity, folder, tmp_path / "out", report=folder / "clip.mp4")


@pytest.mark.parametrize("output", ["out.mp4", "out.png"])
def test_outputs_replace_neither_pipes_nor_devices_nor_what_is_read(
    engines: Any, clip: Path, tmp_path: Path, output: str
) -> None:
    target = tmp_path / output
    os.mkfifo(target)
    with pytest.raises(UsageError, match=r"out\.\w+ is a pipe, not a file: choose another --output\.$"):
        run(engines.identity, clip, target, limit=1)
    target.unlink()
    target.symlink_to("/dev/null")
    with pytest.raises(UsageError, match="is a device"):
        run(engines.identity, clip, target, limit=1)
    target.unlink()
    os.link(engines.identity, target)
    with pytest.raises(UsageError, match="is the engine"):
        run(engines.identity, clip, target, limit=1)


def test_what_an_interrupted_job_leaves_is_not_the_input(engines: Any, clip: Path, tmp_path: Path) -> None:
    """A job for a.mp4 that is interrupted leaves a.partial.mp4, which may be what it is made from."""
    partial = clip.rename(tmp_path / "a.partial.mp4")
    with pytest.raises(UsageError, match=r"a\.partial\.mp4 is the input"):
        run(engines.identity, partial, tmp_path / "a.mp4")


def test_a_folder_of_images_spares_the_image_of_the_style(engines: Any, tmp_path: Path) -> None:
    for folder, shade in (("photos", 10), ("looks", 200)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), np.full((8, 8, 3), shade, np.uint8))
    style = tmp_path / "looks" / "a.png"
    before = style.read_bytes()
    from i2i_runtime.engines import open_engine
    from i2i_runtime.errors import SinkError
    from i2i_runtime.job import Job, Translation
    from i2i_runtime.progress import ProgressLine
    from i2i_runtime.run import run_job
    from i2i_runtime.uri import parse_uri

    job = Job(parse_uri(str(tmp_path / "photos")), (parse_uri(str(tmp_path / "looks")),))
    translation = Translation(open_engine(engines.identity, "onnxruntime"), style_file=style)
    with pytest.raises(SinkError, match="is the image of --style"):
        run_job(translation, job, ProgressLine(silent=True))
    assert style.read_bytes() == before


def test_names_that_differ_in_case_are_two_outputs(engines: Any, clip: Path, tmp_path: Path) -> None:
    """On a file system that ignores case one would replace the other."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("A.mp4", "a.mp4", "a.avi"):
        (folder / name).write_bytes(clip.read_bytes())
    for name in ("B.png", "b.png"):
        cv2.imwrite(str(folder / name), np.zeros((8, 8, 3), np.uint8))
    assert run(engines.identity, folder, tmp_path / "out") == 0
    made = [path.name.casefold() for path in (tmp_path / "out").iterdir()]
    assert len(made) == len(set(made)) == 5


def test_a_chart_replaces_charts_only(tmp_path: Path) -> None:
    chart = tmp_path / "chart.png"
    for _ in range(2):
        draw_bars({"a": {"b": 1.0}}, "fps", chart)
    chart.write_text("a letter")
    with pytest.raises(UsageError, match=r"The chart .* exists and holds something else"):
        draw_bars({"a": {"b": 1.0}}, "fps", chart)
    assert chart.read_text() == "a letter"


def test_a_link_laid_beforehand_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "report.json"
    victim.write_text("precious")
    path.symlink_to(victim)
    write_whole(path, b"new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "new", False)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="is a pipe"), replacing(pipe):
        pass
    assert sorted(os.listdir(tmp_path)) == ["pipe", "report.json", "victim"]


def test_a_file_is_recognised_under_any_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "film.mp4"
    file.touch()
    for path in [*spellings(file), Path("film.mp4"), Path("./deeper/../film.mp4")]:
        assert same_file(path, file)
        assert refusal_of_target(path, [Kept(file, "the input")]) == "is the input"
    assert same_file(Path("new/A\u0308.mp4"), tmp_path / "new" / "\u00e4.MP4"), "one file on a Mac"
    assert not same_file(Path("other.mp4"), file)
    assert refusal_of_target(Path("x" * 300), [Kept(file, "the input")]) is None


def test_a_long_name_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("x" * 250), b"1")
    assert [len(name) for name in os.listdir(tmp_path)] == [250]


def test_no_error_is_lost_when_an_output_is_refused(engines: Any, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(I2IError):
        run(engines.identity, clip, tmp_path / "good.mp4", clip)
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4"]


def test_a_pipe_without_an_ending_is_named_as_one(engines: Any, clip: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    for name, kind in (("pipe", "is a pipe, not a file"), ("file", "is a file")):
        with pytest.raises(UsageError, match=f"{name} {kind}: choose a folder"):
            run(engines.identity, clip, tmp_path / name)
    assert (tmp_path / "file").read_text() == "x"
