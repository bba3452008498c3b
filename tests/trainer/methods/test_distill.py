"""Distillation: the student imitates, the teacher stays as it is and out of the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from i2i_trainer.checkpoint import load_method, write_checkpoint, write_config
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.layouts import find_domains
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


def optimisers_of(student: Distill) -> dict[str, torch.optim.Optimizer]:
    """As the loop makes them: the teacher comes first."""
    if (run := student.teacher_run()) is not None:
        student.learn_from(load_method(run))
    return student.optimisers()


def train(student: Distill, steps: int) -> list[dict[str, Tensor]]:
    update = Optimisation(Fabric(accelerator="cpu", devices=1), optimisers_of(student))
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
        optimisers_of(student_of(teacher, **options))


def test_student_can_start_as_its_teacher(tmp_path: Path) -> None:
    teacher = save_run(tmp_path / "teacher", "realtime")
    student = student_of(teacher, start_as_teacher=True)
    optimisers_of(student)
    image = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(student.inference()(image), load_method(teacher).inference()(image))


@pytest.mark.parametrize(("name", "options"), [("realtime", {"trunk": 16}), ("cyclegan", {})])
def test_no_start_from_another_network(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    teacher = save_run(tmp_path / "teacher", name)
    with pytest.raises(OptionError, match="--start-as-teacher"):
        optimisers_of(student_of(teacher, start_as_teacher=True, **options))


def test_translated_images_of_equal_names_teach(tmp_path: Path) -> None:
    """Whoever made them: here every source in negative."""
    random = np.random.default_rng(0)
    for folder in ("data/trainA", "data/trainB", "made"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(4):
        pixels = random.integers(0, 256, (80, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "trainA" / f"{number}.png")
        Image.fromarray(pixels).save(tmp_path / "data" / "trainB" / f"{number}.png")
        if number:  # the first has no translation
            Image.fromarray(255 - pixels).save(tmp_path / "made" / f"{number}.png")
    student = student_of(tmp_path / "made", data=tmp_path / "data", gan_weight=0.0, lr=1e-3, load_size=72)
    assert student.check_data(find_domains(student.config)) == []
    losses = train(student, 40)
    assert losses[-1]["teacher"] < 0.9 * losses[0]["teacher"]
    source, wanted = student._teacher.show(torch.zeros(2, 3, 64, 64), None)  # type: ignore[union-attr]
    torch.testing.assert_close(wanted, -source, atol=0.05, rtol=0)

    (tmp_path / "others").mkdir()
    Image.new("RGB", (80, 90)).save(tmp_path / "others" / "nothing.png")
    other = student_of(tmp_path / "others", data=tmp_path / "data")
    with pytest.raises(DataError, match="none of its images has the name of a source image"):
        other.check_data(find_domains(other.config))


def test_a_file_that_is_not_an_engine_cannot_teach(tmp_path: Path) -> None:
    (tmp_path / "teacher.onnx").write_bytes(b"nothing")
    with pytest.raises(OptionError, match="is not an engine: give one that i2i-export wrote"):
        optimisers_of(student_of(tmp_path / "teacher.onnx"))


def test_a_student_without_a_teacher_is_told_so() -> None:
    with pytest.raises(OptionError, match="needs a teacher"):
        optimisers_of(student_of(Path()))


@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_resize_convolutions_double_the_size(name: str) -> None:
    entry = METHODS[name]
    config = entry.config(**{**entry.config.presets["small"], "upsampling": "bilinear"})
    network = entry.method(config).inference()
    assert not [layer for layer in network.modules() if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert network(torch.zeros(1, 3, 64, 128)).shape == (1, 3, 64, 128)
