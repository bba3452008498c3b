"""Sheets that can be read at a glance, captions with the domains' names, curves that show the course."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2i_trainer.sheets import _smoothed, captioned, sheet_from_columns, write_curves, write_sheet


@pytest.mark.parametrize(("side", "shown"), [(28, 168), (64, 192), (160, 160), (256, 256)])
def test_small_images_are_enlarged_by_a_whole_factor(side: int, shown: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)
    sheet = np.asarray(sheet_from_columns({"a": images}))
    factor = shown // side
    enlarged = images[0].repeat(factor, axis=0).repeat(factor, axis=1)
    assert (sheet[22 : 22 + shown, 4 : 4 + shown] == enlarged).all()
    assert sheet.shape[0] == 22 + 2 * (shown + 4)


def test_captions_name_the_domains() -> None:
    columns = dict.fromkeys(
        ("a", "a to b", "a in b's style", "drawn in b", "teacher", "b"), torch.zeros(1, 3, 8, 8)
    )
    named = ["label", "label to photo", "label in photo's style", "drawn in photo", "teacher", "photo"]
    assert list(captioned(columns, ("label", "photo"))) == named


def test_a_long_caption_widens_its_column(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.png", {"a very long caption of a column": torch.zeros(1, 3, 16, 16)})
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 160 + 30


def test_smoothing_keeps_the_mean_and_calms_the_noise() -> None:
    noisy = np.random.default_rng(0).normal(3.0, 1.0, 2000)
    smooth = _smoothed(noisy)
    assert smooth.mean() == pytest.approx(3.0, abs=0.1)
    assert smooth.std() < 0.25 * noisy.std()
    assert (_smoothed(np.array([1.0, 5.0])) == [1.0, 5.0]).all()  # too few points to smooth


def test_curves_show_losses_and_what_was_measured(tmp_path: Path) -> None:
    rows = [
        {"step": step, "losses": {"gen": 1.0 + 0.1 * (step % 3), "cycle": 100 * 0.9**step}}
        for step in range(1, 60)
    ]
    rows[20]["validation"] = {"l1": 12.0}
    write_curves(tmp_path / "curves.png", rows)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000
    write_curves(tmp_path / "nothing.png", [])
    assert not (tmp_path / "nothing.png").exists()
