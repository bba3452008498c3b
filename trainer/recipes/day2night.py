"""Lays out the data that the shipped engine `day2night` learns from.

    python trainer/recipes/day2night.py DATA OUT

DATA holds `daynight_webcams.tar` (folders `day` and `night`) and `videos/` with the driving clips; OUT becomes an
unpaired folder: trainA and trainB, and testA and testB with the cameras that training never sees. OUT/pairs holds
known translations for `--pairs`: streets rendered by day and by night, and images of one fixed camera at both times.
Frames of `test://street`, which the demo translates, are among the day.
"""

from __future__ import annotations

import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import cv2
import numpy as np
import tyro

from i2i_runtime.sources.street import Street
from i2i_trainer.scenes import render, scene_from_seed

HELD_BACK_SIZES = {(439, 640), (593, 800), (555, 800)}
"""Height and width tell the fixed cameras apart; images of these go to the test folders only."""
STREET_FRAMES = range(0, 1000, 25)
"""Frames of `test://street` that join the day."""
SAME_PLACE = 0.35
"""Least correlation of the edges of two images that are taken to show the same place."""
CLIPS = {
    "udacity__solidWhiteRight.mp4": ("trainA", 8),
    "tmo324__countryroad.mp4": ("trainA", 8),
    "tmo324__night.mp4": ("trainB", 40),
}
"""Clip -> folder, and of how many frames one is taken."""


@dataclass(frozen=True)
class Recipe:
    """Lay out the data of the engine day2night."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder with daynight_webcams.tar and videos/."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist."""
    scenes: int = 200
    """Rendered streets among the pairs."""


def prepare(recipe: Recipe) -> dict[str, int]:
    """Writes the folders; returns how many images each holds."""
    if recipe.out.exists():
        sys.exit(f"{recipe.out} exists: name a new folder, or remove it.")
    for name in ("trainA", "trainB", "testA", "testB"):
        (recipe.out / name).mkdir(parents=True)
    _webcams(recipe.data / "daynight_webcams.tar", recipe.out)
    for clip, (folder, every) in CLIPS.items():
        _frames(recipe.data / "videos" / clip, recipe.out / folder, every)
    street = Street(640, 360)
    for index in STREET_FRAMES:
        cv2.imwrite(str(recipe.out / "trainA" / f"street_{index:04d}.png"), street.draw(index)[:, :, ::-1])
    for folder in (recipe.out / "pairs" / "trainA", recipe.out / "pairs" / "trainB"):
        folder.mkdir(parents=True)
    _rendered_pairs(recipe.out / "pairs", recipe.scenes)
    _camera_pairs(recipe.out)
    return {
        str(folder.relative_to(recipe.out)): sum(1 for _ in folder.iterdir())
        for folder in sorted([*recipe.out.glob("t*"), *recipe.out.glob("pairs/*")])
    }


def _webcams(archive: Path, out: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            domain = Path(member.name).parent.name
            stream = tar.extractfile(member) if member.isfile() and domain in ("day", "night") else None
            if stream is None:
                continue
            path = out / "image.tmp"
            path.write_bytes(stream.read())
            image = cv2.imread(str(path))
            split = "test" if image.shape[:2] in HELD_BACK_SIZES else "train"
            path.rename(out / f"{split}{'A' if domain == 'day' else 'B'}" / Path(member.name).name)


def _frames(clip: Path, folder: Path, every: int) -> None:
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % every == 0:
                cv2.imwrite(str(folder / f"{clip.stem}_{index:05d}.png"), frame.to_ndarray(format="bgr24"))


def _rendered_pairs(folder: Path, count: int) -> None:
    for seed in range(count):
        scene = scene_from_seed(seed)
        for domain, night in (("A", False), ("B", True)):
            image = render(scene, (360, 640), night)
            cv2.imwrite(str(folder / f"train{domain}" / f"scene_{seed:04d}.png"), image[:, :, ::-1])


def _camera_pairs(out: Path) -> None:
    """Joins every night image with the day image of the same size that shows the same edges best."""
    days, nights = (
        {path: cv2.imread(str(path)) for path in sorted((out / domain).glob("*.jpg"))}
        for domain in ("trainA", "trainB")
    )
    edges = {path: _edges(image) for path, image in (days | nights).items()}
    number = 0
    for night, image in nights.items():
        same_size = [day for day in days if days[day].shape == image.shape]
        scores = {day: float(np.mean(edges[day] * edges[night])) for day in same_size}
        best = max(scores, key=scores.__getitem__, default=None)
        if best is None or scores[best] < SAME_PLACE:
            continue
        for domain, pixels in (("A", days[best]), ("B", image)):
            cv2.imwrite(str(out / "pairs" / f"train{domain}" / f"camera_{number:04d}.png"), pixels)
        number += 1


def _edges(image: cv2.typing.MatLike) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Edge strength at 64x48 with mean 0 and variance 1, so that a mean product is a correlation."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (0, 0), 2).astype(np.float32)
    strength = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    small = np.log1p(cv2.resize(strength, (64, 48), interpolation=cv2.INTER_AREA))
    return np.asarray((small - small.mean()) / (small.std() + 1e-6), np.float32)


if __name__ == "__main__":
    for name, count in prepare(tyro.cli(Recipe)).items():
        print(f"{name}: {count} images")
