"""Warping error with and without `--steady`, and what it costs, on real clips.

python runtime/benchmarks/stability.py --engine ENGINE.onnx --clips FOLDER/a.mp4 FOLDER/b.mp4

For each clip: the frames at `--size`, translated three ways (as they are; with the source held against noise;
held and blended), the warping error of each against the untouched source
(`i2i_runtime.stages.temporal.warping_error`), how much detail is left (variance of the Laplacian, blended over
plain), the processor time of one frame on one thread, and, at every cut, the largest difference between the
blended and the plain image right behind it: 0 means no ghost. Adds one row a clip to stability.jsonl beside
this file.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import tyro

from i2i_runtime.engines import engine_path, open_engine
from i2i_runtime.files import sha256_of_file
from i2i_runtime.frame import Frame, Image
from i2i_runtime.machine import describe_machine
from i2i_runtime.sources import open_source
from i2i_runtime.stages.temporal import Steadier, hold, warping_error

ROWS = Path(__file__).parent / "stability.jsonl"


@dataclass(frozen=True)
class Measurement:
    """Measures how much calmer the images of an engine become."""

    engine: str
    clips: tuple[Path, ...]
    frames: int = 60
    width: int = 640
    height: int = 360
    noise: int = 6
    strength: float = 0.6


def read(clip: Path, options: Measurement) -> list[Image]:
    source = open_source(f"file:{clip}")
    images: list[Image] = []
    while len(images) < options.frames and (frame := source.read()) is not None:
        small = cv2.resize(frame.pixels, (options.width, options.height), interpolation=cv2.INTER_AREA)
        images.append(np.asarray(small, np.uint8))
    source.close()
    return images


def frame_of(pixels: Image, index: int) -> Frame:
    return Frame(pixels, index, index, Fraction(1, 25), 0.0)


def detail(images: list[Image]) -> float:
    return float(np.mean([cv2.Laplacian(image, cv2.CV_32F).var() for image in images]))


def measure(clip: Path, options: Measurement) -> dict[str, object]:
    cv2.setNumThreads(1)
    path = engine_path(options.engine)
    engine = open_engine(path)
    sources = read(clip, options)
    held: list[Image] = []
    began_s = time.thread_time()
    for image in sources:
        held.append(hold(held[-1] if held else None, image, options.noise))
    hold_ms = (time.thread_time() - began_s) * 1000 / len(sources)
    plain = [engine.infer(image) for image in sources]
    calm = [engine.infer(image) for image in held]
    engine.close()
    stage, steadied, ghosts = Steadier(options.strength), [], []
    began_s = time.thread_time()
    for index, (source, translated) in enumerate(zip(held, calm, strict=True)):
        cuts = stage.cuts
        steadied.append(stage.process(frame_of(translated, index), frame_of(source, index)).pixels)
        if stage.cuts > cuts:
            ghosts.append(int(cv2.absdiff(steadied[-1], translated).max()))
    blend_ms = (time.thread_time() - began_s) * 1000 / len(sources)
    errors = {
        name: warping_error(zip(sources, images, strict=True))
        for name, images in (("source", sources), ("plain", plain), ("held", calm), ("steady", steadied))
    }
    return {
        "clip": clip.name,
        "engine": path.name,
        "engine_sha256": sha256_of_file(path),
        "frames": len(sources),
        "size": [options.width, options.height],
        "noise": options.noise,
        "strength": options.strength,
        "warping_error": {name: asdict(error) for name, error in errors.items()},
        "less_mse": round(1 - errors["steady"].mse / errors["plain"].mse, 4),
        "less_rms": round(1 - errors["steady"].rms_255 / errors["plain"].rms_255, 4),
        "detail_left": round(detail(steadied) / detail(plain), 3),
        "hold_ms": round(hold_ms, 2),
        "blend_ms": round(blend_ms, 2),
        "cuts": stage.cuts,
        "largest_difference_behind_cuts": max(ghosts, default=0),
        "machine": describe_machine(),
    }


def main() -> None:
    options = tyro.cli(Measurement)
    for clip in options.clips:
        row = measure(clip, options)
        with ROWS.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")
        print(json.dumps({key: value for key, value in row.items() if key != "machine"}))


if __name__ == "__main__":
    main()
