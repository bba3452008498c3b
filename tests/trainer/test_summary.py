"""Parameters and multiply-adds of one direction of every published method, at 256x256 in its default configuration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS
from i2i_trainer.summary import COUNTED_SIZE, macs_of, parameters_of

PUBLISHED = {
    "unit": (10.19, 44.12),
    "munit": (12.26, 71.03),
    "cyclegan": (11.38, 49.55),
    "cut": (11.38, 64.05),
    "fastcut": (11.38, 64.05),
    "pix2pix": (54.41, 6.05),
    "bicyclegan": (54.79, 6.31),
    "ugatit": (10.59, 52.50),
    "nicegan": (8.105 + 0.151, 33.77 + 0.654),
    "tunit": (27.42, 21.02),
    "lptn": (0.62, 1.34),
}


def cost_of_one_direction(name: str) -> tuple[float, float]:
    """Millions of parameters and billions of multiply-adds, to two digits."""
    with torch.device("meta"):
        method = METHODS[name].method(METHODS[name].config())
        inference = method.inference(method.directions()[0])
    return round(parameters_of(inference) / 1e6, 2), round(macs_of(inference, COUNTED_SIZE) / 1e9, 2)


@pytest.mark.parametrize("name", PUBLISHED)
def test_cost_is_the_published_one(name: str) -> None:
    parameters, macs = PUBLISHED[name]
    assert cost_of_one_direction(name) == (round(parameters, 2), round(macs, 2))


def test_drit_by_concatenation() -> None:
    assert cost_of_one_direction("drit")[1] == 45.52


class Mixed(Inference):
    """One layer of each kind, and a fixed filter."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1)
        self.up = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
        self.linear = nn.Linear(3, 5)
        self.register_buffer("blur", torch.ones(3, 1, 3, 3))
        self.blur: Tensor

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        out: Tensor = self.up(self.down(nn.functional.conv2d(image, self.blur, padding=1, groups=3)))
        shifted: Tensor = out + self.linear(out.mean((2, 3))).sum()
        return shifted


def test_multiply_adds_by_hand() -> None:
    down = 4 * 4 * 4 * 3 * 9  # output 4x4 of 4 channels, 3x3 of 3 channels each
    up = 4 * 4 * 4 * 3 * 16  # by input size: 4x4 of 4 channels, 4x4 to 3 channels each
    assert macs_of(Mixed(), (8, 8)) == down + up + 3 * 5
