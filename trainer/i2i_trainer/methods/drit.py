"""DRIT++: content that cannot tell its domain, attributes that are drawn, borrowed or interpolated.

Lee et al.: DRIT++: Diverse Image-to-Image Translation via Disentangled Representations, IJCV 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.blocks import (
    BasicBlock,
    MultiScaleDiscriminator,
    ResBlock,
    conv,
    init_normal,
)
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import kl_normal, kl_unit_variance, mode_seeking, nsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import InstanceNorm, LayerNorm
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.styles import AverageStyle, normal_presets


@dataclass(frozen=True, kw_only=True)
class DRITConfig(TrainConfig):
    """Learn many translations of one image in both directions by taking content and attributes apart."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {
            "width": 16,
            "disc_width": 16,
            "disc_layers": 3,
            "disc_scales": 2,
            "content_halvings": 1,
            "batch": 2,
            "steps": 6000,
            "decay_from": 3000,
        },
    }

    load_size: int = 256
    image_size: int = 216
    batch: int = 2
    lr: float = 1e-4
    weight_decay: float = 1e-4
    steps: int = 1_500_000
    schedule: Schedule = "linear"
    decay_from: int = 750_000

    width: int = 64
    """Channels of the first layer."""
    attribute_size: int = 8
    concat: bool = True
    """Put the attribute beside the features of every layer; off: mix it into residual blocks."""
    disc_width: int = 64
    disc_layers: int = 4
    disc_scales: int = 3
    content_halvings: int = 3
    """Halving layers of the content discriminator; fewer for small crops."""
    every: int = 3
    """Steps of the content discriminator per step of all the others."""
    content_lr_share: float = 0.4
    """Learning rate of the content discriminator, as a share of `lr`."""
    content_clip: float = 5.0
    """Largest gradient norm of the content discriminator."""
    gan_weight: float = 1.0
    content_gan_weight: float = 1.0
    cycle_weight: float = 10.0
    """Weight of the L1 distance after exchanging the attributes twice."""
    reconstruction_weight: float = 10.0
    attribute_weight: float = 10.0
    """Weight of the L1 distance between a drawn attribute and the one read off the translation."""
    kl_weight: float = 0.01
    mode_seeking_weight: float = 1.0
    """Weight of mode seeking (DRIT++); 0 leaves it out, as in DRIT."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_image_size(
            4, smallest_content_side(self.content_halvings), f"--content-halvings {self.content_halvings}"
        )
        self.check_image_size(
            at_least=MultiScaleDiscriminator.smallest_side(self.disc_layers, self.disc_scales),
            needed_by=f"--disc-layers {self.disc_layers} and --disc-scales {self.disc_scales}",
        )
        if self.batch % 2:
            raise OptionError(
                f"--batch {self.batch} must be even for drit: half of it is encoded, the other half is real for the "
                "discriminators of drawn attributes."
            )


def content_encoder(width: int) -> nn.Sequential:
    """One domain's own part: `[N, 3, H, W]` -> `[N, 4 width, H/4, W/4]`."""
    w = width
    return nn.Sequential(
        conv(3, w, 7),
        nn.LeakyReLU(0.01),
        conv(w, 2 * w, 3, stride=2),
        InstanceNorm(2 * w),
        nn.ReLU(),
        conv(2 * w, 4 * w, 3, stride=2),
        InstanceNorm(4 * w),
        nn.ReLU(),
        *(ResBlock(4 * w) for _ in range(3)),
    )


class Attribute(NamedTuple):
    """An image's attribute `[N, S]`: mean and logarithm of the variance, which is None without concatenation."""

    mean: Tensor
    log_variance: Tensor | None

    def draw(self) -> Tensor:
        """A sample of it, or the mean if there is no variance."""
        if self.log_variance is None:
            return self.mean
        return self.mean + (0.5 * self.log_variance).exp() * torch.randn_like(self.mean)


class AttributeEncoder(nn.Module):
    """Image `[N, 3, H, W]` -> attribute; no norm, which would erase it."""

    def __init__(self, width: int, size: int, concat: bool) -> None:
        super().__init__()
        w = width
        layers: list[nn.Module]
        if concat:
            layers = [conv(3, w, 4, stride=2, pad=1)]
            layers += [BasicBlock(before * w, (before + 1) * w, norm=None) for before in (1, 2, 3)]
            layers += [nn.LeakyReLU(0.2)]
        else:
            layers = [conv(3, w, 7), nn.ReLU()]
            for before, after in ((1, 2), (2, 4), (4, 4), (4, 4)):
                layers += [conv(before * w, after * w, 4, stride=2, pad=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.mean = nn.Linear(4 * w, size)
        self.log_variance = nn.Linear(4 * w, size) if concat else None

    def encode(self, image: Tensor) -> Attribute:
        """Mean and variance of the image's attribute."""
        features = self.features(image)
        return Attribute(self.mean(features), self.log_variance(features) if self.log_variance else None)

    def forward(self, image: Tensor) -> Tensor:
        """The mean, which is what a reference image gives."""
        return self.encode(image).mean


def beside(features: Tensor, attribute: Tensor) -> Tensor:
    """The attribute repeated at every place and appended to the features."""
    height, width = features.shape[2:]
    return torch.cat([features, attribute[:, :, None, None].expand(-1, -1, height, width)], dim=1)


def doubling(inputs: int, outputs: int) -> nn.Sequential:
    """Transposed 3x3 convolution of stride 2, layer norm, ReLU."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1), LayerNorm(outputs), nn.ReLU())


class ConcatDecoder(nn.Module):
    """Content and attribute -> image; the attribute is concatenated to the input of every stage."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        w4 = 4 * width + size
        w2 = (w4 + size) // 2
        w1 = (w2 + size) // 2
        self.blocks = nn.Sequential(*(ResBlock(w4) for _ in range(3)))
        self.up1 = doubling(w4 + size, w2)
        self.up2 = doubling(w2 + size, w1)
        self.end = nn.Sequential(nn.ConvTranspose2d(w1 + size, 3, 1), nn.Tanh())

    def forward(self, content: Tensor, attribute: Tensor) -> Tensor:
        x = self.blocks(beside(content, attribute))
        x = self.up2(beside(self.up1(beside(x, attribute)), attribute))
        image: Tensor = self.end(beside(x, attribute))
        return image


class MixingBlock(nn.Module):
    """Residual block that mixes attribute features in after each of its two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        c = channels
        self.convs = nn.ModuleList(nn.Sequential(conv(c, c, 3), InstanceNorm(c)) for _ in range(2))
        self.mixes = nn.ModuleList(
            nn.Sequential(conv(2 * c, 2 * c, 1), nn.ReLU(), conv(2 * c, c, 1), nn.ReLU()) for _ in range(2)
        )

    def forward(self, x: Tensor, attribute: Tensor) -> Tensor:
        residual = x
        for layer, mix in zip(self.convs, self.mixes, strict=True):
            residual = mix(beside(layer(residual), attribute))
        return x + residual


class MixingDecoder(nn.Module):
    """Content and attribute -> image; the attribute is mixed into four residual blocks."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        w = width
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * w), nn.ReLU(), nn.Linear(4 * w, 4 * w), nn.ReLU(), nn.Linear(4 * w, 16 * w)
        )
        self.blocks = nn.ModuleList(MixingBlock(4 * w) for _ in range(4))
        self.end = nn.Sequential(
            doubling(4 * w, 2 * w), doubling(2 * w, w), nn.ConvTranspose2d(w, 3, 1), nn.Tanh()
        )

    def forward(self, content: Tensor, attribute: Tensor) -> Tensor:
        for block, features in zip(self.blocks, self.mlp(attribute).chunk(4, dim=1), strict=True):
            content = block(content, features)
        image: Tensor = self.end(content)
        return image


def smallest_content_side(halvings: int) -> int:
    """Smallest side of an image whose content code leaves the last 4x4 layer of that discriminator its 4 x 4."""
    side = 4
    for _ in range(halvings):
        side = 2 * (side - 1) + 7 - 2
    return 4 * side


def content_discriminator(width: int, halvings: int) -> nn.Sequential:
    """Which domain a content code came from; the 54 x 54 code of a 216 pixel crop ends as one logit."""
    w4 = 4 * width
    layers: list[nn.Module] = []
    for _ in range(halvings):
        layers += [conv(w4, w4, 7, stride=2, pad=1), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers, nn.Conv2d(w4, w4, 4), nn.LeakyReLU(0.01), nn.Conv2d(w4, 1, 1))


class Domain(nn.Module):
    """One domain's networks: content encoder, attribute encoder and decoder."""

    def __init__(self, config: DRITConfig) -> None:
        super().__init__()
        width, size = config.width, config.attribute_size
        self.content = content_encoder(width)
        self.attribute = AttributeEncoder(width, size, config.concat)
        self.decoder = ConcatDecoder(width, size) if config.concat else MixingDecoder(width, size)


class DRITInference(Inference):
    """Source content encoder and target decoder; the attribute is drawn, fixed, or read off a reference."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, default_style: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder = deepcopy(encoder)
        self.decoder = deepcopy(decoder)
        self.style_size = len(default_style)
        self.default_style = default_style
        self.presets = normal_presets(self.style_size)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = image.new_tensor(self.default_style).expand(len(image), -1)
        translated: Tensor = self.decoder(self.encoder(image), style)
        return translated


class SharedStart(nn.Module):
    """The block that both generators share, then one domain's decoder."""

    def __init__(self, shared: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.shared = shared
        self.decoder = decoder

    def forward(self, content: Tensor, attribute: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.shared(content), attribute)
        return image


class Encoded(NamedTuple):
    """Both images' contents and attributes, and a drawn sample of each attribute."""

    content_a: Tensor
    content_b: Tensor
    attribute_a: Attribute
    attribute_b: Attribute
    sample_a: Tensor
    sample_b: Tensor


class DRIT(Method):
    """Networks `domain_a`, `domain_b`, `enc_shared`, `dec_shared`, four image discriminators and one of contents.

    Optimisers `content_disc`, `disc` and `gen`. Every step moves the content discriminator; every third one then
    the image discriminators and twice the encoders and decoders: once for everything that needs the encoded
    attributes, once, the attribute encoders left alone, for what needs drawn ones.
    """

    summary = (
        "Unpaired, both directions, many outcomes: content without a domain, attributes drawn or borrowed."
    )

    added = ("average_a.", "average_b.")

    def __init__(self, config: DRITConfig) -> None:
        super().__init__()
        self.config: DRITConfig = config
        self.domain_a, self.domain_b = Domain(config), Domain(config)
        self.enc_shared = ResBlock(4 * config.width)
        self.dec_shared = ResBlock(4 * config.width) if config.concat else nn.Sequential()
        self.discs = nn.ModuleDict(
            {
                name: MultiScaleDiscriminator(
                    width=config.disc_width, layers=config.disc_layers, scales=config.disc_scales, slope=0.01
                )
                for name in ("encoded_a", "encoded_b", "drawn_a", "drawn_b")
            }
        )
        self.content_disc = content_discriminator(config.width, config.content_halvings)
        init_normal(self)
        self.average_a, self.average_b = (AverageStyle(config.attribute_size) for _ in "ab")

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        return {
            "content_disc": adam(replace(config, lr=config.content_lr_share * config.lr), self.content_disc),
            "disc": adam(config, self.discs),
            "gen": adam(config, *self._generators().values()),
        }

    def _generators(self) -> dict[str, nn.Module]:
        return {
            "domain_a": self.domain_a,
            "domain_b": self.domain_b,
            "enc_shared": self.enc_shared,
            "dec_shared": self.dec_shared,
        }

    def content(self, domain: Domain, image: Tensor) -> Tensor:
        """An image's content code; noise from N(0, 1) is added in training only."""
        code: Tensor = self.enc_shared(domain.content(image))
        return code + torch.randn_like(code) if self.training else code

    def decode(self, domain: Domain, content: Tensor, attribute: Tensor) -> Tensor:
        """Content and attribute `[N, S]` as an image of the domain."""
        image: Tensor = domain.decoder(self.dec_shared(content), attribute)
        return image

    def draw_attribute(self, image: Tensor) -> Tensor:
        """One attribute per image from N(0, I)."""
        return torch.randn(len(image), self.config.attribute_size, device=image.device)

    def _encode(self, a: Tensor, b: Tensor) -> Encoded:
        attribute_a, attribute_b = self.domain_a.attribute.encode(a), self.domain_b.attribute.encode(b)
        return Encoded(
            self.content(self.domain_a, a),
            self.content(self.domain_b, b),
            attribute_a,
            attribute_b,
            attribute_a.draw(),
            attribute_b.draw(),
        )

    def step(self, batch: Batch, update: Update) -> Losses:
        (a, real_a), (b, real_b) = batch.a.chunk(2), batch.b.chunk(2)
        losses = self._update_content_discriminator(a, b, update)
        if (update.step + 1) % self.config.every == 0:
            drawn = self.draw_attribute(a)
            losses |= self._update_discriminators(a, b, real_a, real_b, drawn, update)
            with frozen(self.discs, self.content_disc):
                losses |= self._update_generators_encoded(a, b, update)
                with frozen(self.domain_a.attribute, self.domain_b.attribute):
                    losses |= self._update_generators_drawn(a, b, drawn, update)
        return detached(losses)

    def _update_content_discriminator(self, a: Tensor, b: Tensor, update: Update) -> Losses:
        with torch.no_grad():
            content_a, content_b = self.content(self.domain_a, a), self.content(self.domain_b, b)
        loss = nsgan([self.content_disc(content_a)], 1.0) + nsgan([self.content_disc(content_b)], 0.0)
        update("content_disc", loss, clip_norm=self.config.content_clip)
        return {"content_disc": loss}

    @torch.no_grad()
    def _fakes(self, a: Tensor, b: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        code = self._encode(a, b)
        return {
            "encoded_a": self.decode(self.domain_a, code.content_b, code.sample_a),
            "encoded_b": self.decode(self.domain_b, code.content_a, code.sample_b),
            "drawn_a": self.decode(self.domain_a, code.content_b, drawn),
            "drawn_b": self.decode(self.domain_b, code.content_a, drawn),
        }

    def _update_discriminators(
        self, a: Tensor, b: Tensor, real_a: Tensor, real_b: Tensor, drawn: Tensor, update: Update
    ) -> Losses:
        reals = {"encoded_a": a, "encoded_b": b, "drawn_a": real_a, "drawn_b": real_b}
        fakes = self._fakes(a, b, drawn)
        terms = [nsgan(d(reals[name]), 1.0) + nsgan(d(fakes[name]), 0.0) for name, d in self.discs.items()]
        loss = torch.stack(terms).sum()
        update("disc", loss)
        return {"disc": loss}

    def _update_generators_encoded(self, a: Tensor, b: Tensor, update: Update) -> Losses:
        config, domain_a, domain_b = self.config, self.domain_a, self.domain_b
        code = self._encode(a, b)
        self.average_a.update(code.attribute_a.mean)
        self.average_b.update(code.attribute_b.mean)
        fake_a = self.decode(domain_a, code.content_b, code.sample_a)
        fake_b = self.decode(domain_b, code.content_a, code.sample_b)
        back = self._encode(fake_a, fake_b)
        losses = {
            "gen": nsgan(self.discs["encoded_a"](fake_a), 1.0) + nsgan(self.discs["encoded_b"](fake_b), 1.0),
            "content_gen": nsgan([self.content_disc(code.content_a)], 0.5)
            + nsgan([self.content_disc(code.content_b)], 0.5),
            "cycle": F.l1_loss(self.decode(domain_a, back.content_b, back.sample_a), a)
            + F.l1_loss(self.decode(domain_b, back.content_a, back.sample_b), b),
            "reconstruction": F.l1_loss(self.decode(domain_a, code.content_a, code.sample_a), a)
            + F.l1_loss(self.decode(domain_b, code.content_b, code.sample_b), b),
            "kl": attribute_kl(code.attribute_a)
            + attribute_kl(code.attribute_b)
            + kl_unit_variance(code.content_a)
            + kl_unit_variance(code.content_b),
        }
        weights = {
            "gen": config.gan_weight,
            "content_gen": config.content_gan_weight,
            "cycle": config.cycle_weight,
            "reconstruction": config.reconstruction_weight,
            "kl": config.kl_weight,
        }
        update("gen", weighted_sum(losses, weights))
        return losses

    def _update_generators_drawn(self, a: Tensor, b: Tensor, drawn: Tensor, update: Update) -> Losses:
        config, domain_a, domain_b = self.config, self.domain_a, self.domain_b
        content_a, content_b = self.content(domain_a, a), self.content(domain_b, b)
        fake_a, fake_b = self.decode(domain_a, content_b, drawn), self.decode(domain_b, content_a, drawn)
        losses = {
            "drawn_gen": nsgan(self.discs["drawn_a"](fake_a), 1.0)
            + nsgan(self.discs["drawn_b"](fake_b), 1.0),
            "attribute": F.l1_loss(domain_a.attribute(fake_a), drawn)
            + F.l1_loss(domain_b.attribute(fake_b), drawn),
        }
        if config.mode_seeking_weight:
            other = self.draw_attribute(a)
            losses["mode_seeking"] = mode_seeking(
                self.decode(domain_a, content_b, other), fake_a, other, drawn
            ) + mode_seeking(self.decode(domain_b, content_a, other), fake_b, other, drawn)
        weights = {
            "drawn_gen": config.gan_weight,
            "attribute": config.attribute_weight,
            "mode_seeking": config.mode_seeking_weight,
        }
        update("gen", weighted_sum(losses, weights))
        return losses

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch.a, batch.b
        a_to_b, b_to_a = self.inference("a2b"), self.inference("b2a")
        return {
            "a": a,
            "a to b": a_to_b(a, self.draw_attribute(a)),
            "a in b's attribute": a_to_b(a, self.domain_b.attribute(b)),
            "b": b,
            "b to a": b_to_a(b, self.draw_attribute(b)),
            "b in a's attribute": b_to_a(b, self.domain_a.attribute(a)),
        }

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        source, target, average = {
            "a2b": (self.domain_a, self.domain_b, self.average_b),
            "b2a": (self.domain_b, self.domain_a, self.average_a),
        }[direction]
        return DRITInference(
            nn.Sequential(source.content, self.enc_shared),
            SharedStart(self.dec_shared, target.decoder),
            average.code(),
        ).eval()

    def style_encoder(self, direction: str = "a2b") -> nn.Module:
        target = {"a2b": self.domain_b, "b2a": self.domain_a}[direction]
        return deepcopy(target.attribute).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return self._generators()


def attribute_kl(attribute: Attribute) -> Tensor:
    """Divergence from N(0, I), summed; the mean square if the attribute has no variance."""
    if attribute.log_variance is None:
        return kl_unit_variance(attribute.mean)
    return kl_normal(attribute.mean, attribute.log_variance)
