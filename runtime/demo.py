"""What `make demo` runs: a clip through the engine that ships, and an image of six moments of it.

Writes demo.mp4 (the translated video), demo.png (source above translated, six times) and demo.json (the report).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from rich.console import Console

from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.cli.stream import stream
from i2i_runtime.errors import I2IError, SourceError
from i2i_runtime.frame import Image
from i2i_runtime.sources import open_source

MOMENTS = 6
TILE = (480, 270)  # width, height in pixels
VIDEO, SHEET, REPORT = Path("demo.mp4"), Path("demo.png"), Path("demo.json")


@dataclass(frozen=True)
class Demo:
    """Translate a clip from day to night with the engine that ships."""

    input: str = "test://street"
    """Clip, camera or scene to translate."""
    engine: str = "day2night"
    """Engine to translate with."""


def main() -> int:
    """Exit code 0 when video, image and report are written."""
    demo = tyro.cli(Demo)
    console = Console()
    console.print(f"Translating {demo.input} with {demo.engine} into {VIDEO} ...", highlight=False)
    try:
        VIDEO.unlink(missing_ok=True)
        code = stream(
            StreamOptions(
                engine=demo.engine, input=demo.input, output=[str(VIDEO)], report=REPORT, restart=True
            )
        )
        report = json.loads(REPORT.read_text())
        write_sheet(demo.input, VIDEO, report["frames"]["out"], SHEET)
    except I2IError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.exit_code
    console.print(
        f"{report['frames']['out']} of {report['frames']['in']} frames on {report['engine']['backend']}. "
        f"{SHEET} shows source and translated side by side, {REPORT} holds the whole report.",
        highlight=False,
    )
    return code


def write_sheet(source: str, translated: Path, frames: int, sheet: Path) -> None:
    """Six moments of the source, each beside its translation, as one PNG. Raises SourceError."""
    wanted = {round(i) for i in np.linspace(0, frames - 1, MOMENTS)}
    pairs = zip(_tiles(source, wanted), _tiles(str(translated), wanted), strict=True)
    cells = [np.hstack(pair) for pair in pairs]
    cells += [np.zeros_like(cells[0])] * (-len(cells) % 2)
    rows = [np.hstack(cells[i : i + 2]) for i in range(0, len(cells), 2)]
    cv2.imwrite(str(sheet), np.vstack(rows)[:, :, ::-1])


def _tiles(uri: str, wanted: set[int]) -> list[Image]:
    tiles: list[Image] = []
    source = open_source(uri)
    try:
        index = 0
        while len(tiles) < len(wanted) and (frame := source.read()) is not None:
            if index in wanted:
                tiles.append(
                    np.asarray(cv2.resize(frame.pixels, TILE, interpolation=cv2.INTER_AREA), np.uint8)
                )
            index += 1
    finally:
        source.close()
    if not tiles:
        raise SourceError(f"{uri} shows no frame a second time: give a clip to make the image from.")
    return tiles


if __name__ == "__main__":
    sys.exit(main())
