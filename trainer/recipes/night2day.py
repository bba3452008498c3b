"""Lays out the known translations that the way back, night2day, learns from.

    python trainer/recipes/night2day.py DAY2NIGHT OUT

DAY2NIGHT is what day2night.py laid out. OUT becomes a folder for `--pairs`: its fixed cameras at both times, some of
its rendered streets, and every image of the day beside the night that the engine day2night makes of it. Such a night
shows exactly what its day shows, which no two real images do. It is dimmed by chance, gets a sensor's noise and is
compressed, as real nights are, so that nothing hides in it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro

from i2i_runtime.engines import open_engine

SIDE = 400
"""Pixels of the shorter side of the images that the engine translates."""
DIMMED = (0.35, 1.0)
"""Share of the light that is left in a made night."""
NOISE = 4.0
"""Largest standard deviation of the noise before it is blurred, in levels of 255."""
QUALITY = 85
"""Of the JPEG compression."""


@dataclass(frozen=True)
class Recipe:
    """Lay out the pairs of the engine night2day."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by day2night.py."""
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist."""
    scenes: int = 80
    """Rendered streets among the pairs."""


def main() -> None:
    recipe = tyro.cli(Recipe)
    days, nights = (recipe.out / name for name in ("trainA", "trainB"))
    for folder in (days, nights):
        folder.mkdir(parents=True)
    _made_nights(sorted((recipe.data / "trainA").iterdir()), days, nights)
    for folder in (days, nights):
        for path in (recipe.data / "pairs" / folder.name).iterdir():
            if path.stem.startswith("camera") or int(path.stem.removeprefix("scene_")) < recipe.scenes:
                shutil.copy(path, folder)
    print(f"{recipe.out}: {sum(1 for _ in days.iterdir())} pairs")


def _made_nights(images: list[Path], days: Path, nights: Path) -> None:
    """Writes every image, and beside it what day2night makes of it."""
    engine = open_engine("day2night", "onnxruntime")
    chance = np.random.default_rng(0)
    for number, path in enumerate(images):
        day = _read(path)
        night = engine.infer(np.ascontiguousarray(day[:, :, ::-1]))[:, :, ::-1].astype(np.float32)
        light, noise = chance.uniform(*DIMMED), chance.uniform(0, NOISE)
        grain = cv2.GaussianBlur(chance.standard_normal(night.shape).astype(np.float32), (0, 0), 0.7)
        seen = np.clip(night * light + noise * grain, 0, 255).round().astype(np.uint8)
        cv2.imwrite(str(days / f"dimmed_{number:04d}.png"), day)
        cv2.imwrite(str(nights / f"dimmed_{number:04d}.jpg"), seen, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    engine.close()


def _read(path: Path) -> cv2.typing.MatLike:
    """`[H, W, 3] uint8 BGR`, the shorter side at 400 pixels, both sides cut to multiples of 8."""
    image = cv2.imread(str(path))
    height, width = image.shape[:2]
    factor = SIDE / min(height, width)
    size = (int(width * factor + 0.5), int(height * factor + 0.5))
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=way)
    return resized[: size[1] // 8 * 8, : size[0] // 8 * 8]


if __name__ == "__main__":
    main()
