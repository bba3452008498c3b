"""TUNIT: translation without any labels; a guiding network finds the domains while it learns their styles.

Baek, Choi, Uh, Yoo, Shim: Rethinking the Truly Unsupervised Image-to-Image Translation, ICCV 2021. The guiding
network gives an image its pseudo-domain (one of K) and its style; the generator puts one image's content into
another's style; the discriminator has one output per pseudo-domain, of which that of the reference counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.augment import Augmentation
from i2i_trainer.blocks import (
    AdaptiveResBlock,
    StyleMlp,
    Upsample,
    content_encoder,
    conv,
    init_kaiming,
)
from i2i_trainer.config import SMALL_RUN, TrainConfig
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.layouts import Domains
from i2i_trainer.losses import hinge_discriminator, hinge_generator, iic, info_nce, r1_penalty
from i2i_trainer.method import Batch, Inference, Losses, Method, Stage, Update
from i2i_trainer.norms import AdaptiveInstanceNorm, FilterResponseNorm
from i2i_trainer.steps import JointOptimiser, detached, frozen, weighted_sum
from i2i_trainer.styles import FirstOutput, StyledInference

RESIDUAL_SCALE = 0.1
"""Of every residual block of the generator; without it the results change."""
TEMPERATURE = 0.07
VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
"""Widths of VGG11's convolutions; 0 is a 2x2 max pool."""


@dataclass(frozen=True, kw_only=True)
class TUNITConfig(TrainConfig):
    """Learn to translate within one set of unlabelled images; both folders of a layout are one set."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": SMALL_RUN
        | {
            "width": 8,
            "guide_width": 8,
            "disc_width": 8,
            "classes": 2,
            "load_size": 64,
            "steps": 6000,
            "separated_steps": 2000,
        },
        "128px": {"image_size": 128, "load_size": 128, "batch": 16},
    }

    load_size: int = 256
    batch: int = 8
    """Images per folder and step; both folders together give the 16 of the paper (32 at 128 pixels)."""
    steps: int = 200_000
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    """Of the guiding network's Adam; generator and discriminator have RMSprop."""
    weight_decay: float = 1e-4
    ema: float = 0.999

    classes: int = 10
    """K, the number of pseudo-domains; too few merge domains, too many split them."""
    style_size: int = 128
    width: int | None = None
    """Channels of the generator's first layer; 64 below 256 pixels and 32 from there on unless given."""
    disc_width: int | None = None
    """Channels of the discriminator's first layer, as `width` unless given."""
    guide_width: int = 64
    """Channels of the guiding network's first layer."""
    guide_weight_decay: float = 1e-3
    training: Literal["joint", "separate"] = "joint"
    """After the guiding network's own steps: learn all together, or keep the guiding network as it is."""
    separated_steps: int = 65_000
    """Steps in which the guiding network learns alone."""
    semi_supervised: bool = False
    """Learn the domains of images that have a label (0 or more) from it; 35000 `separated_steps` then suffice."""
    queue: int = 1024
    """Past styles that serve as negatives."""
    momentum: float = 0.999
    """Of the guiding network's slow copy, which makes the positives and is the one exported."""
    contrast_weight: float = 1.0
    clustering_weight: float = 5.0
    """Weight of the mutual information between the classes of an image and of its augmentation."""
    joint_guide_weight: float = 0.1
    """Factor on the guiding network's own losses once all learn together."""
    gan_weight: float = 1.0
    penalty_weight: float = 10.0
    """Weight of the R1 penalty on real images."""
    image_weight: float = 0.1
    """Weight of the L1 distance of an image to itself, decoded with its own style."""
    style_weight: float = 0.01
    """Weight of telling the translation's style from those of the queue."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size < 32 or self.image_size & (self.image_size - 1):
            raise OptionError(
                f"--image-size {self.image_size} must be a power of two of at least 32 for tunit."
            )
        if self.classes < 2:
            raise OptionError(f"--classes is {self.classes} but tunit needs at least 2 pseudo-domains.")
        if self.batch < 2:
            raise OptionError(f"--batch is {self.batch} but tunit compares images: use at least 2.")

    @property
    def downs(self) -> int:
        """Halvings of the generator: down to 16 x 16."""
        return int(math.log2(self.image_size)) - 4

    @property
    def generator_width(self) -> int:
        """Channels of the generator's first layer."""
        return self.width or (64 if self.image_size < 256 else 32)


class Decoder(nn.Module):
    """Content `[N, C, h, w]` and style `[N, style_size]` -> image; every norm but the last layer's is adaptive."""

    def __init__(self, width: int, downs: int, style_size: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in reversed(range(downs + 1))]
        self.mlp = StyleMlp(style_size, [widths[0]] * 4 + widths[1:])
        self.blocks = nn.ModuleList(
            AdaptiveResBlock(widths[0], residual_scale=RESIDUAL_SCALE) for _ in range(2)
        )
        self.upsample = Upsample()
        self.ups = nn.ModuleList(conv(before, after, 5) for before, after in pairwise(widths))
        self.norms = nn.ModuleList(AdaptiveInstanceNorm(after) for after in widths[1:])
        self.exit = nn.Sequential(conv(width, 3, 7), nn.Tanh())

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        affine = self.mlp(style)
        x = content
        for index, block in enumerate(self.blocks):
            x = block(x, affine[2 * index], affine[2 * index + 1])
        for layer, norm, (scale, shift) in zip(self.ups, self.norms, affine[4:], strict=True):
            x = torch.relu(norm(layer(self.upsample(x)), scale, shift))
        image: Tensor = self.exit(x)
        return image


class Generator(nn.Module):
    """Content of one image, style of another; sizes are multiples of `2 ** downs`."""

    def __init__(self, width: int, downs: int, style_size: int) -> None:
        super().__init__()
        self.content = content_encoder(width, downs=downs, blocks=2, residual_scale=RESIDUAL_SCALE)
        self.decoder = Decoder(width, downs, style_size)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        translated: Tensor = self.decoder(self.content(image), style)
        return translated


class GuidingNetwork(nn.Module):
    """Image `[N, 3, S, S]` -> style `[N, style_size]` and class logits `[N, K]`: VGG11 with batch norm, pooled."""

    def __init__(self, width: int, style_size: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for full_width in VGG11:
            if full_width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            after = full_width * width // 64
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.style = nn.Linear(before, style_size)
        self.classes = nn.Linear(before, classes)
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, 0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(image)
        return self.style(features), self.classes(features)


class DiscriminatorBlock(nn.Module):
    """(shortcut + [FRN, C3, average, FRN, C3]) / sqrt 2; shortcut 1x1 without bias if the width changes."""

    def __init__(self, inputs: int, outputs: int, *, halve: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = FilterResponseNorm(inputs), FilterResponseNorm(inputs)
        self.conv1 = conv(inputs, inputs, 3, padding="zeros")
        self.conv2 = conv(inputs, outputs, 3, padding="zeros")
        self.shortcut = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1, bias=False)
        self.pool = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv2(self.norm2(self.pool(self.conv1(self.norm1(x)))))
        shortcut: Tensor = self.pool(self.shortcut(x))
        joined: Tensor = shortcut + residual
        return joined / math.sqrt(2)


class Discriminator(nn.Module):
    """Image `[N, 3, S, S]` and class `[N] int64` -> that class's logit `[N]`."""

    def __init__(self, image_size: int, width: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, width, 3, padding="zeros")]
        for _ in range(int(math.log2(image_size)) - 2):
            wider = min(2 * width, 1024)
            layers += [
                DiscriminatorBlock(width, width, halve=False),
                DiscriminatorBlock(width, wider, halve=True),
            ]
            width = wider
        self.body = nn.Sequential(
            *layers,
            nn.LeakyReLU(0.2),
            conv(width, width, 4, pad=0),
            nn.LeakyReLU(0.2),
            conv(width, classes, 1),
        )

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = self.body(image).flatten(1)
        return logits.gather(1, label[:, None]).squeeze(1)


class Images(NamedTuple):
    """One step's set: images `[N, 3, S, S]`, the index of each one's reference, labels `[N]`, -1 if unknown."""

    images: Tensor
    references: Tensor
    labels: Tensor


class TUNIT(Method):
    """One network for every direction: the content of one image in the style of another.

    First the guiding network learns alone. Then, per step: its own losses, the discriminator, and the generator,
    whose loss teaches the guiding network too (joint); or the guiding network stays as it is (separate). The slow
    copy and the queue of styles follow at the end of the step.
    """

    summary = "One set of images without labels: finds K domains, translates into a reference's style."
    config: TUNITConfig
    styles: Tensor
    seen: Tensor

    def __init__(self, config: TUNITConfig) -> None:
        super().__init__()
        self.config = config
        width = config.generator_width
        self.generator = Generator(width, config.downs, config.style_size)
        init_kaiming(self.generator)
        self.guide = GuidingNetwork(config.guide_width, config.style_size, config.classes)
        self.slow_guide = deepcopy(self.guide).requires_grad_(False)
        self.disc = Discriminator(config.image_size, config.disc_width or width, config.classes)
        self.augment = Augmentation(config.image_size)
        # Average style of every pseudo-domain, then of the two folders, and how many images each has seen.
        self.register_buffer("styles", torch.zeros(config.classes + 2, config.style_size))
        self.register_buffer("seen", torch.zeros(config.classes + 2))
        self.queue = torch.empty(0, config.style_size)

    def check_data(self, domains: Domains) -> list[str]:
        if not self.config.semi_supervised:
            return []
        if domains.labels_a is None or max(domains.labels_a) < 0:
            raise DataError(
                f"--semi-supervised learns from labels and {self.config.data} has none: make a folder of images "
                "per class and add --layout class-folders, or leave --semi-supervised away."
            )
        if len(domains.classes) > self.config.classes:
            raise OptionError(
                f"--classes {self.config.classes} is fewer than the {len(domains.classes)} class folders, which "
                f"--semi-supervised takes for domains: use at least {len(domains.classes)}."
            )
        return []

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        rmsprop = partial(torch.optim.RMSprop, lr=config.lr, weight_decay=config.weight_decay)
        guide = torch.optim.Adam(
            self.guide.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.guide_weight_decay
        )
        return {
            "gen": JointOptimiser(rmsprop(self.generator.parameters()), guide),
            "disc": rmsprop(self.disc.parameters()),
        }

    def stage(self, step: int) -> Stage:
        """Who learns in step `step`: `guide`, the guiding network alone; `joint`, all; `separate`, all but it."""
        if step < self.config.separated_steps:
            return Stage("guide", self.config.separated_steps, translates=False)
        return Stage(self.config.training)

    def step(self, batch: Batch, update: Update) -> Losses:
        stage = self.stage(update.step).name
        images = self.pooled(batch)
        losses: Losses = {}
        keys: Tensor | None = None
        if stage != "separate":
            factor = 1.0 if stage == "guide" else self.config.joint_guide_weight
            keys, losses = self._update_guide(images, update, factor)
        if stage != "guide":
            self._average_styles(images)
            with nullcontext() if stage == "joint" else at_rest(self.guide):
                losses |= self._update_translation(images, update)
        if keys is not None:
            # Last: in the queue earlier, this step's own styles would be negatives of its translations.
            if update.last_micro_batch:
                self._follow_guide()
            self.queue = torch.cat([keys, self.queue.to(keys.device)])[: self.config.queue]
        return detached(losses)

    def pooled(self, batch: Batch) -> Images:
        """Both folders as one set, with a random reference for each image."""
        images = torch.cat([batch.a, batch.b])
        labels = torch.full((len(images),), -1, device=images.device)
        if self.config.semi_supervised and batch.labels_a is not None and batch.labels_b is not None:
            labels = torch.cat([batch.labels_a, batch.labels_b])
        return Images(images, torch.randperm(len(images)).to(images.device), labels)

    def _update_guide(self, batch: Images, update: Update, factor: float) -> tuple[Tensor, Losses]:
        """The guiding network's own losses; also the styles `[N, style_size]` that the queue gets after the step."""
        config = self.config
        changed = self.augment(batch.images)
        style, logits = self.guide(batch.images)
        changed_logits = self.guide(changed)[1]
        with torch.no_grad():
            keys = self.slow_guide(changed)[0].float()
        terms = {
            "contrast": info_nce(style, keys, self.queue.to(keys.device), TEMPERATURE),
            "clustering": iic(logits.float().softmax(1), changed_logits.float().softmax(1)),
        }
        weights = {"contrast": config.contrast_weight, "clustering": config.clustering_weight, "classes": 1.0}
        if config.semi_supervised:
            terms["classes"] = class_loss(logits, batch.labels)
        update("gen", factor * weighted_sum(terms, weights))
        return keys, terms

    @torch.no_grad()
    def _follow_guide(self) -> None:
        # Weights only: the statistics of the fast network's batch norms would not fit weights that lag behind.
        for slow, fast in zip(self.slow_guide.parameters(), self.guide.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.config.momentum)

    def _update_translation(self, batch: Images, update: Update) -> Losses:
        """Discriminator, then generator; if it may learn, the guiding network moves with the generator."""
        config = self.config
        x, references = batch.images, batch.references
        with torch.no_grad():
            style, logits = self.guide(x)
            fake = self.generator(x, style[references])
        labels = torch.where(batch.labels >= 0, batch.labels, logits.argmax(1))

        real = x[references].detach().requires_grad_()
        real_logits = self.disc(real, labels[references])
        fake_logits = self.disc(fake, labels[references])
        disc = hinge_discriminator(real_logits, True) + hinge_discriminator(fake_logits, False)
        penalty = r1_penalty(real_logits, real)
        update("disc", config.gan_weight * disc + config.penalty_weight * penalty)

        with frozen(self.disc):
            terms = self.generator_losses(batch, labels)
            update("gen", weighted_sum(terms, self.weights()))
        return {"disc": disc, "penalty": penalty, **terms}

    def generator_losses(self, batch: Images, labels: Tensor) -> dict[str, Tensor]:
        """Unweighted losses of the generator by name; `labels` are the pseudo-domains of the images."""
        x, references = batch.images, batch.references
        style, _ = self.guide(x)
        content = self.generator.content(x)
        fake = self.generator.decoder(content, style[references])
        again = self.generator.decoder(content, style)
        fake_style, _ = self.guide(fake)
        with torch.no_grad():
            aim = self.slow_guide(x)[0][references]
        return {
            "gan": hinge_generator(self.disc(fake, labels[references]))
            + hinge_generator(self.disc(again, labels)),
            "image": F.l1_loss(again, x),
            "style": info_nce(fake_style, aim, self.queue.to(aim.device), TEMPERATURE),
        }

    def weights(self) -> dict[str, float]:
        """Weight of every term of the generator's loss."""
        return {
            "gan": self.config.gan_weight,
            "image": self.config.image_weight,
            "style": self.config.style_weight,
        }

    @torch.no_grad()
    def _average_styles(self, batch: Images) -> None:
        """Moves the average styles: a plain mean at first, then an exponential one."""
        with at_rest(self.slow_guide):
            style, logits = self.slow_guide(batch.images)
        folder = torch.arange(len(style), device=style.device) >= len(style) // 2
        groups = [F.one_hot(logits.argmax(1), self.config.classes), F.one_hot(folder.long(), 2)]
        members = torch.cat(groups, dim=1).to(self.styles)
        count = members.sum(0)
        self.seen += count
        mean = members.T @ style.to(self.styles) / count.clamp_min(1)[:, None]
        share = (count / self.seen.clamp_min(1)).clamp_min(0.01) * (count > 0)
        self.styles.lerp_(mean, share[:, None])

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        with at_rest(self.slow_guide):
            style_a, style_b = self.slow_guide(batch.a)[0], self.slow_guide(batch.b)[0]
        return {
            "a": batch.a,
            "b": batch.b,
            "a in b's style": self.generator(batch.a, style_b),
            "b in a's style": self.generator(batch.b, style_a),
            "a in its own style": self.generator(batch.a, style_a),
        }

    def directions(self) -> tuple[str, ...]:
        return "a2b", "b2a"

    def inference(self, direction: str = "a2b") -> Inference:
        config = self.config
        styles = torch.zeros_like(self.styles, device="cpu") if self.styles.is_meta else self.styles
        *clusters, folder_a, folder_b = (tuple(style) for style in styles.tolist())
        default = {"a2b": folder_b, "b2a": folder_a}[direction]
        inference = StyledInference(self.generator, default, 2**config.downs)
        inference.random_styles = False
        if self.styles.is_meta:  # while networks are only counted, there are no clusters
            return inference
        known = zip(clusters, self.seen.tolist(), strict=False)
        inference.presets = {f"cluster-{i}": style for i, (style, seen) in enumerate(known) if seen}
        return inference

    def style_encoder(self, direction: str = "a2b") -> nn.Module:
        return FirstOutput(self.slow_guide)

    @torch.no_grad()
    def cluster(self, images: Tensor) -> Tensor:
        """Pseudo-domain `[N] int64` of images `[N, 3, S, S]`, by the slow copy of the guiding network."""
        with at_rest(self.slow_guide):
            logits: Tensor = self.slow_guide(images)[1]
        return logits.argmax(1)

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}

    def extra_state(self) -> dict[str, Tensor]:
        return {"queue": self.queue}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        self.queue = state.get("queue", self.queue)


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy over the images whose label is known, 0 if none is."""
    total = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp_min(1)


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Inside, the network neither learns nor moves its batch statistics."""
    training = network.training
    network.eval()
    try:
        with frozen(network):
            yield
    finally:
        network.train(training)
