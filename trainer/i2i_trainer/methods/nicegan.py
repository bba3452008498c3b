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
    training: Literal["decoupled", "coupled"] = "decoupled"
    """`decoupled`: the discriminators' loss alone teaches the encoders; `coupled`: the generators' loss does, too."""
    reuse: bool = True
    """Encode with the discriminators' first layers; off: with encoders of their own that learn with the generators."""
    attention: bool = True
    """Weigh the encoders' channels by the classifier of averages and largest values."""
    left_out: Literal["none", "attention", "local", "overall"] = "none"
    """A classifier that no loss counts: that of the attention, of patches, or of nearly all of the image."""
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
        if self.training == "coupled" and not self.reuse:
            raise OptionError(
                "--training coupled teaches the encoders that --no-reuse does without: give one of the two."
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
    channels. `strength` starts at 0, so the attention is off at first; without `attention` it stays there.
    """

    def __init__(self, width: int, *, attention: bool = True) -> None:
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
        self.strength = nn.Parameter(torch.zeros(1), requires_grad=attention)

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

    def __init__(self, width: int, depth: int, *, attention: bool = True) -> None:
        super().__init__()
        self.encoder = Encoder(width, attention=attention)
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

    def heads(self) -> tuple[nn.Module, ...]:
        """All that discriminates and does not encode."""
        return self.encoder.classifier, self.middle, self.local, self.overall


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
    alone, its gradient passing through frozen encoders and heads. Coupled, it moves the encoders, too.
    """

    summary = "Unpaired, both directions; the discriminator's trunk is the encoder, so the model is small."
    config: NICEGANConfig

    def __init__(self, config: NICEGANConfig) -> None:
        super().__init__()
        self.config = config
        side = config.image_size // 4 if config.variant == "full" else None
        self.generator_ab = Generator(config.width, config.blocks, side)
        self.generator_ba = Generator(config.width, config.blocks, side)
        self.discriminator_a = Discriminator(config.width, config.depth, attention=config.attention)
        self.discriminator_b = Discriminator(config.width, config.depth, attention=config.attention)
        if not config.reuse:
            self.own_encoder_a = Encoder(config.width, attention=config.attention)
            self.own_encoder_b = Encoder(config.width, attention=config.attention)

    def generators(self) -> tuple[Generator, Generator]:
        return self.generator_ab, self.generator_ba

    def discriminators(self) -> tuple[Discriminator, Discriminator]:
        return self.discriminator_a, self.discriminator_b

    def encoders(self) -> tuple[Encoder, Encoder]:
        """What encodes images of a, and of b."""
        if not self.config.reuse:
            return self.own_encoder_a, self.own_encoder_b
        return self.discriminator_a.encoder, self.discriminator_b.encoder

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        decoupled = self.config.reuse and self.config.training == "decoupled"
        encoders = () if decoupled else self.encoders()
        return {
            "generators": adam(self.config, *self.generators(), *encoders),
            "discriminators": adam(self.config, *self.discriminators()),
        }

    def step(self, batch: Batch, update: Update) -> Losses:
        disc = self.discriminator_loss(batch)
        update("discriminators", disc)
        coupled = self.config.training == "coupled"
        heads = (*self.discriminator_a.heads(), *self.discriminator_b.heads()) if coupled else ()
        with frozen(*(heads or self.discriminators())):
            terms = self.generator_losses(batch)
            update("generators", weighted_sum(terms, self.weights()))
        return detached({"discriminators": disc, **terms})

    def discriminator_loss(self, batch: Batch) -> Tensor:
        """Real to 1 and translated to 0, over both domains; also what teaches the encoders."""
        (real_a, code_a), (real_b, code_b) = self._read_a(batch.a), self._read_b(batch.b)
        with torch.no_grad():
            image_ab, image_ba = self.generator_ab(code_a), self.generator_ba(code_b)
        fake_a, _ = self.discriminator_a(image_ba)
        fake_b, _ = self.discriminator_b(image_ab)
        real, fake = self._adversarial(real_a, real_b, target=1), self._adversarial(fake_a, fake_b, target=0)
        return self.config.gan_weight * (real + fake)

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted losses of the generators by name."""
        encoder_a, encoder_b = self.encoders()
        code_a, code_b = encoder_a(batch.a)[0], encoder_b(batch.b)[0]
        fake_a, code_ba = self._read_a(self.generator_ba(code_b))
        fake_b, code_ab = self._read_b(self.generator_ab(code_a))
        image_aba, image_bab = self.generator_ba(code_ab), self.generator_ab(code_ba)
        image_aa, image_bb = self.generator_ba(code_a), self.generator_ab(code_b)
        return {
            "gan": self._adversarial(fake_a, fake_b, target=1),
            "cycle": F.l1_loss(image_aba, batch.a) + F.l1_loss(image_bab, batch.b),
            "reconstruction": F.l1_loss(image_aa, batch.a) + F.l1_loss(image_bb, batch.b),
        }

    def _read_a(self, image: Tensor) -> tuple[Logits, Tensor]:
        """What the discriminator says of an image of a, and the code that the generators get."""
        logits, code = self.discriminator_a(image)
        return logits, code if self.config.reuse else self.own_encoder_a(image)[0]

    def _read_b(self, image: Tensor) -> tuple[Logits, Tensor]:
        logits, code = self.discriminator_b(image)
        return logits, code if self.config.reuse else self.own_encoder_b(image)[0]

    def _adversarial(self, *verdicts: Logits, target: float) -> Tensor:
        """Least squares over the classifiers that count."""
        left_out = self.config.left_out
        counted = [
            logits for verdict in verdicts for name, logits in verdict._asdict().items() if name != left_out
        ]
        return lsgan(counted, target)

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

    @torch.no_grad()
    def latents(self, images: Tensor, domain: str = "a") -> Tensor:
        encoder = dict(zip("ab", self.encoders(), strict=True))[domain]
        code: Tensor = encoder(images)[0]
        return code.mean(dim=(2, 3))

    def directions(self) -> tuple[str, ...]:
        return "a2b", "b2a"

    def inference(self, direction: str = "a2b") -> Inference:
        forth = direction == "a2b"
        encoder_a, encoder_b = self.encoders()
        source = encoder_a if forth else encoder_b
        generator = self.generator_ab if forth else self.generator_ba
        side = self.config.image_size if self.config.variant == "full" else None
        return NICEGANInference(source.folded(), deepcopy(generator), side)

    def ema_modules(self) -> dict[str, nn.Module]:
        encoder_a, encoder_b = self.encoders()
        # The encoders too: a generator that lags behind would be given codes that it never learned to read.
        return {
            "generator_ab": self.generator_ab,
            "generator_ba": self.generator_ba,
            "encoder_a": encoder_a,
            "encoder_b": encoder_b,
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
