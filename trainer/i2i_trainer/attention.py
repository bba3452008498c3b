"""What U-GAT-IT and NICE-GAN share: class activation maps, spectral norms, scale and shift from the image.

Kim, Kim, Kang, Lee: U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance
Normalization for Image-to-Image Translation, ICLR 2020.
"""

from __future__ import annotations

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from i2i_trainer.blocks import conv


def spectral(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    """The layer, its weight divided by its largest singular value; training forwards iterate towards it."""
    return parametrizations.spectral_norm(layer)


def raw_weight(layer: nn.Module) -> Tensor:
    """The learned weight of a layer, before its spectral norm if it has one: `[outputs, inputs, ...]`."""
    if parametrize.is_parametrized(layer, "weight"):
        return cast(Tensor, cast(nn.ModuleDict, layer.parametrizations)["weight"].original)
    return cast(Tensor, layer.weight)


@torch.no_grad()
def folded_spectral_norm(layer: nn.Conv2d) -> nn.Conv2d:
    """A plain convolution with the normalised weight, as in evaluation.

    The layer's class is shared with its copies, so removing its normalisation in place would damage them all.
    """
    plain = nn.Conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,  # type: ignore[arg-type]
        layer.stride,  # type: ignore[arg-type]
        layer.padding,  # type: ignore[arg-type]
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    ).to(raw_weight(layer))
    plain.weight.copy_(deepcopy(layer).eval().weight)
    if layer.bias is not None and plain.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain


def discriminator_layer(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    """A spectral-normalised 4x4 convolution and its activation."""
    return nn.Sequential(spectral(conv(inputs, outputs, 4, stride=stride, pad=1)), nn.LeakyReLU(0.2))


def logit_layer(inputs: int) -> nn.Module:
    """The last layer of a head: one logit per patch."""
    return spectral(conv(inputs, 1, 4, pad=1, bias=False))


def pooled(features: Tensor) -> tuple[Tensor, Tensor]:
    """Average and largest value of every channel: `[N, C, H, W]` -> two of `[N, C]`."""
    return features.mean(dim=(2, 3)), features.amax(dim=(2, 3))


def twice_weighted(features: Tensor, average_weight: Tensor, largest_weight: Tensor) -> Tensor:
    """`[N, C, H, W]` and two weights `[1, C]` -> `[N, 2C, H, W]`: the features under each of the weights."""
    by_average = features * average_weight[..., None, None]
    by_largest = features * largest_weight[..., None, None]
    return torch.cat([by_average, by_largest], dim=1)


@torch.no_grad()
def folded_attention(mix: nn.Conv2d, average_weight: Tensor, largest_weight: Tensor) -> nn.Conv2d:
    """`mix(twice_weighted(x, ...))` as one 1x1 convolution of x: the weights go into the columns of `mix`.

    `mix` is a 1x1 convolution from 2C channels with a bias, the weights are `[1, C]`.
    """
    assert mix.bias is not None
    channels = mix.in_channels // 2
    by_average, by_largest = mix.weight[:, :channels], mix.weight[:, channels:]
    folded = nn.Conv2d(channels, mix.out_channels, 1, device=mix.weight.device, dtype=mix.weight.dtype)
    folded.weight.copy_(
        by_average * average_weight[..., None, None] + by_largest * largest_weight[..., None, None]
    )
    folded.bias = nn.Parameter(mix.bias.clone())
    return folded


class PairedAttention(nn.Module):
    """Class activation map with a linear classifier for averages and one for largest values (U-GAT-IT).

    The weights of the two classifiers weigh the channels; a 1x1 convolution mixes the two results. Returns
    the mixed features `[N, C, H, W]` before any activation, and the two logits `[N, 2]`. With `normalised`
    the classifiers carry spectral norm; the channels are still weighed by the weight before it, as the
    published networks were trained.
    """

    def __init__(self, channels: int, *, normalised: bool) -> None:
        super().__init__()
        average, largest = nn.Linear(channels, 1, bias=False), nn.Linear(channels, 1, bias=False)
        self.average: nn.Module = spectral(average) if normalised else average
        self.largest: nn.Module = spectral(largest) if normalised else largest
        self.mix = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        average, largest = pooled(features)
        logits = torch.cat([self.average(average), self.largest(largest)], dim=1)
        return self.mix(twice_weighted(features, raw_weight(self.average), raw_weight(self.largest))), logits


class Modulation(nn.Module):
    """Scale and shift of the adaptive norms, from the features: `[N, C, H, W]` -> two of `[N, C]`.

    Light (`side` None): from the average of every channel, so any size fits. Full: from all positions of a
    `side` x `side` map, which fixes the size of the image. No biases.
    """

    def __init__(self, channels: int, side: int | None) -> None:
        super().__init__()
        self.side = side
        inputs = channels if side is None else channels * side * side
        self.trunk = nn.Sequential(
            nn.Linear(inputs, channels, bias=False),
            nn.ReLU(),
            nn.Linear(channels, channels, bias=False),
            nn.ReLU(),
        )
        self.scale = nn.Linear(channels, channels, bias=False)
        self.shift = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        flat = features.mean(dim=(2, 3)) if self.side is None else features.flatten(1)
        hidden = self.trunk(flat)
        return self.scale(hidden), self.shift(hidden)
