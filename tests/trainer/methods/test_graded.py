"""The translator with a knob: what it draws, what it learns, and what its style does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.method import Batch
from i2i_trainer.methods.graded import Graded, GradedConfig, Levels, edge_difference

SMALL = GradedConfig.presets["small"]
SHADES = {"source": 1.0, "dusk": 0.6, "night": 0.3, "deep": 0.1}


@pytest.fixture
def config(tmp_path: Path) -> GradedConfig:
    """Four images whose levels are the source times 0.6, 0.3 and 0.1."""
    random = np.random.default_rng(0)
    for number in range(4):
        image = cv2.resize(random.integers(60, 255, (9, 12, 3), np.uint8), (96, 72))
        for name, share in SHADES.items():
            (tmp_path / name).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / name / f"{number}.png"), np.round(image * share).astype(np.uint8))
    return GradedConfig(**SMALL, levels=tmp_path, steady_weight=0.5)


def share_of(level: torch.Tensor) -> torch.Tensor:
    """What is left of the source's light at a level: the mixture of the two nearest folders."""
    return torch.where(level < 0.5, 0.6 - 0.6 * level, 0.5 - 0.4 * level)


def test_a_level_between_two_is_their_mixture(config: GradedConfig) -> None:
    torch.manual_seed(0)
    source, wanted, level = Levels(config).draw(32, torch.device("cpu"))
    assert source.shape == wanted.shape == (32, 3, 64, 64)
    assert level.shape == (32, 1)
    light, night = (source + 1) / 2, (wanted + 1) / 2
    assert (night - share_of(level)[..., None, None] * light).abs().max() < 0.006


def test_some_crops_have_black_bars_in_source_and_translation(config: GradedConfig) -> None:
    torch.manual_seed(0)
    source, wanted, _ = Levels(config).draw(60, torch.device("cpu"))
    barred = [n for n in range(60) if (source[n, :, 0] == -1).all()]
    assert 0 < len(barred) < 20
    for n in barred:
        assert torch.equal((source[n] == -1).all(2), (wanted[n] == -1).all(2))


def test_it_learns_the_levels_and_leaves_the_target_alone(
    config: GradedConfig, record: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    method = Graded(replace(config, steady_weight=0.0, steady_noise=0.0))
    update = record(method)
    night = torch.rand(2, 3, 64, 64) * 0.2 - 1
    for _ in range(150):
        losses = method.step(Batch(a=night, b=night), update)
    assert update.losses[-1] < 0.4 * update.losses[0]
    assert set(losses) == {"colour", "edge", "light", "keep"}
    inference = method.inference()
    day = Levels(config).draw(4, torch.device("cpu"))[0]
    with torch.no_grad():
        means = [float(inference(day, torch.full((4, 1), level)).mean()) for level in (0.0, 0.5, 1.0)]
    assert means == sorted(means, reverse=True)
    assert means[0] - means[2] > 0.05


def test_the_knob_is_the_style_and_stops_at_its_ends(config: GradedConfig) -> None:
    method = Graded(replace(config, level_names=("dusk", "deep"), default_level="deep"))
    inference = method.inference()
    assert inference.presets == {"dusk": (0.0,), "deep": (1.0,)}
    assert inference.default_style == (1.0,)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        beyond, end, other = (inference(image, torch.tensor([[level]])) for level in (7.0, 1.0, 0.0))
    assert torch.equal(beyond, end)
    assert not torch.equal(end, other)


def test_what_is_missing_is_named(config: GradedConfig) -> None:
    with pytest.raises(OptionError, match="--levels"):
        Levels(replace(config, levels=Path()))
    with pytest.raises(OptionError, match="--default-level noon"):
        replace(config, default_level="noon")
    cv2.imwrite(str(config.levels / "deep" / "2.png"), np.zeros((80, 96, 3), np.uint8))
    with pytest.raises(DataError, match=r"2\.png differs in size"):
        Levels(config)
    (config.levels / "deep" / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png"):
        Levels(config)


def test_the_edge_difference_does_not_see_an_even_shift() -> None:
    image = torch.rand(1, 3, 32, 32)
    assert float(edge_difference(image + 0.3, image)) < 1e-6
    assert float(edge_difference(image.flip(3), image)) > 0.05
