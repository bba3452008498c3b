"""CoGAN on digits: one generator draws the same digit in two domains, so labels of one serve the other.

Liu, Tuzel: Coupled Generative Adversarial Networks, NIPS 2016; the 28 x 28 networks for unsupervised domain
adaptation. It draws pairs from noise and translates no image.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.blocks import init_xavier_uniform
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.losses import softmax_gan, sum_of_squares
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.styles import normal_presets

SIDE = 28
CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class CoGANConfig(TrainConfig):
    """Draw pairs of digits and classify an unlabelled domain with the labels of another."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 64, "noise_size": 16, "batch": 32, "steps": 2000, "log_every": 20},
    }

    load_size: int = SIDE
    image_size: int = SIDE
    flip: bool = False
    batch: int = 64
    lr: float = 2e-4
    weight_decay: float = 5e-4
    steps: int = 10_000

    width: int = 1024
    """Channels of the generator's first layer, halved in every following one."""
    noise_size: int = 100
    disc_width: int = 20
    """Channels of the discriminator's first layer."""
    gan_weight: float = 1.0
    feature_weight: float = 0.01
    """Weight of the squared distance between the features of the two images of a drawn pair."""
    class_weight: float = 10.0
    """Weight of the digits' cross entropy on the labelled domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != SIDE:
            raise OptionError(f"--image-size is {self.image_size} but cogan's networks take {SIDE} pixels.")
        if self.width % 8:
            raise OptionError(f"--width {self.width} must be a multiple of 8: cogan halves it three times.")


def grey(images: Tensor) -> Tensor:
    """Images `[N, 3, H, W] in [-1, 1]` as the networks take them: `[N, 1, H, W] in [0, 1]`."""
    return (images.mean(dim=1, keepdim=True) + 1) / 2


def shown(digits: Tensor) -> Tensor:
    """The networks' `[N, 1, H, W] in [0, 1]` as images `[N, 3, H, W] in [-1, 1]`."""
    return (2 * digits - 1).expand(-1, 3, -1, -1)


class Generator(nn.Module):
    """Noise `[N, Z]` -> the same digit in both domains, `[N, 1, 28, 28] in [0, 1]` each."""

    def __init__(self, config: CoGANConfig) -> None:
        super().__init__()
        w = config.width
        self.shared = nn.Sequential(
            nn.ConvTranspose2d(config.noise_size, w, 4),
            *self._norm_act(w),
            nn.ConvTranspose2d(w, w // 2, 3, 2, 1),
            *self._norm_act(w // 2),
            nn.ConvTranspose2d(w // 2, w // 4, 3, 2, 1),
            *self._norm_act(w // 4),
            nn.ConvTranspose2d(w // 4, w // 8, 3, 2, 1),
            *self._norm_act(w // 8),
        )
        self.end_a, self.end_b = (
            nn.Sequential(nn.ConvTranspose2d(w // 8, 1, 6, 1, 1), nn.Sigmoid()) for _ in "ab"
        )

    @staticmethod
    def _norm_act(channels: int) -> tuple[nn.Module, nn.Module]:
        return nn.BatchNorm2d(channels, affine=False), nn.PReLU()

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        features = self.shared(noise[..., None, None])
        return self.end_a(features), self.end_b(features)


class SharedDiscriminator(nn.Module):
    """What both domains share of the discriminator: features `[N, 500]`, real or fake, and the digit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        features = 25 * width
        self.features = nn.Sequential(
            nn.Conv2d(width, 5 * width // 2, 5),
            nn.MaxPool2d(2),
            nn.Conv2d(5 * width // 2, features, 4),
            nn.PReLU(),
        )
        self.adversary = nn.Conv2d(features, 2, 1)
        self.classes = nn.Conv2d(features, CLASSES, 1)


class Discriminator(nn.Module):
    """Tells real from fake and classifies digits of both domains; only the first layer belongs to one domain."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start_a, self.start_b = (nn.Sequential(nn.Conv2d(1, width, 5), nn.MaxPool2d(2)) for _ in "ab")
        self.shared = SharedDiscriminator(width)

    def features(self, a: Tensor, b: Tensor) -> Tensor:
        """Features `[2 N, 500, 1, 1]`, those of a first."""
        features: Tensor = self.shared.features(torch.cat([self.start_a(a), self.start_b(b)]))
        return features

    def discriminate(self, features: Tensor) -> Tensor:
        """Logits `[N, 2]`, class 1 is real."""
        logits: Tensor = self.shared.adversary(features).flatten(1)
        return logits

    def classify(self, digits: Tensor, start: nn.Module) -> Tensor:
        """Logits `[N, 10]` of digits seen through one domain's first layer."""
        logits: Tensor = self.shared.classes(self.shared.features(start(digits))).flatten(1)
        return logits


class CoGANInference(Inference):
    """Draws the target's digit of a noise vector; the frame gives the number of images and nothing else."""

    def __init__(self, shared: nn.Module, end: nn.Module, noise_size: int) -> None:
        super().__init__()
        self.shared = deepcopy(shared)
        self.end = deepcopy(end)
        self.fixed_size = (SIDE, SIDE)
        self.style_size = noise_size
        self.default_style = (0.0,) * noise_size
        self.presets = normal_presets(noise_size)
        self.notes = {"input": "the digit is drawn from the style alone"}

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = image.new_tensor(self.default_style).expand(len(image), -1)
        return shown(self.end(self.shared(style[..., None, None])))


class CoGAN(Method):
    """Networks `gen` and `disc`; optimisers of the same names, the discriminator first.

    Domain a is the labelled source, domain b the target: its labels are never read.
    """

    summary = "Digits: draws pairs from noise and classifies a domain without labels (domain adaptation)."

    def __init__(self, config: CoGANConfig) -> None:
        super().__init__()
        self.config: CoGANConfig = config
        self.gen = Generator(config)
        self.disc = Discriminator(config.disc_width)
        init_xavier_uniform(self)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"disc": adam(self.config, self.disc), "gen": adam(self.config, self.gen)}

    def draw_noise(self, images: Tensor) -> Tensor:
        """One noise vector per image from N(0, I)."""
        return torch.randn(len(images), self.config.noise_size, device=images.device)

    def step(self, batch: Batch, update: Update) -> Losses:
        if batch.labels_a is None:
            raise DataError(
                "cogan needs labels of the source domain: give --layout digits and two digit folders."
            )
        config, disc = self.config, self.disc
        a, b = grey(batch.a), grey(batch.b)
        with torch.no_grad():
            drawn = self.gen(self.draw_noise(a))
        fake_features = disc.features(*drawn)
        losses = {
            "disc": softmax_gan(disc.discriminate(disc.features(a, b)), real=True)
            + softmax_gan(disc.discriminate(fake_features), real=False),
            "feature": sum_of_squares(*fake_features.chunk(2)),
            "class": F.cross_entropy(disc.classify(a, disc.start_a).float(), batch.labels_a),
        }
        weights = {
            "disc": config.gan_weight,
            "feature": config.feature_weight,
            "class": config.class_weight,
        }
        update("disc", weighted_sum(losses, weights))

        with frozen(disc):
            losses["gen"] = softmax_gan(
                disc.discriminate(disc.features(*self.gen(self.draw_noise(a)))), real=True
            )
            update("gen", config.gan_weight * losses["gen"])
        return detached(losses)

    @torch.no_grad()
    def classify(self, images: Tensor, domain: str = "b") -> Tensor:
        """Logits `[N, 10]` for images `[N, 3, 28, 28] in [-1, 1]` of a domain."""
        return self.disc.classify(grey(images), self.disc.start_b if domain == "b" else self.disc.start_a)

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        noise = self.draw_noise(batch.a)
        return {
            "a": batch.a,
            "b": batch.b,
            "drawn in a": self.inference("b2a")(batch.a, noise),
            "drawn in b": self.inference("a2b")(batch.a, noise),
        }

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        end = {"a2b": self.gen.end_b, "b2a": self.gen.end_a}[direction]
        return CoGANInference(self.gen.shared, end, self.config.noise_size).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"gen": self.gen}
