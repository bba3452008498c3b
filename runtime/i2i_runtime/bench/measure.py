"""Measuring an engine three ways: alone, in the pipeline without devices, and end to end.

Every figure is the median over several repeats. The repeats are kept, so that two records can be compared with
respect to the noise of the machine.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from i2i_runtime.engines import Engine, open_engine, slots_for_throughput
from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Image
from i2i_runtime.machine import usable_cores
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.null import NullSink
from i2i_runtime.sources import Source, SourceOptions, open_source
from i2i_runtime.sources.recorded import RecordedSource
from i2i_runtime.uri import redact

SAMPLE_FRAMES = 8
"""Different frames that the engine translates in turn, so that no cache holds the result."""
SCALES = {
    "256": (256, 256),
    "360p": (640, 360),
    "720p": (1280, 720),
    "1080p": (1920, 1080),
    "2160p": (3840, 2160),
}
"""Name -> (width, height) of the steps of `--scaling`."""


@dataclass(frozen=True)
class Level:
    """One of the three measurements. Rates count new frames; processor use is in cores, memory in MB of the process."""

    name: str
    fps: float
    fps_repeats: tuple[float, ...]
    latency_ms: dict[str, float]
    cores_used: float
    memory_mb: float
    dropped: int = 0
    stages: dict[str, dict[str, float]] = field(default_factory=dict)


def sample_images(uri: str, size: tuple[int, int] | None) -> list[Image]:
    """The first frames of an input, scaled to `size` (width, height) if given. Raises SourceError."""
    source = open_source(uri, SourceOptions(size=size))
    images: list[Image] = []
    try:
        while len(images) < SAMPLE_FRAMES and (frame := source.read()) is not None:
            pixels = frame.pixels
            if size is not None and (pixels.shape[1], pixels.shape[0]) != size:
                pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
            images.append(pixels)
    finally:
        source.close()
    if not images:
        raise SourceError(
            f"{redact(uri)} has no frame to measure with: give a clip, a folder or test://street."
        )
    return images


def measure_start(path: Path, backend: Any, threads: int | None, image: Image) -> dict[str, float]:
    """Milliseconds from opening the engine file to the first translated frame at this size."""
    began_s = time.perf_counter()
    with closing(open_engine(path, backend, threads)) as engine:
        opened_s = time.perf_counter()
        engine.infer(image)
        first_s = time.perf_counter()
    return {
        "open_ms": round((opened_s - began_s) * 1e3, 1),
        "first_frame_ms": round((first_s - began_s) * 1e3, 1),
    }


def engine_alone(engine: Engine, images: Sequence[Image], seconds: float, repeats: int) -> Level:
    """`infer` in a loop over images in memory: the cost of the network."""
    for image in images:
        engine.infer(image)
    durations: list[float] = []
    rates = []
    with _Cores() as cores:
        for _ in range(repeats):
            mine = _infer_for(engine, images, seconds / repeats)
            durations += mine
            rates.append(1 / statistics.median(mine))
    return Level(
        "engine alone",
        statistics.median(rates),
        tuple(rates),
        _percentiles(durations),
        cores.used,
        resident_memory_mb(),
    )


def _infer_for(engine: Engine, images: Sequence[Image], seconds: float) -> list[float]:
    durations: list[float] = []
    end_s = time.perf_counter() + seconds
    while time.perf_counter() < end_s or len(durations) < 3:
        began_s = time.perf_counter()
        engine.infer(images[len(durations) % len(images)])
        durations.append(time.perf_counter() - began_s)
    return durations


def pipeline_without_devices(
    path: Path, backend: Any, threads: int | None, images: Sequence[Image], frames: int, repeats: int
) -> Level:
    """The pipeline from images in memory to `null:`: what threads and queues add."""
    return _through_pipeline(
        "pipeline",
        lambda: RecordedSource(images, frames),
        lambda: open_engine(path, backend, threads, slots_for_throughput()),
        None,
        frames,
        repeats,
    )


def end_to_end(
    path: Path,
    backend: Any,
    threads: int | None,
    uri: str,
    size: tuple[int, int] | None,
    frames: int,
    repeats: int,
) -> Level:
    """Decode, translate and deliver: the complete input to `null:`."""
    return _through_pipeline(
        "end to end",
        lambda: open_source(uri, SourceOptions(size=size)),
        lambda: open_engine(path, backend, threads, slots_for_throughput()),
        size,
        frames,
        repeats,
    )


def streams_at_once(
    path: Path, backend: Any, images: Sequence[Image], seconds: float, streams: Sequence[int]
) -> list[dict[str, float]]:
    """Total frames per second of several engines that run at the same time and share the cores."""
    from concurrent.futures import ThreadPoolExecutor

    rows = []
    for count in streams:
        threads = max(1, usable_cores() // count)
        with ExitStack() as opened, ThreadPoolExecutor(count) as pool:
            engines = [
                opened.enter_context(closing(open_engine(path, backend, threads))) for _ in range(count)
            ]
            for engine in engines:
                engine.infer(images[0])
            began_s = time.perf_counter()
            done = list(pool.map(lambda engine: len(_infer_for(engine, images, seconds)), engines))
            rows.append({"streams": count, "fps": round(sum(done) / (time.perf_counter() - began_s), 2)})
    return rows


def _through_pipeline(
    name: str,
    source: Callable[[], Source],
    engine: Callable[[], Engine],
    size: tuple[int, int] | None,
    frames: int,
    repeats: int,
) -> Level:
    rates, last, dropped = [], None, 0
    with closing(engine()) as opened, _Cores() as cores:
        for _ in range(repeats):
            last = Pipeline(source(), opened, [NullSink()], policy="every-frame", size=size, limit=frames)
            last.run()
            rates.append(last.stats.fps)
            dropped += last.stats.dropped
    assert last is not None
    stages = {
        stage: histogram.summary() for stage, histogram in last.stats.latencies.items() if histogram.count
    }
    added = stages["added"]
    latency = {key: added[key] for key in ("p50_ms", "p95_ms", "p99_ms")}
    return Level(
        name,
        statistics.median(rates),
        tuple(rates),
        latency,
        cores.used,
        resident_memory_mb(),
        dropped,
        stages,
    )


def limit_of(alone: Level, piped: Level, whole: Level) -> str:
    """Which stage bounds the rate, and the flag that would help, in one sentence."""
    if whole.fps == 0:
        return (
            "The input holds one frame, which gives no frame rate: give --input a clip or a folder of images."
        )
    stages = {
        name: whole.stages[name]["p50_ms"] for name in ("read", "infer", "write") if name in whole.stages
    }
    slowest = max(stages, key=lambda name: stages[name])
    if slowest == "read":
        return "Reading the input takes longest: give --input a smaller clip; --size does not make decoding faster."
    if slowest == "write":
        return "The output takes longest: try --preset ultrafast, or a hardware encoder with --codec."
    smaller = "--size with a smaller image, or an engine that i2i-export made int8 or --guided, helps"
    share = whole.fps / alone.fps
    if share < 0.8:
        return (
            f"The engine takes longest and gets {share:.0%} of its own rate, the rest goes to decoding on the same "
            f"cores: {smaller}."
        )
    return f"The engine takes longest: {smaller}."


def resident_memory_mb() -> float:
    """The memory that this process uses now, in MB; its peak if the system does not report that."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return round(peak_memory_mb(), 1)
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


def peak_memory_mb() -> float:
    """The peak memory of this process so far, in MB; 0 on Windows, which has no such count."""
    if sys.platform == "win32":
        return 0.0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024  # bytes there, kilobytes on Linux


def _percentiles(durations: Sequence[float]) -> dict[str, float]:
    return {f"p{p}_ms": round(float(np.percentile(durations, p)) * 1e3, 3) for p in (50, 95, 99)}


class _Cores:
    """Processor time over wall time inside a `with`: how many cores were busy."""

    used = 0.0

    def __enter__(self) -> _Cores:
        self._wall_s, self._busy_s = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        wall_s = time.perf_counter() - self._wall_s
        self.used = round((time.process_time() - self._busy_s) / wall_s, 2)
