"""UNIT on digits: translations into an unlabelled domain teach a classifier to read it.

Liu, Breuel, Kautz: Unsupervised Image-to-Image Translation Networks, NIPS 2017, section on domain adaptation: the
32 x 32 networks of its SVHN to MNIST experiment. There is no cycle; both generators share all but their ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2i_trainer.blocks import init_normal, init_xavier_uniform
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.images import TrainingImage
from i2i_trainer.layouts import Domains
from i2i_trainer.losses import softmax_gan, sum_of_absolutes, sum_of_squares
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.norms import BatchNormBias
from i2i_trainer.steps import adam, detached, frozen, weighted_sum

SIDE = 32
CLASSES = 10
DROPOUT = (0.1, 0.3, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class UNITDigitsConfig(TrainConfig):
    """Translate digits of 32 x 32 pixels and classify an unlabelled domain with the labels of another."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {"width": 16, "disc_width": 16, "batch": 32, "steps": 4000, "log_every": 20},
    }

    formerly: ClassVar[Mapping[str, Any]] = {"feature_distance": "squared"}

    load_size: int = SIDE
    image_size: int = SIDE
    flip: bool = False
    batch: int = 64
    lr: float = 2e-4
    weight_decay: float = 5e-4
    steps: int = 200_000

    channels: tuple[int, int] = (3, 1)
    """Colour channels of the source and of the target: 3, or 1 for grey digits."""
    invert_target: bool = True
    """Show half of the target digits in negative, as the paper does with MNIST."""
    width: int = 96
    """Channels of the generators' first layer."""
    disc_width: int = 64
    """Channels of the discriminators' first layer."""
    gan_weight: float = 1.0
    reconstruction_weight: float = 1e-3
    """Weight of the squared distance between a digit and its reconstruction, both domains."""
    kl_weight: float = 1e-4
    feature_weight: float = 1e-4
    """Weight of the distance between the features of one digit rendered in both domains."""
    feature_distance: Literal["l1", "squared"] = "l1"
    """Absolute differences as in the paper, or squared ones as in the code that its authors released."""
    class_weight: float = 10.0
    """Weight of the digits' cross entropy on the labelled domain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != SIDE:
            raise OptionError(
                f"--image-size is {self.image_size} but unit-digits' networks take {SIDE} pixels."
            )
        if set(self.channels) - {1, 3}:
            raise OptionError(f"--channels is {self.channels} but a domain has 1 or 3 of them.")


def are_grey(images: Sequence[TrainingImage]) -> bool:
    """Whether about twenty of the images, spread over all, have no colour."""
    some = (image.read(SIDE) for image in images[:: max(1, len(images) // 20)])
    return all(int((pixels.max(2) - pixels.min(2)).max()) < 8 for pixels in some)


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Images `[N, 3, H, W]` as `[N, channels, H, W]`: grey if one is asked for."""
    return images if channels == 3 else images.mean(dim=1, keepdim=True)


def with_coordinates(images: Tensor) -> Tensor:
    """Two channels more: row and column of every pixel, from -1 to just below 1."""
    axis = (torch.arange(SIDE, device=images.device, dtype=images.dtype) - SIDE // 2) / (SIDE // 2)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    coordinates = torch.stack([rows, columns]).expand(len(images), -1, -1, -1)
    return torch.cat([images, coordinates], dim=1)


def unit(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """Convolution, batch norm with a bias of its own, LeakyReLU(0.01)."""
    return nn.Sequential(layer, BatchNormBias(layer.out_channels), nn.LeakyReLU(0.01))


class Code(NamedTuple):
    """Mean and deviation of the code, `[N, 8 width, 1, 1]`."""

    mean: Tensor
    deviation: Tensor


class Generator(nn.Module):
    """Both variational autoencoders: private first and last layers, everything between shared."""

    def __init__(self, width: int, channels: tuple[int, int]) -> None:
        super().__init__()
        w, code = width, 8 * width
        self.enc_a, self.enc_b = (unit(nn.Conv2d(2 + c, w, 5, 2, 2)) for c in channels)
        self.enc_shared = nn.Sequential(
            unit(nn.Conv2d(w, 2 * w, 5, 2, 2)),
            unit(nn.Conv2d(2 * w, 4 * w, 8)),
            unit(nn.Conv2d(4 * w, code, 1)),
        )
        self.mean = nn.Conv2d(code, code, 1)
        self.deviation = nn.Conv2d(code, code, 1)
        self.dec_shared = nn.Sequential(
            unit(nn.ConvTranspose2d(code, code, 4, 2)),
            unit(nn.ConvTranspose2d(code, 4 * w, 4, 2, 1)),
            unit(nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1)),
        )
        self.dec_a, self.dec_b = (
            nn.Sequential(unit(nn.ConvTranspose2d(2 * w, w, 4, 2, 1)), nn.ConvTranspose2d(w, c, 1), nn.Tanh())
            for c in channels
        )
        init_normal(self)
        for layer in (self.mean, self.deviation):
            assert layer.bias is not None
            nn.init.normal_(layer.bias, 0.0, 0.002)

    def code(self, features: Tensor) -> Code:
        """What the private first layers give, as a distribution."""
        shared = self.enc_shared(features)
        return Code(self.mean(shared), F.softplus(self.deviation(shared)))

    def sample(self, code: Code) -> Tensor:
        """A draw from the code in training, its mean in evaluation."""
        if not self.training:
            return code.mean
        return code.mean + code.deviation * torch.randn_like(code.mean)


class Translations(NamedTuple):
    """Digits of both domains rendered in both: `ab` is a's digit in domain b; and the codes of all."""

    aa: Tensor
    ba: Tensor
    ab: Tensor
    bb: Tensor
    code: Code


class Discriminator(nn.Module):
    """Tells real from fake and classifies digits of both domains; only the first layer belongs to one domain."""

    def __init__(self, width: int, channels: tuple[int, int]) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.start_a, self.start_b = (self._stage(c, width) for c in channels)
        self.stages = nn.ModuleList(self._stage(before, after) for before, after in pairwise(widths))
        self.dropouts = nn.ModuleList(nn.Dropout(share) for share in DROPOUT)
        self.adversary = nn.Conv2d(widths[-1], 2, 2)
        self.classes = nn.Conv2d(widths[-1], CLASSES, 2)
        init_xavier_uniform(self)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, after, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))

    def features(self, start: Tensor) -> Tensor:
        """Features `[N, 8 width, 2, 2]` of what a first layer gave, without dropout."""
        for stage in self.stages:
            start = stage(start)
        return start

    def _dropped(self, start: Tensor) -> Tensor:
        x: Tensor = self.dropouts[0](start)
        for stage, dropout in zip(self.stages, list(self.dropouts)[1:], strict=True):
            x = dropout(stage(x))
        return x

    def discriminate(self, a: Tensor, b: Tensor) -> Tensor:
        """Logits `[2 N, 2]`, class 1 is real."""
        logits: Tensor = self.adversary(self._dropped(torch.cat([self.start_a(a), self.start_b(b)])))
        return logits.flatten(1)

    def classify(self, start: Tensor) -> Tensor:
        """Logits `[N, 10]` of what a first layer gave."""
        logits: Tensor = self.classes(self._dropped(start))
        return logits.flatten(1)


class UNITDigitsInference(Inference):
    """Private encoder of the source, the mean code, private decoder of the target; 32 x 32 pixels."""

    def __init__(self, generator: Generator, encoder: nn.Module, decoder: nn.Module, channels: int) -> None:
        super().__init__()
        self.fixed_size = (SIDE, SIDE)
        self.channels = channels
        self.encoder = nn.Sequential(
            deepcopy(encoder), deepcopy(generator.enc_shared), deepcopy(generator.mean)
        )
        self.decoder = nn.Sequential(deepcopy(generator.dec_shared), deepcopy(decoder))

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        digits = with_coordinates(with_channels(image, self.channels))
        translated: Tensor = self.decoder(self.encoder(digits))
        return translated.expand(-1, 3, -1, -1)


class UNITDigits(Method):
    """Networks `gen` and `disc`; optimisers of the same names, the discriminator first.

    Domain a is the labelled source, domain b the target: its labels are never read.
    """

    summary = "Digits: UNIT translates and classifies a domain without labels (domain adaptation)."

    def __init__(self, config: UNITDigitsConfig) -> None:
        super().__init__()
        self.config: UNITDigitsConfig = config
        self.gen = Generator(config.width, config.channels)
        self.disc = Discriminator(config.disc_width, config.channels)

    def check_data(self, domains: Domains) -> list[str]:
        both = zip(domains.names, (domains.a, domains.b), self.config.channels, strict=True)
        grey = [name for name, images, channels in both if channels == 3 and are_grey(images)]
        return [
            f"The digits of {name} are grey and --channels gives them 3: the defaults are those of SVHN to MNIST, for "
            "two grey sets add --channels 1 1 --no-invert-target."
            for name in grey
        ]

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {"disc": adam(self.config, self.disc), "gen": adam(self.config, self.gen)}

    def translate(self, a: Tensor, b: Tensor) -> Translations:
        """Both batches through the shared layers at once, then all of it through both decoders."""
        gen = self.gen
        code = gen.code(torch.cat([gen.enc_a(with_coordinates(a)), gen.enc_b(with_coordinates(b))]))
        shared = gen.dec_shared(gen.sample(code))
        aa, ba = gen.dec_a(shared).split([len(a), len(b)])
        ab, bb = gen.dec_b(shared).split([len(a), len(b)])
        return Translations(aa, ba, ab, bb, code)

    def step(self, batch: Batch, update: Update) -> Losses:
        if batch.labels_a is None:
            raise DataError(
                "unit-digits needs labels of the source domain: give --layout digits and two digit folders."
            )
        a, b = (with_channels(x, c) for x, c in zip((batch.a, batch.b), self.config.channels, strict=True))
        if self.config.invert_target:
            b = torch.where(torch.rand(len(b), 1, 1, 1, device=b.device) < 0.5, -b, b)
        losses = self._update_discriminator(a, b, batch.labels_a, update)
        with frozen(self.disc):
            losses |= self._update_generator(a, b, update)
        return detached(losses)

    def _update_discriminator(self, a: Tensor, b: Tensor, labels: Tensor, update: Update) -> Losses:
        config, disc = self.config, self.disc
        with torch.no_grad():
            made = self.translate(a, b)
        fakes = [
            softmax_gan(disc.discriminate(*pair), real=False)
            for pair in ((made.ba, made.ab), (made.aa, made.bb))
        ]
        in_a = disc.features(disc.start_a(torch.cat([made.aa, made.ba])))
        in_b = disc.features(disc.start_b(torch.cat([made.ab, made.bb])))
        distance = sum_of_absolutes if config.feature_distance == "l1" else sum_of_squares
        losses = {
            "disc": softmax_gan(disc.discriminate(a, b), real=True) + 0.5 * (fakes[0] + fakes[1]),
            "class": F.cross_entropy(disc.classify(disc.start_a(a)).float(), labels),
            "feature": distance(in_b[: len(a)], in_a[: len(a)]) + distance(in_a[len(a) :], in_b[len(a) :]),
        }
        weights = {
            "disc": config.gan_weight,
            "class": config.class_weight,
            "feature": config.feature_weight,
        }
        update("disc", weighted_sum(losses, weights))
        return losses

    def _update_generator(self, a: Tensor, b: Tensor, update: Update) -> Losses:
        config, disc = self.config, self.disc
        made = self.translate(a, b)
        losses = {
            "gen": softmax_gan(disc.discriminate(made.ba, made.ab), real=True)
            + softmax_gan(disc.discriminate(made.aa, made.bb), real=True),
            "kl": code_divergence(made.code),
            "reconstruction": sum_of_squares(made.aa, a) + sum_of_squares(made.bb, b),
        }
        weights = {
            "gen": config.gan_weight,
            "kl": config.kl_weight,
            "reconstruction": config.reconstruction_weight,
        }
        update("gen", weighted_sum(losses, weights))
        return losses

    @torch.no_grad()
    def classify(self, images: Tensor, domain: str = "b") -> Tensor:
        """Logits `[N, 10]` for images `[N, 3, 32, 32] in [-1, 1]` of a domain."""
        start, channels = {
            "a": (self.disc.start_a, self.config.channels[0]),
            "b": (self.disc.start_b, self.config.channels[1]),
        }[domain]
        return self.disc.classify(start(with_channels(images, channels)))

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        return {
            "a": batch.a,
            "a to b": self.inference("a2b")(batch.a),
            "b": batch.b,
            "b to a": self.inference("b2a")(batch.b),
        }

    def directions(self) -> tuple[str, ...]:
        return ("a2b", "b2a")

    def inference(self, direction: str = "a2b") -> Inference:
        gen, channels = self.gen, self.config.channels
        encoder, decoder, own = {
            "a2b": (gen.enc_a, gen.dec_b, channels[0]),
            "b2a": (gen.enc_b, gen.dec_a, channels[1]),
        }[direction]
        return UNITDigitsInference(gen, encoder, decoder, own).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"gen": self.gen}


def code_divergence(code: Code) -> Tensor:
    """`2 * sum(mean^2 + deviation^2 - log deviation^2) / N` over the codes of both domains together.

    Twice the usual half, and without its constant, as in the experiment.
    """
    mean, variance = code.mean.float(), code.deviation.float().square()
    return 2 * (mean.square() + variance - variance.log()).sum() / len(mean)
