"""Images for people: the sheet of samples and the curves of the losses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from i2i_trainer.checkpoint import write_atomically
from i2i_trainer.images import Pixels

HEADER = 16
GAP = 4


def bytes_from_tensor(images: Tensor) -> Pixels:
    """`[N, C, H, W]` in [-1, 1], C 1 or 3 -> `[N, H, W, 3] uint8 RGB`; values outside are clamped."""
    scaled = images.detach().float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    rgb = scaled.expand(-1, 3, -1, -1) if scaled.shape[1] == 1 else scaled
    return rgb.permute(0, 2, 3, 1).cpu().numpy()


def sheet_from_columns(columns: Mapping[str, Pixels]) -> Image.Image:
    """One row per sample, one titled column per entry; entries are `[N, H, W, 3] uint8 RGB`."""
    rows = max(len(images) for images in columns.values())
    height = max(images.shape[1] for images in columns.values())
    widths = [max(images.shape[2], 6 * len(title) + GAP) for title, images in columns.items()]
    sheet = Image.new("RGB", (sum(widths) + GAP * (len(widths) + 1), HEADER + rows * (height + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    left = GAP
    for (title, images), width in zip(columns.items(), widths, strict=True):
        draw.text((left, 2), title, fill="black")
        for row, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left, HEADER + row * (height + GAP)))
        left += width + GAP
    return sheet


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
    """Draws every loss of the log against the step, one panel each."""
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
        panel.plot(steps, values, linewidth=0.8)
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    for panel in panels[len(names) :]:
        panel.set_visible(False)
    figure.supxlabel("step", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())
