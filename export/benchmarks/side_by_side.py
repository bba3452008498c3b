"""Engines that could stand for each other, timed in turn on this machine's back ends: int8, smaller images, rewrites.

    python export/benchmarks/side_by_side.py ORIGINAL.onnx OTHER.onnx ... --frames CLIP [--sizes 640x360 1280x720]
    python export/benchmarks/side_by_side.py --table

Every round runs each engine twice and times the second frame, so that all meet the same noise; the best quarter of the
rounds is stored beside the median. PSNR and the worst SSIM are against the original in float32 (ONNX Runtime).
Rows are added to side_by_side.jsonl beside this file. `--table` prints Markdown with, of several runs, the one that
other programs disturbed least: where the original was fastest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from i2i_export.frames import fit, read_frames
from i2i_export.parity import psnr_db
from i2i_export.precision.speed import times_in_turn
from i2i_export.ssim import worst_ssim
from i2i_runtime.engines import Backend, open_engine
from i2i_runtime.files import sha256_of_file
from i2i_runtime.frame import Image
from i2i_runtime.machine import describe_machine
from i2i_runtime.media.size import parse_size

ROWS = Path(__file__).parent / "side_by_side.jsonl"


@dataclass(frozen=True)
class Options:
    engines: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """The original first, then what could stand for it."""
    frames: Path | None = None
    """Clip or folder whose images are translated; the rendered street if not given."""
    sizes: tuple[str, ...] = ("640x360", "1280x720")
    backends: tuple[Backend, ...] = ("openvino", "onnxruntime")
    rounds: int = 41
    seconds: float = 15.0
    """How long one size on one back end is measured, three rounds at least."""
    table: bool = False
    """Print the stored rows and measure nothing."""


def main() -> None:
    options = tyro.cli(Options)
    if not options.table:
        frame = read_frames(options.frames, 1)[0]
        for text in options.sizes:
            width, height = parse_size(text) or (640, 360)
            image = fit(frame, height, width)
            truth = translated(options.engines[0], image)
            for backend in options.backends:
                for row in measure(options, backend, image, truth):
                    with ROWS.open("a", encoding="utf-8") as out:
                        out.write(json.dumps(row) + "\n")
    print(tables(read_rows()))


def translated(engine: Path, image: Image) -> Image:
    opened = open_engine(engine, "onnxruntime")
    try:
        return opened.infer(image)
    finally:
        opened.close()


def measure(options: Options, backend: Backend, image: Image, truth: Image) -> list[dict[str, Any]]:
    """One row per engine."""
    engines = [open_engine(path, backend) for path in options.engines]
    images = [engine.infer(image) for engine in engines]
    times_ms = times_in_turn(engines, image, rounds=options.rounds, fewest=3, budget_s=options.seconds)
    height, width = image.shape[:2]
    rows = []
    for path, engine, result, times in zip(options.engines, engines, images, times_ms, strict=True):
        rows.append(
            {
                "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "original": options.engines[0].stem,
                "engine": path.stem,
                "sha256": sha256_of_file(path),
                "notes": {
                    k: v for k, v in engine.metadata.notes.items() if k in ("int8", "guided", "rewrites")
                },
                "precision": engine.metadata.precision,
                "backend": engine.backend,
                "size": f"{width}x{height}",
                "median_ms": round(float(np.median(times)), 3),
                "best_quarter_ms": round(float(np.percentile(times, 25)), 3),
                "gain": round(float(np.percentile(times_ms[0], 25) / np.percentile(times, 25)), 3),
                "rounds": len(times),
                "psnr_db": round(psnr_db(truth, result), 2),
                "worst_ssim": round(worst_ssim(truth, result), 4),
                "machine": describe_machine(),
            }
        )
        engine.close()
    return rows


def read_rows() -> list[dict[str, Any]]:
    """The rows of the least disturbed run of each original, back end, size and set of engines."""
    runs: list[list[dict[str, Any]]] = []
    for line in ROWS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["engine"] == row["original"]:
            runs.append([])
        runs[-1].append(row)
    best: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run in runs:
        first = run[0]
        key = (first["original"], first["size"], first["backend"], *(row["sha256"] for row in run))
        if key not in best or first["best_quarter_ms"] < best[key][0]["best_quarter_ms"]:
            best[key] = run
    return [row for run in best.values() for row in run]


def tables(rows: list[dict[str, Any]]) -> str:
    """A Markdown table for each original and what could stand for it."""
    originals = dict.fromkeys(row["original"] for row in rows)
    return "\n\n".join(table([row for row in rows if row["original"] == name]) for name in originals)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| size | engine | back end | ms a frame | gain | PSNR dB | worst SSIM |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in sorted(
        rows, key=lambda row: (int(row["size"].split("x")[0]), row["backend"].split()[0] != "openvino")
    ):
        gain = psnr = worst = ""
        if row["engine"] != row["original"]:
            gain = f"{row['gain']:.2f}"
            if "guided" not in row["notes"]:  # is meant to look different
                psnr, worst = f"{row['psnr_db']:.1f}", f"{row['worst_ssim']:.3f}"
        cells = (
            row["size"],
            row["engine"],
            row["backend"],
            f"{row['best_quarter_ms']:.1f}",
            gain,
            psnr,
            worst,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
