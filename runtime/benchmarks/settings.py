"""Why the processor's engines are set as they are: form of the network, and frames side by side, measured.

    python runtime/benchmarks/settings.py CLIP [--engine day2night] [--rounds 5]
    python runtime/benchmarks/settings.py table

The engine alone in the file's own form and in that of `engines/openvino_rows.py`, in either precision; the whole job
(decode, translate, MPEG-4) with one frame at a time and with two side by side. Every way runs in a process of its own
and in turn. Rows go to settings.jsonl beside this file.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import openvino
import tyro

from i2i_runtime.bench.rows import append_row
from i2i_runtime.engines import Backend, engine_path, open_engine
from i2i_runtime.engines.openvino_rows import arrange_rows
from i2i_runtime.files import sha256_of_file
from i2i_runtime.metadata import FRAME
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import SinkOptions, open_sink
from i2i_runtime.sources import SourceOptions, open_source

ROWS = Path(__file__).with_suffix(".jsonl")
SIZE = (1280, 720)


@dataclass(frozen=True)
class Options:
    """Measure every way in turn, or print the table of the newest rows."""

    clip: Annotated[str, tyro.conf.Positional]
    """Clip to translate, or `table`."""
    engine: str = "day2night"
    """Engine file, or the name of one that ships."""
    frames: int = 100
    """Frames of every way and round."""
    rounds: int = 5
    """Rounds; the median counts."""
    way: str | None = None
    """Measure this way alone, once, and print it (what each round calls)."""


def engine_alone(options: Options, precision: str, *, rows: bool) -> tuple[float, float]:
    model = openvino.Core().read_model(engine_path(options.engine))
    model.reshape({FRAME: [1, SIZE[1], SIZE[0], 3]})
    if rows:
        arrange_rows(model)
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    image = np.random.default_rng(0).integers(0, 256, (1, SIZE[1], SIZE[0], 3)).astype(np.uint8)
    infer = partial(request.infer, {FRAME: image}, share_inputs=True)
    infer()
    return timed(lambda: [infer() for _ in range(options.frames)], options.frames)


def job(options: Options, backend: Backend, slots: int) -> tuple[float, float]:
    engine = open_engine(options.engine, backend, slots=slots)
    engine.infer(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(options.clip, SourceOptions(size=SIZE))
        sink = open_sink(f"{folder}/out.mp4", SinkOptions(codec="mpeg4"))
        pipeline = Pipeline(source, engine, [sink], size=SIZE, limit=options.frames)
        return timed(pipeline.run, options.frames)


def timed(work: Callable[[], object], frames: int) -> tuple[float, float]:
    wall_s, processor_s = time.perf_counter(), time.process_time()
    work()
    return (
        (time.perf_counter() - wall_s) * 1000 / frames,
        (time.process_time() - processor_s) * 1000 / frames,
    )


WAYS: dict[str, Callable[[Options], tuple[float, float]]] = {
    "engine alone, bf16, the file's form": lambda o: engine_alone(o, "bf16", rows=False),
    "engine alone, bf16, rows": lambda o: engine_alone(o, "bf16", rows=True),
    "engine alone, f32, the file's form": lambda o: engine_alone(o, "f32", rows=False),
    "engine alone, f32, rows": lambda o: engine_alone(o, "f32", rows=True),
    "job, OpenVINO, one at a time": lambda o: job(o, "openvino", 1),
    "job, OpenVINO, two side by side": lambda o: job(o, "openvino", 2),
    "job, ONNX Runtime, one at a time": lambda o: job(o, "onnxruntime", 1),
    "job, ONNX Runtime, two side by side": lambda o: job(o, "onnxruntime", 2),
}


def main() -> None:
    options = tyro.cli(Options)
    if options.clip == "table":
        print(table())
    elif options.way is not None:
        print(json.dumps(WAYS[options.way](options)))
    else:
        measure(options)


def measure(options: Options) -> None:
    figures: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, found in figures.items():
            found.append(apart(options, way))
            print(f"{way}: {found[-1][0]:.1f} ms, {found[-1][1]:.1f} ms of processor", flush=True)
    digest = sha256_of_file(engine_path(options.engine))
    command = f"python runtime/benchmarks/settings.py {Path(options.clip).name} --engine {options.engine}"
    for way, found in figures.items():
        wall_ms, processor_ms = (round(statistics.median(column), 2) for column in zip(*found, strict=True))
        append_row(
            ROWS,
            {
                "way": way,
                "wall_ms": wall_ms,
                "processor_ms": processor_ms,
                "rounds_ms": found,
                "engine_sha256": digest,
                "command": command,
            },
        )
    print(table())


def apart(options: Options, way: str) -> tuple[float, float]:
    command = [sys.executable, __file__, options.clip, "--engine", options.engine, "--way", way]
    result = subprocess.run(
        [*command, "--frames", str(options.frames)], capture_output=True, text=True, check=True
    )
    wall_ms, processor_ms = json.loads(result.stdout.splitlines()[-1])
    return wall_ms, processor_ms


def table() -> str:
    rows = {row["way"]: row for line in ROWS.read_text().splitlines() for row in [json.loads(line)]}
    lines = ["| way | wall ms per frame | processor ms per frame |", "|---|---|---|"]
    lines += [f"| {way} | {row['wall_ms']:.1f} | {row['processor_ms']:.1f} |" for way, row in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
