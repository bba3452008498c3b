"""Rendered streets: the same by seed, and by night the same things in the same places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_trainer.images import open_image
from i2i_trainer.scenes import render, scene_from_seed, write_scenes


def test_a_seed_is_a_street() -> None:
    one, same, other = (render(scene_from_seed(seed), (48, 64)) for seed in (3, 3, 4))
    assert one.shape == (48, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 5


def test_night_is_darker_and_has_lights() -> None:
    for seed in range(5):
        day, night = (render(scene_from_seed(seed), (96, 128), dark).astype(float) for dark in (False, True))
        assert night.mean() < 0.4 * day.mean()
        assert night[:24].mean() < 60  # sky
        assert night.max() > 200


def test_things_stand_in_the_same_places_by_night() -> None:
    def edges(image: NDArray[np.uint8]) -> NDArray[np.float64]:
        across = np.abs(np.diff(image.astype(np.float64).mean(2), axis=1))
        return np.where(across > np.quantile(across, 0.9), 1.0, 0.0).ravel()

    days, nights = (
        [edges(render(scene_from_seed(seed), (96, 128), dark)) for seed in range(4)] for dark in (False, True)
    )
    partners = [np.corrcoef(day, night)[0, 1] for day, night in zip(days, nights, strict=True)]
    strangers = [
        np.corrcoef(day, night)[0, 1] for day, night in zip(days, nights[1:] + nights[:1], strict=True)
    ]
    assert min(partners) > max(strangers) + 0.1


def test_written_test_images_are_true_pairs(tmp_path: Path) -> None:
    write_scenes(tmp_path, count=1, size=(32, 40), held_out=2)
    for number in range(2):
        scene = scene_from_seed(200_000 + number)
        for folder, night in (("testA", False), ("testB", True)):
            written = np.asarray(open_image(tmp_path / folder / f"{number:05d}.png"))
            assert np.array_equal(written, render(scene, (32, 40), night))
    assert [len(list((tmp_path / name).iterdir())) for name in ("trainA", "trainB")] == [1, 1]
