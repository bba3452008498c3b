"""DiffAugment: what it changes, that gradients pass, and that no discriminator sees an unchanged image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from i2i_trainer.augment import augmented, diff_augment
from i2i_trainer.errors import OptionError
from i2i_trainer.loop import train
from i2i_trainer.method import Batch
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.unit import UNITConfig


class Still:
    """An update in which nothing learns."""

    step = 0
    last_micro_batch = True

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        pass


def test_every_image_is_changed_in_its_own_way_and_keeps_its_shape() -> None:
    torch.manual_seed(0)
    images = torch.full((4, 3, 32, 48), 0.9)
    changed = diff_augment(images)
    assert changed.shape == images.shape
    assert changed.is_contiguous() or changed.stride()[1] == 1
    # A hole of half of both sides, smaller where it leaves the image, and an edge where the image was shifted away.
    empty = (changed == 0).all(dim=1).float().mean(dim=(1, 2))
    assert ((empty > 0.05) & (empty < 0.5)).all()
    assert len({round(float(image.max()), 4) for image in changed}) == 4
    assert augmented(images, "none") is images


def test_gradients_reach_the_translations() -> None:
    torch.manual_seed(0)
    images = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    torch.autograd.backward(diff_augment(images).square().sum())
    assert images.grad is not None
    assert images.grad.abs().mean(dim=(1, 2, 3)).min() > 0.05


@pytest.mark.parametrize("name", ["cyclegan", "cut", "fastcut", "realtime"])
def test_discriminators_see_no_unchanged_image_real_or_translated(name: str) -> None:
    entry = METHODS[name]
    config = entry.config(**{**entry.config.presets["small"], "augment": "diff"})
    torch.manual_seed(0)
    method = entry.method(config)
    seen: list[Tensor] = []
    for disc in (network for child, network in method.named_children() if child.startswith("disc")):
        first = next(layer for layer in disc.modules() if isinstance(layer, nn.Conv2d))
        first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    method.optimisers()
    batch = Batch(torch.rand(1, 3, 64, 64) * 0.5 + 0.4, torch.rand(1, 3, 64, 64) * 0.5 - 0.9)
    method.step(batch, Still())
    domains = 1 if "cut" in name else 2
    assert (
        len(seen) == 3 * domains
    )  # the translation, for the generator; the real image and the translation again
    assert all((images == 0).all(dim=1).float().mean() > 0.05 for images in seen)


def test_methods_without_it_say_so(streets: Path, tmp_path: Path) -> None:
    config = replace(UNITConfig(), **UNITConfig.presets["small"], data=streets, out=tmp_path, augment="diff")
    with pytest.raises(OptionError, match="--augment diff is not for unit"):
        train("unit", config)
