"""CycleGAN: two generators, two discriminators, and a cycle: there and back again gives the same image.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.augment import augmented
from i2i_trainer.blocks import PatchDiscriminator, ResBlock, conv, init_normal
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.losses import lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import InstanceNorm
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.unet import Upsampling


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(TrainConfig):
    """Learn a translation in both directions from two folders of unrelated images."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {"width": 16, "blocks": 4, "disc_width": 32, "disc_layers": 2, "decay_from": 2000},
        "resnet6": {"blocks": 6, "image_size": 128, "load_size": 143},
    }

    schedule: Schedule = "linear"
    width: int = 64
    """Channels of the generators' first layer."""
    blocks: int = 9
    """Residual blocks of a generator: 9, or 6 for images of 128 pixels."""
    upsampling: Upsampling = "transposed"
    """How the generators double the size: `bilinear` and a convolution leave no checkerboard."""
    disc_width: int = 64
    """Channels of the discriminators' first layer."""
    disc_layers: int = 3
    """Downsampling layers of a discriminator; 3 gives the 70x70 PatchGAN."""
    cycle_weight: float = 10.0
    """Weight of |a - G_a(G_b(a))|, both ways."""
    identity_weight: float = 0.5
    """Weight of |b - G_b(b)|, as a share of `cycle_weight`; 0 leaves it out."""
    pool: int = 50
    """Past translations per direction that a discriminator still sees, counted per process; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = PatchDiscriminator.smallest_side(self.disc_layers)
        self.check_image_size(4, smallest, f"--disc-layers {self.disc_layers}")


def _conv_in_relu(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, InstanceNorm(channels), nn.ReLU()]


class Generator(nn.Sequential):
    """ResNet generator: `[N, 3, H, W]` in [-1, 1] -> the same; H and W multiples of 4."""

    def __init__(self, width: int = 64, blocks: int = 9, upsampling: Upsampling = "transposed") -> None:
        w2, w4 = 2 * width, 4 * width
        super().__init__(
            *_conv_in_relu(conv(3, width, 7), width),
            *_conv_in_relu(conv(width, w2, 3, stride=2, padding="zeros"), w2),
            *_conv_in_relu(conv(w2, w4, 3, stride=2, padding="zeros"), w4),
            *(ResBlock(w4) for _ in range(blocks)),
            *_conv_in_relu(doubling(w4, w2, upsampling), w2),
            *_conv_in_relu(doubling(w2, width, upsampling), width),
            conv(width, 3, 7),
            nn.Tanh(),
        )


def doubling(inputs: int, outputs: int, upsampling: Upsampling) -> nn.Module:
    """Doubles the size: transposed 3x3 convolution, or bilinear and a reflect-padded 3x3 convolution."""
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(inputs, outputs, 3))


class ImagePool:
    """History of translations: once full, half of the queries exchange a new image for a stored one."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.images: list[Tensor] = []

    def query(self, images: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` for the discriminator: the new ones, some replaced by old ones."""
        if self.size == 0:
            return images.detach()
        out = []
        for image in images.detach():
            if len(self.images) < self.size:
                self.images.append(image)
                out.append(image)
            elif torch.rand(()).item() < 0.5:
                slot = int(torch.randint(self.size, ()).item())
                out.append(self.images[slot])
                self.images[slot] = image
            else:
                out.append(image)
        return torch.stack(out)


class CycleGANInference(Inference):
    """One generator: image `[N, 3, H, W]` in [-1, 1] -> translated, H and W multiples of 4."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = deepcopy(generator)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image)
        return translated


class CycleGAN(Method):
    """Networks `a2b`, `b2a` (generators), `disc_a`, `disc_b`; optimisers `gen` and `disc`, stepped in that order."""

    summary = "Unpaired, both directions, cycle consistency (ResNet generators, PatchGAN, least squares)."
    renamed: ClassVar[Mapping[str, str]] = {".layers.": ".body."}
    augments = True

    def __init__(self, config: CycleGANConfig) -> None:
        super().__init__()
        self.config: CycleGANConfig = config
        self.a2b = Generator(config.width, config.blocks, config.upsampling)
        self.b2a = Generator(config.width, config.blocks, config.upsampling)
        self.disc_a = PatchDiscriminator(width=config.disc_width, layers=config.disc_layers)
        self.disc_b = PatchDiscriminator(width=config.disc_width, layers=config.disc_layers)
        init_normal(self)
        self.pool_a = ImagePool(config.pool)
        self.pool_b = ImagePool(config.pool)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        return {"gen": adam(config, self.a2b, self.b2a), "disc": adam(config, self.disc_a, self.disc_b)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        a, b = batch.a, batch.b

        with frozen(self.disc_a, self.disc_b):
            fake_b, fake_a = self.a2b(a), self.b2a(b)
            cycle_a, cycle_b = self.b2a(fake_b), self.a2b(fake_a)
            losses = {
                "gen": lsgan([self.disc_b(augmented(fake_b, config.augment))], 1.0)
                + lsgan([self.disc_a(augmented(fake_a, config.augment))], 1.0),
                "cycle": F.l1_loss(cycle_a, a) + F.l1_loss(cycle_b, b),
            }
            if config.identity_weight > 0:
                losses["identity"] = F.l1_loss(self.a2b(b), b) + F.l1_loss(self.b2a(a), a)
            weights = {
                "gen": 1.0,
                "cycle": config.cycle_weight,
                "identity": config.cycle_weight * config.identity_weight,
            }
            update("gen", weighted_sum(losses, weights))

        # The discriminators see the translations of before the generators' step.
        losses["disc_a"] = self.discriminator_loss(self.disc_a, a, self.pool_a.query(fake_a))
        losses["disc_b"] = self.discriminator_loss(self.disc_b, b, self.pool_b.query(fake_b))
        update("disc", losses["disc_a"] + losses["disc_b"])
        return detached(losses)

    def discriminator_loss(self, disc: PatchDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
        """Half of what least squares give, so that the discriminators learn slower than the generators."""
        real, fake = (augmented(images, self.config.augment) for images in (real, fake))
        return 0.5 * (lsgan([disc(real)], 1.0) + lsgan([disc(fake)], 0.0))

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        fake_b, fake_a = self.a2b(batch.a), self.b2a(batch.b)
        return {
            "a": batch.a,
            "a to b": fake_b,
            "a to b to a": self.b2a(fake_b),
            "b": batch.b,
            "b to a": fake_a,
            "b to a to b": self.a2b(fake_a),
        }

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        return CycleGANInference({"a2b": self.a2b, "b2a": self.b2a}[direction]).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"a2b": self.a2b, "b2a": self.b2a}

    def extra_state(self) -> dict[str, Tensor]:
        pools = {"pool_a": self.pool_a, "pool_b": self.pool_b}
        return {name: torch.stack(pool.images) for name, pool in pools.items() if pool.images}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        self.pool_a.images = list(state["pool_a"]) if "pool_a" in state else []
        self.pool_b.images = list(state["pool_b"]) if "pool_b" in state else []
