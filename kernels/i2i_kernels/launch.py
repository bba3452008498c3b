"""What the operators share: launching a kernel under torch's tracer or the interpreter, and NHWC outputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import wrap_triton
from triton import knobs

from i2i_kernels.pack.recipes import Recipe

INTERPRETED: bool = knobs.runtime.interpret
"""True under Triton's interpreter, where the kernels run on CPU tensors in place of the plain implementations."""


def is_plain(x: Tensor) -> bool:
    """True if an operator must do plain torch, because no kernel runs on x's device.

    Asked inside the operators, not by a kernel registered for the CPU: torch.compile takes an operator apart whatever
    is registered, and would find a Triton launch for which a CPU has no driver.
    """
    return x.device.type != "cuda" and not INTERPRETED


def launch(kernel: Any, grid: tuple[int, ...]) -> Any:
    """The kernel, ready to be called with its arguments."""
    # The tracer needs the wrapped kernel; the interpreter's stand-in cannot be wrapped.
    return kernel[grid] if INTERPRETED else wrap_triton(kernel)[grid]


def launch_recipe(kernel: Any, plan: Recipe, sizes: Mapping[str, int]) -> Any:
    """The kernel as its recipe launches it for N, C, H and W, ready to be called with its arguments."""
    ready = launch(kernel, plan.launch_grid(**sizes))
    return partial(ready, **plan.constants, num_warps=plan.warps, num_stages=plan.stages)


def empty_image(like: Tensor, height: int, width: int, channels: int | None = None) -> Tensor:
    """`[N, C, height, width]`, channels-last, of the dtype and device of `like`, and its channels unless given."""
    n, c = like.shape[0], channels or like.shape[1]
    memory_format = torch.channels_last
    return torch.empty(
        (n, c, height, width), dtype=like.dtype, device=like.device, memory_format=memory_format
    )
