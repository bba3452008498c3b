"""`i2i-eval runs/NAME --data DIR`: measures a trained method and writes `metrics.json` and a contact sheet."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from i2i_trainer import metrics
from i2i_trainer.checkpoint import checkpoint_file, load_method, read_config, write_atomically
from i2i_trainer.config import Layout, TrainConfig
from i2i_trainer.data import squares_from_images, tensor_from_bytes
from i2i_trainer.errors import DataError, OptionError, TrainError
from i2i_trainer.features import FeatureNetwork, RandomPatches, Range, load_features, load_network
from i2i_trainer.heading import duration
from i2i_trainer.images import Pixels, TrainingImage, frames_of_clip
from i2i_trainer.layouts import Domains, find_domains, has_split
from i2i_trainer.method import Inference, Method
from i2i_trainer.sheets import bytes_from_tensor, sheet_from_columns, write_png

SHEET_ROWS = 8
OF_SOURCE, OF_SHUFFLED = "_of_source", "_of_shuffled_truth"
HIGHER_IS_BETTER = ("accuracy", "psnr", "ssim", "diversity")
FEWEST_FOR_FEATURES = 2


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


def main() -> None:
    """Entry point of `i2i-eval`; exits with 0 done, 1 failed, 2 usage, 130 interrupted."""
    try:
        options = tyro.cli(Options, prog="i2i-eval", description=Options.__doc__)
        evaluate(options)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(130)
    except TrainError as error:
        _complain(str(error))
        sys.exit(error.exit_code)


def _complain(sentence: str) -> None:
    console = Console(stderr=True)
    console.print(f"i2i-eval: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)


@torch.no_grad()
def evaluate(options: Options) -> dict[str, Any]:
    """Measures, prints, writes `metrics.json` and `metrics.png`, and returns what `metrics.json` holds."""
    name, config = read_config(options.run)
    method = load_method(options.run, options.step)
    if options.direction not in method.directions():
        raise OptionError(
            f"{name} has no direction {options.direction}: it has {', '.join(method.directions())}."
        )
    inference = method.inference(options.direction)
    material = _material(options, config, method, inference)
    console = Console()
    console.print(
        f"{name}, {config.direction(options.direction)}: {len(material.a)} source and {len(material.b)} target images "
        f"of {material.split}",
        highlight=False,
        soft_wrap=True,
    )

    encoder = method.style_encoder(options.direction)
    styles = _styles(options, inference, encoder, material)
    translated = _translated(inference, material.a, styles, options.batch, console)
    features = _features(options, console)
    measured: dict[str, Any] = {}
    measured |= _distances(features, material, translated)
    measured |= _class_distances(features, inference, encoder, material, options)
    if material.paired:
        measured |= _truth(material, translated)
    measured |= _diversity(options, inference, material, console)
    measured |= _classes(method, options, material)
    if options.clip is not None:
        measured |= _flicker(options, inference, translated.shape[-1])

    checkpoint = options.run / checkpoint_file(options.run, options.step)
    record = {
        "method": name,
        "direction": options.direction,
        "domains": list(material.domains.names),
        "split": material.split,
        "pictures": {"source": len(material.a), "target": len(material.b), "side": material.a.shape[-1]},
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "features": features.name,
        "metrics": measured,
    }
    write_atomically(options.run / "metrics.json", (json.dumps(record, indent=2) + "\n").encode())
    write_png(options.run / "metrics.png", sheet_from_columns(_columns(inference, material, translated)))
    _print(console, measured)
    console.print(f"Written: {options.run / 'metrics.json'} and metrics.png", highlight=False)
    return record


def _material(options: Options, config: TrainConfig, method: Method, inference: Inference) -> Material:
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
    return Material(domains, split, _tensor(a), _tensor(b), labels_a, labels_b, domains.paired)


def _squares(images: Sequence[TrainingImage], limit: int, side: int) -> tuple[Pixels, list[int]]:
    """At most `limit` readable images, spread over the domain, and their indices."""
    count = min(limit, len(images))
    spread = [i * len(images) // count for i in range(count)]
    squares, kept = squares_from_images([images[i] for i in spread], side)
    return squares, [spread[i] for i in kept]


def _tensor(pixels: Pixels) -> Tensor:
    return tensor_from_bytes(torch.from_numpy(pixels), torch.device("cpu"))


def _kept(labels: Sequence[int] | None, indices: list[int]) -> Tensor | None:
    return None if labels is None else torch.tensor([labels[i] for i in indices])


def _styles(
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
    styles = _encoded(encoder, material.b, options.batch)
    return styles[torch.arange(count) % len(styles)]


def _encoded(encoder: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Tensor:
    return torch.cat([encoder(part) for part in torch.split(images, batch)])


def _translated(
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


def _features(options: Options, console: Console) -> FeatureNetwork | RandomPatches:
    if options.features is not None:
        return load_features(options.features, options.features_side, options.features_range)
    console.print(
        "No --features FILE, so no FID, KID or mFID: patch_frechet and patch_kid look through random filters instead "
        "and compare only with each other."
    )
    return RandomPatches()


def _names(features: FeatureNetwork | RandomPatches) -> tuple[str, str, str]:
    """Names of the Fréchet, kernel and class-wise Fréchet distance; the published ones only for a given network."""
    if isinstance(features, RandomPatches):
        return "patch_frechet", "patch_kid", "patch_mean_class_frechet"
    return "fid", "kid", "mfid"


def _seen(features: FeatureNetwork | RandomPatches, images: Tensor) -> Tensor:
    return torch.cat([features(part) for part in torch.split(images, 32)])


def _distances(
    features: FeatureNetwork | RandomPatches, material: Material, translated: Tensor
) -> dict[str, Any]:
    """Distances to the target images, of the translations and, to compare, of the untranslated sources."""
    frechet, kernel, _ = _names(features)
    if min(len(material.a), len(material.b)) < FEWEST_FOR_FEATURES:
        return {}
    real = _seen(features, material.b)
    measured: dict[str, Any] = {}
    for suffix, images in (("", translated), (OF_SOURCE, material.a)):
        fake = _seen(features, images)
        mean, spread = metrics.kernel_distance(real, fake)
        measured[frechet + suffix] = metrics.frechet_distance(real, fake)
        measured[kernel + "_x100" + suffix] = 100 * mean
        measured[kernel + "_x100_std" + suffix] = 100 * spread
    return measured


def _class_distances(
    features: FeatureNetwork | RandomPatches,
    inference: Inference,
    encoder: nn.Module | None,
    material: Material,
    options: Options,
) -> dict[str, Any]:
    """Class-wise distance: every source in the style of references of one class, against that class's images."""
    labels = material.labels_b
    if encoder is None or labels is None or material.domains.layout != "class-folders":
        return {}
    real, fake = [], []
    for label in sorted(set(labels[labels >= 0].tolist())):
        members = material.b[labels == label]
        others = material.a[labels != label] if material.a.shape == material.b.shape else material.a
        if min(len(members), len(others)) < FEWEST_FOR_FEATURES:
            continue
        styles = _encoded(encoder, members, options.batch)
        styles = styles[torch.arange(len(others)) % len(styles)]
        real.append(_seen(features, members))
        fake.append(_seen(features, _translated(inference, others, styles, options.batch)))
    return {_names(features)[2]: metrics.mean_class_distance(real, fake)} if real else {}


def _truth(material: Material, translated: Tensor) -> dict[str, Any]:
    """Errors to the true counterpart: of the translation, of the source itself, and of another image's truth."""
    shuffled = material.b.roll(len(material.b) // 2, dims=0)
    compared = {"": translated, OF_SOURCE: material.a, OF_SHUFFLED: shuffled}
    measured: dict[str, Any] = {}
    for suffix, images in compared.items():
        measured["pixel_accuracy_within_16" + suffix] = metrics.pixel_accuracy(images, material.b)
        for key, value in metrics.error_to_truth(images, material.b).items():
            measured[key + suffix] = value
    return measured


def _diversity(
    options: Options, inference: Inference, material: Material, console: Console
) -> dict[str, Any]:
    if inference.style_size == 0 or not inference.random_styles:
        return {}
    if options.lpips is not None:
        network, _ = load_network(options.lpips)
        name, distance = "lpips_diversity", network
    else:
        console.print(
            "No --lpips FILE, so no LPIPS diversity: patch_diversity looks through random filters instead."
        )
        patches = RandomPatches()
        name, distance = "patch_diversity", lambda one, other: (patches(one) - patches(other)).norm(dim=1)
    value = metrics.diversity(
        inference, distance, material.a[: options.diversity_inputs], inference.style_size
    )
    return {name: value}


def _classes(method: Method, options: Options, material: Material) -> dict[str, Any]:
    """Accuracy in the target domain of a method that classifies; of a method's clusters against the classes."""
    measured: dict[str, Any] = {}
    target = "b" if options.direction == "a2b" else "a"
    labels = material.labels_b
    if labels is None or not bool((labels >= 0).any()):
        return measured
    parts = torch.split(material.b, options.batch)
    logits = [found for part in parts if (found := method.classify(part, target)) is not None]
    if logits:
        measured["adaptation_accuracy"] = metrics.class_accuracy(torch.cat(logits), labels)
    clusters = [found for part in parts if (found := method.cluster(part)) is not None]
    if clusters:
        measured["cluster_accuracy"] = metrics.cluster_accuracy(torch.cat(clusters), labels)
    return measured


def _flicker(options: Options, inference: Inference, side: int) -> dict[str, Any]:
    """Warping error of a clip, its short side at the measured size and both sides at the stride."""
    assert options.clip is not None
    images = frames_of_clip(options.clip, fps=1000.0, short_side=side, most=options.clip_frames)
    if len(images) < 2:
        raise DataError(f"{options.clip} has one frame: flicker needs two or more.")
    height, width, _ = images[0].pixels.shape
    stride = inference.stride
    height, width = inference.fixed_size or (height - height % stride, width - width % stride)
    source = [np.ascontiguousarray(image.pixels[:height, :width]) for image in images]
    style = torch.tensor([inference.default_style]) if inference.style_size else None
    translated = [bytes_from_tensor(inference(_tensor(frame[None]), style))[0] for frame in source]
    found = metrics.flicker(source, translated)
    return {
        "warping_error": found.translated,
        "warping_error_of_source": found.source,
        "warping_error_frames": found.frames,
    }


def _columns(inference: Inference, material: Material, translated: Tensor) -> dict[str, Pixels]:
    rows = torch.linspace(0, len(material.a) - 1, min(SHEET_ROWS, len(material.a))).long()
    sources = material.a[rows]
    columns = {"source": sources, "translated": translated[rows]}
    if material.paired:
        columns["truth"] = material.b[rows]
    if inference.style_size and inference.random_styles:
        generator = torch.Generator().manual_seed(1)
        for number in (1, 2, 3):
            style = torch.randn(1, inference.style_size, generator=generator)
            columns[f"style {number}"] = _translated(
                inference, sources, style.expand(len(rows), -1), SHEET_ROWS
            )
    if not material.paired:
        columns["some target"] = material.b[torch.linspace(0, len(material.b) - 1, len(rows)).long()]
    return {title: bytes_from_tensor(images) for title, images in columns.items()}


def _print(console: Console, measured: dict[str, Any]) -> None:
    """One row per measure: of the translation, and to compare, of the source itself and of another image's truth."""
    table = Table("measure", "better", "translated", "source", "shuffled truth")
    for name in measured:
        if name.endswith((OF_SOURCE, OF_SHUFFLED)):
            continue
        values = [measured.get(name + suffix) for suffix in ("", OF_SOURCE, OF_SHUFFLED)]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value or "") for value in values]
        table.add_row(name, _better(name), *cells)
    console.print(table)


def _better(name: str) -> str:
    """`lower` or `higher`, empty for what is neither."""
    if name.endswith(("_std", "_frames")):
        return ""
    return "higher" if any(word in name for word in HIGHER_IS_BETTER) else "lower"


if __name__ == "__main__":
    main()
