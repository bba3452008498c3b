"""MUNIT: one content code both domains share, one style code per domain; a new style gives a new translation.

Huang, Liu, Belongie, Kautz: Multimodal Unsupervised Image-to-Image Translation, ECCV 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.blocks import (
    AdaptiveResBlock,
    MultiScaleDiscriminator,
    ScaleShift,
    StyleMlp,
    content_encoder,
    conv,
    init_kaiming,
    init_normal,
    up,
)
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import PerceptualLoss, lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import LayerNormOverStd
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.styles import AverageStyle, normal_presets


@dataclass(frozen=True, kw_only=True)
class MUNITConfig(TrainConfig):
    """Learn many translations of one image in both directions: content stays, style is drawn or borrowed."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN | {"width": 16, "disc_width": 16, "disc_layers": 3, "disc_scales": 2},
    }

    load_size: int = 256
    lr: float = 1e-4
    weight_decay: float = 1e-4
    steps: int = 1_000_000
    schedule: Schedule = "halve"

    width: int = 64
    """Channels of the first layer."""
    blocks: int = 4
    """Residual blocks of a content encoder and of a decoder."""
    style_size: int = 8
    mlp_width: int = 256
    disc_width: int = 64
    disc_layers: int = 4
    disc_scales: int = 3
    gan_weight: float = 1.0
    reconstruction_weight: float = 10.0
    """Weight of |a - decode_a(content, own style)|, both domains."""
    style_weight: float = 1.0
    """Weight of the L1 distance between a drawn style and the one read off the translation."""
    content_weight: float = 1.0
    """Weight of the L1 distance between an image's content and its translation's."""
    cycle_weight: float = 10.0
    """Weight of the L1 distance after going there and back; 10 for scenes, 0 for edges to shoes."""
    perceptual_weight: float = 0.0
    """Weight of the VGG16 distance between an image and its translation; 1 for street scenes."""
    perceptual_weights: Path | None = None
    """Safetensors file of torchvision's VGG16, needed with `perceptual_weight`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_image_size(4, 32, "munit's style encoder")
        self.check_image_size(
            at_least=MultiScaleDiscriminator.smallest_side(self.disc_layers, self.disc_scales),
            needed_by=f"--disc-layers {self.disc_layers} and --disc-scales {self.disc_scales}",
        )
        if self.perceptual_weight and self.perceptual_weights is None:
            raise OptionError("--perceptual-weight needs the file of --perceptual-weights.")


def style_encoder(width: int, style_size: int) -> nn.Sequential:
    """`[N, 3, H, W]` -> `[N, style_size]`; no norm, which would erase the style."""
    layers: list[nn.Module] = [conv(3, width, 7), nn.ReLU()]
    for before, after in ((1, 2), (2, 4), (4, 4), (4, 4)):
        layers += [conv(before * width, after * width, 4, stride=2, pad=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), conv(4 * width, style_size, 1), nn.Flatten())


class Decoder(nn.Module):
    """Content `[N, 4 width, H, W]` and one scale and shift per AdaIN -> `[N, 3, 4 H, 4 W]` in [-1, 1]."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdaptiveResBlock(4 * width) for _ in range(blocks))
        self.up = nn.Sequential(
            up(4 * width, 2 * width, norm=LayerNormOverStd),
            up(2 * width, width, norm=LayerNormOverStd),
            conv(width, 3, 7),
            nn.Tanh(),
        )

    def forward(self, content: Tensor, affines: list[ScaleShift]) -> Tensor:
        for block, first, second in zip(self.blocks, affines[0::2], affines[1::2], strict=True):
            content = block(content, first, second)
        image: Tensor = self.up(content)
        return image


class Domain(nn.Module):
    """One domain's networks: content encoder, style encoder, MLP and decoder."""

    def __init__(self, config: MUNITConfig) -> None:
        super().__init__()
        self.content = content_encoder(config.width, blocks=config.blocks)
        self.style = style_encoder(config.width, config.style_size)
        self.mlp = StyleMlp(
            config.style_size, [4 * config.width] * 2 * config.blocks, hidden=config.mlp_width
        )
        self.decoder = Decoder(config.width, config.blocks)
        init_kaiming(self)

    def decode(self, content: Tensor, style: Tensor) -> Tensor:
        """Content and style `[N, style_size]` as an image of this domain."""
        image: Tensor = self.decoder(content, self.mlp(style))
        return image


class MUNITInference(Inference):
    """Source content encoder, target MLP and decoder; the style is drawn, fixed, or read off a reference."""

    def __init__(self, source: Domain, target: Domain, default_style: tuple[float, ...]) -> None:
        super().__init__()
        self.content = deepcopy(source.content)
        self.mlp = deepcopy(target.mlp)
        self.decoder = deepcopy(target.decoder)
        self.style_size = len(default_style)
        self.default_style = default_style
        self.presets = normal_presets(self.style_size)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = image.new_tensor(self.default_style).expand(len(image), -1)
        translated: Tensor = self.decoder(self.content(image), self.mlp(style))
        return translated


class MUNIT(Method):
    """Networks `domain_a`, `domain_b`, `disc_a`, `disc_b`; optimisers `disc`, then `gen`."""

    summary = "Unpaired, both directions, many outcomes: shared content, styles drawn or borrowed."
    added = ("average_a.", "average_b.")

    def __init__(self, config: MUNITConfig) -> None:
        super().__init__()
        self.config: MUNITConfig = config
        self.domain_a, self.domain_b = Domain(config), Domain(config)
        self.disc_a, self.disc_b = (
            MultiScaleDiscriminator(
                width=config.disc_width, layers=config.disc_layers, scales=config.disc_scales
            )
            for _ in "ab"
        )
        init_normal(self.disc_a)
        init_normal(self.disc_b)
        self.average_a, self.average_b = AverageStyle(config.style_size), AverageStyle(config.style_size)
        self.perceptual = PerceptualLoss(config.perceptual_weights) if config.perceptual_weights else None

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "disc": adam(self.config, self.disc_a, self.disc_b),
            "gen": adam(self.config, self.domain_a, self.domain_b),
        }

    def draw_style(self, image: Tensor) -> Tensor:
        """One style per image from N(0, I)."""
        return torch.randn(len(image), self.config.style_size, device=image.device)

    def step(self, batch: Batch, update: Update) -> Losses:
        losses = self._update_discriminators(batch, update)
        with frozen(self.disc_a, self.disc_b):
            losses |= self._update_generators(batch, update)
        return detached(losses)

    def _update_discriminators(self, batch: Batch, update: Update) -> Losses:
        with torch.no_grad():
            fake_b = self.domain_b.decode(self.domain_a.content(batch.a), self.draw_style(batch.a))
            fake_a = self.domain_a.decode(self.domain_b.content(batch.b), self.draw_style(batch.b))
        losses = {
            "disc_a": lsgan(self.disc_a(batch.a), 1.0) + lsgan(self.disc_a(fake_a), 0.0),
            "disc_b": lsgan(self.disc_b(batch.b), 1.0) + lsgan(self.disc_b(fake_b), 0.0),
        }
        update("disc", self.config.gan_weight * (losses["disc_a"] + losses["disc_b"]))
        return losses

    def _update_generators(self, batch: Batch, update: Update) -> Losses:
        config, domain_a, domain_b = self.config, self.domain_a, self.domain_b
        a, b = batch.a, batch.b
        drawn_a, drawn_b = self.draw_style(b), self.draw_style(a)
        content_a, content_b = domain_a.content(a), domain_b.content(b)
        style_a, style_b = domain_a.style(a), domain_b.style(b)
        self.average_a.update(style_a)
        self.average_b.update(style_b)
        fake_b, fake_a = domain_b.decode(content_a, drawn_b), domain_a.decode(content_b, drawn_a)
        again_a, again_b = domain_b.content(fake_b), domain_a.content(fake_a)
        losses = {
            "gen": lsgan(self.disc_a(fake_a), 1.0) + lsgan(self.disc_b(fake_b), 1.0),
            "reconstruction": F.l1_loss(domain_a.decode(content_a, style_a), a)
            + F.l1_loss(domain_b.decode(content_b, style_b), b),
            "style": F.l1_loss(domain_a.style(fake_a), drawn_a) + F.l1_loss(domain_b.style(fake_b), drawn_b),
            "content": F.l1_loss(again_a, content_a) + F.l1_loss(again_b, content_b),
        }
        if config.cycle_weight:
            losses["cycle"] = F.l1_loss(domain_a.decode(again_a, style_a), a) + F.l1_loss(
                domain_b.decode(again_b, style_b), b
            )
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(fake_b, a) + self.perceptual(fake_a, b)
        weights = {
            "gen": config.gan_weight,
            "reconstruction": config.reconstruction_weight,
            "style": config.style_weight,
            "content": config.content_weight,
            "cycle": config.cycle_weight,
            "perceptual": config.perceptual_weight,
        }
        update("gen", weighted_sum(losses, weights))
        return losses

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        domain_a, domain_b = self.domain_a, self.domain_b
        a, b = batch.a, batch.b
        content_a, content_b = domain_a.content(a), domain_b.content(b)
        return {
            "a": a,
            "a to b": domain_b.decode(content_a, self.draw_style(a)),
            "a to b, another style": domain_b.decode(content_a, self.draw_style(a)),
            "a in b's style": domain_b.decode(content_a, domain_b.style(b)),
            "b": b,
            "b to a": domain_a.decode(content_b, self.draw_style(b)),
            "b in a's style": domain_a.decode(content_b, domain_a.style(a)),
        }

    @torch.no_grad()
    def latents(self, images: Tensor, domain: str = "a") -> Tensor:
        network = {"a": self.domain_a, "b": self.domain_b}[domain]
        content: Tensor = network.content(images)
        return content.mean(dim=(2, 3))

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        source, target, average = {
            "a2b": (self.domain_a, self.domain_b, self.average_b),
            "b2a": (self.domain_b, self.domain_a, self.average_a),
        }[direction]
        return MUNITInference(source, target, average.code()).eval()

    def style_encoder(self, direction: str = "a2b") -> nn.Module:
        target = {"a2b": self.domain_b, "b2a": self.domain_a}[direction]
        return deepcopy(target.style).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"domain_a": self.domain_a, "domain_b": self.domain_b}
