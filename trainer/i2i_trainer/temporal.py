"""Steady video: what a translator makes of a moved image must be its translation, moved the same way.

Between two frames of a real video the camera turns, approaches and shifts, by fractions of a pixel and by tens of
them, and its sensor adds noise. A translator that decides by absolute position, by the grid of its strides or by
chance texture then lets light wander over what stands still. After the regularisation for temporal consistency of
Eilertsen et al.: Single-Frame Regularization for Temporally Stable CNNs (CVPR 2019), with motions of camera size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_SHIFT = 24.0
"""Pixels, both ways in both axes: a near road moves that far between two frames at 360 lines."""
LARGEST_ZOOM = 1.2
"""Factor, in and out."""
LARGEST_TURN = math.radians(4)
MARGIN = 16
"""Pixels along the border that are not compared: there both images end."""
COMPARED = 4
"""Side of the squares whose means are compared: the decisions show there, the noise passed through does not."""


def random_motions(image: Tensor) -> Tensor:
    """A shift, zoom and turn per image `[N, 3, H, W]`: where to sample from, as `grid_sample` takes it."""
    count, _, height, width = image.shape
    chance = torch.rand(4, count, device=image.device) * 2 - 1
    zoom = LARGEST_ZOOM ** chance[0]
    cos, sin = zoom * torch.cos(LARGEST_TURN * chance[1]), zoom * torch.sin(LARGEST_TURN * chance[1])
    right, down = 2 * LARGEST_SHIFT / width * chance[2], 2 * LARGEST_SHIFT / height * chance[3]
    aspect = height / width
    rows = [torch.stack(row, -1) for row in ((cos, -sin * aspect, right), (sin / aspect, cos, down))]
    return F.affine_grid(torch.stack(rows, 1), list(image.shape), align_corners=False)


def moved(image: Tensor, motions: Tensor) -> Tensor:
    """The images as the moved camera sees them; beyond their border they are mirrored."""
    return F.grid_sample(image.float(), motions, padding_mode="reflection", align_corners=False)


def steadiness(
    generator: Callable[[Tensor], Tensor], image: Tensor, translated: Tensor, noise: float
) -> Tensor:
    """Mean absolute difference of G(move(x) + noise) and move(G(x)) where both show the same; a scalar.

    `image` and `translated` are `[N, 3, H, W]` in [-1, 1], H and W multiples of 4 above 32.
    """
    motions = random_motions(image)
    view = moved(image, motions)
    again = generator(view + noise * torch.randn_like(view))
    difference = F.avg_pool2d(again.float() - moved(translated, motions), COMPARED).abs().mean(1)
    same = _seen_by_both(motions, image)
    return (difference * same).sum() / same.sum().clamp_min(1)


def _seen_by_both(motions: Tensor, image: Tensor) -> Tensor:
    """1 if a compared square of the moved image lies inside both frames, margins left out: `[N, H/4, W/4]`."""
    height, width = image.shape[2:]
    limit = 1 - 2 * MARGIN / torch.tensor([width, height], device=image.device)
    inside = (motions.abs() <= limit).all(-1)
    own = torch.zeros(height, width, dtype=torch.bool, device=image.device)
    own[MARGIN:-MARGIN, MARGIN:-MARGIN] = True
    return -F.max_pool2d(-(inside & own).float()[:, None], COMPARED)[:, 0]
