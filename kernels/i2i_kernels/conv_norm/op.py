"""The experimental convolution as a torch operator, `i2i::conv_norm`; forward only."""

from __future__ import annotations

from typing import cast

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.conv_norm import kernel
from i2i_kernels.conv_norm.reference import conv_norm_reference
from i2i_kernels.kind import Activation, Kind
from i2i_kernels.launch import empty_image, is_plain, launch
from i2i_kernels.norm.op import coefficients_from_partials, sizes_of
from i2i_kernels.pack.policy import CONVOLUTION_RUN, convolution_splits


@triton_op("i2i::conv_norm", mutates_args=())
def conv_norm_op(
    x: Tensor, partials: Tensor, weight: Tensor, eps: float, activation: str, slope: float
) -> tuple[Tensor, Tensor]:
    """The result `[N, O, H, W]` and its partials; weight is `[O, C, 3, 3]` channels-last."""
    n, c, h, w = x.shape
    out = weight.shape[0]
    kind = Kind(eps=eps, activation=cast(Activation, activation), slope=slope)
    if is_plain(x):
        y, made = conv_norm_reference(x, weight, kind, convolution_splits(h * w))
        return y.clone(memory_format=torch.channels_last), made
    coefficients = coefficients_from_partials(partials, kind, None, None, None, sizes_of(x))
    splits = convolution_splits(h * w)
    y = empty_image(x, h, w, out)
    made = torch.empty((n, splits, 2, out), dtype=torch.float32, device=x.device)
    block_o = 128 if out > 64 else 64
    launch(kernel.conv_norm_kernel, (splits, triton.cdiv(out, block_o), n))(
        *(x, coefficients, weight, c, h, w, out, y, made),
        ACTIVATION=activation,
        SLOPE=slope,
        SPLITS=splits,
        BLOCK_M=CONVOLUTION_RUN,
        BLOCK_O=block_o,
        BLOCK_C=32,
        num_warps=8,
        num_stages=2,
    )
    return y, made
