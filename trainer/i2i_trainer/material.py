"""What `i2i-eval` measures: its options, the images of both domains, styles, and the translations."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from i2i_trainer.config import Layout, TrainConfig
from i2i_trainer.data import squares_from_images, tensor_from_bytes
from i2i_trainer.errors import OptionError
from i2i_trainer.features import Range
from i2i_trainer.heading import duration
from i2i_trainer.images import Pixels, TrainingImage
from i2i_trainer.layouts import Domains, find_domains, has_split
from i2i_trainer.method import Inference, Method


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure a trained method. Writes metrics.json and metrics.png into the run folder."""

    run: tyro.conf.Positional[Path]
    """Run folder made by i2i-train."""
    data: Path | None = None
    """Folder of images; the run's own if not given."""
    layout: Layout = "auto"
    """How --data is laid out."""
    split: Literal["auto", "train", "val", "test"] = "auto"
    """Which images; `auto` takes test, else val, else train."""
    direction: Literal["a2b", "b2a"] = "a2b"
    truth: bool = False
    """Images of equal names are true counterparts, to measure the error against."""
    size: int = 0
    """Side of the squares that are measured; 0 takes the side the method was trained with."""
    limit: int = 1000
    """Most images per domain."""
    style: Literal["auto", "random", "reference", "default"] = "auto"
    """Styles of the measured translations, if there is a style: drawn, from target images, or the fixed one."""
    features: Path | None = None
    """Inception-v3 as ONNX or TorchScript, for FID, KID and mFID; a stand-in of another name without it."""
    features_side: int = 299
    """Height and width of the images that the feature network gets."""
    features_range: Range = "0,255"
    """Range of the values that the feature network gets."""
    lpips: Path | None = None
    """LPIPS as a network of two images in [-1, 1]; a stand-in of another name without it."""
    best_of: int = 20
    """Translations per image of which the one nearest to the truth is measured, if styles can be drawn; 0 for none."""
    sheets: bool = False
    """Also draw sheets of the latent space, of styles, of interpolated styles and of clusters, as far as the method
    has them."""
    diversity_inputs: int = 100
    """Images that are translated in many styles to measure their diversity, 19 pairs each."""
    step: str | None = None
    """A step that `--keep` kept, or `best`; the last one if not given."""
    clip: Path | None = None
    """Video to measure the flicker on."""
    clip_frames: int = 60
    """Most frames of the clip."""
    batch: int = 8
    """Images that are translated at a time."""


@dataclass(frozen=True)
class Material:
    """What is measured: squares `[N, 3, S, S]` in [-1, 1] of both domains; `b[i]` is true for `a[i]` if `paired`."""

    domains: Domains
    split: str
    a: Tensor
    b: Tensor
    labels_a: Tensor | None
    labels_b: Tensor | None
    paired: bool


def find_material(options: Options, config: TrainConfig, method: Method, inference: Inference) -> Material:
    if options.data is not None:
        config = replace(config, data=options.data, layout=options.layout)
    paired = method.paired or options.truth
    auto = next((split for split in ("test", "val") if has_split(config, split, paired)), "train")
    split = auto if options.split == "auto" else options.split
    domains = find_domains(config, split, paired)
    if options.direction == "b2a":
        domains = domains.swapped()
    side = options.size or (inference.fixed_size or (config.image_size,))[0]
    if side % inference.stride:
        raise OptionError(f"--size {side} must be a multiple of {inference.stride} for this method.")
    a, kept_a = _squares(domains.a, options.limit, side)
    b, kept_b = _squares(domains.b, options.limit, side)
    if domains.paired:  # a pair counts if both of its images can be read
        both = sorted(set(kept_a) & set(kept_b))
        a, b = a[[kept_a.index(i) for i in both]], b[[kept_b.index(i) for i in both]]
        kept_a = kept_b = both
    labels_a, labels_b = _kept(domains.labels_a, kept_a), _kept(domains.labels_b, kept_b)
    return Material(domains, split, tensor_of(a), tensor_of(b), labels_a, labels_b, domains.paired)


def _squares(images: Sequence[TrainingImage], limit: int, side: int) -> tuple[Pixels, list[int]]:
    """At most `limit` readable images, spread over the domain, and their indices."""
    count = min(limit, len(images))
    spread = [i * len(images) // count for i in range(count)]
    squares, kept = squares_from_images([images[i] for i in spread], side)
    return squares, [spread[i] for i in kept]


def tensor_of(pixels: Pixels) -> Tensor:
    """`[N, H, W, 3] uint8` as `[N, 3, H, W]` in [-1, 1], on the CPU."""
    return tensor_from_bytes(torch.from_numpy(pixels), torch.device("cpu"))


def _kept(labels: Sequence[int] | None, indices: list[int]) -> Tensor | None:
    return None if labels is None else torch.tensor([labels[i] for i in indices])


def styles_for(
    options: Options, inference: Inference, encoder: nn.Module | None, material: Material
) -> Tensor | None:
    """One style per source image `[N, style_size]`, None if the method has none."""
    if inference.style_size == 0:
        return None
    kind = options.style
    if kind == "auto":
        kind = "random" if inference.random_styles else "reference" if encoder is not None else "default"
    count = len(material.a)
    if kind == "random":
        return torch.randn(count, inference.style_size, generator=torch.Generator().manual_seed(0))
    if kind == "default":
        return torch.tensor(inference.default_style).expand(count, -1)
    if encoder is None:
        raise OptionError(
            "--style reference needs a method that can read a style from an image: use random or default."
        )
    styles = encoded(encoder, material.b, options.batch)
    return styles[torch.arange(count) % len(styles)]


def encoded(encoder: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    return torch.cat([encoder(part) for part in torch.split(images, batch)])


def translations(
    inference: Inference, images: Tensor, styles: Tensor | None, batch: int, console: Console | None = None
) -> Tensor:
    """The images' translations; a console is told after the first batch how long the others take."""
    parts = torch.split(images, batch)
    given: Sequence[Tensor | None] = [None] * len(parts) if styles is None else torch.split(styles, batch)
    translated: list[Tensor] = []
    began = time.monotonic()
    for part, style in zip(parts, given, strict=True):
        translated.append(inference(part, style).clamp(-1, 1))
        if console is not None and len(translated) == 1 and len(parts) > 1:
            left = duration((time.monotonic() - began) * (len(parts) - 1))
            console.print(f"Translating takes about {left}", highlight=False)
    return torch.cat(translated)
