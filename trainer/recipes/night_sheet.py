"""Contact sheet of the nights of several engines on every place of a split, to look at.

    python trainer/recipes/night_sheet.py MATERIAL day2night_check.jpg before=OLD.onnx dusk=NEW.onnx@dusk night=NEW.onnx

One row per photograph or camera, three per clip; the first column is the source, and each further one is
NAME=ENGINE or NAME=ENGINE@STYLE, with the engines of night_measures.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import tyro
from night_measures import SIDE, Translate, days_by_place, even, translator

from i2i_trainer.images import Pixels, frames_of_clip

TILE = (300, 190)
"""Width and height of the largest image on the sheet."""
CLIP_MOMENTS = 3


@dataclass(frozen=True)
class Options:
    """Lay out the nights of several engines beside each other."""

    material: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by night_material.py."""
    sheet: Annotated[Path, tyro.conf.Positional]
    """Image to write."""
    ways: Annotated[tuple[str, ...], tyro.conf.Positional]
    """NAME=ENGINE or NAME=ENGINE@STYLE."""
    split: Literal["validation", "check"] = "check"
    stacks: int = 2
    """Columns of rows beside each other."""


def main() -> None:
    options = tyro.cli(Options)
    ways: dict[str, Translate] = {"source": translator("source")}
    for way in options.ways:
        name, _, engine = way.partition("=")
        file, _, style = engine.partition("@")
        ways[name] = translator(file, style)
    rows = [row_of(image, ways) for image in images_of(options.material / options.split)]
    each = -(-len(rows) // options.stacks)
    rows += [np.zeros_like(rows[0])] * (each * options.stacks - len(rows))
    head = header(list(ways))
    stacks = [np.vstack([head, *rows[i * each : (i + 1) * each]]) for i in range(options.stacks)]
    cv2.imwrite(str(options.sheet), np.hstack(stacks)[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


def images_of(folder: Path) -> list[Pixels]:
    """The middle image of every place, and moments of every clip."""
    images = [group[len(group) // 2] for group in days_by_place(folder).values()]
    for clip in sorted((folder / "clips").iterdir()):
        frames = frames_of_clip(clip, 2.0, SIDE)
        moments = np.linspace(0, len(frames) - 1, CLIP_MOMENTS).round().astype(int)
        images += [even(frames[i].pixels) for i in moments]
    return images


def row_of(image: Pixels, ways: dict[str, Translate]) -> Pixels:
    cells = []
    for way in ways.values():
        made = way(image)
        factor = min(TILE[0] / made.shape[1], TILE[1] / made.shape[0])
        small = cv2.resize(made, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cell = np.zeros((TILE[1], TILE[0], 3), np.uint8)
        cell[: small.shape[0], : small.shape[1]] = small
        cells.append(cell)
    return np.hstack(cells)


def header(names: Sequence[str]) -> Pixels:
    cells = []
    for name in names:
        cell = np.full((22, TILE[0], 3), 255, np.uint8)
        cv2.putText(cell, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        cells.append(cell)
    return np.hstack(cells)


if __name__ == "__main__":
    main()
