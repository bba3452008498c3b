"""Random changes of images that keep what they show, for losses that compare an image with a changed copy."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn


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
