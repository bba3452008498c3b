"""The norm kernels as torch operators: `i2i::norm` and its gradient, with CPU implementation and autograd.

Importing this module needs triton; the public function does so only when it is about to use a kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.kind import Kind
from i2i_kernels.launch import empty_image, is_plain, launch_recipe
from i2i_kernels.norm import gradient, kernel
from i2i_kernels.norm.reference import norm_gradient_reference, norm_reference, partials_reference
from i2i_kernels.pack.policy import norm_launch, slab_tile
from i2i_kernels.pack.recipes import Affine, Dtype, Variant, recipe

FIELDS = ("family", "unbiased", "eps", "eps_inside", "activation", "slope", "residual_scale", "pad")
"""The fields of a Kind in the order of the operators' arguments."""


def kind_fields(kind: Kind) -> tuple[Any, ...]:
    """The fields of the kind in the order of the operators' arguments."""
    return tuple(getattr(kind, name) for name in FIELDS)


def kind_from_fields(*fields: Any) -> Kind:
    return Kind(**dict(zip(FIELDS, fields, strict=True)))


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
    sizes = sizes_of(x)
    cut = norm_launch(kind, samples=sizes["N"], channels=sizes["C"], pixels=sizes["HW"], splits=splits)
    variant = _variant(x.dtype, kind, weight, bias, residual, splits=splits, block_c=cut.block_c)
    partials = empty_table(x, splits, 2)
    launch_recipe(kernel.stats_kernel, recipe("norm_stats", variant), sizes)(
        x, sizes["C"], sizes["HW"], partials
    )
    y = empty_image(x, sizes["H"] + 2 * kind.pad, sizes["W"] + 2 * kind.pad)
    if cut.merges:
        moments, affine, merged = partials, (weight, bias), splits
    else:
        moments, affine, merged = (
            coefficients_from_partials(partials, kind, weight, bias, mix, sizes),
            (None, None),
            0,
        )
    plan = recipe("norm_apply", replace(variant, kind=_as_applied(kind), splits=merged, tiles=cut.tiles))
    launch_recipe(kernel.apply_kernel, plan, sizes)(
        x, moments, *affine, residual, sizes["C"], sizes["H"], sizes["W"], y
    )
    return y, partials


def _as_applied(kind: Kind) -> Kind:
    """What apply needs to know of a kind whose coefficients are made: nothing of its family."""
    return replace(kind, family="instance")


def _slab(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, kind: Kind
) -> tuple[Tensor, Tensor]:
    sizes = sizes_of(x)
    partials = empty_table(x, 1, 2)
    y = empty_image(x, sizes["H"] + 2 * kind.pad, sizes["W"] + 2 * kind.pad)
    variant = _variant(x.dtype, kind, weight, bias, residual, slab_tile=slab_tile(sizes["HW"]))
    launch_recipe(kernel.slab_kernel, recipe("norm_slab", variant), sizes)(
        x, weight, bias, residual, sizes["C"], sizes["H"], sizes["W"], y, partials
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
    sizes = sizes_of(x)
    dy = dy.contiguous(memory_format=torch.channels_last)
    splits = partials.shape[1]
    coefficients = coefficients_from_partials(partials, kind, weight, bias, mix, sizes)
    cut = norm_launch(
        kind,
        samples=sizes["N"],
        channels=sizes["C"],
        pixels=sizes["HW"],
        # The slab keeps one run; its gradient wants more.
        splits=splits if splits > 1 else None,
    )
    variant = _variant(
        x.dtype, kind, weight, bias, dy if fold_residual else None, splits=cut.splits, block_c=cut.block_c
    )
    size = sizes["C"], sizes["H"], sizes["W"]
    sums = empty_table(x, cut.splits, 2)
    launch_recipe(gradient.sums_kernel, recipe("norm_sums", variant), sizes)(dy, x, coefficients, *size, sums)
    lines, grads = empty_table(x, 2), empty_table(x, 3)
    plan = recipe("norm_finish", replace(variant, splits=splits, sum_splits=cut.splits))
    launch_recipe(gradient.finish_kernel, plan, sizes)(
        sums, partials, weight, mix, sizes["C"], sizes["HW"], lines, grads
    )
    dx = empty_image(x, sizes["H"], sizes["W"])
    d_residual = empty_image(x, sizes["H"], sizes["W"]) if fold_residual else x.new_empty(0)
    launch_recipe(gradient.dx_kernel, recipe("norm_gradient", variant), sizes)(
        dy, x, coefficients, lines, *size, dx, d_residual if fold_residual else None
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


def sizes_of(x: Tensor) -> dict[str, int]:
    """What a recipe's expressions are over."""
    n, c, h, w = x.shape
    return {"N": n, "C": c, "H": h, "W": w, "HW": h * w}


def empty_table(like: Tensor, *rows: int) -> Tensor:
    """`[N, *rows, C] float32` on the device of the image `like`."""
    n, c = like.shape[:2]
    return torch.empty((n, *rows, c), dtype=torch.float32, device=like.device)


def _variant(
    dtype: torch.dtype,
    kind: Kind,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    **cut: int,
) -> Variant:
    given = [p.dim() for p in (weight, bias) if p is not None]
    affine: Affine = "none" if not given else "sample" if 2 in given else "channel"
    name = cast(Dtype, str(dtype).removeprefix("torch."))
    return Variant(name, kind, affine, residual is not None, **cut)


def coefficients_from_partials(
    partials: Tensor,
    kind: Kind,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    sizes: dict[str, int],
) -> Tensor:
    """Mean, scale and offset per sample and channel, `[N, 3, C] float32`."""
    n, splits, _, c = partials.shape
    variant = _variant(torch.float32, kind, weight, bias, None, splits=splits)
    coefficients = torch.empty((n, 3, c), dtype=torch.float32, device=partials.device)
    launch_recipe(kernel.coefficients_kernel, recipe("norm_coefficients", variant), sizes)(
        partials, weight, bias, mix, c, sizes["HW"], coefficients
    )
    return coefficients
