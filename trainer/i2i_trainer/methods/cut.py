"""CUT and FastCUT: one direction, one generator; patches must stay recognisable instead of a way back.

Park, Efros, Zhang, Zhu: Contrastive Learning for Unpaired Image-to-Image Translation, ECCV 2020.
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
from i2i_trainer.blocks import (
    BlurDownsample,
    BlurUpsample,
    PatchDiscriminator,
    ResBlock,
    conv,
    init_xavier_normal,
)
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import lsgan, patch_nce
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import InstanceNorm
from i2i_trainer.steps import adam, detached, frozen, weighted_sum

SMALLEST_BLOCKS = 5
"""PatchNCE reads the features after the first and the fifth residual block."""


@dataclass(frozen=True, kw_only=True)
class CUTConfig(TrainConfig):
    """Learn a translation in one direction by keeping every patch recognisable."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {"width": 16, "blocks": 5, "disc_width": 32, "disc_layers": 2, "patches": 64, "decay_from": 2000},
    }

    steps: int = 400_000
    schedule: Schedule = "linear"
    decay_from: int = 200_000

    width: int = 64
    """Channels of the generator's first layer."""
    blocks: int = 9
    """Residual blocks of the generator, at least 5."""
    disc_width: int = 64
    disc_layers: int = 3
    """Downsampling layers of the discriminator; 3 gives the 70x70 PatchGAN."""
    gan_weight: float = 1.0
    nce_weight: float = 1.0
    """Weight of PatchNCE between an image and its translation."""
    identity_nce: bool = True
    """Average it with PatchNCE between a target image and its own translation."""
    flip_equivariance: bool = False
    """Translate mirrored images half of the time and compare the mirrored features."""
    patches: int = 256
    """Places per layer and image that are compared."""
    temperature: float = 0.07
    feature_size: int = 256
    """Length of the compared features."""

    def __post_init__(self) -> None:
        super().__post_init__()
        smallest = PatchDiscriminator.smallest_side(self.disc_layers)
        self.check_image_size(4, smallest, f"--disc-layers {self.disc_layers}")
        if self.blocks < SMALLEST_BLOCKS:
            raise OptionError(
                f"--blocks {self.blocks} must be at least {SMALLEST_BLOCKS}: PatchNCE reads the fifth."
            )


@dataclass(frozen=True, kw_only=True)
class FastCUTConfig(CUTConfig):
    """CUT with a shorter training: no identity term, flip-equivariance, and ten times the weight of PatchNCE."""

    steps: int = 200_000
    decay_from: int = 150_000
    nce_weight: float = 10.0
    identity_nce: bool = False
    flip_equivariance: bool = True


class Generator(nn.Module):
    """ResNet generator whose halvings and doublings are blurred: `[N, 3, H, W]` in [-1, 1] -> the same.

    H and W multiples of 4.
    """

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        w = width
        self.start = conv(3, w, 7)
        self.widen1 = conv(w, 2 * w, 3, padding="zeros")
        self.widen2 = conv(2 * w, 4 * w, 3, padding="zeros")
        self.shrink = BlurDownsample()
        self.norm, self.norm1, self.norm2 = InstanceNorm(w), InstanceNorm(2 * w), InstanceNorm(4 * w)
        self.blocks = nn.ModuleList(ResBlock(4 * w) for _ in range(blocks))
        self.up = nn.Sequential(
            BlurUpsample(),
            conv(4 * w, 2 * w, 3, padding="zeros"),
            InstanceNorm(2 * w),
            nn.ReLU(),
            BlurUpsample(),
            conv(2 * w, w, 3, padding="zeros"),
            InstanceNorm(w),
            nn.ReLU(),
            conv(w, 3, 7),
            nn.Tanh(),
        )

    def stages(self, image: Tensor) -> list[Tensor]:
        """The encoder's maps that PatchNCE compares, up to the fifth residual block.

        The padded image, both widening convolutions before their norm, the first and the fifth block.
        """
        x = F.pad(image, (3, 3, 3, 3), mode="reflect")
        wide1 = self.widen1(F.relu(self.norm(self.start(image))))
        wide2 = self.widen2(self.shrink(F.relu(self.norm1(wide1))))
        maps = [x, wide1, wide2]
        x = self.shrink(F.relu(self.norm2(wide2)))
        for number, block in enumerate(self.blocks[:SMALLEST_BLOCKS], start=1):
            x = block(x)
            if number in (1, SMALLEST_BLOCKS):
                maps.append(x)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        x = self.stages(image)[-1]
        for block in self.blocks[SMALLEST_BLOCKS:]:
            x = block(x)
        translated: Tensor = self.up(x)
        return translated


class Projection(nn.ModuleList):
    """One two-layer network per compared map: features of single places to unit vectors."""

    def __init__(self, width: int, feature_size: int) -> None:
        channels = (3, 2 * width, 4 * width, 4 * width, 4 * width)
        super().__init__(
            nn.Sequential(nn.Linear(c, feature_size), nn.ReLU(), nn.Linear(feature_size, feature_size))
            for c in channels
        )

    def forward(self, maps: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Maps `[N, C, H, W]` and the places `[P]` to read in each -> `[N, P, feature_size]` of length 1."""
        return [
            F.normalize(layer(x.flatten(2)[:, :, index].transpose(1, 2)).float(), dim=2, eps=1e-7)
            for layer, x, index in zip(self, maps, places, strict=True)
        ]


class CUTInference(Inference):
    """The generator: image `[N, 3, H, W]` in [-1, 1] -> translated, H and W multiples of 4."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = deepcopy(generator)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image)
        return translated


class CUT(Method):
    """Networks `gen`, `projection`, `disc`; optimisers `disc`, then `gen`, which moves the projection too."""

    summary = "Unpaired, one direction, contrastive patches instead of a cycle (ResNet generator with blur)."
    augments = True

    def __init__(self, config: CUTConfig) -> None:
        super().__init__()
        self.config: CUTConfig = config
        self.gen = Generator(config.width, config.blocks)
        self.projection = Projection(config.width, config.feature_size)
        self.disc = PatchDiscriminator(width=config.disc_width, layers=config.disc_layers, antialias=True)
        init_xavier_normal(self)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"disc": adam(self.config, self.disc), "gen": adam(self.config, self.gen, self.projection)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config, disc = self.config, self.disc
        a, b = batch.a, batch.b
        mirrored = config.flip_equivariance and torch.rand(()).item() < 0.5
        seen_a, seen_b = (a.flip(3), b.flip(3)) if mirrored else (a, b)
        fake = self.gen(seen_a)

        real, made = (augmented(images, config.augment) for images in (b, fake.detach()))
        losses = {"disc": 0.5 * (lsgan([disc(real)], 1.0) + lsgan([disc(made)], 0.0))}
        update("disc", losses["disc"])

        with frozen(disc):
            losses["gen"] = lsgan([disc(augmented(fake, config.augment))], 1.0)
            losses["nce"] = self.nce(a, fake, mirrored)
            terms = {"gen": losses["gen"], "nce": losses["nce"]}
            weights = {"gen": config.gan_weight, "nce": config.nce_weight}
            if config.identity_nce:
                losses["identity"] = terms["identity"] = self.nce(b, self.gen(seen_b), mirrored)
                weights["nce"] = weights["identity"] = config.nce_weight / 2
            update("gen", weighted_sum(terms, weights))
        return detached(losses)

    def nce(self, source: Tensor, translated: Tensor, mirrored: bool) -> Tensor:
        """PatchNCE between an image and its translation, mean over the compared maps.

        `mirrored`: the translation is that of the mirrored image, so its features are mirrored back.
        """
        queries = self.gen.stages(translated)
        keys = self.gen.stages(source)
        if mirrored:
            queries = [x.flip(3) for x in queries]
        places = [
            torch.randperm(x.shape[2] * x.shape[3], device=x.device)[: self.config.patches] for x in keys
        ]
        pairs = zip(self.projection(queries, places), self.projection(keys, places), strict=True)
        return torch.stack([patch_nce(q, k, self.config.temperature) for q, k in pairs]).mean()

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {
            "a": batch.a,
            "a to b": self.gen(batch.a),
            "b": batch.b,
            "b to b": self.gen(batch.b),
        }

    def inference(self, direction: str = "a2b") -> Inference:
        return CUTInference(self.gen).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"gen": self.gen}


class FastCUT(CUT):
    """CUT with the options of `FastCUTConfig`."""

    summary = "Unpaired, one direction, CUT for less time and memory (flip-equivariance, no identity)."
