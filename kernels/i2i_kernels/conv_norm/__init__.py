"""EXPERIMENT: instance norm, activation, reflected border and 3 x 3 convolution in one kernel; forward only."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from i2i_kernels.conv_norm.reference import conv_norm_reference
from i2i_kernels.dispatch import require_kernel_input
from i2i_kernels.kind import Kind
from i2i_kernels.pack.policy import CONVOLUTION_PIXELS, convolution_splits

__all__ = ["conv_norm"]


def conv_norm(
    x: Tensor,
    partials: Tensor,
    weight: Tensor,
    kind: Kind,
    *,
    impl: Literal["reference", "triton"] | None = None,
) -> tuple[Tensor, Tensor]:
    """`conv3x3(reflect_pad(act(instance_norm(x))))` and the partial statistics of the result.

    x: `[N, C, H, W]` float16 or bfloat16, channels-last, H x W up to 16,384. partials: `[N, S, 2, C] float32` of x,
    from an earlier call or from `norm_stats`. weight: `[O, C, 3, 3]` channels-last, x's dtype. kind: instance family,
    biased, eps inside, no residual, no padding of its own. Returns `[N, O, H, W]` and `[N, S', 2, O] float32`.

    impl: None is `reference`, plain torch, on every device: this is an experiment, taken only by asking for `triton`.
    Raises ValueError or TypeError if the arguments do not fit, RuntimeError if `triton` cannot be served.
    """
    if kind != Kind(eps=kind.eps, activation=kind.activation, slope=kind.slope):
        raise ValueError(
            f"conv_norm does the plain instance norm with an activation, it was asked for {kind}"
        )
    if x.dim() != 4 or weight.shape[1:] != (x.shape[1], 3, 3):
        raise ValueError(f"weight is {list(weight.shape)}, for x of {list(x.shape)} it must be [O, C, 3, 3]")
    n, c, h, w = x.shape
    if h * w > CONVOLUTION_PIXELS or min(h, w) < 2:
        raise ValueError(f"conv_norm takes 2 x 2 to {CONVOLUTION_PIXELS} pixels, x is {list(x.shape)}")
    if partials.dim() != 4 or partials.shape[::2] != (n, 2) or partials.shape[3] != c:
        raise ValueError(
            f"partials are {list(partials.shape)}, for x of {list(x.shape)} they must be [{n}, S, 2, {c}]"
        )
    if impl in (None, "reference"):
        return conv_norm_reference(x, weight, kind, convolution_splits(h * w))
    if impl != "triton":
        raise ValueError(f"impl is {impl!r}, it must be None, reference or triton")
    require_kernel_input(x, "x", impl)
    require_kernel_input(weight, "weight", impl)
    if x.dtype == torch.float32 or weight.dtype != x.dtype:
        raise TypeError(
            f"x is {x.dtype} and weight is {weight.dtype}, the kernel takes float16 or bfloat16 for both"
        )
    from i2i_kernels.conv_norm.op import conv_norm_op

    y, made = conv_norm_op(x, partials, weight, kind.eps, kind.activation, kind.slope)
    return y, made
