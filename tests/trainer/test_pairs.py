"""Known translations beside unpaired data: both crops show the same window, and the generator learns from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image

from i2i_trainer.errors import DataError
from i2i_trainer.method import Batch
from i2i_trainer.methods.realtime import Realtime, RealtimeConfig
from i2i_trainer.optimise import Optimisation
from i2i_trainer.pairs import pairs_of_folder

CONFIG = RealtimeConfig(width=4, trunk=4, blocks=1, pad=2, disc_width=4, image_size=32, load_size=40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pairs; the counterpart of an image is its negative."""
    random = np.random.default_rng(0)
    for domain in ("trainA", "trainB"):
        (tmp_path / domain).mkdir()
    for number in range(2):
        pixels = random.integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "trainA" / f"{number}.png")
        Image.fromarray(255 - pixels).save(tmp_path / "trainB" / f"{number}.png")
    return tmp_path


def test_both_crops_show_the_same_window(folder: Path) -> None:
    torch.manual_seed(0)
    a, b = pairs_of_folder(folder, CONFIG).draw(8, torch.device("cpu"))
    assert a.shape == (8, 3, 32, 32)
    torch.testing.assert_close(a, -b, atol=1e-6, rtol=0)
    assert len({tuple(crop.flatten()[:8].tolist()) for crop in a}) > 2


def test_draws_repeat_with_the_generator(folder: Path) -> None:
    pairs = pairs_of_folder(folder, CONFIG)
    torch.manual_seed(3)
    first = pairs.draw(4, torch.device("cpu"))
    torch.manual_seed(3)
    assert torch.equal(first[0], pairs.draw(4, torch.device("cpu"))[0])


def test_a_pair_of_two_sizes_is_refused(folder: Path) -> None:
    Image.new("RGB", (50, 40)).save(folder / "trainB" / "0.png")
    with pytest.raises(DataError, match="different sizes"):
        pairs_of_folder(folder, CONFIG)


def test_pairs_join_the_step_and_are_learned(folder: Path) -> None:
    torch.manual_seed(0)
    config = RealtimeConfig(
        width=8, trunk=8, blocks=1, pad=2, disc_width=4, image_size=32, load_size=40,
        pairs=folder, pair_batch=2, lr=5e-3, steady_weight=0.0,
    )  # fmt: skip
    method = Realtime(config)
    update = Optimisation(Fabric(accelerator="cpu", devices=1), method.optimisers())
    batch = Batch(torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32))
    losses = [float(method.step(batch, update)["pairs"]) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]
