"""Blocks that two or more methods share. Feature maps are `[N, C, H, W]`; nothing here knows a method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.norms import AdaptiveInstanceLayerNorm, AdaptiveInstanceNorm, InstanceNorm

Padding = Literal["reflect", "zeros"]
Norm = Callable[[int], nn.Module]
AdaptiveNorm = Callable[[int], AdaptiveInstanceNorm | AdaptiveInstanceLayerNorm]
ScaleShift = tuple[Tensor, Tensor]
"""Scale and shift of one adaptive norm, each `[N, C]`."""


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: int | None = None,
    padding: Padding = "reflect",
    bias: bool = True,
) -> nn.Conv2d:
    """A convolution that pads by itself; `pad` is `(kernel - 1) // 2` unless given."""
    width = (kernel - 1) // 2 if pad is None else pad
    return nn.Conv2d(inputs, outputs, kernel, stride, width, bias=bias, padding_mode=padding)


def down(inputs: int, outputs: int, *, norm: Norm = InstanceNorm) -> nn.Sequential:
    """Halves the size: reflect-padded 4x4 convolution of stride 2, norm, ReLU (UNIT, MUNIT, TUNIT)."""
    return nn.Sequential(conv(inputs, outputs, 4, stride=2, pad=1), norm(outputs), nn.ReLU())


class Upsample(nn.Module):
    """Doubles the size by repeating every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


def up(inputs: int, outputs: int, *, norm: Norm, kernel: int = 5, bias: bool = True) -> nn.Sequential:
    """Doubles the size: nearest, reflect-padded convolution, norm, ReLU (MUNIT: 5x5, U-GAT-IT: 3x3)."""
    return nn.Sequential(Upsample(), conv(inputs, outputs, kernel, bias=bias), norm(outputs), nn.ReLU())


class ResBlock(nn.Module):
    """`x + residual_scale * (conv, norm, ReLU, conv, norm)(x)`, without an activation after the addition.

    `dropout` acts after the second norm, as in UNIT's street-scene networks.
    """

    def __init__(
        self,
        channels: int,
        *,
        norm: Norm = InstanceNorm,
        padding: Padding = "reflect",
        bias: bool = True,
        residual_scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.body = nn.Sequential(
            conv(channels, channels, 3, padding=padding, bias=bias),
            norm(channels),
            nn.ReLU(),
            conv(channels, channels, 3, padding=padding, bias=bias),
            norm(channels),
        )
        if dropout:
            self.body.append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual if self.residual_scale == 1.0 else x + self.residual_scale * residual


class AdaptiveResBlock(nn.Module):
    """A residual block whose norms take scale and shift from outside (MUNIT, TUNIT, U-GAT-IT, NICE-GAN)."""

    def __init__(
        self,
        channels: int,
        *,
        norm: AdaptiveNorm = AdaptiveInstanceNorm,
        bias: bool = True,
        residual_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.residual_scale = residual_scale
        self.conv1 = conv(channels, channels, 3, bias=bias)
        self.norm1 = norm(channels)
        self.conv2 = conv(channels, channels, 3, bias=bias)
        self.norm2 = norm(channels)

    def forward(self, x: Tensor, first: ScaleShift, second: ScaleShift) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x), *first))
        residual: Tensor = self.norm2(self.conv2(hidden), *second)
        return x + residual if self.residual_scale == 1.0 else x + self.residual_scale * residual


def content_encoder(
    width: int = 64, *, downs: int = 2, blocks: int = 4, residual_scale: float = 1.0
) -> nn.Sequential:
    """C7s1 IN ReLU, `downs` halvings that double the width, `blocks` residual blocks (UNIT, MUNIT, TUNIT)."""
    widths = [width * 2**i for i in range(downs + 1)]
    return nn.Sequential(
        conv(3, width, 7),
        InstanceNorm(width),
        nn.ReLU(),
        *(down(before, after) for before, after in pairwise(widths)),
        *(ResBlock(widths[-1], residual_scale=residual_scale) for _ in range(blocks)),
    )


class StyleMlp(nn.Module):
    """Style code to scale and shift of every adaptive norm (MUNIT, TUNIT).

    style -> 256 ReLU -> 256 ReLU -> 2 * sum(channels). Norms take their slices in the order given; inside a
    slice the shift stands before the scale.
    """

    def __init__(self, style_size: int, channels: Sequence[int], *, hidden: int = 256) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.layers = nn.Sequential(
            nn.Linear(style_size, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2 * sum(self.channels)),
        )

    def forward(self, style: Tensor) -> list[ScaleShift]:
        """`[N, style_size]` to one `(scale, shift)` per norm."""
        slices = self.layers(style).split([size for c in self.channels for size in (c, c)], dim=1)
        return list(zip(slices[1::2], slices[0::2], strict=True))


class AverageDownsample(nn.Module):
    """Halves the size by a 3x3 average of stride 2 that does not count the padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)


class MultiScale(nn.Module):
    """One network per scale of an image; returns their outputs from the finest scale to the coarsest."""

    def __init__(self, scales: Iterable[nn.Module], downsample: nn.Module) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)
        self.downsample = downsample

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.scales[0](x)]
        for scale in self.scales[1:]:
            x = self.downsample(x)
            maps.append(scale(x))
        return maps


class MultiScaleDiscriminator(MultiScale):
    """One chain of stride-2 convolutions per scale, separate weights, no norm (UNIT, MUNIT, DRIT).

    Per scale: `layers` reflect-padded 4x4 convolutions of doubling width, LeakyReLU(slope), then 1x1 to one
    logit map. At 256: 16 x 16, 8 x 8, 4 x 4.
    """

    def __init__(
        self, channels: int = 3, *, width: int = 64, layers: int = 4, scales: int = 3, slope: float = 0.2
    ) -> None:
        widths = [channels] + [width * 2**i for i in range(layers)]
        chains = (
            nn.Sequential(
                *(
                    nn.Sequential(conv(before, after, 4, stride=2, pad=1), nn.LeakyReLU(slope))
                    for before, after in pairwise(widths)
                ),
                conv(widths[-1], 1, 1),
            )
            for _ in range(scales)
        )
        super().__init__(chains, AverageDownsample())

    def features(self, x: Tensor) -> list[list[Tensor]]:
        """Output of every layer at every scale, finest scale first; the last of each is the logit map."""
        found = []
        for number, scale in enumerate(self.scales):
            if number:
                x = self.downsample(x)
            maps = [x]
            for layer in cast(nn.Sequential, scale):
                maps.append(layer(maps[-1]))
            found.append(maps[1:])
        return found

    @staticmethod
    def smallest_side(layers: int, scales: int) -> int:
        """Smallest side of an image in which the coarsest scale's last layer still has something to reflect."""
        return int(2 ** (layers + scales - 1))


class BlurDownsample(nn.Module):
    """Blur with [1, 2, 1] / 4 both ways over reflected borders, then every second pixel.

    Written as two averages of two, which is the same filter.
    """

    def forward(self, x: Tensor) -> Tensor:
        blurred_once = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 2, stride=1)
        return F.avg_pool2d(blurred_once, 2, stride=2)


class BlurUpsample(nn.Module):
    """Doubles the size with the transposed [1, 3, 3, 1] blur over replicated borders: bilinear doubling."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class PatchDiscriminator(nn.Sequential):
    """PatchGAN: zero-padded 4x4 convolutions, LeakyReLU(0.2), norm on all but the first and the last.

    With three layers every logit sees 70 x 70 pixels; at 256 pixels the map is 30 x 30. `antialias` replaces
    stride 2 by stride 1 and a blur (CUT). `bias` is that of the convolutions before a norm.
    """

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 64,
        layers: int = 3,
        norm: Norm = InstanceNorm,
        bias: bool = True,
        antialias: bool = False,
    ) -> None:
        modules: list[nn.Module] = []
        before = channels
        for index in range(layers + 1):
            after = width * 2 ** min(index, 3)
            halves = index < layers
            stride = 2 if halves and not antialias else 1
            with_bias = bias or index == 0
            modules.append(conv(before, after, 4, stride=stride, pad=1, padding="zeros", bias=with_bias))
            if index > 0:
                modules.append(norm(after))
            modules.append(nn.LeakyReLU(0.2))
            if halves and antialias:
                modules.append(BlurDownsample())
            before = after
        modules.append(conv(before, 1, 4, pad=1, padding="zeros"))
        super().__init__(*modules)

    @staticmethod
    def smallest_side(layers: int) -> int:
        """Smallest side of an image that gives a logit map of 2 x 2."""
        return int(2 ** (layers + 2))


class BasicBlock(nn.Module):
    """The halving residual block of BicycleGAN's and DRIT's encoders.

    (norm), LeakyReLU(0.2), 3x3, (norm), LeakyReLU(0.2), 3x3, average 2x2; shortcut average 2x2 and 1x1.
    `norm` None leaves the norms out, as in DRIT. Zero padding.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: Norm | None = InstanceNorm) -> None:
        super().__init__()
        layers: list[nn.Module] = [norm(inputs)] if norm else []
        layers += [nn.LeakyReLU(0.2), conv(inputs, inputs, 3, padding="zeros")]
        layers += [norm(inputs)] if norm else []
        layers += [nn.LeakyReLU(0.2), conv(inputs, outputs, 3, padding="zeros"), nn.AvgPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), conv(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        body: Tensor = self.body(x)
        shortcut: Tensor = self.shortcut(x)
        return body + shortcut


def _weighted(module: nn.Module) -> list[nn.Conv2d | nn.ConvTranspose2d | nn.Linear]:
    return [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]


def _fill_bias(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, value: float) -> None:
    if layer.bias is not None:
        nn.init.constant_(layer.bias, value)


def init_normal(module: nn.Module, std: float = 0.02) -> None:
    """Weights of convolutions and linear layers from N(0, std), their biases 0."""
    for layer in _weighted(module):
        nn.init.normal_(layer.weight, 0.0, std)
        _fill_bias(layer, 0.0)


def init_kaiming(module: nn.Module) -> None:
    """Weights of convolutions and linear layers Kaiming normal by fan-in (gain of ReLU), their biases 0."""
    for layer in _weighted(module):
        nn.init.kaiming_normal_(layer.weight, a=0, mode="fan_in")
        _fill_bias(layer, 0.0)


def init_xavier_normal(module: nn.Module, gain: float = 0.02) -> None:
    """Weights of convolutions and linear layers Xavier normal with the gain, biases 0 (CUT, BicycleGAN)."""
    for layer in _weighted(module):
        nn.init.xavier_normal_(layer.weight, gain)
        _fill_bias(layer, 0.0)


def init_xavier_uniform(module: nn.Module, gain: float = math.sqrt(2), bias: float = 0.1) -> None:
    """Weights of convolutions and linear layers Xavier uniform with the gain, biases constant (CoGAN)."""
    for layer in _weighted(module):
        nn.init.xavier_uniform_(layer.weight, gain)
        _fill_bias(layer, bias)
