"""Operators that torch's exporter writes with run-time shape arithmetic, and that need none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import FLOAT, opset18

_OP: Any = opset18
"""Untyped: its type variables cannot be solved for values that only the trace gives a type."""


def _pixel_unshuffle(self: FLOAT, downscale_factor: int) -> FLOAT:
    """SpaceToDepth orders channels by place first, torch by channel first: one Gather puts them right."""
    channels = _static(self, 1)
    order = np.arange(downscale_factor**2 * channels).reshape(-1, channels).T.reshape(-1)
    blocks = _OP.SpaceToDepth(self, blocksize=downscale_factor)
    reordered: FLOAT = _OP.Gather(blocks, _OP.Constant(value=ir.tensor(order)), axis=1)
    return reordered


def _var_mean(
    self: FLOAT, dim: Sequence[int] | None = None, correction: float | None = None, keepdim: bool = False
) -> tuple[FLOAT, FLOAT]:
    """Two passes over the image: the mean, then the mean square of what is left."""
    axes = _OP.Constant(value=ir.tensor(np.asarray(dim, np.int64)))
    mean = _OP.ReduceMean(self, axes, keepdims=1)
    centred = _OP.Sub(self, mean)
    total = _OP.ReduceSum(_OP.Mul(centred, centred), axes, keepdims=1)
    sizes = _OP.Gather(_OP.Shape(self), axes, axis=0)
    count = _OP.Cast(_OP.ReduceProd(sizes, keepdims=0), to=ir.DataType.FLOAT)
    free = _OP.Sub(count, _OP.Constant(value=ir.tensor(np.float32(1 if correction is None else correction))))
    variance = _OP.Div(total, free)
    if keepdim:
        return variance, mean
    return _OP.Squeeze(variance, axes), _OP.Squeeze(mean, axes)


def _static(value: Any, axis: int) -> int:
    return int(value.shape[axis])


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.pixel_unshuffle.default: _pixel_unshuffle,
    torch.ops.aten.var_mean.correction: _var_mean,
}
