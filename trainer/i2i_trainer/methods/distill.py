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
from i2i_trainer.layouts import Domains
from i2i_trainer.losses import feature_distance, lsgan
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.methods.realtime import GeneratorConfig, RealtimeInference
from i2i_trainer.steps import adam, detached, frozen, weighted_sum
from i2i_trainer.teachers import EngineInference, FolderTeacher, NetworkTeacher, Teacher
from i2i_trainer.temporal import steadiness


@dataclass(frozen=True, kw_only=True)
class DistillConfig(GeneratorConfig):
    """Train a real-time student on what a trained method makes of the source domain."""

    teacher: Path = Path()
    """What to imitate: a run folder of any method, an engine (.onnx, an adopted one too), or a folder of translated
    images with the names of their sources."""
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
    """Weight of the adversarial loss; 0 leaves it out."""

    steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style_size and self.teacher_style:
            raise OptionError(
                "--style-size keeps the style as an input, --teacher-style fixes it: give one of the two."
            )


class Distill(Method):
    """Networks `student` and `disc`; optimisers `disc` and `student`, stepped in that order.

    The teacher is no part of it: it is given or loaded before training starts.
    """

    summary = "A real-time student of a run, an engine or translated images (--teacher)."

    def __init__(self, config: DistillConfig) -> None:
        super().__init__()
        self.config: DistillConfig = config
        self.student = config.generator(config.style_size)
        self.disc = config.discriminator()
        self._teacher: Teacher | None = None

    def check_data(self, domains: Domains) -> list[str]:
        teacher = self.config.teacher
        if teacher.name and teacher.is_dir() and not (teacher / "config.json").is_file():
            self._teacher = FolderTeacher(domains.a, teacher, self.config)
        return []

    def teacher_run(self) -> Path | None:
        path = self.config.teacher
        is_run = path.name and path.suffix != ".onnx" and self._teacher is None
        return path if is_run else None

    def learn_from(self, teacher: Method) -> None:
        direction = self.config.teacher_direction
        if direction not in teacher.directions():
            raise OptionError(
                f"--teacher-direction {direction} is not one that {self.config.teacher} learned: "
                f"choose from {', '.join(teacher.directions())}."
            )
        self._imitate(teacher.inference(direction).requires_grad_(False))

    def _imitate(self, network: Inference) -> None:
        config = self.config
        _check_fit(network, config)
        network.to(next(self.parameters()).device)
        if config.start_as_teacher:
            self._start_as(network)
        self._teacher = NetworkTeacher(network, config.teacher_style or network.default_style)

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        config = self.config
        if self._teacher is None and config.teacher.suffix == ".onnx":
            self._imitate(EngineInference(config.teacher))
        if self._teacher is None:
            raise OptionError("Distillation needs a teacher: name its run folder with --teacher.")
        return {"disc": config.disc_adam(self.disc), "student": adam(config, self.student)}

    def _start_as(self, teacher: Inference) -> None:
        theirs = teacher.generator.state_dict() if isinstance(teacher, RealtimeInference) else {}
        mine = self.student.state_dict()
        if {name: w.shape for name, w in theirs.items()} != {name: w.shape for name, w in mine.items()}:
            raise OptionError(
                f"--start-as-teacher: {self.config.teacher} is not a real-time generator of the student's sizes: "
                "give its --width, --trunk, --blocks, --context and --unshuffle, or leave the option out."
            )
        self.student.load_state_dict(theirs)

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        assert self._teacher is not None
        style = self._draw_style(batch.a)
        source, wanted = self._teacher.show(batch.a, style)
        translated = self.student(source, style)

        disc = lsgan(self.disc(batch.b), 1.0) + lsgan(self.disc(translated.detach()), 0.0)
        update("disc", disc)

        with frozen(self.disc):
            features, wanted_features = self.disc.features(translated), self.disc.features(wanted)
            losses = {
                "gen": lsgan([maps[-1] for maps in features], 1.0),
                "teacher": F.l1_loss(translated, wanted),
                "feature": feature_distance(features, wanted_features),
            }
            if config.steady_weight > 0:
                student = partial(self.student, style=style)
                losses["steady"] = steadiness(student, source, translated, config.steady_noise)
            weights = {
                "gen": config.gan_weight,
                "teacher": config.teacher_weight,
                "feature": config.feature_weight,
                "steady": config.steady_weight,
            }
            update("student", weighted_sum(losses, weights))
        return detached({"disc": disc, **losses})

    def _draw_style(self, images: Tensor) -> Tensor | None:
        size = self.config.style_size
        return torch.randn(len(images), size, device=images.device) if size else None

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        style = self._draw_style(batch.a)
        columns = {"a": batch.a}
        if isinstance(self._teacher, NetworkTeacher):
            columns["teacher"] = self._teacher.show(batch.a, style)[1]
        return columns | {"student": self.student(batch.a, style).clamp(-1, 1)}

    def inference(self, direction: str = "a2b") -> Inference:
        return RealtimeInference(self.student, self.config.style_size).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"student": self.student}


def _check_fit(teacher: Inference, config: DistillConfig) -> None:
    """Raises OptionError if style or size of the teacher contradict the options."""
    wanted = config.style_size or len(config.teacher_style) or teacher.style_size
    if wanted != teacher.style_size:
        raise OptionError(
            f"The teacher takes a style of {teacher.style_size} values, the options name {wanted}: "
            f"give --style-size {teacher.style_size} or a --teacher-style of that length."
        )
    if teacher.fixed_size not in (None, (config.image_size, config.image_size)):
        raise OptionError(
            f"The teacher takes {teacher.fixed_size} pixels: give --image-size {teacher.fixed_size[0]}."
        )
    if config.image_size % teacher.stride:
        raise OptionError(
            f"--image-size {config.image_size} must be a multiple of the teacher's {teacher.stride}."
        )
