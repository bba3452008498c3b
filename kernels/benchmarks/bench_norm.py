"""The norm pair at the six shapes of a ResNet-9 generator: body and ends of 256, 512 and 720p images.

    python kernels/benchmarks/bench_norm.py --device cuda

Bytes that must move, each once: x and the result; backward also dy and dx. In passes: x read twice (statistics, apply)
and the result written; backward x and dy read twice and dx written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
import tyro
from harness import Bench, BenchCommand, Call, channels_last, command
from torch import Tensor

from i2i_kernels.norm import instance_norm
from i2i_kernels.pack.policy import SLAB_PIXELS

SHAPES = ((256, 64, 64), (256, 128, 128), (256, 180, 320), (64, 256, 256), (64, 512, 512), (64, 720, 1280))
"""C, H, W."""

Norm = Callable[[Tensor], Tensor]


def plain(x: Tensor) -> Tensor:
    """What a network without our kernels runs."""
    return F.relu(F.instance_norm(x, eps=1e-5))


def implementations(device: torch.device, pixels: int) -> dict[str, Norm]:
    """By name, what the device can serve at that size."""
    norms: dict[str, Norm] = {"eager": plain}
    if device.type != "cuda":
        return norms | {"public function": partial(instance_norm, activation="relu")}
    norms["split"] = partial(instance_norm, activation="relu", impl="split")
    if pixels <= SLAB_PIXELS:
        norms["slab"] = partial(instance_norm, activation="relu", impl="slab")
    return norms | {"torch.compile": torch.compile(plain, dynamic=False)}


def benches(options: BenchCommand) -> list[Bench]:
    """Forward, and forward with the gradient of x."""
    device = torch.device(options.device)

    def forward(norm: Norm, shape: tuple[int, int, int]) -> Call:
        return partial(norm, channels_last((1, *shape), options.dtype, device))

    def both_ways(norm: Norm, shape: tuple[int, int, int]) -> Call:
        x = channels_last((1, *shape), options.dtype, device).requires_grad_()
        dy = torch.randn_like(x)
        return lambda: torch.autograd.grad(norm(x), x, dy)

    made = []
    for shape in SHAPES[: options.shapes]:
        c, h, w = shape
        size = c * h * w * getattr(torch, options.dtype).itemsize
        for name, norm in implementations(device, h * w).items():
            common = ("norm", name, f"{h}x{w}x{c}", options.dtype)
            made.append(
                Bench(*common, partial(forward, norm, shape), moved=2 * size, passes=3 * size, inputs=size)
            )
            common = ("norm", f"{name}, both ways", *common[2:])
            made.append(
                Bench(
                    *common, partial(both_ways, norm, shape), moved=4 * size, passes=8 * size, inputs=2 * size
                )
            )
    return made


if __name__ == "__main__":
    options = tyro.cli(BenchCommand, description=__doc__)
    sys.exit(command(benches(options), torch.device(options.device), options.out))
