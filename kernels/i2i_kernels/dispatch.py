"""What the kernels need of the machine and of their images, and the sentence where it is not there."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Looked up without importing it: a trainer on a CPU never pays for triton."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def kernels_fit(x: Tensor) -> bool:
    """True if `impl=None` should take a kernel for the image `[N, C, H, W]`."""
    fits = x.is_cuda and HAS_TRITON and x.dtype in DTYPES
    return fits and x.is_contiguous(memory_format=torch.channels_last)


def require_kernels(x: Tensor, impl: str) -> None:
    """Raises RuntimeError if `impl` cannot run on x's device."""
    if not HAS_TRITON:
        raise RuntimeError(
            f"impl={impl!r} needs triton, which is missing: pip install triton, or pass impl='reference'"
        )
    if x.is_cuda:
        return
    # The interpreter runs the same kernels on CPU tensors; it is how they are tested.
    from triton import knobs

    if not knobs.runtime.interpret:
        raise RuntimeError(
            f"impl={impl!r} needs a CUDA device, x lies on {x.device}: move x there, or pass impl='reference'"
        )


def require_kernel_input(image: Tensor, name: str, impl: str) -> None:
    """Raises RuntimeError, TypeError or ValueError if a kernel cannot read the image `[N, C, H, W]`."""
    require_kernels(image, impl)
    if image.dtype not in DTYPES:
        raise TypeError(f"the {impl} kernels take float16, bfloat16 or float32, {name} is {image.dtype}")
    if not image.is_contiguous(memory_format=torch.channels_last):
        raise ValueError(
            f"{name} {list(image.shape)} has strides {image.stride()}, the {impl} kernels need channels-last: "
            "call .contiguous(memory_format=torch.channels_last)"
        )
    if image.shape[1:].numel() >= 2**31:
        raise ValueError(
            f"one sample of {name} {list(image.shape)} has 2^31 elements or more, kernels count in int32"
        )
