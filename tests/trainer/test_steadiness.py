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


def smooth_image(count: int = 2) -> Tensor:
    return F.interpolate(
        torch.rand(count, 3, 12, 16) * 2 - 1, (96, 128), mode="bilinear", align_corners=False
    )


def darker(image: Tensor) -> Tensor:
    return 0.5 * image - 0.4


def light_on_the_left(image: Tensor) -> Tensor:
    return image + torch.linspace(0.5, -0.5, image.shape[3])


def light_on_a_grid(image: Tensor) -> Tensor:
    """What a network decides per square of 16 pixels: another square, another light."""
    return image + 0.5 * (torch.arange(image.shape[3]) // 16 % 2)


def light_where_the_noise_is(image: Tensor) -> Tensor:
    rough = F.avg_pool2d((image - F.avg_pool2d(image, 3, 1, 1)).abs(), 16)
    return image + 4 * F.interpolate(rough, scale_factor=16.0)


def test_what_looks_at_colours_alone_is_steady() -> None:
    image = smooth_image()
    assert steadiness(darker, image, darker(image), noise=0.0) < 1e-5


@pytest.mark.parametrize("light", [light_on_the_left, light_on_a_grid])
def test_light_that_stays_with_the_frame_is_punished(light: object) -> None:
    assert callable(light)
    image = smooth_image()
    assert steadiness(light, image, light(image), noise=0.0) > 0.02


def test_noise_is_punished_for_what_it_changes_and_not_for_itself() -> None:
    image = smooth_image()
    passed_through = steadiness(darker, image, darker(image), noise=0.05)
    decided_by_it = steadiness(light_where_the_noise_is, image, light_where_the_noise_is(image), noise=0.05)
    assert passed_through < 0.05 / COMPARED
    assert decided_by_it > 10 * passed_through


def test_motions_are_those_of_a_camera() -> None:
    """A square keeps its right angles on an image that is no square, and its centre moves by no more than stated."""
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
    image = torch.zeros(1, 3, 96, 128)
    image[..., :1] = 1.0
    assert steadiness(lambda p: p, image, image, noise=0.0) == 0


def test_gradients_reach_both_translations() -> None:
    image, gain = smooth_image(), torch.tensor(1.0, requires_grad=True)
    other = torch.tensor(0.5, requires_grad=True)
    torch.autograd.backward(steadiness(lambda p: gain * p, image, other * image, noise=0.0))
    assert gain.grad is not None
    assert other.grad is not None
    assert gain.grad * other.grad < 0
