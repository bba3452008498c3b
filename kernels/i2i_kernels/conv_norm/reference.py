"""Normalise, activate, pad by reflection, convolve 3 x 3, in plain torch."""

from __future__ import annotations

import dataclasses

import torch.nn.functional as F
from torch import Tensor

from i2i_kernels.kind import Kind
from i2i_kernels.norm.reference import norm_reference, partials_reference


def conv_norm_reference(x: Tensor, weight: Tensor, kind: Kind, splits: int) -> tuple[Tensor, Tensor]:
    """The convolution's result `[N, O, H, W]` and its partial statistics `[N, splits, 2, O] float32`."""
    y = F.conv2d(norm_reference(x, dataclasses.replace(kind, pad=1)), weight)
    return y, partials_reference(y, splits)
