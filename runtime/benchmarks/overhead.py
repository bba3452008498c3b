"""What the pipeline costs around its stages: time of a file job, of a second output, and memory.

    python runtime/benchmarks/overhead.py time ../shared/data/videos/imageiobin__cockatoo_yuv420.mp4
    python runtime/benchmarks/overhead.py overlap ../shared/data/videos/imageiobin__cockatoo_yuv420.mp4
    python runtime/benchmarks/overhead.py page ../shared/data/videos/imageiobin__cockatoo_yuv420.mp4
    python runtime/benchmarks/overhead.py end ../shared/data/videos/imageiobin__cockatoo_yuv420.mp4
    python runtime/benchmarks/overhead.py memory ../shared/data/videos/imageiobin__cockatoo_yuv420.mp4

`time` does the work of every stage alone (decode and to RGB; engine; from RGB, encode and put together), on the very
images of the job, and then the whole job, in turn, `repeats` times, so that a busy machine slows all of them alike.
Processor time is that of the whole process, all threads. Ratios are made within one round; medians of them count:

- processor: the job over the sum of its stages. What is above 1 is the pipeline's own.
- wall: the job over the slowest stage alone. Here all stages need the same cores, so that it cannot come near 1.

`overlap` is the wall ratio where it can: with an engine that only waits, as one on another device does for the cores.
`page` is what a viewer of the page costs, in processor time, as a page holds a file to the clip's own pace.
`end` is what is left to do after the last frame, which must not grow with the clip.
`memory` runs i2i-stream as a user does, on the clip and on the clip four times over (ffmpeg joins it).
Each adds one row to overhead.jsonl beside this file and prints the README's table.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from soak import StandInEngine

from i2i_runtime.bench.rows import append_row
from i2i_runtime.engines import Engine, open_engine
from i2i_runtime.frame import Frame
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import Sink, SinkOptions, open_sink
from i2i_runtime.sinks.mjpeg import MjpegSink
from i2i_runtime.sinks.null import NullSink
from i2i_runtime.sources import open_source
from i2i_runtime.web.auth import Access

ROWS = Path(__file__).with_name("overhead.jsonl")
STAGES = ("source alone", "engine alone", "file alone")
JOB = "job"


@dataclass(frozen=True)
class Spent:
    """One way through the frames: wall and processor seconds."""

    wall_s: float
    processor_s: float


@dataclass(frozen=True)
class Time:
    """Cost of a file job over its stages, and of a second output."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"
    repeats: int = 5
    frames: int = 100

    def run(self) -> dict[str, Any]:
        engine = open_engine(self.engine)
        sources = _frames(self.clip, self.frames)
        made = [frame.with_pixels(engine.infer(frame.pixels)) for frame in sources]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "out.mp4"
            ways: dict[str, Callable[[], None]] = {
                "source alone": lambda: _read(self.clip, self.frames),
                "engine alone": lambda: _infer(engine, sources),
                "file alone": lambda: _write(_file(file), sources, made),
                JOB: lambda: _job(self.clip, engine, [_file(file)], self.frames),
                "job and null:": lambda: _job(self.clip, engine, [_file(file), NullSink()], self.frames),
                "job and page": lambda: _job(self.clip, engine, [_file(file), _page()], self.frames),
                "job and page, watched": lambda: self._watched(engine, file),
            }
            rounds = [{name: _spent(way) for name, way in ways.items()} for _ in range(self.repeats)]
        ratios = [_ratios(one) for one in rounds]
        return {
            "clip": self.clip.name,
            "engine": self.engine,
            "backend": engine.backend,
            "frames": self.frames,
            "wall_ms_per_frame": _per_frame(rounds, lambda spent: spent.wall_s, self.frames),
            "processor_ms_per_frame": _per_frame(rounds, lambda spent: spent.processor_s, self.frames),
            "ratios": {name: [round(one[name], 4) for one in ratios] for name in ratios[0]},
        }

    def _watched(self, engine: Engine, file: Path) -> None:
        page = _page()
        with _viewer(f"{page.url}pair.mjpg"):
            _job(self.clip, engine, [_file(file), page], self.frames)

    def table(self, row: dict[str, Any]) -> str:
        lines = ["| way | wall ms per frame | processor ms per frame |", "|---|---|---|"]
        for name, wall in row["wall_ms_per_frame"].items():
            busy = statistics.median(row["processor_ms_per_frame"][name])
            lines.append(f"| {name} | {statistics.median(wall):.1f} | {busy:.1f} |")
        lines += ["", "| ratio | median | lowest to highest |", "|---|---|---|"]
        lines += _ratio_lines(row)
        return "\n".join(lines)


@dataclass(frozen=True)
class Overlap:
    """Wall time of a file job over its slowest stage, an engine that leaves the cores to the others."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine_ms: float = 80.0
    """More than any other stage takes."""
    repeats: int = 3
    frames: int = 280

    def run(self) -> dict[str, Any]:
        engine = StandInEngine(self.engine_ms)
        sources = _frames(self.clip, self.frames)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "out.mp4"
            rounds = [
                (
                    _spent(lambda: _infer(engine, sources)),
                    _spent(lambda: _write(_file(file), sources, sources)),
                    _spent(lambda: _job(self.clip, engine, [_file(file)], self.frames)),
                )
                for _ in range(self.repeats)
            ]
        return {
            "clip": self.clip.name,
            "engine_ms": self.engine_ms,
            "frames": self.frames,
            "engine_alone_s": [round(alone.wall_s, 2) for alone, _, _ in rounds],
            "file_alone_s": [round(made.wall_s, 2) for _, made, _ in rounds],
            "job_s": [round(job.wall_s, 2) for _, _, job in rounds],
            "ratios": [round(job.wall_s / max(alone.wall_s, made.wall_s), 4) for alone, made, job in rounds],
        }

    def table(self, row: dict[str, Any]) -> str:
        median = statistics.median(row["ratios"])
        return f"| ratio | median |\n|---|---|\n| wall, job over its slowest stage alone | {median:.3f} |"


@dataclass(frozen=True)
class Page:
    """Processor time of a file job with a page, over that of the same job while nobody watches."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"
    width: int = 640
    """What the narrow viewer shows, in pixels."""
    repeats: int = 7
    frames: int = 60

    def run(self) -> dict[str, Any]:
        engine = open_engine(self.engine)
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "out.mp4"
            ways: dict[str, str | None] = {
                "nobody watches": None,
                f"one viewer, {self.width} wide": f"pair.mjpg?width={self.width}",
                "one viewer, full size": "pair.mjpg",
            }
            rounds = [
                {name: _spent(lambda seen=seen: self._job(engine, file, seen)) for name, seen in ways.items()}  # type: ignore[misc]
                for _ in range(self.repeats)
            ]
        alone = "nobody watches"
        return {
            "clip": self.clip.name,
            "engine": self.engine,
            "frames": self.frames,
            "processor_ms_per_frame": _per_frame(rounds, lambda spent: spent.processor_s, self.frames),
            "ratios": {
                name: [round(one[name].processor_s / one[alone].processor_s, 4) for one in rounds]
                for name in ways
                if name != alone
            },
        }

    def _job(self, engine: Engine, file: Path, seen: str | None) -> None:
        page = _page()
        with nullcontext() if seen is None else _viewer(f"{page.url}{seen}"):
            _job(self.clip, engine, [_file(file), page], self.frames)

    def table(self, row: dict[str, Any]) -> str:
        lines = ["| page | processor, over a page that nobody watches | lowest to highest |", "|---|---|---|"]
        lines += _ratio_lines(row)
        return "\n".join(lines)


@dataclass(frozen=True)
class End:
    """Seconds from the last frame until a file is whole under its name, for the clip and for a longer one."""

    clip: Annotated[Path, tyro.conf.Positional]
    times: int = 4
    repeats: int = 3

    def run(self) -> dict[str, Any]:
        ends: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for name, clip in _lengths(self.clip, self.times, Path(scratch)).items():
                ends[name] = [self._end_s(clip, Path(scratch) / "out.mp4") for _ in range(self.repeats)]
        return {"clip": self.clip.name, "end_s": ends}

    def _end_s(self, clip: Path, output: Path) -> float:
        source, sink = open_source(str(clip)), _file(output)
        while (frame := source.read()) is not None:
            sink.write(frame, frame)
        began_s = time.perf_counter()
        sink.finish()
        end_s = time.perf_counter() - began_s
        sink.close()
        source.close()
        return round(end_s, 4)

    def table(self, row: dict[str, Any]) -> str:
        lines = ["| the clip | after its last frame, s |", "|---|---|"]
        return "\n".join(
            [*lines, *(f"| {name} | {statistics.median(ends):.2f} |" for name, ends in row["end_s"].items())]
        )


@dataclass(frozen=True)
class Memory:
    """Peak memory of i2i-stream, and whether it grows with the clip."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"
    times: int = 4

    def run(self) -> dict[str, Any]:
        peaks: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for name, clip in _lengths(self.clip, self.times, Path(scratch)).items():
                peaks[name] = self._peak_mb(clip, Path(scratch) / "out.mp4")
        return {"clip": self.clip.name, "engine": self.engine, "peak_mb": peaks}

    def _peak_mb(self, clip: Path, output: Path) -> float:
        """The child's highest resident memory in 10**6 bytes, as the kernel counts it."""
        command = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()", "--quiet"]
        command += ["--engine", self.engine, "--input", str(clip), "--output", str(output), "--restart"]
        with subprocess.Popen(command) as child:
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0, f"i2i-stream ended with {child.returncode}"
        return round(usage.ru_maxrss * 1024 / 1e6, 1)

    def table(self, row: dict[str, Any]) -> str:
        lines = ["| the clip | peak memory, MB |", "|---|---|"]
        return "\n".join([*lines, *(f"| {name} | {peak:.0f} |" for name, peak in row["peak_mb"].items())])


def main() -> None:
    options: Time | Overlap | Page | End | Memory = tyro.cli(Time | Overlap | Page | End | Memory)
    began_load = round(os.getloadavg()[0], 2)
    row = options.run()
    append_row(ROWS, {"measured": type(options).__name__.lower(), "load_average": began_load, **row})
    print(options.table(row))


def _lengths(clip: Path, times: int, scratch: Path) -> dict[str, Path]:
    """The clip, and the clip `times` times over."""
    long = scratch / "long.mp4"
    join = ["ffmpeg", "-v", "error", "-stream_loop", str(times - 1), "-i", str(clip)]
    subprocess.run([*join, "-c", "copy", str(long)], check=True)
    return {"once": clip, f"{times} times": long}


def _frames(clip: Path, count: int) -> list[Frame]:
    source = open_source(str(clip))
    frames = [source.read() for _ in range(count)]
    source.close()
    whole = [frame for frame in frames if frame is not None]
    assert len(whole) == count, f"{clip} has {len(whole)} frames only"
    return whole


def _read(clip: Path, count: int) -> None:
    source = open_source(str(clip))
    for _ in range(count):
        source.read()
    source.close()


def _infer(engine: Engine, sources: list[Frame]) -> None:
    for frame in sources:
        engine.infer(frame.pixels)


def _write(sink: Sink, sources: list[Frame], made: list[Frame]) -> None:
    for source, translated in zip(sources, made, strict=True):
        sink.write(translated, source)
    sink.finish()
    sink.close()


def _job(clip: Path, engine: Engine, sinks: list[Sink], frames: int) -> None:
    Pipeline(open_source(str(clip)), engine, sinks, limit=frames).run()


def _file(path: Path) -> Sink:
    return open_sink(str(path), SinkOptions(restart=True))


def _ratio_lines(row: dict[str, Any]) -> list[str]:
    return [
        f"| {name} | {statistics.median(values):.3f} | {min(values):.3f} to {max(values):.3f} |"
        for name, values in row["ratios"].items()
    ]


def _page() -> MjpegSink:
    return MjpegSink(Access("127.0.0.1", 0), beside=True)


@contextmanager
def _viewer(address: str) -> Iterator[None]:
    """Somebody who looks, in a process of his own, whose time is not counted."""
    look = "import sys, urllib.request as u\nr = u.urlopen(sys.argv[1])\nwhile r.read(65536): pass"
    with subprocess.Popen([sys.executable, "-c", look, address]) as viewer:
        try:
            yield
        finally:
            viewer.kill()


def _spent(way: Callable[[], None]) -> Spent:
    wall_s, processor_s = time.perf_counter(), time.process_time()
    way()
    return Spent(time.perf_counter() - wall_s, time.process_time() - processor_s)


def _ratios(spent: dict[str, Spent]) -> dict[str, float]:
    job, stages = spent[JOB], [spent[stage] for stage in STAGES]
    return {
        "processor, job over the sum of its stages": job.processor_s
        / sum(stage.processor_s for stage in stages),
        "wall, job over its slowest stage alone": job.wall_s / max(stage.wall_s for stage in stages),
        **{
            f"processor, {name} over {JOB}": spent[name].processor_s / job.processor_s
            for name in ("job and null:", "job and page", "job and page, watched")
        },
    }


def _per_frame(
    rounds: list[dict[str, Spent]], kind: Callable[[Spent], float], frames: int
) -> dict[str, list[float]]:
    return {name: [round(1000 * kind(one[name]) / frames, 2) for one in rounds] for name in rounds[0]}


if __name__ == "__main__":
    main()
