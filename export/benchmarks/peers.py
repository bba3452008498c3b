"""The same clip and the same engine through i2i-stream and through what people write or use instead.

    python export/benchmarks/peers.py ENGINE CLIP [--run RUN] [--cyclegan CYCLEGAN.onnx]
    python export/benchmarks/peers.py table

Every contestant runs in a process of its own, in turn, for several rounds, so that all meet the same noise; what
counts is the median. The clip is scaled to 1280x720 once, before. Rows are appended to peers.jsonl beside this file;
`table` makes the markdown of the README from the newest run in it.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import numpy as np
import tyro

from i2i_runtime.engines import engine_path, open_engine, slots_for_throughput
from i2i_runtime.files import sha256_of_file
from i2i_runtime.machine import describe_machine
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import SinkOptions, open_sink
from i2i_runtime.sinks.null import NullSink
from i2i_runtime.sources import open_source

ROWS = Path(__file__).with_name("peers.jsonl")
SIZE = (1280, 720)


@dataclass(frozen=True)
class Job:
    """One contestant's task; `extra` is a run folder or another engine where the contestant needs one."""

    engine: str
    clip: str
    frames: int
    extra: str = ""


@dataclass(frozen=True)
class Row:
    """Frames per second of one contestant, the median over rounds first."""

    contestant: str
    fps: float
    fps_rounds: tuple[float, ...]
    machine: dict[str, object] = field(default_factory=describe_machine)
    engine_sha256: str = ""
    clip: str = ""
    frames: int = 0
    command: str = ""


def ours(job: Job, backend: Any = None) -> float:
    """Decode, translate, hand over."""
    pipeline = Pipeline(
        open_source(job.clip),
        open_engine(job.engine, backend, slots=slots_for_throughput()),
        [NullSink()],
        limit=job.frames,
    )
    pipeline.run()
    return pipeline.stats.fps


def ours_to_file(job: Job, backend: Any = None) -> float:
    """Decode, translate, encode with the encoder that OpenCV's writer uses."""
    with tempfile.TemporaryDirectory() as folder:
        sink = open_sink(f"{folder}/out.mp4", SinkOptions(codec="mpeg4"))
        began_s = time.perf_counter()
        engine = open_engine(job.engine, backend, slots=slots_for_throughput())
        engine.infer(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
        began_s = time.perf_counter()
        Pipeline(open_source(job.clip), engine, [sink], limit=job.frames).run()
        return job.frames / (time.perf_counter() - began_s)


def _opencv_frames(job: Job) -> Iterator[np.ndarray[Any, Any]]:
    capture = cv2.VideoCapture(job.clip)
    for _ in range(job.frames):
        ok, frame = capture.read()
        if not ok:
            return
        yield frame
    capture.release()


def _session(job: Job) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(job.engine, providers=["CPUExecutionProvider"])

    def translate(frame: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        translated = session.run(None, {"frame": rgb[None]})[0][0]
        return np.asarray(cv2.cvtColor(translated, cv2.COLOR_RGB2BGR))

    translate(np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
    return translate


def loop(job: Job) -> float:
    """OpenCV capture, ONNX Runtime, nothing written."""
    translate = _session(job)
    began_s = time.perf_counter()
    for frame in _opencv_frames(job):
        translate(frame)
    return job.frames / (time.perf_counter() - began_s)


def loop_to_file(job: Job) -> float:
    """OpenCV capture, ONNX Runtime, OpenCV writer: the loop people write."""
    translate = _session(job)
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        writer = cv2.VideoWriter(f"{folder}/out.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 25, SIZE)
        for frame in _opencv_frames(job):
            writer.write(translate(frame))
        writer.release()
        return job.frames / (time.perf_counter() - began_s)


def supervision_to_file(job: Job) -> float:
    """supervision's `process_video` with ONNX Runtime in its callback."""
    import supervision

    translate = _session(job)
    with tempfile.TemporaryDirectory() as folder:
        began_s = time.perf_counter()
        supervision.process_video(
            source_path=job.clip,
            target_path=f"{folder}/out.mp4",
            callback=lambda frame, _: translate(frame),
            max_frames=job.frames,
        )
        return job.frames / (time.perf_counter() - began_s)


def eager_torch(job: Job) -> float:
    """The trained network in eager PyTorch, float32, between OpenCV capture and nothing."""
    import torch

    from i2i_trainer.checkpoint import load_method

    network = load_method(Path(job.extra)).inference()
    done = 0
    with torch.inference_mode():
        began_s = time.perf_counter()
        for frame in _opencv_frames(job):
            rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            image = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
            translated = ((network(image)[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
            cv2.cvtColor(translated, cv2.COLOR_RGB2BGR)
            done += 1
    return done / (time.perf_counter() - began_s)


def engine_alone(job: Job) -> float:
    """`infer` on images in memory."""
    engine = open_engine(job.engine)
    images = [cv2.cvtColor(f, cv2.COLOR_BGR2RGB) for f in _opencv_frames(Job(job.engine, job.clip, 8))]
    image_of = [np.asarray(image, np.uint8) for image in images]
    engine.infer(image_of[0])
    durations = []
    for index in range(job.frames):
        began_s = time.perf_counter()
        engine.infer(image_of[index % len(image_of)])
        durations.append(time.perf_counter() - began_s)
    return 1 / statistics.median(durations)


def benchmark_app(job: Job) -> float:
    """OpenVINO's own tool on the same file, precision and shape: the ceiling of the engine alone."""
    precision = open_engine(job.engine).backend.split()[-1]
    tool = Path(sys.executable).with_name("benchmark_app")
    command = [
        str(tool), "-m", job.engine, "-d", "CPU", "-hint", "latency", "-niter", str(job.frames),
        "-infer_precision", precision, "-shape", f"frame[1,{SIZE[1]},{SIZE[0]},3]",
    ]  # fmt: skip
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Median:\s+([\d.]+) ms", output)
    assert found is not None, output
    return 1000 / float(found.group(1))


def cyclegan_alone(job: Job) -> float:
    """A 9-block CycleGAN, engine alone, on the same back end."""
    return engine_alone(Job(job.extra, job.clip, max(3, job.frames // 50)))


CONTESTANTS: dict[str, Callable[[Job], float]] = {
    "i2i-stream, handed over": ours,
    "i2i-stream on ONNX Runtime, handed over": lambda job: ours(job, "onnxruntime"),
    "OpenCV + ONNX Runtime, handed over": loop,
    "eager torch float32, handed over": eager_torch,
    "i2i-stream to a file": ours_to_file,
    "i2i-stream on ONNX Runtime to a file": lambda job: ours_to_file(job, "onnxruntime"),
    "OpenCV + ONNX Runtime + OpenCV to a file": loop_to_file,
    "supervision process_video to a file": supervision_to_file,
    "engine alone": engine_alone,
    "OpenVINO benchmark_app, engine alone": benchmark_app,
    "9-block CycleGAN, engine alone": cyclegan_alone,
}
RATIOS = [
    ("i2i-stream, handed over", "OpenCV + ONNX Runtime, handed over"),
    ("i2i-stream on ONNX Runtime, handed over", "OpenCV + ONNX Runtime, handed over"),
    ("i2i-stream, handed over", "eager torch float32, handed over"),
    ("i2i-stream to a file", "OpenCV + ONNX Runtime + OpenCV to a file"),
    ("i2i-stream on ONNX Runtime to a file", "OpenCV + ONNX Runtime + OpenCV to a file"),
    ("i2i-stream to a file", "supervision process_video to a file"),
    ("engine alone", "OpenVINO benchmark_app, engine alone"),
    ("engine alone", "9-block CycleGAN, engine alone"),
]


@dataclass(frozen=True)
class Options:
    """Measure all contestants, or make the table of the newest measurement."""

    engine: Annotated[str, tyro.conf.Positional]
    """Engine file, or the name of one that ships; `table` prints the stored rows as markdown."""
    clip: Annotated[Path | None, tyro.conf.Positional] = None
    """Clip to translate."""
    run: Path | None = None
    """Run folder of the engine, for eager torch."""
    cyclegan: Path | None = None
    """Engine of a 9-block CycleGAN."""
    frames: int = 150
    """Frames per contestant and round."""
    rounds: int = 5
    """Rounds; the median counts."""
    contestant: str | None = None
    """Run this one alone, once, and print its rate (what each round calls)."""
    extra: str = ""
    """What that one needs beside engine and clip."""


def main() -> None:
    options = tyro.cli(Options)
    if options.engine == "table":
        print(table())
        return
    assert options.clip is not None, "name a clip"
    engine = str(engine_path(options.engine))
    if options.contestant is not None:
        job = Job(engine, str(options.clip), options.frames, options.extra)
        print(json.dumps(CONTESTANTS[options.contestant](job)))
        return
    extras = {
        "eager torch float32, handed over": options.run,
        "9-block CycleGAN, engine alone": options.cyclegan,
    }
    names = [name for name in CONTESTANTS if extras.get(name, Path()) is not None]
    with tempfile.TemporaryDirectory() as folder:
        clip = scaled(options.clip, Path(folder) / "720p.mp4", options.frames)
        rates: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(options.rounds):
            for name in names:
                rates[name].append(_apart(name, engine, clip, options.frames, extras.get(name)))
                print(f"{name}: {rates[name][-1]:.1f} fps", flush=True)
    command = f"python export/benchmarks/peers.py {options.engine} {options.clip.name}"
    with ROWS.open("a", encoding="utf-8") as file:
        for name, values in rates.items():
            row = Row(
                name, statistics.median(values), tuple(values),
                engine_sha256=sha256_of_file(Path(engine)), clip=options.clip.name, frames=options.frames,
                command=command,
            )  # fmt: skip
            file.write(json.dumps(asdict(row)) + "\n")
    print(table())


def scaled(clip: Path, target: Path, frames: int) -> Path:
    """The clip's first frames at 1280x720, H.264 as a camera would deliver it."""
    with av.open(str(clip)) as source, av.open(str(target), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = (*SIZE, "yuv420p")
        for index, frame in enumerate(source.decode(video=0)):
            if index == frames:
                break
            image = frame.reformat(*SIZE, "yuv420p")
            image.pts, image.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(image))
        output.mux(stream.encode(None))
    return target


def _apart(name: str, engine: str, clip: Path, frames: int, extra: Path | None) -> float:
    command = [sys.executable, __file__, engine, str(clip), "--contestant", name, "--frames", str(frames)]
    result = subprocess.run(
        [*command, "--extra", str(extra or "")], capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        sys.exit(f"{name} failed: {result.stderr[-2000:]}")
    return float(json.loads(result.stdout.splitlines()[-1]))


def table() -> str:
    """Markdown of the newest row of every contestant, and the ratios that matter."""
    rows = {row["contestant"]: row for line in ROWS.read_text().splitlines() for row in [json.loads(line)]}
    lines = ["| contestant | frames per second (median) | range |", "|---|---|---|"]
    lines += [
        f"| {name} | {row['fps']:.1f} | {min(row['fps_rounds']):.1f} to {max(row['fps_rounds']):.1f} |"
        for name in CONTESTANTS
        if (row := rows.get(name)) is not None
    ]
    lines += ["", "| ratio | of | times, median of rounds | range |", "|---|---|---|---|"]
    for a, b in RATIOS:
        if a in rows and b in rows:
            # Within a round both met about the same noise.
            pairs = zip(rows[a]["fps_rounds"], rows[b]["fps_rounds"], strict=True)
            times = sorted(mine / theirs for mine, theirs in pairs)
            lines.append(
                f"| {a} | {b} | {statistics.median(times):.2f} | {times[0]:.2f} to {times[-1]:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
