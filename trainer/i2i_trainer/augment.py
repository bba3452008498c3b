"""Random changes of images that keep what they show: TUNIT's copies, and DiffAugment for few images."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Augment = Literal["none", "diff"]


def augmented(images: Tensor, kind: Augment) -> Tensor:
    """What a discriminator sees of images `[N, C, H, W]`, real or translated: changed copies if `kind` is `diff`."""
    return diff_augment(images) if kind == "diff" else images


def diff_augment(images: Tensor) -> Tensor:
    """DiffAugment with its colour, translation and cutout: `[N, C, H, W]` to the same, each image changed differently.

    Zhao, Liu, Lin, Zhu, Han: Differentiable Augmentation for Data-Efficient GAN Training, NeurIPS 2020. Gradients
    pass through; values may leave [-1, 1]. Draws from torch's global generator.
    """
    return _with_hole(_shifted(_recoloured(images)))


def _uniform(images: Tensor) -> Tensor:
    return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


def _recoloured(x: Tensor) -> Tensor:
    """Brightness by up to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    x = x + _uniform(x) - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * 2 * _uniform(x)
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    return level + (x - level) * (0.5 + _uniform(x))


def _shifted(x: Tensor) -> Tensor:
    """By up to an eighth of both sides, zeros where nothing was."""
    count, _, height, width = x.shape
    reach = round(height / 8), round(width / 8)
    padded = F.pad(x, (reach[1], reach[1], reach[0], reach[0]))
    rows, columns = (
        torch.randint(2 * most + 1, (count, 1), device=x.device) + torch.arange(size, device=x.device)
        for most, size in zip(reach, (height, width), strict=True)
    )
    images = torch.arange(count, device=x.device)[:, None, None]
    return padded[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _with_hole(x: Tensor) -> Tensor:
    """Zeros in a rectangle of half of both sides around a random place."""
    count, _, height, width = x.shape
    rows, columns = (
        (torch.arange(size, device=x.device) - torch.randint(size, (count, 1), device=x.device)).abs()
        < size / 4
        for size in (height, width)
    )
    hole = rows[:, None, :, None] & columns[:, None, None, :]
    return x * ~hole


class Augmentation:
    """TUNIT's changes: up to 20 degrees, 10 % shift and shear 10, a crop of 0.9 to 1.1, colours, mirroring.

    Images `[N, 3, S, S]` in [-1, 1] to the same. Draws from torch's global generator.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    @cached_property
    def _changes(self) -> nn.Module:
        # Imported where it is needed: kornia takes seconds to load, and only training needs it.
        from kornia import augmentation

        return nn.Sequential(
            augmentation.RandomAffine(20.0, (0.1, 0.1), shear=10.0, p=1.0),
            augmentation.RandomResizedCrop(
                (self.size, self.size), scale=(0.9, 1.1), ratio=(0.9, 1.1), cropping_mode="resample"
            ),
            augmentation.ColorJitter(0.4, 0.4, 0.4, 0.125),
            augmentation.RandomHorizontalFlip(),
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        changed: Tensor = self._changes((images.float() * 0.5 + 0.5).clamp(0, 1))
        return (changed * 2 - 1).clamp(-1, 1).to(images.dtype)
