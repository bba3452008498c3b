"""Measures how convincing a night an engine makes, place by place.

    python trainer/recipes/night_measures.py MATERIAL ENGINE [--style night] [--split check] [--rows FILE]

MATERIAL is what night_material.py laid out, ENGINE a file or the name of an engine that ships; `source`, `gamma` and
`rendered` (night_photo.py) are measured as engines too. Appends one row per camera, photograph and clip to FILE, and
one for the split:

* `level`: mean level, as a share of the source's. `black`: share of pixels below level 8.
* `sky_level`, `sky_chroma`: median level and Lab chroma of the sky. `sky_light`: share of all light (levels above 96)
  that is in the sky. `lamp_lift`: mean level of small bright spots outside the sky (lamps, lane marks, headlights,
  sunlit windows) over the mean level of everything else there.
* `edges`: correlation of the logarithms of gradient lengths with the source's.
* `halo`: how much soft structure the flat places within 16 pixels of strong edges have against the flat places
  elsewhere, over the same of the source; 1 adds no halo.
* `flicker`: warping error over the source's, of clips.
* `apart`: mean absolute difference, in levels, to what the engine of `--against` makes of the same clip.
* `distance`, `distance_spread` (of the split): kernel distance on random patch features to the real nights of the
  split's cameras. It compares rows with each other and with nothing else.

`--real` measures the real nights of the split's cameras instead, each under the sky of its own camera's days.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import torch
import tyro
from night_material import place_of
from night_photo import darkness_of, night_of, place_of_day
from sky import Floats, sky_of

from i2i_runtime.engines import engine_path, open_engine
from i2i_runtime.style import style_from_text
from i2i_trainer.features import RandomPatches
from i2i_trainer.images import ImageFile, Pixels, frames_of_clip
from i2i_trainer.metrics import flicker, kernel_distance

HERE = Path(__file__).parent
SIDE = 360
"""Shorter side at which everything is measured."""
CLIP_FRAMES, STILLS = 60, 5
"""Frames of a clip whose flicker is measured, and how many of them are measured as images."""
BLACK, LIT = 8, 96
GAMMA_POWER = 2.6
"""Of the curve that is measured for comparison; it meets the mean level of the training nights."""
NEAR_EDGE, STRONG_EDGE, FLAT = 16, 60.0, 6.0
"""Pixels that a halo spans, and Sobel lengths of a strong edge and of flat ground."""

Translate = Callable[[Pixels], Pixels]


@dataclass(frozen=True)
class Row:
    """Measures of one place, or of a split; None if there is nothing to measure, such as a sky."""

    engine: str
    style: str
    split: str
    place: str
    images: int
    level: float | None = None
    black: float | None = None
    black_source: float | None = None
    sky_level: float | None = None
    sky_chroma: float | None = None
    sky_light: float | None = None
    lamp_lift: float | None = None
    edges: float | None = None
    halo: float | None = None
    flicker: float | None = None
    apart: float | None = None
    distance: float | None = None
    distance_spread: float | None = None


@dataclass(frozen=True)
class Options:
    """Measure the nights of an engine, place by place."""

    material: Annotated[Path, tyro.conf.Positional]
    """Folder laid out by night_material.py."""
    engine: Annotated[str, tyro.conf.Positional]
    """Engine file or name, `source`, `gamma` or `rendered`."""
    style: str = ""
    """Style of the engine as i2i-stream takes it; its default if left out."""
    split: Literal["validation", "check"] = "check"
    name: str = ""
    """Name of the engine in the rows; the file's name if left out."""
    rows: Path = HERE / "night_measures.jsonl"
    """File that the rows are appended to."""
    against: str = ""
    """Another engine, to measure how far the two are apart on clips."""
    real: bool = False
    """Measure the real nights instead."""


def main() -> None:
    options = tyro.cli(Options)
    folder = options.material / options.split
    if options.real:
        rows = measure_real(folder, options.split)
    else:
        name = options.name or Path(options.engine).stem
        other = translator(options.against) if options.against else None
        rows = measure(translator(options.engine, options.style), folder, name, options.style, other)
    with options.rows.open("a") as file:
        for row in rows:
            kept = {key: value for key, value in asdict(row).items() if value is not None}
            file.write(json.dumps(kept) + "\n")
            print(" ".join(f"{key}={value}" for key, value in kept.items()))


def translator(engine: str, style: str = "") -> Translate:
    """A function of `[H, W, 3] uint8` to the same: an engine with its style, `source`, `gamma` or `rendered`."""
    if engine == "source":
        return lambda image: image
    if engine == "gamma":
        table = np.round(255 * (np.arange(256) / 255) ** GAMMA_POWER).astype(np.uint8)
        return lambda image: table[image]
    if engine == "rendered":
        darkness = darkness_of(style or "night")
        return lambda image: night_of(place_of_day(image), darkness)
    opened = open_engine(engine, "onnxruntime")
    code = style_from_text(style, opened.metadata, engine_path(engine)) if style else None
    return lambda image: opened.infer(np.ascontiguousarray(image), code)


def measure(way: Translate, folder: Path, name: str, style: str, other: Translate | None = None) -> list[Row]:
    """Rows of every place of a split, and of the split."""
    rows, nights = [], []
    for place, sources in days_by_place(folder).items():
        made = [way(source) for source in sources]
        rows.append(_row(name, style, folder.name, place, sources, made))
        if place.startswith("camera"):
            nights += made
    for clip in sorted((folder / "clips").iterdir()):
        frames = [even(frame.pixels) for frame in frames_of_clip(clip, 1000.0, SIDE, CLIP_FRAMES)]
        made = [way(frame) for frame in frames]
        picked = np.linspace(0, len(frames) - 1, STILLS).round().astype(int)
        steadiness = flicker(frames, made)
        row = _row(
            name, style, folder.name, clip.stem, [frames[i] for i in picked], [made[i] for i in picked]
        )
        row = _with(row, flicker=steadiness.translated / max(steadiness.source, 1e-3))
        if other is not None:
            gaps = (np.abs(made[i].astype(float) - other(frames[i])).mean() for i in picked)
            row = _with(row, apart=_mean(gaps))
        rows.append(row)
    targets = [image for images in nights_by_camera(folder).values() for image in images]
    distance, spread = kernel_distance(features(targets), features(nights))
    whole = Row(name, style, folder.name, "all", sum(row.images for row in rows))
    means = {
        key: float(np.mean([value for row in rows if (value := getattr(row, key)) is not None]))
        for key in (
            "level",
            "black",
            "sky_level",
            "sky_chroma",
            "sky_light",
            "lamp_lift",
            "edges",
            "halo",
            "flicker",
        )
    }
    return [*rows, _with(whole, **means, distance=distance, distance_spread=spread)]


def measure_real(folder: Path, split: str) -> list[Row]:
    """Level, black and sky of the real nights per camera, the sky being where that camera's days have it."""
    days, rows = days_by_place(folder), []
    for camera, nights in nights_by_camera(folder).items():
        row = Row("real", "", split, camera, len(nights), black=_mean(black_share(night) for night in nights))
        if camera in days:
            skies = [sky_of(day) for day in days[camera]]
            sky = np.median([cv2.resize(s, nights[0].shape[1::-1]) for s in skies], axis=0).astype(np.float32)
            day_level = np.mean([day.mean() for day in days[camera]])
            found = [sky_colour(night, sky) for night in nights]
            row = _with(
                row,
                level=_mean(night.mean() / day_level for night in nights),
                sky_level=_mean(s[0] for s in found if s is not None),
                sky_chroma=_mean(s[1] for s in found if s is not None),
                sky_light=_mean(sky_light(night, sky) for night in nights),
            )
        rows.append(row)
    return rows


def days_by_place(folder: Path) -> dict[str, list[Pixels]]:
    """The images by day, shorter side 360, grouped by place."""
    return _by_place(folder / "day")


def nights_by_camera(folder: Path) -> dict[str, list[Pixels]]:
    """The images by night of the fixed cameras."""
    return {
        place: images for place, images in _by_place(folder / "night").items() if place.startswith("camera")
    }


def _by_place(folder: Path) -> dict[str, list[Pixels]]:
    images: dict[str, list[Pixels]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        images[place_of(path)].append(even(ImageFile(path).read(SIDE)))
    return dict(images)


def even(image: Pixels) -> Pixels:
    """Both sides cut to multiples of 16."""
    return np.ascontiguousarray(image[: image.shape[0] // 16 * 16, : image.shape[1] // 16 * 16])


def _row(
    name: str, style: str, split: str, place: str, days: Sequence[Pixels], nights: Sequence[Pixels]
) -> Row:
    pairs = list(zip(days, nights, strict=True))
    skies = [sky_of(day) for day in days]
    colours = [sky_colour(night, sky) for night, sky in zip(nights, skies, strict=True)]
    seen = [colour for colour in colours if colour is not None]
    return _with(
        Row(name, style, split, place, len(days)),
        level=_mean(night.mean() / max(day.mean(), 1) for day, night in pairs),
        black=_mean(black_share(night) for night in nights),
        black_source=_mean(black_share(day) for day in days),
        sky_level=_mean(level for level, _ in seen) if seen else None,
        sky_chroma=_mean(chroma for _, chroma in seen) if seen else None,
        sky_light=_mean(sky_light(night, sky) for night, sky in zip(nights, skies, strict=True))
        if seen
        else None,
        lamp_lift=_mean(lamp_lift(day, night, sky) for (day, night), sky in zip(pairs, skies, strict=True)),
        edges=_mean(edge_agreement(day, night) for day, night in pairs),
        halo=_mean(halo(day, night) for day, night in pairs),
    )


def black_share(image: Pixels) -> float:
    return float((grey_of(image) < BLACK).mean())


def sky_colour(night: Pixels, sky: Floats) -> tuple[float, float] | None:
    """Median level and Lab chroma where the sky is, None if there is none."""
    inside = sky > 0.9
    if inside.mean() < 0.01:
        return None
    lab = cv2.cvtColor(night.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[inside]
    return float(np.median(grey_of(night)[inside])), float(np.median(np.hypot(lab[:, 1], lab[:, 2])))


def sky_light(night: Pixels, sky: Floats) -> float:
    """Share of the light, levels above 96, that is in the sky; 0 if nothing is lit."""
    light = np.maximum(grey_of(night) - LIT, 0)
    return float((light * (sky > 0.9)).sum() / max(light.sum(), 0.02 * light.size))


def lamp_lift(day: Pixels, night: Pixels, sky: Floats) -> float:
    """Mean level of the day's small bright spots outside the sky, over that of everything else there."""
    grey = grey_of(day)
    across = np.ones((15, 15), np.uint8)
    spots = (cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, across) > 50) & (grey > 130)
    ground = cv2.erode((sky < 0.1).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    if (spots & ground).sum() < 20:
        return 1.0
    levels = grey_of(night)
    return float(levels[spots & ground].mean() / max(levels[ground & ~spots].mean(), 1))


def edge_agreement(source: Pixels, translated: Pixels) -> float:
    """Correlation of the logarithms of both gradients' lengths: 1 if every edge stayed, whatever its strength."""
    strengths = [np.log1p(gradient(grey_of(image))).ravel() for image in (source, translated)]
    return float(np.corrcoef(strengths[0], strengths[1])[0, 1])


def halo(day: Pixels, night: Pixels) -> float:
    """Soft structure of flat places near strong edges over that of other flat places, against the source's."""
    strength = gradient(grey_of(day))
    edges = cv2.dilate((strength > STRONG_EDGE).astype(np.uint8), np.ones((5, 5), np.uint8))
    far = cv2.distanceTransform(1 - edges, cv2.DIST_L2, 5)
    flat = cv2.dilate(strength, np.ones((5, 5), np.uint8)) < FLAT * 4
    near, elsewhere = flat & (far > 2) & (far <= NEAR_EDGE), flat & (far > NEAR_EDGE)
    if min(near.sum(), elsewhere.sum()) < 200:
        return 1.0

    def contrast(image: Pixels) -> float:
        grey = grey_of(image)
        soft = cv2.GaussianBlur(grey, (0, 0), 2) - cv2.GaussianBlur(grey, (0, 0), 8)
        energy = soft**2
        return float((energy[near].mean() + 0.25) / (energy[elsewhere].mean() + 0.25))

    return float(np.sqrt(contrast(night) / contrast(day)))


def grey_of(image: Pixels) -> Floats:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


def gradient(grey: Floats) -> Floats:
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)).astype(np.float32)


def features(images: Sequence[Pixels]) -> torch.Tensor:
    squares = np.stack([cv2.resize(p, (256, 256), interpolation=cv2.INTER_AREA) for p in images])
    found: torch.Tensor = RandomPatches()(torch.from_numpy(squares).permute(0, 3, 1, 2).float() / 127.5 - 1)
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _with(row: Row, **values: float | None) -> Row:
    rounded = {key: None if value is None else round(value, 4) for key, value in values.items()}
    return Row(**{**asdict(row), **rounded})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
