"""The real-time generator: its bilinear layout trick, its start as the identity, and who learns when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from i2i_trainer.errors import OptionError
from i2i_trainer.losses import feature_distance
from i2i_trainer.method import Batch
from i2i_trainer.methods.realtime import Generator, Realtime, RealtimeConfig, bilinear_phases

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Listener, Record

TINY = RealtimeConfig(width=4, trunk=4, blocks=1, pad=2, disc_width=4, image_size=64, load_size=64)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_phases_are_bilinear_upsampling_in_unshuffled_layout(factor: int) -> None:
    torch.manual_seed(0)
    low = torch.randn(2, 3, 9, 11)
    phases = F.conv2d(F.pad(low, (1,) * 4, mode="replicate"), bilinear_phases(factor, 3))
    full = F.interpolate(low, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(phases, F.pixel_unshuffle(full, factor), atol=1e-6, rtol=0)


def test_generator_keeps_the_size_and_starts_close_to_the_identity() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    translated = Generator(width=8, trunk=8, blocks=2)(image)
    assert translated.shape == image.shape
    assert (translated - image).abs().mean() < 0.1


def test_an_even_image_stays_even() -> None:
    torch.manual_seed(0)
    generator = Generator(width=8, trunk=8, blocks=1, pad=8)
    nn.init.normal_(generator.change.weight, std=1.0)
    inside = generator(torch.full((1, 3, 64, 64), 0.3))[:, :, 16:-16, 16:-16]
    torch.testing.assert_close(inside, inside[:, :, :1, :1].expand_as(inside), atol=1e-4, rtol=0)


def test_context_sees_the_scene_around_and_adds_nothing_at_first() -> None:
    torch.manual_seed(0)
    near, far = Generator(width=8, trunk=8, blocks=1), Generator(width=8, trunk=8, blocks=1, context=2)
    assert (near.stride, far.stride) == (8, 32)
    far.load_state_dict(near.state_dict(), strict=False)
    image = torch.rand(1, 3, 256, 256) * 2 - 1
    torch.testing.assert_close(far(image), near(image))

    for generator in (near, far):
        for name, weights in generator.named_parameters():
            if "blocks" in name or "up" in name:
                nn.init.normal_(weights, std=0.1)
    elsewhere = image.clone()
    elsewhere[:, :, :, 192:] = 1.0
    corner = np.s_[:, :, :64, :64]
    assert torch.equal(near(elsewhere)[corner], near(image)[corner])
    assert not torch.equal(far(elsewhere)[corner], far(image)[corner])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"context": 2, "image_size": 72}, "--image-size 72 must be a multiple of 32"),
        ({"context": 2, "pad": 4, "image_size": 64}, "--pad 4 must be a multiple of 8"),
        ({"unshuffle": 3}, "--unshuffle 3"),
    ],
)
def test_sizes_that_do_not_halve_are_refused(options: dict[str, int], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        RealtimeConfig(**options)  # type: ignore[arg-type]


def test_pairs_can_be_compared_in_the_features_of_the_discriminators(
    tmp_path: Path, listen: Listener
) -> None:
    torch.manual_seed(0)
    for side in ("trainA", "trainB"):
        (tmp_path / side).mkdir()
        cv2.imwrite(str(tmp_path / side / "one.png"), np.full((64, 64, 3), 200, np.uint8))
    method = Realtime(replace(TINY, pairs=tmp_path, pair_feature_weight=1.0))
    method.optimisers()
    batch = Batch(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    losses = method.step(batch, listen)
    assert losses["features"] > 0

    even = torch.full((1, 3, 64, 64), 200 / 127.5 - 1)
    same = method.disc_a.features(even)
    assert [maps[-1].shape for maps in same] == [logits.shape for logits in method.disc_a(even)]
    assert feature_distance(same, same) == 0


def test_the_discriminators_may_learn_at_a_rate_of_their_own() -> None:
    optimisers = Realtime(replace(TINY, lr=1e-4, disc_lr_share=4.0)).optimisers()
    rates = {name: optimiser.param_groups[0]["lr"] for name, optimiser in optimisers.items()}
    assert rates == {"disc": pytest.approx(4e-4), "gen": pytest.approx(1e-4)}


def test_each_update_moves_its_own_networks(record: Record) -> None:
    torch.manual_seed(0)
    method = Realtime(TINY)
    update = record(method)
    losses = method.step(Batch(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)), update)
    assert update.order == ["disc", "gen"]
    assert update.networks(update.moved) == [{"disc_a", "disc_b"}, {"a2b", "b2a"}]
    assert set(losses) == {"disc", "gen", "cycle", "steady"}


def test_inference_is_a_copy_and_clamps() -> None:
    method = Realtime(TINY)
    network = method.inference("b2a")
    with torch.no_grad():
        method.b2a.change.bias.fill_(9.0)  # type: ignore[union-attr]
    image = torch.ones(1, 3, 16, 16)
    assert network.stride == 8
    assert network(image).abs().max() <= 1
    assert method.inference("b2a")(image).min() == 1
