"""Lays out the data that the shipped engine `day2night` learns from.

    python trainer/recipes/day2night.py DATA OUT

DATA holds `daynight_webcams.tar` (folders `day` and `night`) and `videos/` with the driving clips; OUT becomes an
unpaired folder: trainA and trainB, and testA and testB with the cameras that training never sees. Frames of
the rendered street (what `make demo` shows) join the day when `--street DIR` names a folder of them.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import cv2
import tyro

HELD_BACK_SIZES = {(439, 640), (593, 800), (555, 800)}
"""Height and width tell the fixed cameras apart; pictures of these go to the test folders only."""
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
    street: Path | None = None
    """Folder of rendered street pictures to add to the day."""


def prepare(recipe: Recipe) -> dict[str, int]:
    """Writes the folders; returns how many pictures each holds."""
    if recipe.out.exists():
        sys.exit(f"{recipe.out} exists: name a new folder, or remove it.")
    for name in ("trainA", "trainB", "testA", "testB"):
        (recipe.out / name).mkdir(parents=True)
    _webcams(recipe.data / "daynight_webcams.tar", recipe.out)
    for clip, (folder, every) in CLIPS.items():
        _frames(recipe.data / "videos" / clip, recipe.out / folder, every)
    if recipe.street is not None:
        for picture in sorted(recipe.street.glob("*.png")):
            shutil.copy(picture, recipe.out / "trainA" / f"street_{picture.name}")
    return {folder.name: sum(1 for _ in folder.iterdir()) for folder in sorted(recipe.out.iterdir())}


def _webcams(archive: Path, out: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            domain = Path(member.name).parent.name
            stream = tar.extractfile(member) if member.isfile() and domain in ("day", "night") else None
            if stream is None:
                continue
            path = out / "picture.tmp"
            path.write_bytes(stream.read())
            picture = cv2.imread(str(path))
            split = "test" if picture.shape[:2] in HELD_BACK_SIZES else "train"
            path.rename(out / f"{split}{'A' if domain == 'day' else 'B'}" / Path(member.name).name)


def _frames(clip: Path, folder: Path, every: int) -> None:
    with av.open(str(clip)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % every == 0:
                cv2.imwrite(str(folder / f"{clip.stem}_{index:05d}.png"), frame.to_ndarray(format="bgr24"))


if __name__ == "__main__":
    for name, count in prepare(tyro.cli(Recipe)).items():
        print(f"{name}: {count} pictures")
