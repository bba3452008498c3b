"""The rendered night that day2night learns from, and the measures of a night: on streets whose truth is known."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2i_trainer.images import Pixels
from i2i_trainer.scenes import render, scene_from_seed

RECIPES = Path(__file__).parents[2] / "trainer" / "recipes"
SIZE = (180, 320)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a script of the recipes, which stand beside the package."""
    monkeypatch.syspath_prepend(str(RECIPES))
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if str(RECIPES) in str(module)]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def day() -> Pixels:
    return render(scene_from_seed(3), SIZE, night=False)


def test_the_sky_is_above_the_street_and_nowhere_else(recipe: Any, day: Pixels) -> None:
    sky = recipe("sky").sky_of(day)
    height = SIZE[0]
    assert sky[: height // 10, SIZE[1] // 2 - 20 : SIZE[1] // 2 + 20].mean() > 0.9
    assert sky[height // 2 + height // 10 :].max() < 0.1
    assert recipe("sky").sky_of(np.full((*SIZE, 3), 120, np.uint8)).max() == 0


def test_darker_at_every_step_and_darkest_in_the_sky(recipe: Any, day: Pixels) -> None:
    photo = recipe("night_photo")
    place = photo.place_of_day(day)
    nights = [photo.night_of(place, darkness) for darkness in (0.0, 0.25, 0.5, 0.75, 1.0)]
    means = [float(night.mean()) for night in nights]
    assert all(darker < lighter for lighter, darker in pairwise(means)), means
    assert means[0] < 0.8 * day.mean()
    sky = recipe("sky").sky_of(day) > 0.9
    assert nights[2][sky].mean() < 30 < day[sky].mean()


def test_letterbox_bars_are_found_and_stay_black(recipe: Any, day: Pixels) -> None:
    boxed = day.copy()
    boxed[:20] = boxed[-20:] = 3
    bars = recipe("sky").letterbox(boxed)
    assert bars[:20].all()
    assert bars[-20:].all()
    assert not bars[20:-20].any()
    photo = recipe("night_photo")
    night = photo.night_of(photo.place_of_day(boxed), 0.5)
    assert night[:20].max() == night[-20:].max() == 0


def test_measures_tell_a_night_from_a_glowing_sky(recipe: Any, day: Pixels) -> None:
    measures, photo = recipe("night_measures"), recipe("night_photo")
    sky = recipe("sky").sky_of(day)
    night = photo.night_of(photo.place_of_day(day), 0.5)
    glowing = night.copy()
    glowing[sky > 0.9] = 200
    assert measures.sky_light(night, sky) < 0.05 < 0.5 < measures.sky_light(glowing, sky)
    assert measures.edge_agreement(day, day) == pytest.approx(1)
    mirrored = np.ascontiguousarray(night[:, ::-1])
    assert measures.edge_agreement(day, night) > 0.4 > measures.edge_agreement(day, mirrored)
    assert measures.black_share(np.zeros_like(day)) == 1
    assert measures.halo(day, day) == pytest.approx(1)
