"""Images to look at: the sheet of samples and the curves of the losses."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from i2i_trainer.checkpoint import write_atomically
from i2i_trainer.images import Pixels

HEADER = 22
GAP = 4
SMALLEST_SHOWN = 160
"""Images whose short side is below this are enlarged by a whole factor, pixel by pixel."""
SMOOTHED = 0.05
"""Share of the points of a curve that its smoothed line averages."""
LOGARITHMIC = 50.0
"""Curves that span this factor get a logarithmic axis."""
NOTE = (
    "Healthy: adversarial losses (gen, disc, critic) hover and do not fall to 0; distances (cycle, l1, reconstruction, "
    "validation) fall and level off. Thin: as logged, thick: smoothed."
)


def bytes_from_tensor(images: Tensor) -> Pixels:
    """`[N, C, H, W]` in [-1, 1], C 1 or 3 -> `[N, H, W, 3] uint8 RGB`; values outside are clamped."""
    scaled = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    rgb = scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled
    return rgb.permute(0, 2, 3, 1).cpu().numpy()


def sheet_from_columns(columns: Mapping[str, Pixels]) -> Image.Image:
    """One row per sample, one titled column per entry; entries are `[N, H, W, 3] uint8 RGB`.

    Small images are enlarged by a whole factor, to a short side of at least 160 pixels.
    """
    font = ImageFont.load_default(size=14)
    columns = {title: _enlarged(images) for title, images in columns.items()}
    rows = max(len(images) for images in columns.values())
    height = max(images.shape[1] for images in columns.values())
    widths = [
        max(images.shape[2], math.ceil(font.getlength(title)) + GAP) for title, images in columns.items()
    ]
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), HEADER + rows * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for (title, images), width in zip(columns.items(), widths, strict=True):
        draw.text((left, 2), title, fill="black", font=font)
        for row, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left, HEADER + row * (height + GAP)))
        left += width + GAP
    return sheet


def _enlarged(images: Pixels) -> Pixels:
    factor = math.ceil(SMALLEST_SHOWN / min(images.shape[1:3]))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def captioned(columns: Mapping[str, Tensor], domains: tuple[str, str]) -> dict[str, Tensor]:
    """The columns of a preview with the domains' names in place of `a` and `b`: `a to b` -> `day to night`."""
    names = dict(zip("ab", domains, strict=True))
    return {
        re.sub(r"\b[ab]\b", lambda m: names[m.group()], title): images for title, images in columns.items()
    }


def write_sheet(path: Path, columns: Mapping[str, Tensor]) -> None:
    """Writes a sheet of columns `[N, C, H, W]` in [-1, 1] as PNG."""
    sheet = sheet_from_columns({title: bytes_from_tensor(images) for title, images in columns.items()})
    write_png(path, sheet)


def write_png(path: Path, image: Image.Image) -> None:
    """Writes a PNG atomically."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def write_curves(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draws every loss of the log, and what was measured, against the step: one panel each, as logged and smoothed."""
    rows = [{"step": row["step"], "losses": row["losses"] | row.get("validation", {})} for row in rows]
    names = sorted({name for row in rows for name in row["losses"]})
    if not names:
        return
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.5 * columns, 2.4 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for name, panel in zip(names, panels, strict=False):
        points = [(row["step"], row["losses"][name]) for row in rows if name in row["losses"]]
        steps, values = np.array(points).T
        panel.plot(
            steps, values, linewidth=0.6, alpha=0.4, color="tab:blue", marker="." if len(steps) < 10 else ""
        )
        smooth = _smoothed(values)
        panel.plot(steps, smooth, linewidth=1.6, color="tab:blue")
        if values.min() > 0 and smooth.max() > LOGARITHMIC * smooth.min():
            panel.set_yscale("log")
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel(f"step\n{textwrap.fill(NOTE, 60 * columns)}", fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def write_points(path: Path, groups: Mapping[str, NDArray[np.float32]]) -> None:
    """Draws points `[N, 2]` of named groups, a colour each."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    panel = figure.subplots()
    for name, places in groups.items():
        panel.scatter(places[:, 0], places[:, 1], s=12, label=f"{name} ({len(places)})", alpha=0.7)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def _smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window around every point, smaller at the ends."""
    reach = int(SMOOTHED * len(values) / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first, last = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    smoothed: NDArray[np.float64] = (sums[last] - sums[first]) / (last - first)
    return smoothed
