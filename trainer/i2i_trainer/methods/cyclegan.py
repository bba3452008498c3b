"""CycleGAN: two generators, two discriminators, and the demand that there and back again is the same image.

Zhu, Park, Isola, Efros: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.config import Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import InstanceNorm
from i2i_trainer.steps import adam


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig(TrainConfig):
    """Learn a translation in both directions from two folders of unrelated images."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "width": 16,
            "blocks": 4,
            "disc_width": 32,
            "disc_layers": 2,
            "image_size": 64,
            "load_size": 72,
            "batch": 4,
            "steps": 4000,
            "decay_from": 2000,
            "log_every": 20,
            "sample_every": 250,
            "checkpoint_every": 250,
        },
        "resnet6": {"blocks": 6, "image_size": 128, "load_size": 143},
    }

    schedule: Schedule = "linear"
    width: int = 64
    """Channels of the generators' first layer."""
    blocks: int = 9
    """Residual blocks of a generator: 9, or 6 for images of 128 pixels."""
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
        if self.image_size % 4:
            raise OptionError(f"--image-size {self.image_size} must be a multiple of 4 for cyclegan.")
        smallest = 2 ** (self.disc_layers + 2)
        if self.image_size < smallest:
            raise OptionError(
                f"--image-size {self.image_size} leaves a discriminator of --disc-layers {self.disc_layers} "
                f"nothing to look at: use at least {smallest}."
            )


def _conv_in_relu(conv: nn.Module, channels: int) -> list[nn.Module]:
    return [conv, InstanceNorm(channels), nn.ReLU(inplace=True)]


class ResBlock(nn.Module):
    """x + conv, IN, ReLU, conv, IN; reflect padding, no activation after the addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_conv_in_relu(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"), channels),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            InstanceNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class Generator(nn.Sequential):
    """ResNet generator: `[N, 3, H, W]` in [-1, 1] -> the same; H and W multiples of 4."""

    def __init__(self, width: int = 64, blocks: int = 9) -> None:
        w2, w4 = 2 * width, 4 * width
        super().__init__(
            *_conv_in_relu(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), width),
            *_conv_in_relu(nn.Conv2d(width, w2, 3, stride=2, padding=1), w2),
            *_conv_in_relu(nn.Conv2d(w2, w4, 3, stride=2, padding=1), w4),
            *(ResBlock(w4) for _ in range(blocks)),
            *_conv_in_relu(nn.ConvTranspose2d(w4, w2, 3, stride=2, padding=1, output_padding=1), w2),
            *_conv_in_relu(nn.ConvTranspose2d(w2, width, 3, stride=2, padding=1, output_padding=1), width),
            nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
            nn.Tanh(),
        )


class PatchDiscriminator(nn.Sequential):
    """PatchGAN: `[N, 3, H, W]` -> scores `[N, 1, h, w]`; with 3 layers each score sees 70x70 pixels."""

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        modules: list[nn.Module] = [
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        channels = width
        for layer in range(1, layers + 1):
            wider = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            modules += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1),
                InstanceNorm(wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = wider
        super().__init__(*modules, nn.Conv2d(channels, 1, 4, padding=1))


def init_normal(module: nn.Module) -> None:
    """Every convolution's weight from N(0, 0.02), its bias 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


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
        self.generator = generator

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image)
        return translated


class CycleGAN(Method):
    """Networks `a2b`, `b2a` (generators), `disc_a`, `disc_b`; optimisers `gen` and `disc`, stepped in that order."""

    summary = "Unpaired, both directions, cycle consistency (ResNet generators, PatchGAN, least squares)."

    def __init__(self, config: CycleGANConfig) -> None:
        super().__init__()
        self.config: CycleGANConfig = config
        self.a2b = Generator(config.width, config.blocks)
        self.b2a = Generator(config.width, config.blocks)
        self.disc_a = PatchDiscriminator(config.disc_width, config.disc_layers)
        self.disc_b = PatchDiscriminator(config.disc_width, config.disc_layers)
        init_normal(self)
        self.pool_a = ImagePool(config.pool)
        self.pool_b = ImagePool(config.pool)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        return {"gen": adam(config, self.a2b, self.b2a), "disc": adam(config, self.disc_a, self.disc_b)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        a, b = batch.a, batch.b

        # Generators first. The discriminators judge, and do not learn, here.
        self.disc_a.requires_grad_(False)
        self.disc_b.requires_grad_(False)
        fake_b, fake_a = self.a2b(a), self.b2a(b)
        cycle_a, cycle_b = self.b2a(fake_b), self.a2b(fake_a)
        adversarial = _squares(self.disc_b(fake_b), 1.0) + _squares(self.disc_a(fake_a), 1.0)
        cycle = F.l1_loss(cycle_a, a) + F.l1_loss(cycle_b, b)
        loss = adversarial + config.cycle_weight * cycle
        losses = {"gen": adversarial, "cycle": cycle}
        if config.identity_weight > 0:
            identity = F.l1_loss(self.a2b(b), b) + F.l1_loss(self.b2a(a), a)
            loss = loss + config.cycle_weight * config.identity_weight * identity
            losses["identity"] = identity
        update("gen", loss)

        # Then the discriminators, on the translations of before the generators' step.
        self.disc_a.requires_grad_(True)
        self.disc_b.requires_grad_(True)
        losses["disc_a"] = self._discriminate(self.disc_a, a, self.pool_a.query(fake_a))
        losses["disc_b"] = self._discriminate(self.disc_b, b, self.pool_b.query(fake_b))
        update("disc", losses["disc_a"] + losses["disc_b"])
        return {name: value.detach() for name, value in losses.items()}

    def _discriminate(self, disc: PatchDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
        return 0.5 * (_squares(disc(real), 1.0) + _squares(disc(fake), 0.0))

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
        generator = Generator(self.config.width, self.config.blocks)
        trained = {"a2b": self.a2b, "b2a": self.b2a}[direction]
        generator.load_state_dict(trained.state_dict())
        return CycleGANInference(generator).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"a2b": self.a2b, "b2a": self.b2a}

    def extra_state(self) -> dict[str, Tensor]:
        pools = {"pool_a": self.pool_a, "pool_b": self.pool_b}
        return {name: torch.stack(pool.images) for name, pool in pools.items() if pool.images}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        self.pool_a.images = list(state["pool_a"]) if "pool_a" in state else []
        self.pool_b.images = list(state["pool_b"]) if "pool_b" in state else []


def _squares(scores: Tensor, target: float) -> Tensor:
    """Least-squares adversarial loss: mean of (score - target)^2, in float32 whatever the scores' precision."""
    return (scores.float() - target).square().mean()
