"""The Laplacian pyramid's two filters in plain torch (Burt and Adelson 1983, as LPTN uses them)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def down_reference(x: Tensor) -> Tensor:
    """5 x 5 binomial blur, border reflected, every second pixel: `[N, C, H, W]` -> `[N, C, ceil(H/2), ceil(W/2)]`."""
    return F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), _binomial(x), stride=2, groups=x.shape[1])


def up_reference(x: Tensor, add: Tensor | None, scale: float) -> Tensor:
    """Zero insertion, then four times the blur: `[N, C, h, w]` -> `[N, C, 2h, 2w]`, scaled and added to `add`.

    Reflecting the zero-inserted image is, on the small one, reflection before the first and repetition after the last
    pixel, so that the zeros need never be multiplied.
    """
    bordered = F.pad(F.pad(x, (1, 0, 1, 0), mode="reflect"), (0, 1, 0, 1), mode="replicate")
    kernel = _binomial(x) * (4 * scale)
    y = F.conv_transpose2d(bordered, kernel, stride=2, padding=4, output_padding=1, groups=x.shape[1])
    return y if add is None else y + add


def down_gradient_reference(dy: Tensor, height: int, width: int) -> Tensor:
    """Gradient of `down_reference` at its `[N, C, height, width]` input, for where autograd is not at hand."""
    more = ((height + 1) % 2, (width + 1) % 2)
    padded = F.conv_transpose2d(dy, _binomial(dy), stride=2, output_padding=more, groups=dy.shape[1])
    like = dy.new_empty((*dy.shape[:2], height, width))
    gradient: Tensor = torch.ops.aten.reflection_pad2d_backward(padded, like, [2, 2, 2, 2])
    return gradient


def up_gradient_reference(dy: Tensor) -> Tensor:
    """Gradient of `up_reference` at its input, for a scale of one."""
    bordered = F.conv2d(dy, _binomial(dy) * 4, stride=2, padding=4, groups=dy.shape[1])
    n, c, h, w = bordered.shape
    like = dy.new_empty((n, c, h - 1, w - 1))
    replicated = torch.ops.aten.replication_pad2d_backward(bordered, like, [0, 1, 0, 1])
    like = dy.new_empty((n, c, h - 2, w - 2))
    gradient: Tensor = torch.ops.aten.reflection_pad2d_backward(replicated, like, [1, 0, 1, 0])
    return gradient


def _binomial(x: Tensor) -> Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    return torch.outer(row, row).expand(x.shape[1], 1, 5, 5)
