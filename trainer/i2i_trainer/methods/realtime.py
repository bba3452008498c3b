"""Real-time translation: generators that predict, at a quarter of the resolution, what to do to every pixel.

The generator never redraws the image. It reads it through a pixel unshuffle, works at 1/4 and 1/8 of the
size without any norm, and returns a gain and a bias per colour that vary smoothly over the image; the output is
`gain * source + bias`. Edges therefore stay where they are, nothing depends on statistics of the entire frame (a
frequent cause of flicker), and the cost is about 6 kMAC per pixel, a hundredth of a ResNet-9. The idea of applying
a low-resolution prediction at full resolution is that of bilateral learning (Gharbi et al.: Deep Bilateral Learning
for Real-Time Image Enhancement, SIGGRAPH 2017), here in the layout that convolution libraries run fastest.

Trained like CycleGAN (least squares, cycle consistency, no identity by default) with discriminators at three scales,
and a steadiness loss: what a moved camera sees must get the moved translation. If some images have a known
counterpart (`--pairs`), they join every batch and their translations are compared with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.augment import augmented
from i2i_trainer.blocks import MultiScaleDiscriminator
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import feature_distance, lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.pairs import Pairs, pairs_of_folder
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.temporal import steadiness


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(TrainConfig):
    """What everything that trains the real-time generator asks for: its size, its discriminator, its steadiness."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "width": 8,
            "trunk": 8,
            "blocks": 1,
            "pad": 2,
            "disc_width": 8,
            "image_size": 64,
            "load_size": 72,
            "batch": 2,
            "steps": 200,
        },
    }

    width: int = 32
    """Channels at the unshuffled resolution."""
    trunk: int = 64
    """Channels at half of that, where the residual blocks are."""
    blocks: int = 4
    """Residual blocks of two 3x3 convolutions."""
    unshuffle: int = 4
    """Pixels per side of the square that becomes one position: 4, or 8 for twice the speed and coarser masks."""
    context: int = 0
    """Further halvings below the residual blocks, so that a decision sees the scene around it: sky from wall."""
    pad: int = 8
    """Positions of repeated border added once, so that the zero padding inside does not tint the image's edge."""
    disc_width: int = 32
    """Channels of the discriminators' first layer."""
    disc_lr_share: float = 1.0
    """Learning rate of the discriminators, as a share of `lr`; above 1 they keep up with a generator that changes the
    tint of everything at once."""
    steady_weight: float = 2.0
    """Weight of the difference between what a moved camera's image becomes and the moved translation; 0 leaves
    it out."""
    steady_noise: float = 0.02
    """Standard deviation of the noise added to the moved image, in units of [-1, 1]."""

    load_size: int = 360
    batch: int = 2
    ema: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unshuffle not in (2, 4, 8):
            raise OptionError(f"--unshuffle {self.unshuffle} must be 2, 4 or 8.")
        halvings = 2 ** (1 + self.context)
        self.check_image_size(halvings * self.unshuffle)
        if self.pad < halvings or self.pad % halvings:
            raise OptionError(
                f"--pad {self.pad} must be a multiple of {halvings} with --context {self.context}."
            )

    def generator(self, style_size: int = 0) -> Generator:
        """An untrained generator of these sizes."""
        return Generator(
            self.width, self.trunk, self.blocks, self.unshuffle, self.pad, style_size, self.context
        )

    def discriminator(self) -> MultiScaleDiscriminator:
        """An untrained discriminator of three scales."""
        return MultiScaleDiscriminator(width=self.disc_width, layers=3)

    def disc_adam(self, *discs: MultiScaleDiscriminator) -> torch.optim.Adam:
        """The optimiser of the discriminators, at their own rate."""
        return adam(replace(self, lr=self.disc_lr_share * self.lr), *discs)


@dataclass(frozen=True, kw_only=True)
class RealtimeConfig(GeneratorConfig):
    """Learn a translator that is fast enough for live video on a processor."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **GeneratorConfig.presets,
        "large": {"width": 32, "trunk": 64, "blocks": 3, "context": 2},
    }

    cycle_weight: float = 5.0
    """Weight of |a - G_a(G_b(a))|, both ways."""
    identity_weight: float = 0.0
    """Weight of |b - G_b(b)|, both ways; 0 leaves it out."""

    pairs: Path | None = None
    """Folder of known translations in a paired layout, beside the unpaired data."""
    pair_batch: int = 1
    """Pairs that join every step."""
    pair_weight: float = 10.0
    """Weight of the difference between a pair's translation and its counterpart, both ways."""
    pair_feature_weight: float = 0.0
    """Weight of the same difference in the discriminator's features, which a blurred answer does not satisfy."""

    steps: int = 15_000


def bilinear_phases(factor: int, channels: int) -> Tensor:
    """Bilinear upsampling as a 3x3 convolution into the layout of `pixel_unshuffle(factor)`.

    Returns weights `[channels * factor^2, channels, 3, 3] float32`: convolving a low-resolution map with them gives
    what upsampling (half-pixel centres) followed by a pixel unshuffle gives, at a fraction of the memory traffic.
    """
    offsets = (torch.arange(factor) + 0.5) / factor - 0.5
    taps = torch.stack([(-offsets).clamp_min(0), 1 - offsets.abs(), offsets.clamp_min(0)], dim=1)
    kernels = torch.einsum("iy,jx->ijyx", taps, taps).reshape(factor * factor, 1, 3, 3)
    weights = torch.zeros(channels, factor * factor, channels, 3, 3)
    for channel in range(channels):
        weights[channel, :, channel : channel + 1] = kernels
    return weights.flatten(0, 1)


WIDEST_CONTEXT = 192
"""Channels at which the halvings of the context stop to grow."""


def residual_blocks(channels: int, count: int) -> nn.ModuleList:
    """What is added to `[N, channels, H, W]`, one after the other; nothing at first."""
    return nn.ModuleList(
        nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        for _ in range(count)
    )


class Context(nn.Module):
    """What a wider view adds to `[N, C, H, W]`: downsampled, processed, upsampled.

    `halvings` views lie inside each other, each of twice the channels of the one before, up to 192. H and W are
    multiples of `2 ** halvings`. Adds nothing at first.
    """

    def __init__(self, channels: int, blocks: int, halvings: int) -> None:
        super().__init__()
        wide = min(2 * channels, max(channels, WIDEST_CONTEXT))
        self.down = nn.Conv2d(channels, wide, 3, stride=2, padding=1)
        self.further = Context(wide, blocks, halvings - 1) if halvings > 1 else None
        self.blocks = residual_blocks(wide, blocks)
        self.up = nn.Conv2d(wide, channels, 1)

    def forward(self, near: Tensor) -> Tensor:
        far = F.relu(self.down(near))
        if self.further is not None:
            far = far + self.further(far)
        for block in self.blocks:
            far = far + block(far)
        return F.interpolate(self.up(far), scale_factor=2.0, mode="bilinear", align_corners=False)


class Generator(nn.Module):
    """`[N, 3, H, W]` in [-1, 1] -> the same, unclamped; H and W multiples of `2 * unshuffle * 2 ** context`.

    With `style_size` it takes a style `[N, style_size]`, which shifts the channels that enter the residual blocks.
    """

    phases: Tensor

    def __init__(
        self,
        width: int = 32,
        trunk: int = 64,
        blocks: int = 4,
        unshuffle: int = 4,
        pad: int = 8,
        style_size: int = 0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.stride = 2 * unshuffle * 2**context
        self.unshuffle = unshuffle
        self.pad = pad
        self.read = nn.Conv2d(3 * unshuffle**2, width, 1)
        self.fine = nn.Conv2d(width, width, 3, padding=1)
        self.down = nn.Conv2d(width, trunk, 3, stride=2, padding=1)
        self.context = Context(trunk, blocks, context) if context else None
        self.blocks = residual_blocks(trunk, blocks)
        self.up = nn.Conv2d(trunk, width, 1)
        self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.change = nn.Conv2d(width, 6, 1)
        self.style = nn.Linear(style_size, trunk) if style_size else None
        self.register_buffer("phases", bilinear_phases(unshuffle, 3), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        """Kaiming everywhere; every block starts as the identity, and so does the generator."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for part in self.modules():
            if isinstance(part, Generator | Context):
                for block in part.blocks:
                    nn.init.zeros_(block[2].weight)  # type: ignore[index]
            if isinstance(part, Context):
                nn.init.zeros_(part.up.weight)
        nn.init.normal_(self.change.weight, std=0.01)
        with torch.no_grad():
            assert self.change.bias is not None
            self.change.bias[:3] = 1.0

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        positions = F.pixel_unshuffle(image, self.unshuffle)
        padded = F.pad(positions, (self.pad,) * 4, mode="replicate")
        fine = F.relu(self.fine(F.relu(self.read(padded))))
        coarse = F.relu(self.down(fine))
        if self.style is not None and style is not None:
            coarse = coarse + self.style(style)[:, :, None, None]
        if self.context is not None:
            coarse = coarse + self.context(coarse)
        for block in self.blocks:
            coarse = coarse + block(coarse)
        # Repeating positions, not shuffling channels: an even sky must not come out as a checkerboard.
        wide = F.interpolate(self.up(coarse), scale_factor=2.0, mode="nearest")
        merged = F.relu(self.merge(torch.cat([fine, wide], dim=1)))
        # One position of the border stays: the bilinear phases consume it.
        border = self.pad - 1
        change = self.change(merged)[:, :, border:-border, border:-border]
        gain = F.conv2d(change[:, :3], self.phases)
        bias = F.conv2d(change[:, 3:], self.phases)
        return F.pixel_shuffle(positions * gain + bias, self.unshuffle)


class RealtimeInference(Inference):
    """One generator, clamped: image `[N, 3, H, W]` (and style) in [-1, 1] -> translated in [-1, 1]."""

    def __init__(self, generator: Generator, style_size: int = 0) -> None:
        super().__init__()
        self.generator = deepcopy(generator)
        self.stride = generator.stride
        self.style_size = style_size
        self.default_style = (0.0,) * style_size

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image, style)
        return translated.clamp(-1, 1)


class Realtime(Method):
    """Networks `a2b`, `b2a` (generators), `disc_a`, `disc_b`; optimisers `disc` and `gen`, stepped in that order."""

    summary = "Unpaired, both directions, for live video on a processor: smooth gains and biases, no norms."
    augments = True

    def __init__(self, config: RealtimeConfig) -> None:
        super().__init__()
        self.config: RealtimeConfig = config
        self.a2b, self.b2a = config.generator(), config.generator()
        self.disc_a, self.disc_b = config.discriminator(), config.discriminator()
        self._pairs: Pairs | None = None

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        if config.pairs is not None:
            self._pairs = pairs_of_folder(config.pairs, config)
        return {"disc": config.disc_adam(self.disc_a, self.disc_b), "gen": adam(config, self.a2b, self.b2a)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        a, b = batch.a, batch.b
        if self._pairs is not None:
            known_a, known_b = self._pairs.draw(config.pair_batch, a.device)
            a, b = torch.cat([a, known_a]), torch.cat([b, known_b])
        fake_b, fake_a = self.a2b(a), self.b2a(b)

        disc = self.discriminator_loss(self.disc_a, a, fake_a) + self.discriminator_loss(
            self.disc_b, b, fake_b
        )
        update("disc", disc)

        with frozen(self.disc_a, self.disc_b):
            features_a, features_b = (
                disc.features(augmented(fake, config.augment))
                for disc, fake in ((self.disc_a, fake_a), (self.disc_b, fake_b))
            )
            losses = {
                "gen": lsgan([maps[-1] for maps in features_a + features_b], 1.0),
                "cycle": F.l1_loss(self.b2a(fake_b), a) + F.l1_loss(self.a2b(fake_a), b),
            }
            if config.identity_weight > 0:
                losses["identity"] = F.l1_loss(self.a2b(b), b) + F.l1_loss(self.b2a(a), a)
            if config.steady_weight > 0:
                losses["steady"] = steadiness(self.a2b, a, fake_b, config.steady_noise) + steadiness(
                    self.b2a, b, fake_a, config.steady_noise
                )
            if self._pairs is not None:
                known = slice(-config.pair_batch, None)
                losses["pairs"] = F.l1_loss(fake_b[known], b[known]) + F.l1_loss(fake_a[known], a[known])
                if config.pair_feature_weight > 0:
                    if config.augment != "none":  # only an unchanged translation can be like its counterpart
                        features_a, features_b = self.disc_a.features(fake_a), self.disc_b.features(fake_b)
                    losses["features"] = self.pair_feature_distance(
                        self.disc_a, features_a, a
                    ) + self.pair_feature_distance(self.disc_b, features_b, b)
            weights = {
                "gen": 1.0,
                "cycle": config.cycle_weight,
                "identity": config.identity_weight,
                "steady": config.steady_weight,
                "pairs": config.pair_weight,
                "features": config.pair_feature_weight,
            }
            update("gen", weighted_sum(losses, weights))
        return detached({"disc": disc, **losses})

    def discriminator_loss(self, disc: MultiScaleDiscriminator, real: Tensor, fake: Tensor) -> Tensor:
        """Real to 1 and translated to 0, at every scale."""
        real, fake = (augmented(images, self.config.augment) for images in (real, fake.detach()))
        return lsgan(disc(real), 1.0) + lsgan(disc(fake), 0.0)

    def pair_feature_distance(
        self, disc: MultiScaleDiscriminator, fake_features: list[list[Tensor]], real: Tensor
    ) -> Tensor:
        """Distance of the known translations to their counterparts in the discriminator's features."""
        known = slice(-self.config.pair_batch, None)
        translated = [[features[known] for features in maps] for maps in fake_features]
        return feature_distance(translated, disc.features(real[known]))

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        fake_b, fake_a = self.a2b(batch.a), self.b2a(batch.b)
        return {
            "a": batch.a,
            "a to b": fake_b.clamp(-1, 1),
            "a to b to a": self.b2a(fake_b).clamp(-1, 1),
            "b": batch.b,
            "b to a": fake_a.clamp(-1, 1),
        }

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        return RealtimeInference({"a2b": self.a2b, "b2a": self.b2a}[direction]).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"a2b": self.a2b, "b2a": self.b2a}
