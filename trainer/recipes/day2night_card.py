"""Figures and contact sheet of the engine day2night, each against other ways to make night, or of the way back.

    python trainer/recipes/day2night_card.py DATA RUN CLIP [--others NAME=RUN ...] [--back]

DATA is what day2night.py laid out, RUN the trained run, CLIP a driving clip by day (by night with --back). Everything
is measured on cameras that training never saw: distance to their real night images (kernel distance on random patch
features, which compares rows of this table with each other and with nothing else), agreement of the edges with the
source, and flicker on the clip. The gamma curve bends each channel by one power, fitted on the training images so
that mean and spread of the target are met best. Writes day2night_card.json and .jpg beside this file, or the same of
night2day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import tyro

from i2i_trainer.checkpoint import load_method
from i2i_trainer.features import RandomPatches
from i2i_trainer.images import ImageFile, Pixels, frames_of_clip
from i2i_trainer.metrics import flicker, kernel_distance

HERE = Path(__file__).parent
SIDE = 360
CLIP_FRAMES = 60
SHEET_ROWS = 7

Translate = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Card:
    """Measure the engine day2night against other ways to make night."""

    data: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by day2night.py."""
    run: Annotated[Path, tyro.conf.Positional]
    """Run folder of the engine."""
    clip: Annotated[Path, tyro.conf.Positional]
    """Driving clip by day."""
    others: tuple[str, ...] = ()
    """NAME=RUN of further runs to compare."""
    drives: tuple[Path, ...] = field(default_factory=tuple)
    """Further clips whose middle frame joins the contact sheet."""
    back: bool = False
    """Measure the runs' way from night to day."""


def main() -> None:
    card = tyro.cli(Card)
    domains, direction, name = ("BA", "b2a", "night2day") if card.back else ("AB", "a2b", "day2night")
    sources, targets = (read_folder(card.data / f"test{domain}") for domain in domains)
    clip = [frame.pixels for frame in frames_of_clip(card.clip, 1000.0, SIDE)[:CLIP_FRAMES]]
    ways: dict[str, Translate] = {
        "source unchanged": lambda image: image,
        "gamma curve": fitted_gamma(*(read_folder(card.data / f"train{domain}") for domain in domains)),
        name: translator(card.run, direction),
    }
    for other in card.others:
        title, _, run = other.partition("=")
        ways[title] = translator(Path(run), direction)
    rows = {title: measure(way, sources, targets, clip) for title, way in ways.items()}
    record = {"sources": len(sources), "targets": len(targets), "clip": card.clip.name, "rows": rows}
    (HERE / f"{name}_card.json").write_text(json.dumps(record, indent=2) + "\n")
    drives = [clip[len(clip) // 2]]
    for path in card.drives:
        frames = frames_of_clip(path, 1.0, SIDE)
        drives.append(frames[len(frames) // 2].pixels)
    spread = np.linspace(0, len(sources) - 1, max(SHEET_ROWS - len(drives), 1)).round().astype(int)
    images = sheet([*drives, *(sources[i] for i in spread)], ways)
    cv2.imwrite(str(HERE / f"{name}_card.jpg"), images[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(markdown(rows))


def read_folder(folder: Path) -> list[Pixels]:
    """Every image with its shorter side at 360 pixels, cut to multiples of 16."""
    images = (ImageFile(path).read(SIDE) for path in sorted(folder.iterdir()) if path.is_file())
    return [image[: image.shape[0] // 16 * 16, : image.shape[1] // 16 * 16] for image in images]


def translator(run: Path, direction: str) -> Translate:
    """The trained network as a function on `[H, W, 3] uint8`; a student has one direction, whichever it learned."""
    method = load_method(run)
    network = method.inference(direction if direction in method.directions() else "a2b")

    @torch.inference_mode()
    def translate(image: Pixels) -> Pixels:
        height, width = (side // network.stride * network.stride for side in image.shape[:2])
        cut = np.array(image[:height, :width])
        translated = network(torch.from_numpy(cut).permute(2, 0, 1)[None].float() / 127.5 - 1)[0]
        return np.asarray(((translated.permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte())

    return translate


def fitted_gamma(sources: Sequence[Pixels], targets: Sequence[Pixels]) -> Translate:
    """`255 (x / 255)^g` per channel, with the g that meets mean and spread of the target images best."""
    thumbs = [
        np.stack([cv2.resize(p, (32, 32), interpolation=cv2.INTER_AREA) for p in ps]) / 255
        for ps in (sources, targets)
    ]
    before, after = (t.reshape(-1, 3) for t in thumbs)
    powers = np.geomspace(1 / 8, 8, 401)
    chosen = []
    for channel in range(3):
        wanted = after[:, channel]
        bent = [before[:, channel] ** g for g in powers]
        misses = [abs(b.mean() - wanted.mean()) + abs(b.std() - wanted.std()) for b in bent]
        chosen.append(powers[int(np.argmin(misses))])
    table = np.round(255 * (np.arange(256)[:, None] / 255) ** np.asarray(chosen)).astype(np.uint8)
    return lambda image: np.stack([table[image[..., c], c] for c in range(3)], axis=-1)


def measure(
    way: Translate, sources: Sequence[Pixels], targets: Sequence[Pixels], clip: Sequence[Pixels]
) -> dict[str, Any]:
    translated = [way(source) for source in sources]
    kept = [edge_agreement(before, after) for before, after in zip(sources, translated, strict=True)]
    mean, spread = kernel_distance(features(targets), features(translated))
    moving = [way(frame) for frame in clip]
    height, width = moving[0].shape[:2]
    steadiness = flicker([frame[:height, :width] for frame in clip], moving)
    return {
        "distance": round(mean, 4),
        "distance_spread": round(spread, 4),
        "edge_agreement": round(float(np.mean(kept)), 3),
        "flicker": round(steadiness.translated, 3),
        "flicker_of_source": round(steadiness.source, 3),
        "mean_level": round(float(np.mean([t.mean() for t in translated])), 1),
        "mean_level_of_targets": round(float(np.mean([t.mean() for t in targets])), 1),
    }


def features(images: Sequence[Pixels]) -> torch.Tensor:
    squares = np.stack([cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA) for p in images])
    found: torch.Tensor = RandomPatches()(torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return found


def edge_agreement(source: Pixels, translated: Pixels) -> float:
    """Correlation of the logarithms of both gradients' lengths: 1 where every edge stayed, whatever its strength."""
    height, width = translated.shape[:2]
    strengths = []
    for image in (source[:height, :width], translated):
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        strengths.append(
            np.log1p(np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))).ravel()
        )
    return float(np.corrcoef(strengths[0], strengths[1])[0, 1])


def sheet(images: Sequence[Pixels], ways: dict[str, Translate]) -> Pixels:
    """One column per way, one row per image: `[H, W, 3] uint8 RGB`."""
    tile = (320, 200)
    columns = []
    for name, way in ways.items():
        cells = [cv2.resize(way(image), tile, interpolation=cv2.INTER_AREA) for image in images]
        head = np.full((24, tile[0], 3), 255, np.uint8)
        cv2.putText(head, name, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.vstack([head, *cells]))
    return np.hstack(columns).astype(np.uint8)


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| way | distance to the target | edge agreement | flicker (source's) | mean level (target's) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {r['distance']:.4f} ± {r['distance_spread']:.4f} | {r['edge_agreement']:.3f} | "
        f"{r['flicker']:.2f} ({r['flicker_of_source']:.2f}) | "
        f"{r['mean_level']:.0f} ({r['mean_level_of_targets']:.0f}) |"
        for name, r in rows.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
