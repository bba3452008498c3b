"""LPTN: translate the small low-frequency image, and only adjust the fine bands of its Laplacian pyramid.

Liang, Zeng, Zhang: High-Resolution Photorealistic Image Translation in Real-Time: A Laplacian Pyramid Translation
Network, CVPR 2021. Its networks see images in [0, 1]; outside they are in [-1, 1] as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.blocks import conv
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import gradient_penalty, hinge_generator, wasserstein_discriminator
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import AffineInstanceNorm, InstanceNorm
from i2i_trainer.steps import adam, detached, frozen

Variant = Literal["improved", "paper"]
SLOPE = 0.01
"""Of every LeakyReLU in the generator."""


@dataclass(frozen=True, kw_only=True)
class LPTNConfig(TrainConfig):
    """Learn a translation of light and colour that is fast at high resolution."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN | {"width": 16, "critic_size": 64, "critic_width": 8},
    }

    load_size: int = 480
    batch: int = 16
    steps: int = 300_000
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Schedule = "milestones"
    milestones: tuple[int, ...] = (50_000, 100_000, 200_000, 300_000)

    variant: Variant = "improved"
    """`improved` is the network of the released weights, `paper` the one of the text."""
    levels: int = 3
    """Bands of the pyramid, 3 to 5; more make it faster and coarser."""
    width: int = 64
    """Channels of the residual blocks."""
    critic_size: int = 256
    """Side in pixels that the discriminator resizes images to."""
    critic_width: int = 16
    """Channels of its first layer."""
    content_weight: float = 1000.0
    """Weight of the mean squared distance of a translation to its source."""
    gan_weight: float = 1.0
    penalty_weight: float = 100.0
    """Weight of the gradient penalty."""
    turn: bool = True
    """Turn every batch by a random multiple of 90 degrees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= self.levels <= 5:
            raise OptionError(f"--levels is {self.levels} but lptn has 3, 4 or 5 bands.")
        self.check_image_size(2**self.levels, 3 * 2**self.levels, f"--levels {self.levels}")
        if self.critic_size % 32:
            raise OptionError(f"--critic-size {self.critic_size} must be a multiple of 32.")


class Pyramid(nn.Module):
    """Halving and doubling with the 5x5 binomial filter, reflecting at the border; any number of channels.

    Doubling is zero insertion and four times the filter. An output pixel meets only 3 or 2 of the taps per axis,
    so all four phases are one 3x3 convolution of the small image: reflected before its first pixel, repeated
    after its last, it gives the same numbers.
    """

    filter: Tensor
    phases: Tensor

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
        even, odd = torch.tensor([1.0, 6.0, 1.0]) / 8, torch.tensor([0.0, 4.0, 4.0]) / 8
        phases = torch.stack([torch.outer(y, x) for y in (even, odd) for x in (even, odd)])[:, None]
        self.register_buffer("filter", torch.outer(taps, taps).repeat(channels, 1, 1, 1), persistent=False)
        self.register_buffer("phases", phases.repeat(channels, 1, 1, 1), persistent=False)

    def shrink(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N, C, H/2, W/2]`."""
        padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
        return F.conv2d(padded, self.filter.to(x.dtype), stride=2, groups=self.channels)

    def grow(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` -> `[N, C, 2H, 2W]`."""
        padded = F.pad(F.pad(x, (1, 0, 1, 0), mode="reflect"), (0, 1, 0, 1), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.phases.to(x.dtype), groups=self.channels), 2)

    def split(self, image: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
        """The bands from the finest to the coarsest, and what is left at 1 / 2^levels."""
        bands = []
        for _ in range(levels):
            smaller = self.shrink(image)
            bands.append(image - self.grow(smaller))
            image = smaller
        return bands, image

    def join(self, bands: list[Tensor], low: Tensor) -> Tensor:
        """The image that `split` took apart."""
        for band in reversed(bands):
            low = self.grow(low) + band
        return low


class ResBlock(nn.Module):
    """x + [C3, LeakyReLU, C3](x), zero padding, no norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            zero_conv(channels, channels), nn.LeakyReLU(SLOPE), zero_conv(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.body(x)
        return x + residual


def zero_conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution of stride 1 with zero padding and bias."""
    return conv(inputs, outputs, kernel, padding="zeros")


class LowBranch(nn.Module):
    """The coarse image `[N, 3, h, w]` -> tanh(x + f(x)). Its instance norm sees the whole coarse image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            zero_conv(3, 16),
            InstanceNorm(16),
            nn.LeakyReLU(SLOPE),
            zero_conv(16, width),
            nn.LeakyReLU(SLOPE),
            *(ResBlock(width) for _ in range(5)),
            zero_conv(width, 16),
            nn.LeakyReLU(SLOPE),
            zero_conv(16, 3),
        )

    def forward(self, low: Tensor) -> Tensor:
        return torch.tanh(low + self.body(low))


class HighBranch(nn.Module):
    """Refines the bands by a mask predicted at the coarsest of them and carried up to the finest.

    `improved`: band + band * mask, then a 1x1 network of its own on the result. `paper`: one mask channel, refined
    by a 1x1 network at every level, and band * mask.
    """

    def __init__(self, width: int, levels: int, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        channels = 3 if variant == "improved" else 1
        self.mask = nn.Sequential(
            zero_conv(9, width),
            nn.LeakyReLU(SLOPE),
            *(ResBlock(width) for _ in range(3)),
            zero_conv(width, channels),
        )
        self.refine = nn.ModuleList(
            nn.Sequential(zero_conv(channels, 16, 1), nn.LeakyReLU(SLOPE), zero_conv(16, channels, 1))
            for _ in range(levels)
        )

    def forward(self, bands: list[Tensor], low: Tensor, translated_low: Tensor) -> list[Tensor]:
        mask = self.mask(torch.cat([bands[-1], nearest_double(low), nearest_double(translated_low)], dim=1))
        refined: list[Tensor] = []
        for band, refine in zip(reversed(bands), self.refine, strict=True):
            if refined:
                mask = nearest_double(mask)
            if self.variant == "improved":
                refined.append(refine(band + band * mask))
            else:
                mask = refine(mask)
                refined.append(band * mask)
        return refined[::-1]


def nearest_double(x: Tensor) -> Tensor:
    """Every pixel twice in both directions."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Generator(nn.Module):
    """Image `[N, 3, H, W] in [0, 1]` -> the translated one, not clamped; H and W multiples of `2 ** levels`."""

    def __init__(self, width: int, levels: int, variant: Variant) -> None:
        super().__init__()
        self.levels = levels
        self.pyramid = Pyramid()
        self.low = LowBranch(width)
        self.high = HighBranch(width, levels, variant)

    def forward(self, image: Tensor) -> Tensor:
        bands, low = self.pyramid.split(image, self.levels)
        translated_low = self.low(low)
        return self.pyramid.join(self.high(bands, low, translated_low), translated_low)


class Critic(nn.Module):
    """Image `[N, 3, H, W]`, resized to `size` x `size` -> one value `[N, 1, 1, 1]`."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.size = size
        layers: list[nn.Module] = [
            conv(3, width, 3, stride=2, padding="zeros"),
            nn.LeakyReLU(0.2),
            AffineInstanceNorm(width),
        ]
        for before, after in ((1, 2), (2, 4), (4, 8), (8, 8)):
            layers += [
                conv(before * width, after * width, 3, stride=2, padding="zeros"),
                nn.LeakyReLU(0.2),
            ]
        self.body = nn.Sequential(*layers, conv(8 * width, 1, size // 32, pad=0, padding="zeros"))

    def forward(self, image: Tensor) -> Tensor:
        resized = F.interpolate(image, (self.size, self.size), mode="bilinear", align_corners=False)
        value: Tensor = self.body(resized)
        return value


def unit_range(image: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return image * 0.5 + 0.5


def signed_range(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1], what lies outside clamped."""
    return (image * 2 - 1).clamp(-1, 1)


class LPTN(Method):
    """One direction, unpaired: generator first, then the Wasserstein critic with its gradient penalty."""

    summary = (
        "Unpaired, one direction; light and colour at high resolution, by far the cheapest of the published."
    )
    config: LPTNConfig

    def __init__(self, config: LPTNConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(config.width, config.levels, config.variant)
        self.critic = Critic(config.critic_width, config.critic_size)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"gen": adam(self.config, self.generator), "critic": adam(self.config, self.critic)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        a, b = (self.turned(unit_range(images)) for images in (batch.a, batch.b))
        translated = self.generator(a)
        with frozen(self.critic):
            content = F.mse_loss(translated, a)
            gan = hinge_generator(self.critic(translated))
            update("gen", config.content_weight * content + config.gan_weight * gan)

        translated = translated.detach()
        distance = wasserstein_discriminator(self.critic(b), self.critic(translated))
        penalty = gradient_penalty(self.critic, b, translated)
        update("critic", config.gan_weight * distance + config.penalty_weight * penalty)
        return detached({"content": content, "gan": gan, "critic": distance, "penalty": penalty})

    def turned(self, images: Tensor) -> Tensor:
        """The batch, turned by 0, 90, 180 or 270 degrees."""
        if not self.config.turn:
            return images
        return torch.rot90(images, int(torch.randint(4, ()).item()), dims=(2, 3))

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"a": batch.a, "a to b": signed_range(self.generator(unit_range(batch.a))), "b": batch.b}

    def inference(self, direction: str = "a2b") -> Inference:
        return LPTNInference(self.generator)

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}


class LPTNInference(Inference):
    """The generator, from [-1, 1] to [-1, 1]."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = deepcopy(generator)
        self.stride = 2**generator.levels
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        return signed_range(self.generator(unit_range(image)))
