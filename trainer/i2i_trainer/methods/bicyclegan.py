"""BicycleGAN: many translations of one image from pairs; the code and the translation must tell each other.

Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman: Toward Multimodal Image-to-Image Translation, NeurIPS 2017.
cVAE-GAN goes B -> code -> B; cLR-GAN goes code -> B -> code; BicycleGAN does both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.blocks import (
    AverageDownsample,
    BasicBlock,
    PatchDiscriminator,
    conv,
    init_xavier_normal,
)
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import kl_normal, lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import InstanceNorm
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.styles import AverageStyle, FirstOutput, StyledInference, normal_presets
from i2i_trainer.unet import UNet, Upsampling, check_unet_size


@dataclass(frozen=True, kw_only=True)
class BicycleGANConfig(TrainConfig):
    """Learn many translations of one image from pairs; lengths are those of facades (400 pairs, 400 epochs)."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {
            "width": 16,
            "downs": 6,
            "encoder_width": 16,
            "disc_width": 16,
            "disc_layers": 2,
            "decay_from": 2000,
        },
        "unet128": {"downs": 7, "image_size": 128, "load_size": 143},
        "maps": {"load_size": 600, "swap": True, "steps": 219_200, "decay_from": 109_600},
        "edges2shoes": {"load_size": 256, "flip": False, "steps": 1_500_000, "decay_from": 750_000},
        "edges2handbags": {"load_size": 256, "flip": False, "steps": 2_055_000, "decay_from": 1_027_500},
    }

    batch: int = 2
    """Pairs per step, an even number: half are encoded, the other half are real for the random branch."""
    steps: int = 80_000
    schedule: Schedule = "linear"
    decay_from: int = 40_000

    objective: Literal["bicycle", "cvae", "clr", "noise"] = "bicycle"
    """cVAE-GAN and cLR-GAN together, one of them alone, or pix2pix with drawn codes that no loss reads."""
    encoder: Literal["resnet", "cnn"] = "resnet"
    """The paper's two encoders: residual blocks, the better one, or plain convolutions."""
    style_size: int = 8
    """Numbers in the code: 2, 8 or 256 in the paper."""
    style_place: Literal["all", "input"] = "all"
    """The code enters every layer of the way down, or the first alone."""
    width: int = 64
    """Channels of the first layer of the U-Net."""
    downs: int = 8
    """Halvings of the U-Net: 8 for images of 256 pixels, 7 for 128."""
    upsampling: Upsampling = "transposed"
    dropout: bool = True
    """Dropout in the inner layers while training; never in the exported network."""
    encoder_width: int = 64
    disc_width: int = 64
    disc_layers: int = 3
    conditional: bool = False
    """Show the discriminators the source beside the translation."""
    gan_weight: float = 1.0
    """Weight of the discriminator of the encoded branch."""
    random_gan_weight: float = 1.0
    """Weight of the discriminator of the random branch."""
    l1_weight: float = 10.0
    latent_weight: float = 0.5
    """Weight of the L1 distance of a drawn code to the one read off its translation."""
    kl_weight: float = 0.01
    """Weight of the KL divergence, which is summed over images and dimensions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_unet_size(self.image_size, self.downs)
        if self.objective == "bicycle" and self.batch % 2:
            raise OptionError(
                f"--batch is {self.batch} but bicyclegan splits it in half: use an even number."
            )


class Encoder(nn.Module):
    """Image `[N, 3, S, S]` -> mean and log variance of its code, `[N, style_size]` each.

    E_ResNet or E_CNN. Halves until 8 positions are left at the size it was made for (`halvings` stages after the
    first layer).
    """

    def __init__(
        self, width: int, halvings: int, style_size: int, kind: Literal["resnet", "cnn"] = "resnet"
    ) -> None:
        super().__init__()
        first = conv(3, width, 4, stride=2, pad=1, padding="zeros")
        stages: list[nn.Module]
        if kind == "resnet":
            widths = [width * min(stage, 4) for stage in range(1, halvings + 2)]
            stages = [BasicBlock(before, after) for before, after in pairwise(widths)]
        else:
            widths = [width * min(2**stage, 4) for stage in range(halvings + 1)]
            stages = [plain_stage(before, after) for before, after in pairwise(widths)]
        self.body = nn.Sequential(first, *stages, nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.mean = nn.Linear(widths[-1], style_size)
        self.log_variance = nn.Linear(widths[-1], style_size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(image)
        return self.mean(features), self.log_variance(features)


def plain_stage(inputs: int, outputs: int) -> nn.Sequential:
    """LeakyReLU(0.2), 4x4 convolution of stride 2, instance norm."""
    layer = conv(inputs, outputs, 4, stride=2, pad=1, padding="zeros")
    return nn.Sequential(nn.LeakyReLU(0.2), layer, InstanceNorm(outputs))


class Discriminator(nn.Module):
    """Patch logits at the full size and, with half the width, at half the size."""

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.fine = PatchDiscriminator(channels, width=width, layers=layers)
        self.downsample = AverageDownsample()
        self.coarse = PatchDiscriminator(channels, width=width // 2, layers=layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.fine(image), self.coarse(self.downsample(image))]


class BicycleGAN(Method):
    """One direction from pairs.

    Order of a step: generator and encoder together, the latent term on the generator with the encoder frozen, then
    both discriminators. In cLR-GAN alone nothing else would teach the encoder, so the latent term does.
    """

    summary = "Paired, one direction, many translations of one image by a style code."
    paired = True
    added = ("average_style.",)
    config: BicycleGANConfig

    def __init__(self, config: BicycleGANConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = UNet(
            config.width,
            config.downs,
            norm=InstanceNorm,
            bias=True,
            dropout=config.dropout,
            code_size=config.style_size,
            code_place=config.style_place,
            upsampling=config.upsampling,
        )
        self.encoder = Encoder(config.encoder_width, config.downs - 4, config.style_size, config.encoder)
        channels = 6 if config.conditional else 3
        self.disc_encoded = Discriminator(channels, config.disc_width, config.disc_layers)
        self.disc_random = Discriminator(channels, config.disc_width, config.disc_layers)
        init_xavier_normal(self, 0.02)
        self.average_style = AverageStyle(config.style_size)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "gen": adam(self.config, self.generator, self.encoder),
            "disc_encoded": adam(self.config, self.disc_encoded),
            "disc_random": adam(self.config, self.disc_random),
        }

    def step(self, batch: Batch, update: Update) -> Losses:
        updates = {
            "bicycle": self._update_both,
            "cvae": self._update_encoded,
            "clr": self._update_random,
            "noise": self._update_noise,
        }
        return detached(updates[self.config.objective](batch, update))

    def _update_both(self, batch: Batch, update: Update) -> Losses:
        a, _ = batch.a.chunk(2)
        b, other_b = batch.b.chunk(2)
        other_a = batch.a.chunk(2)[1]
        drawn = self.draw_style(a)
        with frozen(self.disc_encoded, self.disc_random):
            encoded, terms = self.encoded_losses(a, b)
            random = self.generator(a, drawn)
            terms["gan random"] = lsgan(self.logits(self.disc_random, a, random), 1)
            update("gen", weighted_sum(terms, self.weights()))
            with frozen(self.encoder):
                terms["latent"] = self.latent_distance(self.generator(a, drawn), drawn)
                update("gen", self.config.latent_weight * terms["latent"])
        terms["disc encoded"] = self._update_discriminator(
            self.disc_encoded, "disc_encoded", (a, b), (a, encoded), update
        )
        terms["disc random"] = self._update_discriminator(
            self.disc_random, "disc_random", (other_a, other_b), (a, random), update
        )
        return terms

    def _update_encoded(self, batch: Batch, update: Update) -> Losses:
        with frozen(self.disc_encoded):
            encoded, terms = self.encoded_losses(batch.a, batch.b)
            update("gen", weighted_sum(terms, self.weights()))
        terms["disc encoded"] = self._update_discriminator(
            self.disc_encoded, "disc_encoded", (batch.a, batch.b), (batch.a, encoded), update
        )
        return terms

    def _update_random(self, batch: Batch, update: Update) -> Losses:
        drawn = self.draw_style(batch.a)
        with torch.no_grad():
            self.average_style.update(self.encoder(batch.b)[0])
        with frozen(self.disc_random):
            random = self.generator(batch.a, drawn)
            terms = {
                "gan random": lsgan(self.logits(self.disc_random, batch.a, random), 1),
                "latent": self.latent_distance(random, drawn),
            }
            update("gen", weighted_sum(terms, self.weights()))
        terms["disc random"] = self._update_discriminator(
            self.disc_random, "disc_random", (batch.a, batch.b), (batch.a, random), update
        )
        return terms

    def _update_noise(self, batch: Batch, update: Update) -> Losses:
        """Pix2pix with a drawn code: nothing asks the generator to use it, nothing teaches the encoder."""
        with frozen(self.disc_random):
            made = self.generator(batch.a, self.draw_style(batch.a))
            terms = {
                "gan random": lsgan(self.logits(self.disc_random, batch.a, made), 1),
                "l1": F.l1_loss(made, batch.b),
            }
            update("gen", weighted_sum(terms, self.weights()))
        terms["disc random"] = self._update_discriminator(
            self.disc_random, "disc_random", (batch.a, batch.b), (batch.a, made), update
        )
        return terms

    def encoded_losses(self, a: Tensor, b: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The translation of `a` by the code of `b`, and the unweighted losses of cVAE-GAN."""
        mean, log_variance = self.encoder(b)
        self.average_style.update(mean)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        translated = self.generator(a, code)
        return translated, {
            "gan": lsgan(self.logits(self.disc_encoded, a, translated), 1),
            "l1": F.l1_loss(translated, b),
            "kl": kl_normal(mean, log_variance),
        }

    def latent_distance(self, translated: Tensor, drawn: Tensor) -> Tensor:
        """Mean absolute distance of the code's mean, read off the translation, to the code it was made with."""
        return F.l1_loss(self.encoder(translated)[0], drawn)

    def logits(self, discriminator: Discriminator, a: Tensor, b: Tensor) -> list[Tensor]:
        """Logit maps of `b`, beside its source if the discriminators are conditional."""
        maps: list[Tensor] = discriminator(torch.cat([a, b], dim=1) if self.config.conditional else b)
        return maps

    def _update_discriminator(
        self,
        discriminator: Discriminator,
        name: str,
        real: tuple[Tensor, Tensor],
        fake: tuple[Tensor, Tensor],
        update: Update,
    ) -> Tensor:
        loss = lsgan(self.logits(discriminator, *real), 1) + lsgan(
            self.logits(discriminator, fake[0], fake[1].detach()), 0
        )
        update(name, loss)
        return loss

    def draw_style(self, images: Tensor) -> Tensor:
        """One code per image from N(0, I)."""
        return torch.randn(len(images), self.config.style_size, device=images.device)

    def weights(self) -> dict[str, float]:
        """Weight of every term of the generator's loss."""
        return {
            "gan": self.config.gan_weight,
            "gan random": self.config.random_gan_weight,
            "l1": self.config.l1_weight,
            "kl": self.config.kl_weight,
            "latent": self.config.latent_weight,
        }

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        a, b = batch.a, batch.b
        translate = self.inference()
        encoder = self.style_encoder()
        return {
            "a": a,
            "b": b,
            **({} if encoder is None else {"a in b's style": translate(a, encoder(b))}),
            "a to b": translate(a, self.draw_style(a)),
            "a to b, another style": translate(a, self.draw_style(a)),
        }

    def inference(self, direction: str = "a2b") -> Inference:
        config = self.config
        inference = StyledInference(self.generator, self.average_style.code(), 2**config.downs)
        inference.presets = normal_presets(config.style_size)
        inference.notes = {"dropout": "off", "style": f"enters {config.style_place}"}
        return inference

    def style_encoder(self, direction: str = "a2b") -> nn.Module | None:
        return None if self.config.objective == "noise" else FirstOutput(self.encoder)

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "encoder": self.encoder}
