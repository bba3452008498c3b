"""Distillation: the student imitates, the teacher stays as it is and out of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from i2i_trainer.checkpoint import load_method, write_checkpoint, write_config
from i2i_trainer.errors import OptionError
from i2i_trainer.method import Batch
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.distill import Distill, DistillConfig
from i2i_trainer.optimise import Optimisation


def save_run(run: Path, name: str, **options: Any) -> Path:
    entry = METHODS[name]
    config = entry.config(**{**dict(entry.config.presets["small"]), **options})
    torch.manual_seed(0)
    method = entry.method(config)
    write_config(run, name, config)
    write_checkpoint(run, name, {f"model/{k}": v for k, v in method.state_dict().items()}, {})
    return run


def student_of(teacher: Path, **options: Any) -> Distill:
    torch.manual_seed(1)
    return Distill(DistillConfig(**{**dict(DistillConfig.presets["small"]), "teacher": teacher, **options}))


def train(student: Distill, steps: int) -> list[dict[str, Tensor]]:
    update = Optimisation(Fabric(accelerator="cpu", devices=1), student.optimisers())
    torch.manual_seed(2)
    batch = Batch(torch.rand(2, 3, 64, 64) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1)
    return [student.step(batch, update) for _ in range(steps)]


def test_student_comes_closer_to_its_teacher(tmp_path: Path) -> None:
    teacher = save_run(tmp_path / "teacher", "cyclegan")
    losses = train(student_of(teacher, gan_weight=0.0, lr=1e-3), 12)
    assert losses[-1]["teacher"] < 0.9 * losses[0]["teacher"]


def test_teacher_is_no_part_of_the_students_checkpoint(tmp_path: Path) -> None:
    student = student_of(save_run(tmp_path / "teacher", "cyclegan"))
    train(student, 1)
    assert {name.split(".")[0] for name in student.state_dict()} == {"student", "disc"}
    run = tmp_path / "student"
    write_config(run, "distill", student.config)
    write_checkpoint(run, "distill", {f"model/{k}": v for k, v in student.state_dict().items()}, {})
    (tmp_path / "teacher").rename(tmp_path / "gone")
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(
        load_method(run).inference()(image), student.student(image).clamp(-1, 1), atol=1e-5, rtol=0
    )


def test_style_can_be_kept_as_an_input(tmp_path: Path) -> None:
    teacher = save_run(tmp_path / "teacher", "munit")
    size = load_method(teacher).inference("a2b").style_size
    student = student_of(teacher, style_size=size)
    train(student, 2)
    network = student.inference()
    image = torch.rand(1, 3, 32, 32)
    assert network.style_size == size
    assert not torch.equal(network(image, torch.zeros(1, size)), network(image, torch.ones(1, size) * 3))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"style_size": 5}, "style of 0 values"),
        ({"teacher_style": (1.0,)}, "style of 0 values"),
        ({"teacher_direction": "b2a"}, "--teacher-direction"),
    ],
)
def test_contradictions_are_one_sentence(tmp_path: Path, options: dict[str, object], word: str) -> None:
    teacher = save_run(tmp_path / "teacher", "cut" if "teacher_direction" in options else "cyclegan")
    with pytest.raises(OptionError, match=word):
        student_of(teacher, **options).optimisers()


def test_student_can_start_as_its_teacher(tmp_path: Path) -> None:
    teacher = save_run(tmp_path / "teacher", "realtime")
    student = student_of(teacher, start_as_teacher=True)
    student.optimisers()
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(student.inference()(image), load_method(teacher).inference()(image))


@pytest.mark.parametrize(("name", "options"), [("realtime", {"trunk": 16}), ("cyclegan", {})])
def test_no_start_from_another_network(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    teacher = save_run(tmp_path / "teacher", name)
    with pytest.raises(OptionError, match="--start-as-teacher"):
        student_of(teacher, start_as_teacher=True, **options).optimisers()
