"""A norm kernel of the pack with random inputs as it reads them, and its result in float64.

Whoever launches the kernel (the tests' PTX interpreter, the proof on a GPU) hands its outputs to `error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from i2i_kernels.compile import CompiledKernel
from i2i_kernels.norm.reference import norm_reference, partials_reference
from i2i_kernels.numerics import ACCUMULATED, DTYPES, ROUNDING


class PackedNorm:
    """`given` are the input tensors by argument name, images `[N, H, W, C]`, on `device`."""

    def __init__(
        self, kernel: CompiledKernel, sizes: Mapping[str, int], device: torch.device | None = None
    ) -> None:
        torch.manual_seed(0)
        variant = kernel.variant
        n, c, h, w = (sizes[letter] for letter in "NCHW")
        self.kernel = kernel
        self.dtype = variant.dtype
        is_applied = kernel.op != "norm_coefficients"
        self.kind = variant.kind if is_applied else replace(variant.kind, activation="none", pad=0)
        self.x = (torch.randn(n, c, h, w) + 0.5).to(device, DTYPES[variant.dtype])
        rows = (n, c) if variant.affine == "sample" else (c,)
        has_affine = variant.affine != "none"
        self.weight, self.bias = (torch.randn(rows).to(device) if has_affine else None for _ in range(2))
        self.mix = {
            "clamp": torch.rand(c).to(device),
            "softmax": torch.randn(2, c).to(device),
        }.get(variant.kind.family)
        around = variant.residual_pad
        wide = torch.randn(n, c, h + 2 * around, w + 2 * around).to(device, self.x.dtype)
        self.residual = wide[:, :, around : around + h, around : around + w] if variant.residual else None
        known = {
            "x_ptr": self.x,
            "partials_ptr": partials_reference(self.x, max(1, variant.splits)),
            "moments_ptr": self._moments(),
            "weight_ptr": self.weight,
            "bias_ptr": self.bias,
            "mix_ptr": self.mix,
            "residual_ptr": wide,
        }
        images = ("x_ptr", "residual_ptr")
        self.given = {
            name: (value.permute(0, 2, 3, 1) if name in images else value).contiguous()
            for name, value in known.items()
            if value is not None
        }

    def _moments(self) -> Tensor:
        """What apply reads: partials to merge, or coefficients of a plain instance norm."""
        variant = self.kernel.variant
        if self.kernel.op == "norm_apply" and variant.splits:
            return partials_reference(self.x, variant.splits)
        mean, second = self.x.double().mean((2, 3)), self.x.double().var((2, 3), correction=0)
        return torch.stack([mean, (second + self.kind.eps).rsqrt(), torch.zeros_like(mean)], 1).float()

    def error(self, made: Mapping[str, Tensor]) -> tuple[float, float]:
        """The largest error over the largest magnitude of the outputs, images `[N, H, W, C]`; and its bound."""
        if self.kernel.op == "norm_stats":
            want = partials_reference(self.x.double(), self.kernel.variant.splits)
            got = made["partials_ptr"]
            return max(_error(got[:, :, row], want[:, :, row]) for row in (0, 1)), ACCUMULATED
        exact = [None if t is None else t.double() for t in (self.weight, self.bias, self.mix, self.residual)]
        result = norm_reference(self.x.double(), self.kind, *exact).permute(0, 2, 3, 1)
        if self.kernel.op == "norm_coefficients":
            mean, scale, offset = made["coefficients_ptr"].double()[:, :, None, None].unbind(1)
            got = scale * (self.x.double().permute(0, 2, 3, 1) - mean) + offset
            return _error(got, result), ROUNDING["float32"]
        return _error(made["y_ptr"], result), ROUNDING[self.dtype]


def _error(got: Tensor, want: Tensor) -> float:
    gap = (got.double() - want.double()).abs().max() / want.double().abs().max()
    return float(gap.nan_to_num(float("inf")))
