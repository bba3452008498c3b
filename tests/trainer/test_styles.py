"""The default style: the average of the target images' styles, in every method with a style encoder of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from i2i_trainer.checkpoint import load_method, write_checkpoint, write_config
from i2i_trainer.images import ImageFile
from i2i_trainer.loop import train
from i2i_trainer.methods import METHODS
from i2i_trainer.styles import AverageStyle

BUFFERS = {
    "munit": {"a2b": "average_b", "b2a": "average_a"},
    "drit": {"a2b": "average_b", "b2a": "average_a"},
    "bicyclegan": {"a2b": "average_style"},
}


def test_the_average_is_plain_at_first() -> None:
    average = AverageStyle(2)
    assert average.code() == (0.0, 0.0)
    average.update(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    average.update(torch.tensor([[4.0, 5.0]]))
    assert average.code() == (3.0, 3.0)
    for _ in range(2000):
        average.update(torch.tensor([[-1.0, 7.0]]))
    assert average.code() == pytest.approx((-1.0, 7.0), abs=1e-3)


@pytest.mark.parametrize("name", BUFFERS)
def test_the_default_style_is_that_of_the_target_images(name: str, streets: Path, tmp_path: Path) -> None:
    kind = METHODS[name].config
    options = dict(kind.presets["small"]) | {
        "batch": 2,
        "steps": 3,
        "workers": 0,
        "device": "cpu",
        "lr": 1e-9,
    }
    run = train(name, kind(**options | {"data": streets, "out": tmp_path / "run"}))
    method = load_method(run)
    for direction in method.directions():
        encoder = method.style_encoder(direction)
        assert encoder is not None
        inference = method.inference(direction)
        # With weights that hardly move, the styles of the training's images average to what was followed.
        folder = streets / ("trainB" if direction == "a2b" else "trainA")
        images = torch.stack([_square(path) for path in sorted(folder.iterdir())])
        with torch.no_grad():
            wanted = encoder(images)
        default = torch.tensor(inference.default_style)
        assert default.norm() > 0
        assert (default - wanted.mean(0)).norm() < 0.5 * max(
            float(wanted.mean(0).norm()), float(wanted.std())
        )


def _square(path: Path) -> torch.Tensor:
    pixels = torch.from_numpy(ImageFile(path).read(72).copy())[4:68, 4:68]
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


@pytest.mark.parametrize("name", BUFFERS)
def test_a_checkpoint_without_averages_still_loads(name: str, tmp_path: Path) -> None:
    entry = METHODS[name]
    config = entry.config(**entry.config.presets["small"])
    method = entry.method(config)
    write_config(tmp_path, name, config)
    old = {key: value for key, value in method.state_dict().items() if "average" not in key}
    assert len(old) < len(method.state_dict())
    write_checkpoint(tmp_path, name, {f"model/{key}": value for key, value in old.items()}, {"step": 1})
    loaded = load_method(tmp_path)
    assert set(loaded.inference().default_style) == {0.0}
