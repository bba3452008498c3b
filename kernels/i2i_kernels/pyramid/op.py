"""The pyramid kernels as torch operators, `i2i::pyramid_coarse` and `i2i::pyramid_fine`; any order of gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.launch import empty_image, is_plain, launch
from i2i_kernels.pack.recipes import PYRAMID_BLOCK
from i2i_kernels.pyramid import kernel
from i2i_kernels.pyramid.reference import (
    down_gradient_reference,
    down_reference,
    up_gradient_reference,
    up_reference,
)

# Zero insertion keeps a quarter of the energy: up blurs with four times the kernel, and so does its gradient.


@triton_op("i2i::pyramid_coarse", mutates_args=())
def coarse_op(x: Tensor, height: int, width: int, scale: float, transposed: bool) -> Tensor:
    """Fine `[N, C, H, W]` to coarse `[N, C, height, width]`: down, or (transposed) the gradient of up."""
    if is_plain(x):
        return _coarse_plain(x, height, width, scale, transposed)
    y = empty_image(x, height, width)
    n, c = x.shape[:2]
    launch(kernel.coarse_kernel, (triton.cdiv(height * width * c, PYRAMID_BLOCK), n))(
        *(x, x.shape[2], x.shape[3], height, width, y),
        C=c,
        SCALE=4 * scale if transposed else scale,
        TRANSPOSED=transposed,
        BLOCK=PYRAMID_BLOCK,
    )
    return y


@triton_op("i2i::pyramid_fine", mutates_args=())
def fine_op(x: Tensor, add: Tensor | None, height: int, width: int, scale: float, transposed: bool) -> Tensor:
    """Coarse `[N, C, h, w]` to fine `[N, C, height, width]`: up, or (transposed) the gradient of down."""
    if is_plain(x):
        return _fine_plain(x, add, height, width, scale, transposed)
    y = empty_image(x, height, width)
    n, c = x.shape[:2]
    launch(kernel.fine_kernel, (triton.cdiv(height * width * c, PYRAMID_BLOCK), n))(
        *(x, add, x.shape[2], x.shape[3], height, width, y),
        C=c,
        SCALE=scale if transposed else 4 * scale,
        TRANSPOSED=transposed,
        BLOCK=PYRAMID_BLOCK,
    )
    return y


def _coarse_plain(x: Tensor, height: int, width: int, scale: float, transposed: bool) -> Tensor:
    y = up_gradient_reference(x) if transposed else down_reference(x)
    return (y * scale).clone(memory_format=torch.channels_last)


def _fine_plain(
    x: Tensor, add: Tensor | None, height: int, width: int, scale: float, transposed: bool
) -> Tensor:
    if transposed:
        y = down_gradient_reference(x, height, width) * scale
        y = y if add is None else y + add
    else:
        y = up_reference(x, add, scale)
    return y.clone(memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size = tuple(inputs[0].shape[2:])
    ctx.scale, ctx.transposed = inputs[-2:]
    ctx.adds = isinstance(inputs[1], Tensor)


def _coarse_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dy = dy.contiguous(memory_format=torch.channels_last)
    return fine_op(dy, None, *ctx.size, ctx.scale, not ctx.transposed), None, None, None, None


def _fine_gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    dy = dy.contiguous(memory_format=torch.channels_last)
    dx = coarse_op(dy, *ctx.size, ctx.scale, not ctx.transposed)
    return dx, dy if ctx.adds else None, None, None, None, None


coarse_op.register_autograd(_coarse_gradient, setup_context=_save)
fine_op.register_autograd(_fine_gradient, setup_context=_save)
