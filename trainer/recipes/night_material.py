"""Lays out the material of the engine day2night, split by place.

    python trainer/recipes/night_material.py DATA OUT

DATA holds `daynight_webcams.tar`, `streets_free.tar`, `bsds500.tar` and `videos/`. OUT gets `train`, `validation` and
`check`, each with `day` and `night` images and `clips`. A place is in one of them only: a fixed camera, a stretch of
road, a city. Choices are made on `validation`; `check` is measured and looked at, and nothing is ever chosen by it.
Image names begin with their place: `camera-555x800__20151102_150116.jpg`.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import tyro

from i2i_runtime.sources.street import Street
from i2i_trainer.images import Pixels
from i2i_trainer.scenes import render, scene_from_seed

SPLITS = ("train", "validation", "check")
CAMERAS = {
    "validation": {(372, 640), (737, 1024)},
    "check": {(439, 640), (593, 800), (555, 800)},
}
"""Height and width tell the fixed cameras apart; those named nowhere are for training."""
STREETS = {
    "validation": (
        "denver",
        "salt-lake-city",
        "earthquake-center",
        "solidWhite",
        "solidYellow",
        "whiteCarLane",
    ),
    "check": ("London_street", "chicago", "new-orleans", "seattle", "boise", "gsahq"),
}
"""Parts of the names of `streets_free.tar`; the road of `udacity__solidWhiteRight.mp4` is a place of validation."""
CLIPS = {
    "validation": ("udacity__solidWhiteRight.mp4",),
    "check": ("tmo324__countryroad.mp4", "hifza__dashcam.mp4", "intel__car-detection.mp4"),
}
NIGHT_DRIVE, NIGHT_EVERY = "tmo324__night.mp4", 40
"""Clip whose frames join the nights of the training, and of how many one is taken."""
STREET_FRAMES = range(0, 1000, 40)
"""Frames of `test://street`, which the demo translates."""
SCENES = 24
"""Rendered streets among the days."""


@dataclass(frozen=True)
class Recipe:
    """Lay out the material of the engine day2night."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder with the archives and videos/."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist."""


def prepare(recipe: Recipe) -> dict[str, int]:
    """Writes the folders; returns how many files each holds."""
    if recipe.out.exists():
        sys.exit(f"{recipe.out} exists: name a new folder, or remove it.")
    for split in SPLITS:
        for kind in ("day", "night", "clips"):
            (recipe.out / split / kind).mkdir(parents=True)
    _webcams(recipe.data / "daynight_webcams.tar", recipe.out)
    _streets(recipe.data / "streets_free.tar", recipe.out)
    for path, image in _members(recipe.data / "bsds500.tar"):
        if path.suffix == ".jpg" and path.parent.name == "train":
            (recipe.out / "train" / "day" / f"photo__{path.name}").write_bytes(image)
    for split, clips in CLIPS.items():
        for clip in clips:
            shutil.copy(recipe.data / "videos" / clip, recipe.out / split / "clips" / clip)
    _night_drive(recipe.data / "videos" / NIGHT_DRIVE, recipe.out / "train" / "night")
    _drawn_streets(recipe.out / "train" / "day")
    return {
        str(folder.relative_to(recipe.out)): sum(1 for _ in folder.iterdir())
        for folder in sorted(recipe.out.glob("*/*"))
    }


def place_of(path: Path) -> str:
    """The place that an image of the material shows: what stands before `__` in its name."""
    return path.name.split("__")[0]


def _webcams(archive: Path, out: Path) -> None:
    for path, image in _members(archive):
        domain = path.parent.name
        if domain not in ("day", "night"):
            continue
        height, width = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR).shape[:2]
        split = next((s for s, sizes in CAMERAS.items() if (height, width) in sizes), "train")
        name = f"camera-{height}x{width}__{path.name}"
        (out / split / domain / name).write_bytes(image)


def _streets(archive: Path, out: Path) -> None:
    for path, image in _members(archive):
        domain = path.parent.name
        if domain not in ("day", "night"):
            continue
        split = next((s for s, parts in STREETS.items() if any(p in path.name for p in parts)), "train")
        (out / split / domain / f"street-{path.stem[:24]}__{path.name}").write_bytes(image)


def _members(archive: Path) -> Iterator[tuple[Path, bytes]]:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            stream = tar.extractfile(member) if member.isfile() else None
            if stream is not None:
                yield Path(member.name), stream.read()


def _night_drive(clip: Path, folder: Path) -> None:
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % NIGHT_EVERY == 0:
                _write(folder / f"drive__{index:05d}.png", frame.to_ndarray(format="rgb24"))


def _drawn_streets(folder: Path) -> None:
    street = Street(640, 360)
    for index in STREET_FRAMES:
        _write(folder / f"demo__{index:04d}.png", street.draw(index))
    for seed in range(SCENES):
        _write(folder / f"scene__{seed:04d}.png", render(scene_from_seed(seed), (360, 640), night=False))


def _write(path: Path, image: Pixels) -> None:
    cv2.imwrite(str(path), image[:, :, ::-1])


if __name__ == "__main__":
    for name, count in prepare(tyro.cli(Recipe)).items():
        print(f"{name}: {count} files")
