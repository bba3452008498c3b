"""Summer to winter without pairs, scored against the true winter of every test frame.

    cd trainer && python -m reproduction.nordland --method unit --preset cpu

Nordland is one railway filmed in two seasons, frame by frame at the same places: 64 x 32, grey. The last 400 frames
of the route are for testing. Of the others, a random half lends its summer and the other half its winter, so no
method sees a place in both seasons.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from i2i_trainer.checkpoint import load_method
from i2i_trainer.loop import train
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS
from i2i_trainer.sheets import write_sheet
from reproduction.rows import RESULTS, Origin, write_row

TEST_FRAMES = 400
FLAT = 1.0
"""Deviation in grey levels under which a crop shows nothing."""
SIZES = {"image_size": 32, "load_size": 32, "log_every": 50, "sample_every": 500, "checkpoint_every": 500}
NICE = {"width": 16, "blocks": 4, "depth": 5, "batch": 4}
"""NICE-GAN at a size that fits 32 pixels."""
PRESETS: dict[str, dict[str, Mapping[str, Any]]] = {
    "cpu": {
        "unit": {"steps": 2000},
        "munit": {"steps": 1500},
        "cyclegan": {"steps": 2000, "decay_from": 1000},
        "nicegan": {"steps": 2000, "decay_from": 1000, **NICE},
        "lptn": {"steps": 2000},
    },
    "quick": {
        "unit": {"steps": 1000, "lr": 5e-4},
        "munit": {"steps": 500, "lr": 5e-4},
        "cyclegan": {"steps": 800, "decay_from": 400, "lr": 5e-4},
        "nicegan": {"steps": 500, "decay_from": 250, "lr": 5e-4, **NICE},
        "lptn": {"steps": 1000, "lr": 5e-4},
    },
    "smoke": {
        "unit": {"steps": 3},
        "munit": {"steps": 3},
        "cyclegan": {"steps": 3},
        "nicegan": {"steps": 3, **NICE},
        "lptn": {"steps": 3},
    },
}

Frames = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains one method on Nordland and stores how far its winters are from the true ones."""

    method: Literal["unit", "cyclegan", "munit", "nicegan", "lptn"]
    preset: Literal["cpu", "quick", "smoke"] = "cpu"
    """`cpu`: at most half an hour on two cores; `quick`: a few minutes, faster learning; `smoke`: three steps."""
    seed: int = 0
    pairs: Path = Path("../../shared/data/nordland_pairs.tar")
    """Tar with `summer/NAME.png` and `winter/NAME.png`."""
    work: Path = Path("../runs/nordland")
    """Folder for the unpaired images and the run."""


def read_frames(pairs: Path) -> tuple[Frames, Frames]:
    """Summers and winters along the route, `[N, 32, 64, 3] uint8 RGB` each."""
    with tarfile.open(pairs) as archive:
        contents = {
            member.name.removeprefix("./"): archive.extractfile(member)
            for member in archive
            if member.name.endswith(".png")
        }
        seasons: dict[str, list[Frames]] = {"summer": [], "winter": []}
        for name in sorted(contents):
            file = contents[name]
            assert file is not None
            seasons[name.split("/")[0]].append(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")))
    return np.stack(seasons["summer"]), np.stack(seasons["winter"])


def write_unpaired(summers: Frames, winters: Frames, folder: Path, seed: int) -> None:
    """`trainA` with the summers of one random half of the training places, `trainB` with the winters of the other.

    Frames with a crop of one colour (tunnels) are left out: every instance norm multiplies its gradients by
    1 / sqrt(eps), and MUNIT has enough of them in a row to pass what float32 holds.
    """
    places = np.random.default_rng(seed).permutation(len(summers) - TEST_FRAMES)
    middle = len(places) // 2
    for name, frames, half in (("trainA", summers, places[:middle]), ("trainB", winters, places[middle:])):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for place in half[flattest_crop(frames[half]) > FLAT]:
            Image.fromarray(frames[place]).save(target / f"{place:05d}.png")


def flattest_crop(frames: Frames) -> NDArray[np.float64]:
    """Smallest deviation, in grey levels, of any square crop of each frame `[N, H, W, 3]`."""
    side, width = frames.shape[1:3]
    crops = [frames[:, :, left : left + side].std(axis=(1, 2, 3)) for left in range(width - side + 1)]
    return np.asarray(np.min(crops, axis=0), np.float64)


def tensor_from_frames(frames: Frames) -> Tensor:
    """`[N, H, W, 3] uint8` -> `[N, 3, H, W] float32` in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def error(first: Tensor, second: Tensor) -> float:
    """Mean absolute difference in grey levels of 255."""
    return float((first - second).abs().mean() * 127.5)


def matched(images: Tensor, like: Tensor) -> Tensor:
    """The images with one gain and offset for all, so that mean and deviation are those of `like`."""
    gain = like.std() / images.std()
    return ((images - images.mean()) * gain + like.mean()).clamp(-1, 1)


@torch.no_grad()
def translate(network: Inference, images: Tensor) -> Tensor:
    """All images through one direction, styles at their default."""
    return torch.cat([network(part) for part in torch.split(images, 50)])


def edges(images: Tensor) -> Tensor:
    """Gradient magnitude of the grey images, one row per image."""
    grey = images.mean(dim=1)
    down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
    right = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
    return (down.square() + right.square()).sqrt().flatten(1)


def edge_correlation(first: Tensor, second: Tensor) -> float:
    """Correlation of two images' edges, mean over the pairs: the same places have it, flat images do not."""
    rows = [edges(images) for images in (first, second)]
    x, y = (row - row.mean(dim=1, keepdim=True) for row in rows)
    norm = x.norm(dim=1) * y.norm(dim=1)
    return float(((x * y).sum(dim=1) / norm.clamp_min(1e-6)).mean())


def scores(guess: Tensor, truth: Tensor) -> dict[str, float]:
    """Error in grey levels and edge correlation of guessed winters."""
    return {"error": round(error(guess, truth), 2), "edges": round(edge_correlation(guess, truth), 3)}


def references(source: Tensor, truth: Tensor, train_winters: Tensor) -> dict[str, dict[str, float]]:
    """Scores of what needs no training."""
    average = train_winters.mean(dim=0, keepdim=True).expand_as(truth)
    return {
        "the source itself": scores(source, truth),
        "the source in winter's brightness and contrast": scores(matched(source, train_winters), truth),
        "the true winter of another place": scores(truth.roll(TEST_FRAMES // 2, dims=0), truth),
        "the average winter, the same for all": scores(average, truth),
    }


def main(options: Options) -> None:
    """Prepares the data, trains, scores, and writes the result and a sheet of images."""
    origin = Origin(options.seed)
    name = f"nordland_{options.method}_{options.preset}_seed{options.seed}"
    summers, winters = read_frames(options.pairs)
    data = options.work / f"data_seed{options.seed}"
    if not data.exists():
        write_unpaired(summers, winters, data, options.seed)

    kind = METHODS[options.method].config
    values = {**kind.presets["small"], **SIZES, **PRESETS[options.preset][options.method]}
    config = replace(
        kind(),
        **values,
        data=data,
        out=options.work / name,
        domains=("summer", "winter"),
        seed=options.seed,
        workers=0,
    )
    run = train(options.method, config)

    network = load_method(run).inference("a2b")
    source, truth = (tensor_from_frames(frames[-TEST_FRAMES:]) for frames in (summers, winters))
    translated = translate(network, source)
    train_winters = tensor_from_frames(winters[:-TEST_FRAMES])
    row = {
        "experiment": "nordland",
        "method": options.method,
        "preset": options.preset,
        "steps": config.steps,
        "options": values,
        "test_frames": TEST_FRAMES,
        **scores(translated, truth),
        "references": references(source, truth, train_winters),
        **origin.finished(),
    }
    if options.preset != "smoke":
        write_row(name, row)
        rows = slice(0, TEST_FRAMES, TEST_FRAMES // 12)
        columns = {"summer": source[rows], "translated": translated[rows], "true winter": truth[rows]}
        write_sheet(RESULTS / f"{name}.png", columns)
    print(row)


if __name__ == "__main__":
    main(tyro.cli(Options))
