"""The normalisation layers of the published methods, exactly: variance convention, place of epsilon, mixing.

All take `[N, C, H, W]` of any floating dtype and return the same. Half-precision input is normalised with
float32 statistics: at 64 x 256 x 256 a half-precision mean of squares is useless.

On a GPU they run as kernels if those fit (`kernels_fit`), elsewhere as plain torch. A kernel differentiates once;
a network that a gradient penalty reaches takes AffineInstanceNorm or FilterResponseNorm.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2i_kernels import norm as kernels
from i2i_kernels.dispatch import kernels_fit


def accumulable(x: Tensor) -> Tensor:
    """`x` in a dtype wide enough to sum a feature map in: half precision becomes float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def per_channel(values: Tensor) -> Tensor:
    """`[C]` or `[N, C]` shaped to meet `[N, C, H, W]`."""
    return values[..., None, None]


def centred_by_channel(x: Tensor, eps: float) -> Tensor:
    """Every channel of every sample to mean 0 and unbiased variance 1, epsilon inside the root."""
    variance, mean = torch.var_mean(x, dim=(2, 3), correction=1, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + eps)


def centred_by_sample(x: Tensor, eps: float, correction: int) -> Tensor:
    """Every sample to mean 0 and variance 1 over channels and positions, epsilon inside the root."""
    variance, mean = torch.var_mean(x, dim=(1, 2, 3), correction=correction, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + eps)


class InstanceNorm(nn.Module):
    """Instance norm without affine and without running statistics: the same in training and evaluation.

    Biased variance, epsilon inside the root.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return kernels.instance_norm(x, eps=self.eps)


class AffineInstanceNorm(nn.Module):
    """Instance norm with a scale (1) and shift (0) per channel; plain torch on every device.

    For critics under a gradient penalty, whose input gradients are differentiated once more.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.instance_norm(x, self.weight, self.bias, eps=self.eps, impl="reference")


class AdaptiveInstanceNorm(nn.Module):
    """AdaIN of MUNIT and TUNIT: `scale * IN(x) + shift`, the scale used as it is (no + 1).

    `scale` and `shift` are `[N, C]`, passed in by the caller: nothing is assigned to the module, so tracing
    and batches above one are safe.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return kernels.adain(x, scale, shift, eps=self.eps)


class LayerNormOverStd(nn.Module):
    """The layer norm of MUNIT's and UNIT's upsampler: unbiased std over C, H, W, epsilon added to the std.

    Differs from a framework layer norm if the std is small. Scale from U(0, 1), shift 0, per channel.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.rand(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if kernels_fit(x):
            return kernels.layer_norm_munit(x, self.weight, self.bias, eps=self.eps)
        wide = accumulable(x)
        std, mean = torch.std_mean(wide, dim=(1, 2, 3), correction=1, keepdim=True)
        normal = ((wide - mean) / (std + self.eps)).to(x.dtype)
        return normal * per_channel(self.weight) + per_channel(self.bias)


class LayerNorm(nn.Module):
    """Layer norm over C, H, W as in DRIT: biased variance, epsilon inside the root, affine per channel."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if kernels_fit(x):
            return kernels.layer_norm(x, self.weight, self.bias, eps=self.eps)
        normal = centred_by_sample(accumulable(x), self.eps, correction=0).to(x.dtype)
        return normal * per_channel(self.weight) + per_channel(self.bias)


def instance_layer_mix(x: Tensor, instance_share: Tensor, layer_share: Tensor, eps: float) -> Tensor:
    """`share_IN * IN'(x) + share_LN * LN'(x)`, shares `[C]`; variances unbiased, epsilon inside the root."""
    wide = accumulable(x)
    by_channel = centred_by_channel(wide, eps)
    by_sample = centred_by_sample(wide, eps, correction=1)
    mixed = per_channel(instance_share) * by_channel + per_channel(layer_share) * by_sample
    return mixed.to(x.dtype)


class ClampedMix(nn.Module):
    """The mix of U-GAT-IT: one share per channel, held in [0, 1] by `clamp_` after every generator step."""

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.rho = nn.Parameter(torch.full((channels,), start))

    def shares(self) -> tuple[Tensor, Tensor]:
        """Shares of instance and layer norm, `[C]` each."""
        return self.rho, 1 - self.rho

    def on_gpu(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        """The mix of `x` times scale plus shift (`[C]` or `[N, C]`), as one kernel."""
        return kernels.lin(x, self.rho, scale, shift, eps=eps)

    @torch.no_grad()
    def clamp_(self) -> None:
        """Puts every share back into [0, 1]."""
        self.rho.clamp_(0, 1)


class SoftmaxMix(nn.Module):
    """The mix of NICE-GAN: softmax of two logits per channel, never clipped."""

    def __init__(self, channels: int, start: tuple[float, float]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(start)[:, None].repeat(1, channels))

    def shares(self) -> tuple[Tensor, Tensor]:
        """Shares of instance and layer norm, `[C]` each."""
        instance, layer = torch.softmax(self.logits, dim=0).unbind(0)
        return instance, layer

    def on_gpu(self, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        """The mix of `x` times scale plus shift (`[C]` or `[N, C]`), as one kernel."""
        return kernels.iln(x, self.logits, scale, shift, eps=eps)


class InstanceLayerNorm(nn.Module):
    """LIN of U-GAT-IT and ILN of NICE-GAN: the mix, with a scale (1) and shift (0) of its own per channel."""

    def __init__(self, channels: int, mix: ClampedMix | SoftmaxMix, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.mix = mix
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if kernels_fit(x):
            return self.mix.on_gpu(x, self.weight, self.bias, self.eps)
        mixed = instance_layer_mix(x, *self.mix.shares(), self.eps)
        return mixed * per_channel(self.weight) + per_channel(self.bias)


class AdaptiveInstanceLayerNorm(nn.Module):
    """AdaLIN of U-GAT-IT and adaILN of NICE-GAN: the mix, with scale and shift `[N, C]` from the image."""

    def __init__(self, channels: int, mix: ClampedMix | SoftmaxMix, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.mix = mix

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        if kernels_fit(x):
            return self.mix.on_gpu(x, scale, shift, self.eps)
        return instance_layer_mix(x, *self.mix.shares(), self.eps) * per_channel(scale) + per_channel(shift)


def lin(channels: int) -> InstanceLayerNorm:
    """U-GAT-IT's LIN, the mix starting at pure layer norm."""
    return InstanceLayerNorm(channels, ClampedMix(channels, 0.0))


def ada_lin(channels: int) -> AdaptiveInstanceLayerNorm:
    """U-GAT-IT's AdaLIN, the mix starting at 0.9 of instance norm."""
    return AdaptiveInstanceLayerNorm(channels, ClampedMix(channels, 0.9))


def iln(channels: int) -> InstanceLayerNorm:
    """NICE-GAN's ILN, starting at about 0.1 of instance norm."""
    return InstanceLayerNorm(channels, SoftmaxMix(channels, (1.0, 3.2)))


def ada_iln(channels: int) -> AdaptiveInstanceLayerNorm:
    """NICE-GAN's adaILN, starting at about 0.9 of instance norm."""
    return AdaptiveInstanceLayerNorm(channels, SoftmaxMix(channels, (3.2, 1.0)))


class FilterResponseNorm(nn.Module):
    """FRN with its thresholded unit (TUNIT's discriminator): no mean removed, `max(affine, tau)`."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = accumulable(x)
        power = wide.square().mean(dim=(2, 3), keepdim=True)
        normal = (wide * torch.rsqrt(power + self.eps)).to(x.dtype)
        affine = normal * per_channel(self.weight) + per_channel(self.bias)
        return torch.maximum(affine, per_channel(self.threshold).to(affine.dtype))


class BatchNormBias(nn.Module):
    """Batch norm without affine, then a learned bias per channel, as in UNIT's digits networks.

    The bias is drawn from N(0, 0.002). Running statistics are kept.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=eps, affine=False)
        self.bias = nn.Parameter(torch.randn(channels) * 0.002)

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.norm(x)
        return normal + per_channel(self.bias)
