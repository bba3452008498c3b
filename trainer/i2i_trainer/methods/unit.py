"""UNIT: two autoencoders over one latent space, so that one domain's code decodes as the other's image.

Liu, Breuel, Kautz: Unsupervised Image-to-Image Translation Networks, NIPS 2017. Two networks go by the name:
the `paper` one shares the blocks around the code between the domains, the `current` one (that of MUNIT's code)
shares nothing. The digits networks of the paper are in `unit_digits.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.blocks import (
    MultiScale,
    MultiScaleDiscriminator,
    ResBlock,
    content_encoder,
    conv,
    init_kaiming,
    init_normal,
    up,
)
from i2i_trainer.config import SMALL_RUN, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import PerceptualLoss, kl_unit_variance, lsgan, nsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import LayerNormOverStd
from i2i_trainer.steps import adam, detached, frozen, weighted_sum

CURRENT: dict[str, Any] = {
    "variant": "current",
    "share_blocks": 0,
    "gan": "lsgan",
    "gan_weight": 1.0,
    "reconstruction_weight": 10.0,
    "cycle_weight": 10.0,
    "kl_weight": 0.01,
    "load_size": 256,
    "steps": 1_000_000,
    "schedule": "halve",
}
MULTI_DISC_LAYERS = 4
"""Halving layers per scale of both discriminators with several scales."""
SMALL = SMALL_RUN | {"width": 16, "disc_width": 16, "disc_layers": 3, "disc_scales": 2}


@dataclass(frozen=True, kw_only=True)
class UNITConfig(TrainConfig):
    """Learn a translation in both directions through one shared latent space."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "current": CURRENT,
        "released": {"disc_layers": 6},
        "small": SMALL,
        "small-current": CURRENT | SMALL,
    }

    lr: float = 1e-4
    weight_decay: float = 1e-4
    steps: int = 500_000

    variant: Literal["paper", "current"] = "paper"
    """`paper`: zero padding, transposed convolutions; `current`: reflect padding, upsampling and 5x5.

    `--preset current` takes that network's losses and schedule too.
    """
    width: int = 64
    """Channels of the first layer."""
    blocks: int = 4
    """Residual blocks of an encoder and of a decoder, the shared ones among them."""
    share_blocks: int = 1
    """Residual blocks on each side of the code that both domains share; 0 for none."""
    dropout: float = 0.0
    """Dropout in the residual blocks of the paper's network; 0.5 for street scenes and faces."""
    discriminator: Literal["single", "multi", "shared"] = "single"
    """The paper's discriminators: one chain, one per scale, or deep layers common to both domains."""
    disc_width: int = 64
    disc_layers: int = 5
    """Halving layers of the `single` and `shared` discriminators: 5 in the paper, 6 in the code that its authors
    released (`--preset released`); `multi` and `current` have 4."""
    disc_scales: int = 3
    """Scales of the `multi` and the `current` discriminator."""
    gan: Literal["nsgan", "lsgan"] = "nsgan"
    gan_weight: float = 10.0
    reconstruction_weight: float = 100.0
    """Weight of |a - decode_a(encode_a(a))|, both domains."""
    cycle_weight: float = 100.0
    """Weight of the L1 distance after going there and back; 0 leaves the cycle out."""
    kl_weight: float = 0.1
    """Weight of the mean square of an image's code (the paper's lambda 1); 0 leaves it out."""
    cycle_kl_weight: float | None = None
    """The same of the translation's code on the way back (lambda 3); `kl_weight` if not given."""
    perceptual_weight: float = 0.0
    """Weight of the VGG16 distance between an image and its translation; 1 for street scenes (`current`)."""
    perceptual_weights: Path | None = None
    """Safetensors file of torchvision's VGG16, needed with `perceptual_weight`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_image_size(4)
        if not 0 <= self.share_blocks <= self.blocks:
            raise OptionError(
                f"--share-blocks {self.share_blocks} must lie between 0 and --blocks ({self.blocks})."
            )
        if self.dropout and self.variant == "current":
            raise OptionError(
                "--dropout belongs to the paper's network: leave it at 0 with --variant current."
            )
        if self.variant == "current":
            smallest = MultiScaleDiscriminator.smallest_side(MULTI_DISC_LAYERS, self.disc_scales)
            self.check_image_size(at_least=smallest, needed_by=f"--disc-scales {self.disc_scales}")
        if self.perceptual_weight and self.perceptual_weights is None:
            raise OptionError("--perceptual-weight needs the file of --perceptual-weights.")


def paper_encoder(config: UNITConfig) -> nn.Sequential:
    """One domain's own layers before the shared ones: `[N, 3, H, W]` -> `[N, 4 width, H/4, W/4]`."""
    w = config.width
    return nn.Sequential(
        conv(3, w, 7, padding="zeros"),
        nn.LeakyReLU(0.01),
        conv(w, 2 * w, 3, stride=2, padding="zeros"),
        nn.LeakyReLU(0.01),
        conv(2 * w, 4 * w, 3, stride=2, padding="zeros"),
        nn.LeakyReLU(0.01),
        *res_blocks(config, config.blocks - config.share_blocks),
    )


def paper_decoder(config: UNITConfig) -> nn.Sequential:
    """One domain's own layers after the shared ones: the code back to an image in [-1, 1]."""
    w = config.width
    return nn.Sequential(
        *res_blocks(config, config.blocks - config.share_blocks),
        nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, 1),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1),
        nn.LeakyReLU(0.01),
        nn.ConvTranspose2d(w, 3, 1),
        nn.Tanh(),
    )


def current_decoder(config: UNITConfig) -> nn.Sequential:
    """The same of the current network."""
    w = config.width
    return nn.Sequential(
        *res_blocks(config, config.blocks - config.share_blocks),
        up(4 * w, 2 * w, norm=LayerNormOverStd),
        up(2 * w, w, norm=LayerNormOverStd),
        conv(w, 3, 7),
        nn.Tanh(),
    )


def res_blocks(config: UNITConfig, count: int) -> nn.Sequential:
    """`count` residual blocks at the width of the code."""
    padding: Literal["zeros", "reflect"] = "zeros" if config.variant == "paper" else "reflect"
    return nn.Sequential(
        *(ResBlock(4 * config.width, padding=padding, dropout=config.dropout) for _ in range(count))
    )


def halving_chain(widths: list[int], first_kernel: int = 3) -> nn.Sequential:
    """Zero-padded convolutions of stride 2 with LeakyReLU(0.01), no norm."""
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        kernel = first_kernel if index == 0 else 3
        layers += [conv(before, after, kernel, stride=2, padding="zeros"), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)


def discriminator_chain(width: int, layers: int) -> nn.Sequential:
    """The paper's chain of halvings with one logit map at its end."""
    widths = [3] + [width * 2**i for i in range(layers)]
    return nn.Sequential(halving_chain(widths), conv(widths[-1], 1, 1))


class GaussianDownsample(nn.Module):
    """3x3 Gaussian [1, 2, 1] / 4 both ways over replicated borders, then every second pixel of both axes."""

    def forward(self, x: Tensor) -> Tensor:
        taps = torch.tensor([0.25, 0.5, 0.25], dtype=x.dtype, device=x.device)
        kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def discriminator(config: UNITConfig) -> nn.Module:
    """One domain's own discriminator; its end is in `discriminator_trunk` if the domains share layers."""
    width = config.disc_width
    if config.variant == "current":
        return MultiScaleDiscriminator(width=width, layers=MULTI_DISC_LAYERS, scales=config.disc_scales)
    if config.discriminator == "multi":
        return MultiScale(
            (discriminator_chain(width, MULTI_DISC_LAYERS) for _ in range(config.disc_scales)),
            GaussianDownsample(),
        )
    if config.discriminator == "shared":
        return halving_chain([3, width, 2 * width], first_kernel=7)
    return discriminator_chain(width, config.disc_layers)


def discriminator_trunk(config: UNITConfig) -> nn.Sequential:
    """The layers that the discriminators of both domains share: empty unless `shared`."""
    if config.variant == "current" or config.discriminator != "shared":
        return nn.Sequential()
    widths = [config.disc_width * 2**i for i in range(1, config.disc_layers)]
    return nn.Sequential(halving_chain(widths), conv(widths[-1], 1, 1))


class Code(NamedTuple):
    """An image in the latent space: the encoder's features, and the noised code that the decoders see."""

    features: Tensor
    noised: Tensor


class UNITInference(Inference):
    """Source encoder, shared blocks, target decoder; no noise. H and W multiples of 4."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(deepcopy(part) for part in parts))

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.parts(image)
        return translated


class UNIT(Method):
    """Networks `enc_*`, `dec_*`, `disc_*` with `*` a, b or shared; optimisers `disc`, then `gen`."""

    summary = "Unpaired, both directions, one shared latent space (variational autoencoders and GANs)."

    def __init__(self, config: UNITConfig) -> None:
        super().__init__()
        self.config: UNITConfig = config
        paper = config.variant == "paper"
        own = config.blocks - config.share_blocks
        self.enc_a, self.enc_b = (
            paper_encoder(config) if paper else content_encoder(config.width, blocks=own) for _ in "ab"
        )
        self.dec_a, self.dec_b = (paper_decoder(config) if paper else current_decoder(config) for _ in "ab")
        self.enc_shared = res_blocks(config, config.share_blocks)
        self.dec_shared = res_blocks(config, config.share_blocks)
        self.disc_a, self.disc_b = discriminator(config), discriminator(config)
        self.disc_shared = discriminator_trunk(config)
        init_normal(self)
        if not paper:
            for network in self._generators():
                init_kaiming(network)
        self.perceptual = PerceptualLoss(config.perceptual_weights) if config.perceptual_weights else None

    def _generators(self) -> tuple[nn.Module, ...]:
        return self.enc_a, self.enc_b, self.enc_shared, self.dec_shared, self.dec_a, self.dec_b

    def _discriminators(self) -> tuple[nn.Module, ...]:
        return self.disc_a, self.disc_b, self.disc_shared

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "disc": adam(self.config, *self._discriminators()),
            "gen": adam(self.config, *self._generators()),
        }

    def encode(self, encoder: nn.Module, image: Tensor) -> Code:
        """The image's code; noise from N(0, 1) is added in training only."""
        features: Tensor = self.enc_shared(encoder(image))
        return Code(features, features + torch.randn_like(features) if self.training else features)

    def decode(self, decoder: nn.Module, code: Code) -> Tensor:
        """The noised code as an image in [-1, 1]."""
        image: Tensor = decoder(self.dec_shared(code.noised))
        return image

    def _adversarial(self, disc: nn.Module, image: Tensor, target: float) -> Tensor:
        logits = self.disc_shared(disc(image))
        maps = logits if isinstance(logits, list) else [logits]
        return nsgan(maps, target) if self.config.gan == "nsgan" else lsgan(maps, target)

    def _kl(self, code: Code) -> Tensor:
        """The paper's code takes the mean square of the noised code, the current one that of the features."""
        return kl_unit_variance(code.noised if self.config.variant == "paper" else code.features)

    def step(self, batch: Batch, update: Update) -> Losses:
        losses = self._update_discriminators(batch, update)
        with frozen(*self._discriminators()):
            losses |= self._update_generators(batch, update)
        return detached(losses)

    def _update_discriminators(self, batch: Batch, update: Update) -> Losses:
        with torch.no_grad():
            fake_b = self.decode(self.dec_b, self.encode(self.enc_a, batch.a))
            fake_a = self.decode(self.dec_a, self.encode(self.enc_b, batch.b))
        losses = {
            name: self._adversarial(disc, real, 1.0) + self._adversarial(disc, fake, 0.0)
            for name, disc, real, fake in (
                ("disc_a", self.disc_a, batch.a, fake_a),
                ("disc_b", self.disc_b, batch.b, fake_b),
            )
        }
        update("disc", self.config.gan_weight * (losses["disc_a"] + losses["disc_b"]))
        return losses

    def _update_generators(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        a, b = batch.a, batch.b
        code_a, code_b = self.encode(self.enc_a, a), self.encode(self.enc_b, b)
        fake_b, fake_a = self.decode(self.dec_b, code_a), self.decode(self.dec_a, code_b)
        losses = {
            "gen": self._adversarial(self.disc_a, fake_a, 1.0) + self._adversarial(self.disc_b, fake_b, 1.0),
            "reconstruction": F.l1_loss(self.decode(self.dec_a, code_a), a)
            + F.l1_loss(self.decode(self.dec_b, code_b), b),
            "kl": self._kl(code_a) + self._kl(code_b),
        }
        if config.cycle_weight:
            again_a, again_b = self.encode(self.enc_b, fake_b), self.encode(self.enc_a, fake_a)
            losses["cycle"] = F.l1_loss(self.decode(self.dec_a, again_a), a) + F.l1_loss(
                self.decode(self.dec_b, again_b), b
            )
            losses["kl cycle"] = self._kl(again_a) + self._kl(again_b)
        weights = {
            "gen": config.gan_weight,
            "reconstruction": config.reconstruction_weight,
            "cycle": config.cycle_weight,
            "kl": config.kl_weight,
            "kl cycle": config.kl_weight if config.cycle_kl_weight is None else config.cycle_kl_weight,
            "perceptual": config.perceptual_weight,
        }
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(fake_b, a) + self.perceptual(fake_a, b)
        update("gen", weighted_sum(losses, weights))
        return losses

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a_to_b, b_to_a = self.inference("a2b"), self.inference("b2a")
        fake_b, fake_a = a_to_b(batch.a), b_to_a(batch.b)
        return {
            "a": batch.a,
            "a to b": fake_b,
            "a to b to a": b_to_a(fake_b),
            "b": batch.b,
            "b to a": fake_a,
            "b to a to b": a_to_b(fake_a),
        }

    @torch.no_grad()
    def latents(self, images: Tensor, domain: str = "a") -> Tensor:
        encoder = {"a": self.enc_a, "b": self.enc_b}[domain]
        features: Tensor = self.enc_shared(encoder(images))
        return features.mean(dim=(2, 3))

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        encoder, decoder = {"a2b": (self.enc_a, self.dec_b), "b2a": (self.enc_b, self.dec_a)}[direction]
        return UNITInference(encoder, self.enc_shared, self.dec_shared, decoder).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        names = ("enc_a", "enc_b", "enc_shared", "dec_shared", "dec_a", "dec_b")
        return dict(zip(names, self._generators(), strict=True))
