"""The Laplacian pyramid's filters on camera frames.

    python kernels/benchmarks/bench_pyramid.py --device cuda

Bytes that must move: the fine image once, the coarse one once, and for a band the fine one once more.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
import tyro
from harness import Bench, BenchCommand, Call, channels_last, command
from torch import Tensor

from i2i_kernels.pyramid import down, up
from i2i_kernels.pyramid.reference import down_reference, up_reference

SHAPES = ((256, 256), (512, 512), (720, 1280), (1080, 1920), (1440, 2560), (2160, 3840))
"""H, W; three channels."""


def plain_band(low: Tensor, image: Tensor) -> Tensor:
    """The band as plain torch takes it."""
    return up_reference(low, image, -1.0)


def our_band(low: Tensor, image: Tensor) -> Tensor:
    """The band in one pass."""
    return up(low, add=image, scale=-1.0)


def benches(options: BenchCommand) -> list[Bench]:
    """Down, and the band `image - up(low)`."""
    device = torch.device(options.device)

    def downwards(function: Callable[[Tensor], Tensor], size: tuple[int, int]) -> Call:
        return partial(function, channels_last((1, 3, *size), options.dtype, device))

    def band(function: Callable[[Tensor, Tensor], Tensor], size: tuple[int, int]) -> Call:
        low = channels_last((1, 3, size[0] // 2, size[1] // 2), options.dtype, device)
        return partial(function, low, channels_last((1, 3, *size), options.dtype, device))

    made = []
    for size in SHAPES[: options.shapes]:
        title = f"{size[0]}x{size[1]}x3"
        fine = 3 * size[0] * size[1] * getattr(torch, options.dtype).itemsize
        downs: dict[str, Callable[[Tensor], Tensor]] = {"public function": down, "eager": down_reference}
        bands: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "public function": our_band,
            "eager": plain_band,
        }
        if device.type == "cuda":
            downs["torch.compile"] = torch.compile(down_reference, dynamic=False)
            bands["torch.compile"] = torch.compile(plain_band, dynamic=False)
        for name, function in downs.items():
            make = partial(downwards, function, size)
            made.append(
                Bench(
                    "pyramid", f"{name}, down", title, options.dtype, make, moved=fine * 5 // 4, inputs=fine
                )
            )
        for name, filtered in bands.items():
            make = partial(band, filtered, size)
            made.append(
                Bench(
                    "pyramid",
                    f"{name}, band",
                    title,
                    options.dtype,
                    make,
                    moved=fine * 9 // 4,
                    inputs=fine * 5 // 4,
                )
            )
    return made


if __name__ == "__main__":
    options = tyro.cli(BenchCommand, description=__doc__)
    sys.exit(command(benches(options), torch.device(options.device), options.out))
