"""Distillation: a real-time generator learns to do what a trained method does.

The student is the generator of the method `realtime`. It learns from images of the source domain alone, which the
teacher translates on the fly: absolute difference to the teacher's image, the same on the discriminator's features,
the adversarial loss against real images of the target domain, and steadiness under camera motion and noise, so that
the student flickers less than its teacher. The terms are those of GAN Compression (Li et al., CVPR 2020), with the
discriminator's features in place of the teacher's: teacher and student share no layer that could be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.errors import OptionError
from i2i_trainer.losses import feature_distance, lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.methods.realtime import GeneratorConfig, RealtimeInference
from i2i_trainer.steps import adam, detached
from i2i_trainer.temporal import steadiness


@dataclass(frozen=True, kw_only=True)
class DistillConfig(GeneratorConfig):
    """Train a real-time student on what a trained method makes of the source domain."""

    teacher: Path = Path()
    """Run folder of the teacher, of any method."""
    teacher_direction: Literal["a2b", "b2a"] = "a2b"
    """Which of the teacher's directions to learn; use --swap with b2a, so that the source comes first."""
    teacher_style: tuple[float, ...] = ()
    """Style code the student is bound to; empty takes the teacher's default."""
    style_size: int = 0
    """Keep the style as an input of this size (the teacher's); 0 binds the student to one style."""
    start_as_teacher: bool = False
    """Begin with the teacher's own weights, to make a real-time generator of the same sizes steadier."""

    teacher_weight: float = 10.0
    """Weight of |student - teacher|."""
    feature_weight: float = 2.0
    """Weight of the difference of the discriminator's features of student and teacher."""
    gan_weight: float = 0.5
    """Weight of the adversarial loss; 0 trains without a discriminator's verdict."""

    steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
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
        self.student = config.generator(config.style_size)
        self.disc = config.discriminator()
        self._teacher: list[Inference] = []

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        teacher = _load_teacher(config)
        if config.start_as_teacher:
            self._start_as(teacher)
        self._teacher = [teacher.to(next(self.parameters()).device)]
        return {"disc": config.disc_adam(self.disc), "student": adam(config, self.student)}

    def _start_as(self, teacher: Inference) -> None:
        theirs = teacher.generator.state_dict() if isinstance(teacher, RealtimeInference) else {}
        mine = self.student.state_dict()
        if {name: w.shape for name, w in theirs.items()} != {name: w.shape for name, w in mine.items()}:
            raise OptionError(
                f"--start-as-teacher: {self.config.teacher} is no real-time generator of the student's sizes: "
                "give its --width, --trunk, --blocks, --context and --unshuffle, or leave the option out."
            )
        self.student.load_state_dict(theirs)

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        style = self._style(batch.a)
        with torch.no_grad():
            wanted = self._teacher[0](batch.a, self._teacher_style(batch.a, style))
        made = self.student(batch.a, style)

        disc = lsgan(self.disc(batch.b), 1.0) + lsgan(self.disc(made.detach()), 0.0)
        update("disc", disc)

        self.disc.requires_grad_(False)
        features = self.disc.features(made)
        with torch.no_grad():
            wanted_features = self.disc.features(wanted)
        difference = F.l1_loss(made, wanted)
        feature = feature_distance(features, wanted_features)
        adversarial = lsgan([maps[-1] for maps in features], 1.0)
        losses = {"disc": disc, "gen": adversarial, "teacher": difference, "feature": feature}
        loss = (
            config.teacher_weight * difference
            + config.feature_weight * feature
            + config.gan_weight * adversarial
        )
        if config.steady_weight > 0:
            student = partial(self.student, style=style)
            losses["steady"] = steadiness(student, batch.a, made, config.steady_noise)
            loss = loss + config.steady_weight * losses["steady"]
        update("student", loss)
        self.disc.requires_grad_(True)
        return detached(losses)

    def _style(self, images: Tensor) -> Tensor | None:
        size = self.config.style_size
        return torch.randn(len(images), size, device=images.device) if size else None

    def _teacher_style(self, images: Tensor, style: Tensor | None) -> Tensor | None:
        teacher = self._teacher[0]
        if style is not None or not teacher.style_size:
            return style
        code = torch.tensor(self.config.teacher_style or teacher.default_style, device=images.device)
        return code.expand(len(images), -1)

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        style = self._style(batch.a)
        columns = {"a": batch.a}
        if self._teacher:
            columns["teacher"] = self._teacher[0](batch.a, self._teacher_style(batch.a, style))
        return columns | {"student": self.student(batch.a, style).clamp(-1, 1)}

    def inference(self, direction: str = "a2b") -> Inference:
        student = self.config.generator(self.config.style_size)
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
