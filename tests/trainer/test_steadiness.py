"""Steadiness: punishes what depends on where things stand or on noise, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from i2i_trainer.temporal import COMPARED, LARGEST_SHIFT, moved, random_motions, steadiness


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def smooth_picture(count: int = 2) -> Tensor:
    return F.interpolate(
        torch.rand(count, 3, 12, 16) * 2 - 1, (96, 128), mode="bilinear", align_corners=False
    )


def darker(picture: Tensor) -> Tensor:
    return 0.5 * picture - 0.4


def light_on_the_left(picture: Tensor) -> Tensor:
    return picture + torch.linspace(0.5, -0.5, picture.shape[3])


def light_on_a_grid(picture: Tensor) -> Tensor:
    """What a network decides per square of 16 pixels: another square, another light."""
    return picture + 0.5 * (torch.arange(picture.shape[3]) // 16 % 2)


def light_where_the_noise_is(picture: Tensor) -> Tensor:
    rough = F.avg_pool2d((picture - F.avg_pool2d(picture, 3, 1, 1)).abs(), 16)
    return picture + 4 * F.interpolate(rough, scale_factor=16.0)


def test_what_looks_at_colours_alone_is_steady() -> None:
    picture = smooth_picture()
    assert steadiness(darker, picture, darker(picture), noise=0.0) < 1e-5


@pytest.mark.parametrize("light", [light_on_the_left, light_on_a_grid])
def test_light_that_stays_with_the_frame_is_punished(light: object) -> None:
    assert callable(light)
    picture = smooth_picture()
    assert steadiness(light, picture, light(picture), noise=0.0) > 0.02


def test_noise_is_punished_for_what_it_changes_and_not_for_itself() -> None:
    picture = smooth_picture()
    passed_through = steadiness(darker, picture, darker(picture), noise=0.05)
    decided_by_it = steadiness(
        light_where_the_noise_is, picture, light_where_the_noise_is(picture), noise=0.05
    )
    assert passed_through < 0.05 / COMPARED
    assert decided_by_it > 10 * passed_through


def test_motions_are_those_of_a_camera() -> None:
    """A square keeps its right angles on a picture that is no square, and its centre moves by no more than stated."""
    x, y = torch.meshgrid(torch.linspace(-63.5, 63.5, 128), torch.linspace(-47.5, 47.5, 96), indexing="xy")
    motions = random_motions(torch.zeros(50, 3, 96, 128)) * torch.tensor([64.0, 48.0])
    right, down = motions[:, 0, -1] - motions[:, 0, 0], motions[:, -1, 0] - motions[:, 0, 0]
    torch.testing.assert_close((right * down).sum(1), torch.zeros(50), atol=0.05, rtol=0)
    torch.testing.assert_close(right.norm(dim=1) / 127, down.norm(dim=1) / 95, atol=1e-4, rtol=0)
    shifts = motions.mean((1, 2))
    assert shifts.abs().max() <= LARGEST_SHIFT
    assert shifts.std() > 0.4 * LARGEST_SHIFT
    ramps = torch.stack([x, y, x + y])[None].expand(50, -1, -1, -1)
    inside = ((motions.abs() < torch.tensor([63.0, 47.0])).all(-1))[:, None]
    seen = moved(ramps, motions / torch.tensor([64.0, 48.0]))
    torch.testing.assert_close(
        (seen[:, :1] * inside)[:, 0], motions[..., 0] * inside[:, 0], atol=1e-3, rtol=0
    )


def test_a_border_that_only_one_frame_shows_does_not_count() -> None:
    picture = torch.zeros(1, 3, 96, 128)
    picture[..., :1] = 1.0
    assert steadiness(lambda p: p, picture, picture, noise=0.0) == 0


def test_gradients_reach_both_translations() -> None:
    picture, gain = smooth_picture(), torch.tensor(1.0, requires_grad=True)
    other = torch.tensor(0.5, requires_grad=True)
    steadiness(lambda p: gain * p, picture, other * picture, noise=0.0).backward()
    assert gain.grad is not None
    assert other.grad is not None
    assert gain.grad * other.grad < 0
