"""Camera bytes to a network's input and back.

python kernels/benchmarks/bench_colour.py --device cuda
"""

from __future__ import annotations

import sys
from functools import partial

import torch
import tyro
from harness import Bench, BenchCommand, Call, channels_last, command

from i2i_kernels.colour import Impl, image_from_nv12, image_from_rgb, nv12_from_image, rgb_from_image
from i2i_kernels.dispatch import HAS_TRITON

SHAPES = ((256, 256), (512, 512), (720, 1280), (1080, 1920), (1440, 2560), (2160, 3840))
"""H, W."""


def benches(options: BenchCommand) -> list[Bench]:
    """The four conversions, the kernel beside plain torch on a GPU, plain torch alone on a CPU."""
    device = torch.device(options.device)
    dtype = getattr(torch, options.dtype)

    def frame(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8, device=device)

    def from_rgb(impl: Impl | None, h: int, w: int) -> Call:
        return partial(image_from_rgb, frame(1, h, w, 3), dtype=dtype, impl=impl)

    def to_rgb(impl: Impl | None, h: int, w: int) -> Call:
        return partial(rgb_from_image, channels_last((1, 3, h, w), options.dtype, device), impl=impl)

    def from_nv12(impl: Impl | None, h: int, w: int) -> Call:
        return partial(image_from_nv12, frame(1, h * 3 // 2, w), w, dtype=dtype, impl=impl)

    def to_nv12(impl: Impl | None, h: int, w: int) -> Call:
        return partial(nv12_from_image, channels_last((1, 3, h, w), options.dtype, device), impl=impl)

    conversions = {
        "image from rgb": (from_rgb, 3.0),
        "rgb from image": (to_rgb, 3.0),
        "image from nv12": (from_nv12, 1.5),
        "nv12 from image": (to_nv12, 1.5),
    }
    impls: list[Impl] = ["triton", "reference"] if device.type == "cuda" and HAS_TRITON else ["reference"]
    return [
        Bench(
            "colour",
            f"{impl}, {name}",
            f"{h}x{w}",
            options.dtype,
            partial(make, impl, h, w),
            moved=int(h * w * (3 * dtype.itemsize + byte_count)),
            inputs=int(h * w * byte_count),
        )
        for h, w in SHAPES[: options.shapes]
        for name, (make, byte_count) in conversions.items()
        for impl in impls
    ]


if __name__ == "__main__":
    options = tyro.cli(BenchCommand, description=__doc__)
    sys.exit(command(benches(options), torch.device(options.device), options.out))
