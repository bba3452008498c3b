"""pix2pix: a U-Net and a patch discriminator that sees the source beside the translation; needs pairs.

Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.blocks import PatchDiscriminator, init_normal
from i2i_trainer.config import SMALL_RUN, Schedule, TrainConfig
from i2i_trainer.losses import nsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.steps import adam, detached, frozen
from i2i_trainer.unet import UNet, Upsampling, check_unet_size

BatchNorm = Literal["auto", "instance", "running"]


@dataclass(frozen=True, kw_only=True)
class Pix2PixConfig(TrainConfig):
    """Learn a translation from pairs; the lengths are those of 400 pairs (facades) for 100 + 100 epochs."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {"width": 16, "downs": 6, "disc_width": 16, "disc_layers": 2, "decay_from": 2000},
        "unet128": {"downs": 7, "image_size": 128, "load_size": 143},
    }

    steps: int = 80_000
    schedule: Schedule = "linear"
    decay_from: int = 40_000

    width: int = 64
    """Channels of the first layer of the U-Net."""
    downs: int = 8
    """Halvings of the U-Net: 8 for images of 256 pixels, 7 for 128."""
    upsampling: Upsampling = "transposed"
    """How the U-Net doubles the size: `bilinear` and a convolution leave no checkerboard."""
    disc_width: int = 64
    disc_layers: int = 3
    """Layers of stride 2 of the discriminator; 3 gives the 70x70 PatchGAN."""
    l1_weight: float = 100.0
    batch_norm: BatchNorm = "auto"
    """Statistics of the exported network: each image's own, as the paper tests, or the training's running ones;
    `auto` takes those that it was trained with: its own if --batch is 1, else the running ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_unet_size(self.image_size, self.downs)


def init_pix2pix(network: nn.Module) -> None:
    """Weights from N(0, 0.02), those of batch norms from N(1, 0.02), biases 0."""
    init_normal(network)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


class Pix2Pix(Method):
    """One direction from pairs: discriminator first, then generator, both on the same translation."""

    summary = "Paired, one direction; a U-Net, light in arithmetic and heavy in weights."
    paired = True
    config: Pix2PixConfig

    def __init__(self, config: Pix2PixConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = UNet(
            config.width,
            config.downs,
            norm=nn.BatchNorm2d,
            bias=False,
            dropout=True,
            upsampling=config.upsampling,
        )
        self.discriminator = PatchDiscriminator(
            6, width=config.disc_width, layers=config.disc_layers, norm=nn.BatchNorm2d, bias=False
        )
        init_pix2pix(self)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"disc": adam(self.config, self.discriminator), "gen": adam(self.config, self.generator)}

    def step(self, batch: Batch, update: Update) -> Losses:
        a, b = batch.a, batch.b
        translated = self.generator(a)
        real = self.discriminator(torch.cat([a, b], dim=1))
        fake = self.discriminator(torch.cat([a, translated.detach()], dim=1))
        disc = 0.5 * (nsgan([real], 1) + nsgan([fake], 0))
        update("disc", disc)

        with frozen(self.discriminator):
            gen = nsgan([self.discriminator(torch.cat([a, translated], dim=1))], 1)
            l1 = F.l1_loss(translated, b)
            update("gen", gen + self.config.l1_weight * l1)
        return detached({"disc": disc, "gen": gen, "l1": l1})

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {"a": batch.a, "a to b": self.inference()(batch.a), "b": batch.b}

    def statistics(self) -> Literal["instance", "running"]:
        """What the batch norms of the inference network normalise with."""
        if self.config.batch_norm != "auto":
            return self.config.batch_norm
        return "instance" if self.config.batch == 1 else "running"

    def inference(self, direction: str = "a2b") -> Inference:
        return Pix2PixInference(self.generator, self.config.downs, self.statistics())

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}


class Pix2PixInference(Inference):
    """The U-Net without dropout; its batch norms take each image's own statistics or the running ones."""

    def __init__(self, generator: UNet, downs: int, batch_norm: Literal["instance", "running"]) -> None:
        super().__init__()
        self.generator = deepcopy(generator)
        if batch_norm == "instance":
            use_own_statistics(self.generator)
        self.stride = 2**downs
        self.notes = {"batch norm": batch_norm, "dropout": "off"}
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        translated: Tensor = self.generator(image)
        return translated


def use_own_statistics(network: nn.Module) -> None:
    """Replaces every batch norm by an instance norm with its affine: a training-mode batch norm at batch 1."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, nn.BatchNorm2d):
                own = nn.InstanceNorm2d(layer.num_features, eps=layer.eps, affine=True)
                own.weight, own.bias = layer.weight, layer.bias
                setattr(parent, name, own)
