"""Image quality against latency of students of several widths: what to give up for speed, measured.

    python export/benchmarks/student_front.py --teacher runs/NAME --data DIR --students FOLDER [--steps N]

Trains a student per width with `i2i-train distill`, exports it, and measures it on this machine's fastest back end at
1280x720, all students in turn so that they meet the same noise. Students that FOLDER holds already are not trained
again, so that a second call measures alone, on a machine that does nothing else. Quality is the PSNR to the teacher
on images of the test split that neither has seen. Rows go to student_front.jsonl beside this file, the image to
student_front.png; the chosen widths are those no other student beats in both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
import tyro
from numpy.typing import NDArray

from i2i_runtime.engines import open_engine
from i2i_runtime.machine import describe_machine
from i2i_trainer.checkpoint import load_method, read_config
from i2i_trainer.config import TrainConfig
from i2i_trainer.layouts import find_domains
from i2i_trainer.method import Inference

mpl.use("Agg")
from matplotlib import pyplot as plt

HERE = Path(__file__).parent
ROWS, CHART = HERE / "student_front.jsonl", HERE / "student_front.png"
WIDTHS = [(8, 16, 2, 8), (16, 32, 2, 8), (16, 32, 3, 4), (24, 48, 4, 4), (32, 64, 4, 4), (32, 96, 6, 4)]
"""(width, trunk, blocks, unshuffle) of the students."""
SIZE = (720, 1280)


@dataclass(frozen=True)
class Options:
    teacher: Path
    """Run folder of the teacher."""
    data: Path
    """Folder the teacher learned from; its test split is what quality is measured on."""
    students: Path
    """Folder of the students' runs and engines; what it holds is measured, what is missing is trained."""
    steps: int = 600
    """Training steps of every student."""
    batch: int = 2
    threads: int = 2
    """Processor threads of the engine."""


@dataclass(frozen=True)
class Row:
    width: int
    trunk: int
    blocks: int
    unshuffle: int
    parameters: int
    latency_ms: float
    latency_range_ms: tuple[float, float]
    psnr_to_teacher_db: float
    steps: int
    threads: int
    backend: str
    machine: dict[str, object]


def main() -> None:
    options = tyro.cli(Options)
    _, config = read_config(options.teacher)
    images = held_back(options.data, config)
    teacher = load_method(options.teacher).inference()
    wanted = [translate(teacher, image) for image in images]
    students = [train(shape, options) for shape in WIDTHS]
    durations = measure([engine for _, engine in students], options.threads)
    rows = []
    for shape, (run, engine), times in zip(WIDTHS, students, durations, strict=True):
        student = load_method(run).inference()
        psnrs = [psnr_db(translate(student, p), w) for p, w in zip(images, wanted, strict=True)]
        rows.append(
            Row(
                *shape,
                parameters=sum(p.numel() for p in student.parameters()),
                latency_ms=round(statistics.median(times), 3),
                latency_range_ms=(round(min(times), 3), round(max(times), 3)),
                psnr_to_teacher_db=round(statistics.mean(psnrs), 2),
                steps=options.steps,
                threads=options.threads,
                backend=open_engine(engine).backend,
                machine=describe_machine(),
            )
        )
    ROWS.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    draw(rows)
    for row in rows:
        mark = "*" if row in front(rows) else " "
        print(
            f"{mark} {row.width:3d} {row.trunk:3d} {row.blocks} /{row.unshuffle}: "
            f"{row.latency_ms:6.2f} ms {row.psnr_to_teacher_db:.2f} dB"
        )


def held_back(data: Path, config: TrainConfig) -> list[NDArray[np.uint8]]:
    """Source images of the test split, cut to multiples of 16 pixels."""
    domains = find_domains(replace(config, data=data), "test")
    images = [image.read(360) for image in domains.a]
    return [p[: p.shape[0] // 16 * 16, : p.shape[1] // 16 * 16] for p in images]


def translate(network: Inference, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """`[H, W, 3] uint8` -> `[3, H, W] float32` in [-1, 1]."""
    with torch.inference_mode():
        tensor = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return np.asarray(network(tensor)[0])


def psnr_db(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(10 * np.log10(4 / max(float(np.mean((a - b) ** 2)), 1e-10)))


def train(shape: tuple[int, int, int, int], options: Options) -> tuple[Path, Path]:
    """Run folder and engine of one student, made unless they are there."""
    width, trunk, blocks, unshuffle = shape
    run = options.students / f"{width}_{trunk}_{blocks}_{unshuffle}"
    engine = run.with_suffix(".onnx")
    if engine.exists():
        return run, engine
    commands = [
        [
            "i2i-train", "distill", "--teacher", options.teacher, "--data", options.data, "--out", run,
            "--width", width, "--trunk", trunk, "--blocks", blocks, "--unshuffle", unshuffle,
            "--steps", options.steps, "--lr", 5e-4, "--schedule", "linear", "--decay-from", options.steps // 2,
            "--batch", options.batch, "--ema", 0.98, "--steady-weight", 0, "--precision", "bf16", "--workers", 1,
        ],
        ["i2i-export", run, "-o", engine],
    ]  # fmt: skip
    for command in commands:
        program = Path(sys.executable).with_name(str(command[0]))
        subprocess.run([program, *map(str, command[1:])], check=True, stdout=subprocess.DEVNULL)
    return run, engine


def measure(engines: list[Path], threads: int, rounds: int = 15) -> list[list[float]]:
    """Milliseconds per frame of every engine, measured in turn."""
    opened = [open_engine(engine, threads=threads) for engine in engines]
    image = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    for engine in opened:
        engine.infer(image)
    durations: list[list[float]] = [[] for _ in engines]
    for _ in range(rounds):
        for times, engine in zip(durations, opened, strict=True):
            began_s = time.perf_counter()
            engine.infer(image)
            times.append((time.perf_counter() - began_s) * 1000)
    return durations


def front(rows: list[Row]) -> list[Row]:
    """Students that no other beats in both latency and PSNR."""
    return [
        row
        for row in rows
        if not any(
            o.latency_ms < row.latency_ms and o.psnr_to_teacher_db >= row.psnr_to_teacher_db for o in rows
        )
    ]


def draw(rows: list[Row]) -> None:
    best = sorted(front(rows), key=lambda row: row.latency_ms)
    figure, axes = plt.subplots(figsize=(7, 4.5))
    axes.plot([r.latency_ms for r in best], [r.psnr_to_teacher_db for r in best], "-", color="#2672b0")
    axes.scatter([r.latency_ms for r in rows], [r.psnr_to_teacher_db for r in rows], color="#2672b0")
    for row in rows:
        label = f"{row.width}/{row.trunk}, {row.blocks} blocks, 1/{row.unshuffle}"
        axes.annotate(
            label,
            (row.latency_ms, row.psnr_to_teacher_db),
            xytext=(6, -10),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set_xlim(0, 1.3 * max(r.latency_ms for r in rows))
    axes.set_xlabel(f"latency at 1280x720, ms ({rows[0].backend}, {rows[0].threads} threads)")
    axes.set_ylabel("PSNR to the teacher on held-out images, dB")
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(CHART, dpi=110)


if __name__ == "__main__":
    main()
