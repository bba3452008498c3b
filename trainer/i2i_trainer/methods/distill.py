"""Distillation: a real-time generator learns to do what a trained method does.

The student is the generator of the method `realtime`. It learns from pictures of the source domain alone, which the
teacher translates on the fly: absolute difference to the teacher's picture, the same on the discriminator's features,
the adversarial loss against real pictures of the target domain, and steadiness under shift and noise, so that the
student flickers less than its teacher. The terms are those of GAN Compression (Li et al., CVPR 2020), with the
discriminator's features in place of the teacher's: teacher and student share no layer that could be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.blocks import MultiScaleDiscriminator
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import OptionError
from i2i_trainer.losses import lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.methods.realtime import (
    Generator,
    RealtimeInference,
    check_generator_options,
    steadiness,
)
from i2i_trainer.steps import adam, detached


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """Train a real-time student on what a trained method makes of the source domain."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "width": 8,
            "trunk": 8,
            "blocks": 1,
            "pad": 2,
            "disc_width": 8,
            "image_size": 64,
            "load_size": 72,
            "batch": 2,
            "steps": 200,
        },
    }

    teacher: Path = Path()
    """Run folder of the teacher, of any method."""
    teacher_direction: Literal["a2b", "b2a"] = "a2b"
    """Which of the teacher's directions to learn; use --swap with b2a, so that the source comes first."""
    teacher_style: tuple[float, ...] = ()
    """Style code the student is bound to; empty takes the teacher's default."""
    style_size: int = 0
    """Keep the style as an input of this size (the teacher's); 0 binds the student to one style."""

    width: int = 32
    """Channels at the unshuffled resolution."""
    trunk: int = 64
    """Channels at half of that, where the residual blocks are."""
    blocks: int = 4
    """Residual blocks of two 3x3 convolutions."""
    unshuffle: int = 4
    """Pixels per side of the square that becomes one position."""
    pad: int = 8
    """Positions of repeated border added once."""
    disc_width: int = 32
    """Channels of the discriminator's first layer."""
    teacher_weight: float = 10.0
    """Weight of |student - teacher|."""
    feature_weight: float = 2.0
    """Weight of the difference of the discriminator's features of student and teacher."""
    gan_weight: float = 0.5
    """Weight of the adversarial loss; 0 trains without a discriminator's verdict."""
    steady_weight: float = 2.0
    """Weight of the difference between the translation of a shifted picture and the shifted translation."""
    steady_noise: float = 0.02
    """Standard deviation of the noise added to the shifted picture, in units of [-1, 1]."""

    load_size: int = 360
    batch: int = 2
    steps: int = 10_000
    ema: float = 0.999

    def __post_init__(self) -> None:
        super().__post_init__()
        check_generator_options(self.unshuffle, self.image_size, self.pad)
        if self.style_size and self.teacher_style:
            raise OptionError(
                "--style-size keeps the style as an input, --teacher-style fixes it: give one of the two."
            )


class Distill(Method):
    """Networks `student` and `disc`; optimisers `disc` and `student`, stepped in that order.

    The teacher is no part of the module: it is loaded when training starts and stays out of the checkpoint.
    """

    summary = "A real-time student of any trained method (--teacher runs/NAME)."

    def __init__(self, config: DistillConfig) -> None:
        super().__init__()
        self.config: DistillConfig = config
        self.student = self._generator()
        self.disc = MultiScaleDiscriminator(width=config.disc_width, layers=3)
        self._teacher: list[Inference] = []

    def _generator(self) -> Generator:
        c = self.config
        return Generator(c.width, c.trunk, c.blocks, c.unshuffle, c.pad, c.style_size)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        self._teacher = [_load_teacher(config).to(next(self.parameters()).device)]
        return {"disc": adam(config, self.disc), "student": adam(config, self.student)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        style = self._style(batch.a)
        with torch.no_grad():
            wanted = self._teacher[0](batch.a, self._teacher_style(batch.a, style))
        made = self.student(batch.a, style)

        disc = lsgan(self.disc(batch.b), 1.0) + lsgan(self.disc(made.detach()), 0.0)
        update("disc", disc)

        self.disc.requires_grad_(False)
        features = _features(self.disc, made)
        with torch.no_grad():
            wanted_features = _features(self.disc, wanted)
        difference = F.l1_loss(made, wanted)
        feature = torch.stack(
            [
                F.l1_loss(a, b)
                for mine, theirs in zip(features, wanted_features, strict=True)
                for a, b in zip(mine, theirs, strict=True)
            ]
        ).mean()
        adversarial = lsgan([maps[-1] for maps in features], 1.0)
        steady = steadiness(partial(self.student, style=style), batch.a, made, config.steady_noise)
        update(
            "student",
            config.teacher_weight * difference
            + config.feature_weight * feature
            + config.gan_weight * adversarial
            + config.steady_weight * steady,
        )
        self.disc.requires_grad_(True)
        losses = {
            "disc": disc,
            "gen": adversarial,
            "teacher": difference,
            "feature": feature,
            "steady": steady,
        }
        return detached(losses)

    def _style(self, pictures: Tensor) -> Tensor | None:
        size = self.config.style_size
        return torch.randn(len(pictures), size, device=pictures.device) if size else None

    def _teacher_style(self, pictures: Tensor, style: Tensor | None) -> Tensor | None:
        teacher = self._teacher[0]
        if style is not None or not teacher.style_size:
            return style
        code = torch.tensor(self.config.teacher_style or teacher.default_style, device=pictures.device)
        return code.expand(len(pictures), -1)

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        style = self._style(batch.a)
        columns = {"a": batch.a}
        if self._teacher:
            columns["teacher"] = self._teacher[0](batch.a, self._teacher_style(batch.a, style))
        return columns | {"student": self.student(batch.a, style).clamp(-1, 1)}

    def inference(self, direction: str = "a2b") -> Inference:
        student = self._generator()
        student.load_state_dict(self.student.state_dict())
        return RealtimeInference(student, self.config.style_size).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"student": self.student}


def _load_teacher(config: DistillConfig) -> Inference:
    from i2i_trainer.checkpoint import (
        load_method,
    )  # the table of methods, which names this one, is read there

    if not config.teacher.name:
        raise OptionError("Distillation needs a teacher: name its run folder with --teacher.")
    method = load_method(config.teacher)
    if config.teacher_direction not in method.directions():
        raise OptionError(
            f"--teacher-direction {config.teacher_direction} is none that {config.teacher} learned: "
            f"choose from {', '.join(method.directions())}."
        )
    teacher = method.inference(config.teacher_direction).requires_grad_(False)
    wanted = config.style_size or len(config.teacher_style) or teacher.style_size
    if wanted != teacher.style_size:
        raise OptionError(
            f"The teacher takes a style of {teacher.style_size} values, the options name {wanted}: "
            f"give --style-size {teacher.style_size} or a --teacher-style of that length."
        )
    if config.image_size % teacher.stride:
        raise OptionError(
            f"--image-size {config.image_size} must be a multiple of the teacher's {teacher.stride}."
        )
    return teacher


def _features(disc: MultiScaleDiscriminator, pictures: Tensor) -> list[list[Tensor]]:
    """Output of every layer at every scale, finest scale first; the last of each is the logit map."""
    scales = []
    for scale in disc.scales:
        maps, x = [], pictures
        assert isinstance(scale, nn.Sequential)
        for layer in scale:
            x = layer(x)
            maps.append(x)
        scales.append(maps)
        pictures = disc.downsample(pictures)
    return scales
