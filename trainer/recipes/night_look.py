"""A blind look at the nights of several engines: pairs without names, verdicts first, names afterwards.

    python trainer/recipes/night_look.py lay-out MATERIAL FOLDER --old OLD.onnx --new NEW.onnx
    python trainer/recipes/night_look.py judge FOLDER 1=left 2=right 3=equal ...
    python trainer/recipes/night_look.py reveal FOLDER

`lay-out` writes `pair_01.png` and so on: the day on top, two nights of it below, left and right in random order, and a
`key.json` that nobody should read yet. Each pair holds the new engine against the old one, against a gamma curve, or
against a real night of the same camera (not the same minute). `judge` stores which night is more convincing as a
photograph, in `verdicts.json`; it refuses once the names were shown. `reveal` shows them and counts.
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from night_material import place_of
from night_measures import even, translator

from i2i_trainer.images import ImageFile, Pixels, frames_of_clip

TILE = (560, 350)
"""Largest width and height of an image on a pair."""
CLIP_MOMENTS = 3
"""Frames of each clip that are looked at, spread over it."""
PER_PLACE = 2
SIDES = ("left", "right", "equal")


@dataclass(frozen=True)
class LayOut:
    """Write the pairs without names."""

    material: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by night_material.py; its check set is looked at."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist."""
    old: str
    """The engine that shipped before."""
    new: str
    """The engine that is to replace it."""
    seed: int = 0


@dataclass(frozen=True)
class Judge:
    """Store verdicts before the names are shown."""

    folder: Annotated[Path, tyro.conf.Positional]
    verdicts: Annotated[tuple[str, ...], tyro.conf.Positional]
    """NUMBER=left, right or equal, for every pair."""


@dataclass(frozen=True)
class Reveal:
    """Show the names, and count."""

    folder: Annotated[Path, tyro.conf.Positional]


def lay_out(options: LayOut) -> None:
    if options.folder.exists():
        sys.exit(f"{options.folder} exists: name a new folder.")
    options.folder.mkdir(parents=True)
    chance = random.Random(options.seed)
    check = options.material / "check"
    ways = {
        name: translator(engine)
        for name, engine in (("old", options.old), ("new", options.new), ("gamma", "gamma"))
    }
    pairs = [
        *((place, day, "old", ways["old"](day)) for place, day in _days(check)),
        *((place, day, "gamma", ways["gamma"](day)) for place, day in _days(check)[::3]),
        *((place, day, "real", night) for place, day, night in _real(check)),
    ]
    chance.shuffle(pairs)
    key = {}
    for number, (place, day, other, night) in enumerate(pairs, 1):
        nights = {"new": ways["new"](day), other: night}
        names = chance.sample(list(nights), 2)
        key[str(number)] = {"place": place, "left": names[0], "right": names[1]}
        image = _pair(day, *(nights[name] for name in names))
        cv2.imwrite(str(options.folder / f"pair_{number:02}.png"), image[:, :, ::-1])
    (options.folder / "key.json").write_text(json.dumps(key, indent=1) + "\n")
    print(f"{len(pairs)} pairs in {options.folder}")


def judge(options: Judge) -> None:
    if (options.folder / "result.json").exists():
        sys.exit(f"The names of {options.folder} were shown: lay out new pairs with another --seed.")
    count = len(json.loads((options.folder / "key.json").read_text()))
    verdicts = dict(verdict.split("=", 1) for verdict in options.verdicts)
    missing = [str(n) for n in range(1, count + 1) if verdicts.get(str(n)) not in SIDES]
    if missing:
        sys.exit(f"Give a verdict, left, right or equal, for pair {', '.join(missing)}.")
    (options.folder / "verdicts.json").write_text(json.dumps(verdicts, indent=1) + "\n")


def reveal(options: Reveal) -> None:
    stored = options.folder / "verdicts.json"
    if not stored.exists():
        sys.exit(f"{options.folder} has no verdicts: judge first.")
    key, verdicts = json.loads((options.folder / "key.json").read_text()), json.loads(stored.read_text())
    result: dict[str, dict[str, int]] = {}
    for number, names in key.items():
        other = next(name for name in (names["left"], names["right"]) if name != "new")
        winner = names.get(verdicts[number], "equal")
        counts = result.setdefault(f"new against {other}", {"new": 0, other: 0, "equal": 0})
        counts[winner] += 1
        print(f"{number}: {names['place']}: {winner} over {other if winner == 'new' else 'new'}")
    (options.folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def _days(check: Path) -> list[tuple[str, Pixels]]:
    """Some images of every place, and some moments of every clip."""
    days: dict[str, list[Pixels]] = {}
    for path in sorted((check / "day").iterdir()):
        days.setdefault(place_of(path), []).append(even(ImageFile(path).read(TILE[1])))
    for clip in sorted((check / "clips").iterdir()):
        frames = frames_of_clip(clip, 2.0, TILE[1])
        moments = np.linspace(0, len(frames) - 1, CLIP_MOMENTS).round().astype(int)
        days[clip.stem] = [even(frames[i].pixels) for i in moments]
    return [
        (place, image)
        for place, images in days.items()
        for image in images[:: max(1, len(images) // PER_PLACE)]
    ]


def _real(check: Path) -> list[tuple[str, Pixels, Pixels]]:
    """A day and a real night of every camera of the check set."""
    days = {place_of(path): path for path in sorted((check / "day").iterdir())}
    nights = {place_of(path): path for path in sorted((check / "night").iterdir())}
    both = [place for place in days if place in nights and place.startswith("camera")]
    return [(p, *(even(ImageFile(t[p]).read(TILE[1])) for t in (days, nights))) for p in both]  # type: ignore[misc]


def _pair(day: Pixels, left: Pixels, right: Pixels) -> Pixels:
    """The day above two nights of it."""
    tiles = []
    for image in (day, left, right):
        factor = min(TILE[0] / image.shape[1], TILE[1] / image.shape[0])
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        tile = np.full((TILE[1], TILE[0], 3), 128, np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small
        tiles.append(tile)
    top = np.hstack([tiles[0], np.full_like(tiles[0], 128)])
    return np.vstack([top, np.hstack(tiles[1:])]).astype(np.uint8)


if __name__ == "__main__":
    chosen = tyro.extras.subcommand_cli_from_dict({"lay-out": LayOut, "judge": Judge, "reveal": Reveal})
    {LayOut: lay_out, Judge: judge, Reveal: reveal}[type(chosen)](chosen)
