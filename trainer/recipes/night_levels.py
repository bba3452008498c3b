"""Renders every day of the training material as dusk, night and deep night: what the engine day2night learns from.

    python trainer/recipes/night_levels.py MATERIAL OUT

MATERIAL is what night_material.py laid out. OUT gets `source`, `dusk`, `night` and `deep` with the same file names, as
`i2i-train graded --levels OUT` reads them. An image that is there already is not rendered again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from night_photo import STEPS, night_of, place_of_day

from i2i_trainer.images import ImageFile, Pixels

SIDE = 400
"""Shorter side of what is rendered."""


@dataclass(frozen=True)
class Recipe:
    """Render the days of the material at every darkness."""

    material: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by night_material.py."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write, or to complete."""


def main() -> None:
    recipe = tyro.cli(Recipe)
    days = sorted((recipe.material / "train" / "day").iterdir())
    for name in ("source", *STEPS):
        (recipe.out / name).mkdir(parents=True, exist_ok=True)
    for path in days:
        name = f"{path.stem}.png"
        if (recipe.out / "source" / name).exists():
            continue
        day = ImageFile(path).read(SIDE)
        place = place_of_day(day)
        for number, step in enumerate(STEPS):
            _write(recipe.out / step / name, night_of(place, number / (len(STEPS) - 1)))
        _write(recipe.out / "source" / name, day)
    print(f"{recipe.out}: {len(days)} days, each at {len(STEPS)} darknesses")


def _write(path: Path, image: Pixels) -> None:
    """Written beside and renamed, so that a name stands for a complete file."""
    kept = path.with_suffix(".part.png")
    cv2.imwrite(str(kept), np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    os.replace(kept, path)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
