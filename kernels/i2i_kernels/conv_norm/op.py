"""The experimental convolution as a torch operator, `i2i::conv_norm`; forward only."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.conv_norm import kernel
from i2i_kernels.conv_norm.reference import conv_norm_reference
from i2i_kernels.launch import empty_image, is_plain, launch
from i2i_kernels.norm.op import coefficients_from_partials, kind_from_fields

BLOCK_M = 128
MOST_PIXELS = 128 * BLOCK_M
"""More runs of pixels than 128 and the coefficients no longer merge in registers."""


def split_count(pixels: int) -> int:
    """Runs of at most BLOCK_M pixels, a power of two of them."""
    return int(triton.next_power_of_2(triton.cdiv(pixels, BLOCK_M)))


@triton_op("i2i::conv_norm", mutates_args=())
def conv_norm_op(
    x: Tensor, partials: Tensor, weight: Tensor, eps: float, activation: str, slope: float
) -> tuple[Tensor, Tensor]:
    """The result `[N, O, H, W]` and its partials; weight is `[O, C, 3, 3]` channels-last."""
    n, c, h, w = x.shape
    out = weight.shape[0]
    kind = kind_from_fields("instance", False, eps, True, activation, slope, 1.0, 0)
    if is_plain(x):
        y, made = conv_norm_reference(x, weight, kind, split_count(h * w))
        return y.clone(memory_format=torch.channels_last), made
    coefficients = coefficients_from_partials(partials, kind, None, None, None, h * w)
    splits = split_count(h * w)
    y = empty_image(x, h, w, out)
    made = torch.empty((n, splits, 2, out), dtype=torch.float32, device=x.device)
    block_o = 128 if out > 64 else 64
    launch(kernel.conv_norm_kernel, (splits, triton.cdiv(out, block_o), n))(
        *(x, coefficients, weight, c, h, w, out, y, made),
        ACTIVATION=activation,
        SLOPE=slope,
        SPLITS=splits,
        BLOCK_M=BLOCK_M,
        BLOCK_O=block_o,
        BLOCK_C=32,
        num_warps=8,
        num_stages=2,
    )
    return y, made
