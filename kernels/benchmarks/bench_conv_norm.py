"""The experimental convolution at the bodies of a ResNet-9 generator, beside the norm pair with a library convolution.

python kernels/benchmarks/bench_conv_norm.py --device cuda
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import torch.nn.functional as F
import tyro
from harness import Bench, BenchCommand, Call, channels_last, command

from i2i_kernels.conv_norm import conv_norm
from i2i_kernels.kind import Kind
from i2i_kernels.norm import instance_norm
from i2i_kernels.norm.reference import partials_reference

SHAPES = ((256, 64, 64), (256, 90, 160), (256, 128, 128))
"""C, H, W."""


def benches(options: BenchCommand) -> list[Bench]:
    """One kernel beside statistics, apply with padding, and the library's convolution."""
    device = torch.device(options.device)
    kind = Kind(activation="relu")

    def one_kernel(c: int, h: int, w: int) -> Call:
        x = channels_last((1, c, h, w), options.dtype, device)
        weight = channels_last((c, c, 3, 3), options.dtype, device)
        return partial(conv_norm, x, partials_reference(x, 32), weight, kind, impl="triton")

    def pair_and_library(c: int, h: int, w: int) -> Call:
        x = channels_last((1, c, h, w), options.dtype, device)
        weight = channels_last((c, c, 3, 3), options.dtype, device)
        return lambda: F.conv2d(instance_norm(x, activation="relu", pad=1), weight)

    made = []
    for c, h, w in SHAPES[: options.shapes]:
        title = f"{h}x{w}x{c}"
        made.append(
            Bench("conv_norm", "pair and library", title, options.dtype, partial(pair_and_library, c, h, w))
        )
        if device.type == "cuda":
            made.append(Bench("conv_norm", "one kernel", title, options.dtype, partial(one_kernel, c, h, w)))
    return made


if __name__ == "__main__":
    options = tyro.cli(BenchCommand, description=__doc__)
    sys.exit(command(benches(options), torch.device(options.device), options.out))
