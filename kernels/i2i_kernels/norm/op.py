"""The norm kernels as torch operators: `i2i::norm` and its gradient, with CPU implementation and autograd.

Importing this module needs triton; the public function does so only when it is about to use a kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.kind import Kind
from i2i_kernels.launch import empty_image, is_plain, launch
from i2i_kernels.norm import gradient, kernel
from i2i_kernels.norm.reference import norm_gradient_reference, norm_reference, partials_reference

MERGE_LIMIT = 32
"""With more splits than this, merging in every apply program costs more than one small launch."""


def kind_fields(kind: Kind) -> tuple[str, bool, float, bool, str, float, float, int]:
    """The fields in the order of the operators and of `Kind(...)`."""
    std = (kind.family, kind.unbiased, kind.eps, kind.eps_inside)
    return (*std, kind.activation, kind.slope, kind.residual_scale, kind.pad)


def kind_from_fields(*fields: Any) -> Kind:
    return Kind(*fields)


def split_count(pixels: int) -> int:
    """Runs of pixels per statistics pass: enough to fill a large GPU, few enough to merge cheaply."""
    if pixels <= 1024:
        return 8
    return MERGE_LIMIT if pixels <= 128 * 128 else 128


@triton_op("i2i::norm", mutates_args=())
def norm_op(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    residual: Tensor | None,
    family: str,
    unbiased: bool,
    eps: float,
    eps_inside: bool,
    activation: str,
    slope: float,
    residual_scale: float,
    pad: int,
    splits: int,
) -> tuple[Tensor, Tensor]:
    """The result and the partial statistics `[N, splits, 2, C]`; `splits` 1 means the slab kernel."""
    kind = kind_from_fields(family, unbiased, eps, eps_inside, activation, slope, residual_scale, pad)
    if is_plain(x):
        return _norm_plain(x, weight, bias, mix, residual, kind, splits)
    if splits == 1:
        return _slab(x, weight, bias, residual, kind)
    n, c, h, w = x.shape
    block_c, block_hw = _blocks(c, 4096)
    partials = torch.empty((n, splits, 2, c), dtype=torch.float32, device=x.device)
    launch(kernel.stats_kernel, (splits, triton.cdiv(c, block_c), n))(
        x, c, h * w, partials, SPLITS=splits, BLOCK_HW=block_hw, BLOCK_C=block_c
    )
    merged = kind.family == "instance" and splits <= MERGE_LIMIT
    moments = partials if merged else coefficients_from_partials(partials, kind, weight, bias, mix, h * w)
    y = empty_image(x, h + 2 * kind.pad, w + 2 * kind.pad)
    pixels = y.shape[2] * y.shape[3]
    tiles = 1 if pixels <= 128 * 128 else 4
    launch(kernel.apply_kernel, (triton.cdiv(pixels, block_hw * tiles), triton.cdiv(c, block_c), n))(
        *(x, moments, weight if merged else None, bias if merged else None, residual, c, h, w, y),
        **_std(kind, weight, bias),
        **_tail(kind),
        RESIDUAL_SCALE=kind.residual_scale,
        RESIDUAL_PAD=0,
        PAD=kind.pad,
        SPLITS=splits if merged else 0,
        TILES=tiles,
        BLOCK_HW=block_hw,
        BLOCK_C=block_c,
    )
    return y, partials


def _slab(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, kind: Kind
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    partials = torch.empty((n, 1, 2, c), dtype=torch.float32, device=x.device)
    y = empty_image(x, h + 2 * kind.pad, w + 2 * kind.pad)
    launch(kernel.slab_kernel, (triton.cdiv(c, 8), n))(
        *(x, weight, bias, residual, c, h, w, y, partials),
        **_std(kind, weight, bias),
        **_tail(kind),
        RESIDUAL_SCALE=kind.residual_scale,
        RESIDUAL_PAD=0,
        PAD=kind.pad,
        BLOCK_HW=triton.next_power_of_2(h * w),
        BLOCK_C=8,
        BLOCK_BORDER=kernel.BLOCK_BORDER,
        num_warps=16 if h * w > 1024 else 4,
    )
    return y, partials


def _norm_plain(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    residual: Tensor | None,
    kind: Kind,
    splits: int,
) -> tuple[Tensor, Tensor]:
    y = norm_reference(x, kind, weight, bias, mix, residual)
    # An operator's results are new tensors in NHWC, whatever the library handed back.
    return y.clone(memory_format=torch.channels_last), partials_reference(x, splits)


@triton_op("i2i::norm_backward", mutates_args=())
def norm_backward_op(
    dy: Tensor,
    x: Tensor,
    partials: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    fold_residual: bool,
    family: str,
    unbiased: bool,
    eps: float,
    eps_inside: bool,
    activation: str,
    slope: float,
    residual_scale: float,
    pad: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, the residual (empty unless `fold_residual`), and `[N, 3, C]` of weight, bias and mix."""
    kind = kind_from_fields(family, unbiased, eps, eps_inside, activation, slope, residual_scale, pad)
    if is_plain(x):
        return _norm_backward_plain(dy, x, weight, bias, mix, fold_residual, kind)
    n, c, h, w = x.shape
    dy = dy.contiguous(memory_format=torch.channels_last)
    coefficients = coefficients_from_partials(partials, kind, weight, bias, mix, h * w)
    block_c, block_hw = _blocks(c, 2048)
    splits = split_count(h * w)
    sums = torch.empty((n, splits, 2, c), dtype=torch.float32, device=x.device)
    tiles = {**_tail(kind), "PAD": kind.pad, "BLOCK_HW": block_hw, "BLOCK_C": block_c}
    launch(gradient.sums_kernel, (splits, triton.cdiv(c, block_c), n))(
        dy, x, coefficients, c, h, w, sums, SPLITS=splits, **tiles
    )
    lines = torch.empty((n, 2, c), dtype=torch.float32, device=x.device)
    grads = torch.empty((n, 3, c), dtype=torch.float32, device=x.device)
    small_c = min(32, block_c)
    launch(gradient.finish_kernel, (triton.cdiv(c, small_c), n))(
        *(sums, partials, weight, mix, c, h * w, lines, grads),
        FAMILY=kind.family,
        **_std(kind, weight, bias),
        SUM_SPLITS=splits,
        SPLITS=partials.shape[1],
        BLOCK_C=small_c,
    )
    dx = empty_image(x, h, w)
    d_residual = empty_image(x, h, w) if fold_residual else x.new_empty(0)
    launch(gradient.dx_kernel, (triton.cdiv(h * w, block_hw), triton.cdiv(c, block_c), n))(
        *(dy, x, coefficients, lines, c, h, w, dx, d_residual if fold_residual else None),
        RESIDUAL_SCALE=kind.residual_scale,
        **tiles,
    )
    return dx, d_residual, grads


def _norm_backward_plain(
    dy: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    fold_residual: bool,
    kind: Kind,
) -> tuple[Tensor, Tensor, Tensor]:
    if kind.pad:
        dy = torch.ops.aten.reflection_pad2d_backward(dy, torch.empty_like(x), [kind.pad] * 4)
    dx, grads = norm_gradient_reference(dy, x, kind, weight, bias, mix)
    d_residual = dy * kind.residual_scale if fold_residual else x.new_empty(0)
    if fold_residual:
        d_residual = d_residual.clone(memory_format=torch.channels_last)
    return dx.to(x.dtype).clone(memory_format=torch.channels_last), d_residual, grads


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, mix, residual, *fields = inputs
    ctx.save_for_backward(x, output[1], weight, bias, mix)
    ctx.fields = fields[:-1]
    ctx.has_residual = residual is not None


def _gradient(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, partials, weight, bias, mix = ctx.saved_tensors
    kind = kind_from_fields(*ctx.fields)
    fold = ctx.has_residual and kind.pad > 0
    dx, d_residual, grads = norm_backward_op(dy, x, partials, weight, bias, mix, fold, *ctx.fields)
    if ctx.has_residual and not fold:
        d_residual = dy if kind.residual_scale == 1 else dy * kind.residual_scale
    d_mix = None
    if mix is not None:
        share = grads[:, 2].sum(0)
        d_mix = (share if kind.family == "clamp" else torch.stack([share, -share])).to(mix.dtype)
    parameters = [
        None if p is None else (grads[:, i] if p.dim() == 2 else grads[:, i].sum(0)).to(p.dtype)
        for i, p in enumerate((weight, bias))
    ]
    return dx, *parameters, d_mix, d_residual if ctx.has_residual else None, *[None] * (len(ctx.fields) + 1)


norm_op.register_autograd(_gradient, setup_context=_save)


def _blocks(channels: int, elements: int) -> tuple[int, int]:
    """Channels and pixels per tile."""
    block_c = min(64, max(16, triton.next_power_of_2(channels)))
    return block_c, elements // block_c


def _std(kind: Kind, weight: Tensor | None, bias: Tensor | None) -> dict[str, object]:
    per_sample = any(p is not None and p.dim() == 2 for p in (weight, bias))
    return {
        "EPS": kind.eps,
        "UNBIASED": kind.unbiased,
        "EPS_INSIDE": kind.eps_inside,
        "PER_SAMPLE": per_sample,
    }


def _tail(kind: Kind) -> dict[str, object]:
    return {"ACTIVATION": kind.activation, "SLOPE": kind.slope}


def coefficients_from_partials(
    partials: Tensor, kind: Kind, weight: Tensor | None, bias: Tensor | None, mix: Tensor | None, pixels: int
) -> Tensor:
    n, splits, _, c = partials.shape
    block_c = min(32, _blocks(c, 4096)[0])
    coefficients = torch.empty((n, 3, c), dtype=torch.float32, device=partials.device)
    launch(kernel.coefficients_kernel, (triton.cdiv(c, block_c), n))(
        *(partials, weight, bias, mix, c, pixels, coefficients),
        FAMILY=kind.family,
        **_std(kind, weight, bias),
        SPLITS=splits,
        BLOCK_C=block_c,
    )
    return coefficients
