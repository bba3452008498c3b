"""The field's measures as functions of tensors. Images are `[N, 3, H, W] float32 RGB in [-1, 1]` throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd

from i2i_trainer.errors import DataError
from i2i_trainer.images import Pixels


class _Given(nn.Module):
    """Passes features through where torchmetrics expects a network."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to features `[N, D]`; FID if the features are Inception's.

    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017.
    """
    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def kernel_distance(
    real: Tensor, fake: Tensor, subsets: int = 50, subset_size: int = 1000
) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD with (x.y / D + 1)^3 over random subsets.

    KID if the features `[N, D]` are Inception's. Bińkowski et al., Demystifying MMD GANs, 2018. A subset is at most
    half of the images: subsets that are all of them have no spread.
    """
    size = min(subset_size, max(2, min(len(real), len(fake)) // 2))
    random = np.random.default_rng(0)
    distances = []
    for _ in range(subsets):
        one = real[random.permutation(len(real))[:size]].double()
        other = fake[random.permutation(len(fake))[:size]].double()
        distances.append(float(poly_mmd(one, other, degree=3, gamma=None, coef=1.0)))
    return float(np.mean(distances)), float(np.std(distances))


def latent_distance(source: Tensor, target: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD of two domains' latent vectors `[N, D]`.

    Kernel and subsets as in `kernel_distance`, over vectors brought to mean 0 and deviation 1 per number, both domains
    together, so that methods compare. 0 if the domains cannot be told apart.
    """
    both = torch.cat([source, target]).double()
    scaled = (both - both.mean(0)) / both.std(0).clamp_min(1e-6)
    return kernel_distance(scaled[: len(source)], scaled[len(source) :])


def mean_class_distance(real: Sequence[Tensor], fake: Sequence[Tensor]) -> float:
    """Mean over classes of the Fréchet distance between real and translated features: mFID with Inception's."""
    return float(np.mean([frechet_distance(r, f) for r, f in zip(real, fake, strict=True)]))


def pixel_accuracy(translated: Tensor, truth: Tensor, within: int = 16) -> float:
    """Share of pixels whose three channels all lie within `within` of 255 levels of the truth (UNIT on maps)."""
    difference = (_levels(translated) - _levels(truth)).abs().amax(dim=1)
    return float((difference <= within).float().mean())


def error_to_truth(translated: Tensor, truth: Tensor) -> dict[str, float]:
    """Mean absolute error and root mean square in 255 levels, PSNR in dB (mean over images), and SSIM."""
    difference = _levels(translated) - _levels(truth)
    mse = difference.square().flatten(1).mean(1)
    ssim = structural_similarity_index_measure(_levels(translated), _levels(truth), data_range=255.0)
    assert isinstance(ssim, Tensor)
    return {
        "l1": float(difference.abs().mean()),
        "rmse": float(mse.mean().sqrt()),
        "psnr_db": float((10 * (255.0**2 / mse.clamp_min(1e-4)).log10()).mean()),
        "ssim": float(ssim),
    }


def _levels(images: Tensor) -> Tensor:
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round()


def diversity(
    translate: Callable[[Tensor, Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    style_size: int,
    pairs: int = 19,
) -> float:
    """Mean distance between `pairs` pairs of translations of each image under random styles.

    100 images and 19 pairs is the published protocol; with an LPIPS network as `distance` it is LPIPS diversity.
    """
    generator = torch.Generator().manual_seed(0)
    distances = []
    for image in torch.split(images, 1):
        styles = torch.randn(2 * pairs, style_size, generator=generator)
        several = torch.cat([translate(image, style) for style in torch.split(styles, 1)])
        distances.append(distance(several[:pairs], several[pairs:]).flatten())
    return float(torch.cat(distances).mean())


def class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of `[N, C]` logits whose largest is the label's."""
    return float((logits.argmax(1) == labels).float().mean())


def cluster_accuracy(clusters: Tensor, labels: Tensor) -> float:
    """Share of images in the right cluster under the best one-to-one naming of clusters (Hungarian method).

    A label below 0 is unknown and does not count.
    """
    clusters, labels = clusters[labels >= 0], labels[labels >= 0]
    count = int(max(clusters.max(), labels.max())) + 1
    table = np.zeros((count, count), np.int64)
    np.add.at(table, (clusters.numpy(), labels.numpy()), 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


@dataclass(frozen=True)
class Flicker:
    """Warping error of a clip in 255 levels: translated, and of the source itself for comparison."""

    translated: float
    source: float
    frames: int


def flicker(source: Sequence[Pixels], translated: Sequence[Pixels]) -> Flicker:
    """How much of a clip changes beyond its own motion: root mean square over the pixels that both frames show.

    Each frame is warped onto the one before by the optical flow of the source frames (dense inverse search); pixels
    where forward and backward flow disagree are left out. Frames are `[H, W, 3] uint8 RGB`. After Lai et al.,
    Learning Blind Video Temporal Consistency, 2018.
    """
    cv2 = _opencv()
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8) for frame in source]
    errors: list[tuple[float, float]] = []
    for i in range(1, len(source)):
        forward = _flow(search, grey[i - 1], grey[i])
        backward = _flow(search, grey[i], grey[i - 1])
        seen = _seen_in_both(forward, backward)
        if seen.any():
            errors.append(
                (
                    _warped_difference(translated[i - 1], translated[i], forward, seen),
                    _warped_difference(source[i - 1], source[i], forward, seen),
                )
            )
    own, base = np.mean(errors, axis=0) if errors else (0.0, 0.0)
    return Flicker(float(own), float(base), len(source))


def _opencv() -> ModuleType:
    """OpenCV, imported when it is needed: on a machine without its libraries all other measures still work."""
    try:
        import cv2
    except ImportError as error:
        raise DataError(
            f"OpenCV does not load ({error}): run `i2i-doctor`, which says how to fix it."
        ) from error
    return cv2


def _flow(search: Any, before: Pixels, after: Pixels) -> NDArray[np.float32]:
    found = search.calc(before, after, np.zeros((*before.shape, 2), np.float32))
    return np.asarray(found, np.float32)


def _warp(values: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    where = (x + flow[..., 0], y + flow[..., 1])
    cv2 = _opencv()
    return np.asarray(
        cv2.remap(values, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32
    )


def _seen_in_both(forward: NDArray[np.float32], backward: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Forward and backward flow cancel up to 1 % of their squared length plus half a pixel (Sundaram et al. 2010)."""
    back = _warp(backward, forward)
    gap = ((forward + back) ** 2).sum(-1)
    length = (forward**2).sum(-1) + (back**2).sum(-1)
    agree: NDArray[np.bool_] = gap <= 0.01 * length + 0.5
    return agree


def _warped_difference(
    before: Pixels, after: Pixels, forward: NDArray[np.float32], seen: NDArray[np.bool_]
) -> float:
    warped = _warp(after.astype(np.float32), forward)
    return float(np.sqrt(((warped - before)[seen] ** 2).mean()))
