"""The first figures of the runtime's README: start-up, engine alone, end to end, and the loop people write.

    python runtime/benchmarks/figures.py ../shared/data/videos/udacity__solidWhiteRight.mp4 --engine day2night

The ways through the clip are run in turn, `repeats` times, so that a busy machine slows all of them alike; medians are
printed and everything goes to figures.jsonl beside this file. Processor time is that of the whole process.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import onnxruntime
import tyro

from i2i_runtime.bench.rows import append_row
from i2i_runtime.engines import Backend, engine_path, open_engine, slots_for_throughput
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, TRANSLATED
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import SinkOptions, open_sink
from i2i_runtime.sources import open_source

ROWS = Path(__file__).with_name("figures.jsonl")


@dataclass(frozen=True)
class Figures:
    """Measure one engine on one clip."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"
    repeats: int = 5
    frames: int = 200


@dataclass(frozen=True)
class Way:
    """One way through the clip, measured: wall and processor seconds per frame."""

    wall_ms: float
    processor_ms: float


def main() -> None:
    options = tyro.cli(Figures)
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "out.mp4"
        ways: dict[str, Callable[[], int]] = {
            "engine alone": lambda: _engine_alone(options),
            "i2i-stream, no encoder": lambda: _stream(options, "null:"),
            "i2i-stream, end to end": lambda: _stream(options, str(output)),
            "the loop people write": lambda: _plain_loop(options, output),
        }
        measured: dict[str, list[Way]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                measured[name].append(_measured(way))
        starts = {
            "--help": [_timed_command(["--help"]) for _ in range(options.repeats)],
            "first frame": [_timed_command(_first_frame(options)) for _ in range(options.repeats)],
        }
    row = {
        "clip": options.clip.name,
        "engine": options.engine,
        "frames": options.frames,
        "backend": open_engine(options.engine).backend,
        "psnr_db_to_float32_onnxruntime": round(_psnr(options), 2),
        "fps": {name: [round(1000 / way.wall_ms, 2) for way in runs] for name, runs in measured.items()},
        "processor_ms_per_frame": {
            name: [round(way.processor_ms, 2) for way in runs] for name, runs in measured.items()
        },
        "start_s": starts,
    }
    append_row(ROWS, row)
    print("| way | frames per second | processor ms per frame |\n|---|---|---|")
    for name, runs in measured.items():
        wall, busy = (
            statistics.median(v) for v in ([w.wall_ms for w in runs], [w.processor_ms for w in runs])
        )
        print(f"| {name} | {1000 / wall:.1f} | {busy:.1f} |")
    print(
        {name: statistics.median(times) for name, times in starts.items()},
        row["psnr_db_to_float32_onnxruntime"],
    )


def _measured(way: Callable[[], int]) -> Way:
    wall_s, busy_s = time.perf_counter(), time.process_time()
    frames = way()
    return Way(
        1000 * (time.perf_counter() - wall_s) / frames,
        1000 * (time.process_time() - busy_s) / frames,
    )


def _engine_alone(options: Figures) -> int:
    engine, images = open_engine(options.engine), _images(options, 8)
    for number in range(options.frames):
        engine.infer(images[number % len(images)])
    return options.frames


def _stream(options: Figures, output: str) -> int:
    pipeline = Pipeline(
        open_source(str(options.clip)),
        open_engine(options.engine, slots=slots_for_throughput()),
        [open_sink(output, SinkOptions(restart=True))],
        limit=options.frames,
    )
    pipeline.run()
    return pipeline.stats.frames_out


def _plain_loop(options: Figures, output: Path) -> int:
    """What one writes on the first afternoon: read, run, write, one after the other."""
    session = onnxruntime.InferenceSession(engine_path(options.engine), providers=["CPUExecutionProvider"])
    capture = cv2.VideoCapture(str(options.clip))
    size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
    writer = cv2.VideoWriter(
        str(output), cv2.VideoWriter.fourcc(*"mp4v"), capture.get(cv2.CAP_PROP_FPS), size
    )
    frames = 0
    while frames < options.frames:
        got, bgr = capture.read()
        if not got:
            break
        (translated,) = session.run([TRANSLATED], {FRAME: cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)[None]})
        writer.write(cv2.cvtColor(translated[0], cv2.COLOR_RGB2BGR))
        frames += 1
    capture.release()
    writer.release()
    return frames


def _images(options: Figures, count: int) -> list[Image]:
    source = open_source(str(options.clip))
    frames = [source.read() for _ in range(count)]
    source.close()
    return [frame.pixels for frame in frames if frame is not None]


def _psnr(options: Figures) -> float:
    """The back end that is picked here against ONNX Runtime, which computes in the file's own precision."""
    backend: Backend = "onnxruntime"
    reference, picked = open_engine(options.engine, backend), open_engine(options.engine)
    errors = [
        np.mean((reference.infer(image).astype(np.float64) - picked.infer(image)) ** 2)
        for image in _images(options, 20)
    ]
    return float(10 * np.log10(255**2 / max(float(np.mean(errors)), 1e-9)))


def _first_frame(options: Figures) -> list[str]:
    # One frame into an image: from the start of the process to its end, all that a user waits for and more.
    return ["-m", options.engine, "-i", str(options.clip), "-o", "null:", "--limit", "1", "--quiet"]


def _timed_command(arguments: list[str]) -> float:
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()", *arguments]
    began_s = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return round(time.perf_counter() - began_s, 3)


if __name__ == "__main__":
    main()
