"""NICE-GAN: the discriminator's first layers are the encoder, and only the discriminator's loss teaches them.

Chen, Huang, Huang, Sun, Huang: Reusing Discriminators for Encoding: Towards Unsupervised Image-to-Image
Translation, CVPR 2020. D_a discriminates images of domain a and its trunk encodes them; G_ab turns the trunk's
code of an image of a into an image of b.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.attention import (
    Modulation,
    discriminator_layer,
    folded_attention,
    folded_spectral_norm,
    logit_layer,
    pooled,
    raw_weight,
    spectral,
    twice_weighted,
)
from i2i_trainer.blocks import AdaptiveResBlock, conv
from i2i_trainer.config import Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import ada_iln, iln
from i2i_trainer.steps import adam, detached, frozen, weighted_sum


@dataclass(frozen=True, kw_only=True)
class NICEGANConfig(TrainConfig):
    """NICE-GAN: decoupled training, the discriminator's trunk is the encoder."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 8, "blocks": 2, "depth": 6, "image_size": 64, "load_size": 72},
    }

    steps: int = 300_000
    lr: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Schedule = "linear"
    decay_from: int = 150_000

    width: int = 64
    """Channels of the first convolution of generator and discriminator."""
    blocks: int = 6
    """Residual blocks of the generator; 4 is the paper's NICE-GAN*."""
    variant: Literal["light", "full"] = "light"
    """`full` takes scale and shift from every position, which ties the network to --image-size."""
    depth: int = 7
    """Layers of the discriminator, 5 or more; fewer suit small images and small memories."""
    gan_weight: float = 1.0
    cycle_weight: float = 10.0
    reconstruction_weight: float = 10.0
    """Weight of the L1 distance of an image to itself, encoded and decoded in its own domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 5:
            raise OptionError(
                f"--depth is {self.depth} but NICE-GAN's discriminator needs at least 5 layers."
            )
        self.check_image_size(4, 3 * 2 ** (self.depth - 2), f"--depth {self.depth}")


class Logits(NamedTuple):
    """Output of a discriminator: logits `[N, 1, h, w]` twice and `[N, 1]`."""

    local: Tensor
    overall: Tensor
    attention: Tensor


class Encoder(nn.Module):
    """The discriminator's trunk: image `[N, 3, H, W]` -> code `[N, 2 width, H/4, W/4]`, logit `[N, 1]`.

    One classifier sees averages and largest values side by side; its weight before spectral norm weighs the
    channels. `strength` starts at 0: the attention is off at first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = 2 * width
        self.trunk = nn.Sequential(
            spectral(conv(3, width, 4, stride=2, pad=1)),
            nn.LeakyReLU(0.2),
            spectral(conv(width, channels, 4, stride=2, pad=1)),
            nn.LeakyReLU(0.2),
        )
        self.classifier = spectral(nn.Linear(2 * channels, 1, bias=False))
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.strength = nn.Parameter(torch.zeros(1))

    def channel_weights(self) -> tuple[Tensor, Tensor]:
        """The classifier's learned weight for averages and for largest values, `[1, 2 width]` each."""
        average, largest = raw_weight(self.classifier).chunk(2, dim=1)
        return average, largest

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.trunk(image)
        logit = self.classifier(torch.cat(pooled(features), dim=1))
        attended = self.mix(twice_weighted(features, *self.channel_weights()))
        return F.leaky_relu(self.strength * attended + features, 0.2), logit

    @torch.no_grad()
    def folded(self) -> nn.Sequential:
        """A copy for inference: norms folded, attention and strength in one 1x1 convolution, no logit."""
        attention = folded_attention(self.mix, *self.channel_weights())
        assert attention.bias is not None
        attention.weight.mul_(self.strength)
        attention.weight.add_(torch.eye(attention.out_channels).to(attention.weight)[..., None, None])
        attention.bias.mul_(self.strength)
        plain = [
            folded_spectral_norm(x) if isinstance(x, nn.Conv2d) else nn.LeakyReLU(0.2) for x in self.trunk
        ]
        return nn.Sequential(*plain, attention, nn.LeakyReLU(0.2))


class Discriminator(nn.Module):
    """The encoder of its domain and two heads: at depth 7 they see 70 (local) and 286 pixels (overall)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.middle = discriminator_layer(2 * width, 4 * width, stride=2)
        self.local = nn.Sequential(
            discriminator_layer(4 * width, 8 * width, stride=1), logit_layer(8 * width)
        )
        widths = [4 * width * 2**stage for stage in range(depth - 4)]
        downwards = [discriminator_layer(n, 2 * n, stride=2) for n in widths[:-1]]
        last = discriminator_layer(widths[-1], 2 * widths[-1], stride=1)
        self.overall = nn.Sequential(*downwards, last, logit_layer(2 * widths[-1]))

    def forward(self, image: Tensor) -> tuple[Logits, Tensor]:
        """The logits, and the code of the image."""
        code, logit = self.encoder(image)
        middle = self.middle(code)
        return Logits(self.local(middle), self.overall(middle), logit), code


class Upsampling(nn.Sequential):
    """[N, C, H, W] -> [N, C/2, 2H, 2W] by a 1x1 convolution and pixel shuffle."""

    def __init__(self, channels: int) -> None:
        half = channels // 2
        super().__init__(
            conv(channels, half, 3, bias=False),
            iln(half),
            nn.ReLU(),
            nn.Conv2d(half, 2 * channels, 1),
            nn.PixelShuffle(2),
            iln(half),
            nn.ReLU(),
        )


class Generator(nn.Module):
    """Code `[N, 2 width, H/4, W/4]` of the source domain -> image `[N, 3, H, W]` of the target domain."""

    def __init__(self, width: int, blocks: int, side: int | None) -> None:
        super().__init__()
        channels = 4 * width
        self.entry = nn.Sequential(conv(2 * width, channels, 3), iln(channels), nn.ReLU())
        self.modulation = Modulation(channels, side)
        self.blocks = nn.ModuleList(
            AdaptiveResBlock(channels, norm=ada_iln, bias=False) for _ in range(blocks)
        )
        self.exit = nn.Sequential(
            Upsampling(channels),
            Upsampling(channels // 2),
            conv(width, 3, 7, bias=False),
            nn.Tanh(),
        )

    def forward(self, code: Tensor) -> Tensor:
        x = self.entry(code)
        modulation = self.modulation(x)
        for block in self.blocks:
            x = block(x, modulation, modulation)
        image: Tensor = self.exit(x)
        return image


class NICEGAN(Method):
    """Both directions of NICE-GAN.

    The discriminators' step teaches trunk, attention and heads; the generators' step moves the generators
    alone, its gradient passing through frozen encoders and heads.
    """

    summary = "Unpaired, both directions; the discriminator's trunk is the encoder, so the model is small."
    config: NICEGANConfig

    def __init__(self, config: NICEGANConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // 4 if config.variant == "full" else None
        self.generator_ab = Generator(config.width, config.blocks, side)
        self.generator_ba = Generator(config.width, config.blocks, side)
        self.discriminator_a = Discriminator(config.width, config.depth)
        self.discriminator_b = Discriminator(config.width, config.depth)

    def generators(self) -> tuple[Generator, Generator]:
        return self.generator_ab, self.generator_ba

    def discriminators(self) -> tuple[Discriminator, Discriminator]:
        return self.discriminator_a, self.discriminator_b

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generators": adam(self.config, *self.generators()),
            "discriminators": adam(self.config, *self.discriminators()),
        }

    def step(self, batch: Batch, update: Update) -> Losses:
        disc = self.discriminator_loss(batch)
        update("discriminators", disc)
        with frozen(*self.discriminators()):
            terms = self.generator_losses(batch)
            update("generators", weighted_sum(terms, self.weights()))
        return detached({"discriminators": disc, **terms})

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Real to 1 and translated to 0, over both domains; also what teaches the encoders."""
        real_a, code_a = self.discriminator_a(batch.a)
        real_b, code_b = self.discriminator_b(batch.b)
        with torch.no_grad():
            image_ab, image_ba = self.generator_ab(code_a), self.generator_ba(code_b)
        fake_a, _ = self.discriminator_a(image_ba)
        fake_b, _ = self.discriminator_b(image_ab)
        loss = lsgan(real_a, 1) + lsgan(fake_a, 0) + lsgan(real_b, 1) + lsgan(fake_b, 0)
        return self.config.gan_weight * loss

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted losses of the generators by name."""
        code_a, _ = self.discriminator_a.encoder(batch.a)
        code_b, _ = self.discriminator_b.encoder(batch.b)
        fake_a, code_ba = self.discriminator_a(self.generator_ba(code_b))
        fake_b, code_ab = self.discriminator_b(self.generator_ab(code_a))
        image_aba, image_bab = self.generator_ba(code_ab), self.generator_ab(code_ba)
        image_aa, image_bb = self.generator_ba(code_a), self.generator_ab(code_b)
        return {
            "gan": lsgan(fake_a, 1) + lsgan(fake_b, 1),
            "cycle": F.l1_loss(image_aba, batch.a) + F.l1_loss(image_bab, batch.b),
            "reconstruction": F.l1_loss(image_aa, batch.a) + F.l1_loss(image_bb, batch.b),
        }

    def weights(self) -> dict[str, float]:
        """Weight of every term of the generators' loss."""
        return {
            "gan": self.config.gan_weight,
            "cycle": self.config.cycle_weight,
            "reconstruction": self.config.reconstruction_weight,
        }

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a_to_b, b_to_a = self.inference("a2b"), self.inference("b2a")
        image_ab, image_ba = a_to_b(batch.a), b_to_a(batch.b)
        return {
            "a": batch.a,
            "a to b": image_ab,
            "a to b to a": b_to_a(image_ab),
            "b": batch.b,
            "b to a": image_ba,
            "b to a to b": a_to_b(image_ba),
        }

    def directions(self) -> tuple[str, ...]:
        return "a2b", "b2a"

    def inference(self, direction: str = "a2b") -> Inference:
        forth = direction == "a2b"
        source = self.discriminator_a if forth else self.discriminator_b
        generator = self.generator_ab if forth else self.generator_ba
        side = self.config.image_size if self.config.variant == "full" else None
        return NICEGANInference(source.encoder.folded(), deepcopy(generator), side)

    def ema_modules(self) -> dict[str, nn.Module]:
        # The encoders too: a generator that lags behind would be given codes that it never learned to read.
        return {
            "generator_ab": self.generator_ab,
            "generator_ba": self.generator_ba,
            "encoder_a": self.discriminator_a.encoder,
            "encoder_b": self.discriminator_b.encoder,
        }


class NICEGANInference(Inference):
    """The folded trunk of the source domain, then the generator towards the target domain."""

    def __init__(self, encoder: nn.Module, generator: Generator, side: int | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.generator = generator
        self.fixed_size = None if side is None else (side, side)
        self.notes = {"spectral norm": "folded", "attention": "folded into one 1x1 convolution"}
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(self.encoder(image))
        return translated
