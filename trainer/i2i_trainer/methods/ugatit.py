"""U-GAT-IT: attention by class activation maps, and norms that mix instance and layer norm by learned shares.

Kim, Kim, Kang, Lee: U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance
Normalization for Image-to-Image Translation, ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.attention import Modulation, PairedAttention, discriminator_layer, logit_layer
from i2i_trainer.blocks import AdaptiveResBlock, ResBlock, conv, up
from i2i_trainer.config import Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import lsgan, nsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import ClampedMix, InstanceNorm, ada_lin, lin
from i2i_trainer.steps import adam, detached, frozen, weighted_sum


@dataclass(frozen=True, kw_only=True)
class UGATITConfig(TrainConfig):
    """U-GAT-IT: two generators with attention, a local and a global discriminator per domain."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "width": 8,
            "blocks": 2,
            "global_depth": 6,
            "local_depth": 4,
            "image_size": 64,
            "load_size": 72,
        },
    }

    steps: int = 1_000_000
    lr: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Schedule = "linear"
    decay_from: int = 500_000

    width: int = 64
    """Channels of the first convolution of generators and discriminators."""
    blocks: int = 4
    """Residual blocks of the encoder half of a generator, and adaptive ones of its decoder half."""
    variant: Literal["light", "full"] = "light"
    """`full` takes scale and shift from every position, which ties the network to --image-size."""
    global_depth: int = 7
    """Layers of the discriminator that sees the whole image; fewer suit small images."""
    local_depth: int = 5
    """Layers of the discriminator that sees patches."""
    gan_weight: float = 1.0
    cycle_weight: float = 10.0
    identity_weight: float = 10.0
    attention_weight: float = 1000.0
    """Weight of the generators' attention logits: an image to translate to 1, one to keep to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 3 <= self.local_depth <= self.global_depth:
            raise OptionError(
                f"--local-depth {self.local_depth} and --global-depth {self.global_depth} must be at least 3, "
                "the local one not above the global one."
            )
        self.check_image_size(4, 3 * 2 ** (self.global_depth - 2), f"--global-depth {self.global_depth}")


class Generator(nn.Module):
    """Image `[N, 3, H, W]` -> translated image and attention logits `[N, 2]`."""

    def __init__(self, width: int, blocks: int, side: int | None) -> None:
        super().__init__()
        channels = 4 * width
        self.encoder = nn.Sequential(
            conv(3, width, 7, bias=False),
            InstanceNorm(width),
            nn.ReLU(),
            conv(width, 2 * width, 3, stride=2, bias=False),
            InstanceNorm(2 * width),
            nn.ReLU(),
            conv(2 * width, channels, 3, stride=2, bias=False),
            InstanceNorm(channels),
            nn.ReLU(),
            *(ResBlock(channels, bias=False) for _ in range(blocks)),
        )
        self.attention = PairedAttention(channels, normalised=False)
        self.modulation = Modulation(channels, side)
        self.blocks = nn.ModuleList(
            AdaptiveResBlock(channels, norm=ada_lin, bias=False) for _ in range(blocks)
        )
        self.exit = nn.Sequential(
            up(channels, 2 * width, norm=lin, kernel=3, bias=False),
            up(2 * width, width, norm=lin, kernel=3, bias=False),
            conv(width, 3, 7, bias=False),
            nn.Tanh(),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        attended, logits = self.attention(self.encoder(image))
        x = torch.relu(attended)
        modulation = self.modulation(x)
        for block in self.blocks:
            x = block(x, modulation, modulation)
        return self.exit(x), logits

    def clamp_shares(self) -> None:
        """Puts the share of instance norm of every norm back into [0, 1]."""
        for module in self.modules():
            if isinstance(module, ClampedMix):
                module.clamp_()


class Logits(NamedTuple):
    """Output of a discriminator: patch logits `[N, 1, h, w]` and attention logits `[N, 2]`."""

    patches: Tensor
    attention: Tensor


class Discriminator(nn.Module):
    """`depth - 2` layers of stride 2, one of stride 1, all doubling the width; attention; one logit map."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [3] + [width * 2**stage for stage in range(depth - 1)]
        stages = list(pairwise(widths))
        self.trunk = nn.Sequential(
            *(discriminator_layer(before, after, stride=2) for before, after in stages[:-1]),
            discriminator_layer(*stages[-1], stride=1),
        )
        self.attention = PairedAttention(widths[-1], normalised=True)
        self.head = logit_layer(widths[-1])

    def forward(self, image: Tensor) -> Logits:
        attended, logits = self.attention(self.trunk(image))
        return Logits(self.head(F.leaky_relu(attended, 0.2)), logits)


class DiscriminatorPair(nn.Module):
    """The global and the local discriminator of one domain."""

    def __init__(self, config: UGATITConfig) -> None:
        super().__init__()
        self.overall = Discriminator(config.width, config.global_depth)
        self.local = Discriminator(config.width, config.local_depth)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """All four logits of an image."""
        return (*self.overall(image), *self.local(image))


class UGATIT(Method):
    """Both directions of U-GAT-IT: discriminators, then generators, then their norms' shares into [0, 1]."""

    summary = "Unpaired, both directions, attention by class activation maps, for changes of shape too."
    config: UGATITConfig

    def __init__(self, config: UGATITConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // 4 if config.variant == "full" else None
        self.generator_ab = Generator(config.width, config.blocks, side)
        self.generator_ba = Generator(config.width, config.blocks, side)
        self.discriminator_a = DiscriminatorPair(config)
        self.discriminator_b = DiscriminatorPair(config)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generators": adam(self.config, self.generator_ab, self.generator_ba),
            "discriminators": adam(self.config, self.discriminator_a, self.discriminator_b),
        }

    def step(self, batch: Batch, update: Update) -> Losses:
        disc = self.discriminator_loss(batch)
        update("discriminators", disc)
        with frozen(self.discriminator_a, self.discriminator_b):
            terms = self.generator_losses(batch)
            update("generators", weighted_sum(terms, self.weights()))
        for generator in (self.generator_ab, self.generator_ba):
            generator.clamp_shares()
        return detached({"discriminators": disc, **terms})

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Real to 1 and translated to 0: image and attention logits of all four discriminators."""
        with torch.no_grad():
            image_ab, image_ba = self.generator_ab(batch.a)[0], self.generator_ba(batch.b)[0]
        loss = (
            lsgan(self.discriminator_a(batch.a), 1)
            + lsgan(self.discriminator_a(image_ba), 0)
            + lsgan(self.discriminator_b(batch.b), 1)
            + lsgan(self.discriminator_b(image_ab), 0)
        )
        return self.config.gan_weight * loss

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted losses of the generators by name."""
        image_ab, translating_a = self.generator_ab(batch.a)
        image_ba, translating_b = self.generator_ba(batch.b)
        image_aba, _ = self.generator_ba(image_ab)
        image_bab, _ = self.generator_ab(image_ba)
        image_aa, keeping_a = self.generator_ba(batch.a)
        image_bb, keeping_b = self.generator_ab(batch.b)
        return {
            "gan": lsgan(self.discriminator_a(image_ba), 1) + lsgan(self.discriminator_b(image_ab), 1),
            "cycle": F.l1_loss(image_aba, batch.a) + F.l1_loss(image_bab, batch.b),
            "identity": F.l1_loss(image_aa, batch.a) + F.l1_loss(image_bb, batch.b),
            "attention": nsgan([translating_a, translating_b], 1) + nsgan([keeping_a, keeping_b], 0),
        }

    def weights(self) -> dict[str, float]:
        """Weight of every term of the generators' loss."""
        return {
            "gan": self.config.gan_weight,
            "cycle": self.config.cycle_weight,
            "identity": self.config.identity_weight,
            "attention": self.config.attention_weight,
        }

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        image_ab, _ = self.generator_ab(batch.a)
        image_ba, _ = self.generator_ba(batch.b)
        return {
            "a": batch.a,
            "a to b": image_ab,
            "a to b to a": self.generator_ba(image_ab)[0],
            "b": batch.b,
            "b to a": image_ba,
            "b to a to b": self.generator_ab(image_ba)[0],
        }

    def directions(self) -> tuple[str, ...]:
        return "a2b", "b2a"

    def inference(self, direction: str = "a2b") -> Inference:
        trained = {"a2b": self.generator_ab, "b2a": self.generator_ba}[direction]
        side = self.config.image_size if self.config.variant == "full" else None
        return UGATITInference(deepcopy(trained), side)

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator_ab": self.generator_ab, "generator_ba": self.generator_ba}


class UGATITInference(Inference):
    """One generator without its logits; export folds the attention into one 1x1 convolution, as it is exact."""

    def __init__(self, generator: Generator, side: int | None) -> None:
        super().__init__()
        self.generator = generator
        self.fixed_size = None if side is None else (side, side)
        self.notes = {"attention": "folded into one 1x1 convolution"}
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image)[0]
        return translated
