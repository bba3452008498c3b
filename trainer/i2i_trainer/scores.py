"""The measures of `i2i-eval`, each a function of what is measured: a name and a number each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from i2i_trainer import metrics
from i2i_trainer.errors import DataError
from i2i_trainer.features import FeatureNetwork, RandomPatches, load_features, load_network
from i2i_trainer.images import frames_of_clip
from i2i_trainer.material import Material, Options, encoded, tensor_of, translations
from i2i_trainer.method import Inference, Method
from i2i_trainer.sheets import bytes_from_tensor

OF_SOURCE, OF_SHUFFLED = "_of_source", "_of_shuffled_truth"
FEWEST_FOR_FEATURES = 2


def feature_network(options: Options, console: Console) -> FeatureNetwork | RandomPatches:
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


def distances(
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


def class_distances(
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
        styles = encoded(encoder, members, options.batch)
        styles = styles[torch.arange(len(others)) % len(styles)]
        real.append(_seen(features, members))
        fake.append(_seen(features, translations(inference, others, styles, options.batch)))
    return {_names(features)[2]: metrics.mean_class_distance(real, fake)} if real else {}


def errors_to_truth(material: Material, translated: Tensor) -> dict[str, Any]:
    """Errors to the true counterpart: of the translation, of the source itself, and of another image's truth."""
    shuffled = material.b.roll(len(material.b) // 2, dims=0)
    compared = {"": translated, OF_SOURCE: material.a, OF_SHUFFLED: shuffled}
    measured: dict[str, Any] = {}
    for suffix, images in compared.items():
        measured["pixel_accuracy_within_16" + suffix] = metrics.pixel_accuracy(images, material.b)
        for key, value in metrics.error_to_truth(images, material.b).items():
            measured[key + suffix] = value
    return measured


def best_of(options: Options, inference: Inference, material: Material) -> dict[str, Any]:
    """L1 to the truth, in 255 levels, of the nearest of several translations of each image under drawn styles."""
    if not (options.best_of and material.paired and inference.style_size and inference.random_styles):
        return {}
    generator = torch.Generator().manual_seed(2)
    nearest = torch.full((len(material.a),), torch.inf)
    for _ in range(options.best_of):
        styles = torch.randn(len(material.a), inference.style_size, generator=generator)
        made = translations(inference, material.a, styles, options.batch)
        nearest = nearest.minimum((made - material.b).abs().mean(dim=(1, 2, 3)))
    return {f"l1_best_of_{options.best_of}": 127.5 * float(nearest.mean())}


def latent_distance(method: Method, options: Options, material: Material) -> dict[str, Any]:
    """How far apart the two domains lie in the latent space of a method that has one."""
    source, target = latents_of(method, options, material)
    if source is None or target is None or min(len(source), len(target)) < FEWEST_FOR_FEATURES:
        return {}
    mean, spread = metrics.latent_distance(source, target)
    return {"latent_mmd": mean, "latent_mmd_std": spread}


def latents_of(
    method: Method, options: Options, material: Material
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Latent vectors `[N, D]` of source and target images, None if the method has none."""
    names = ("a", "b") if options.direction == "a2b" else ("b", "a")
    found: list[Tensor] = []
    for name, images in zip(names, (material.a, material.b), strict=True):
        parts = [method.latents(part, name) for part in torch.split(images, options.batch)]
        if any(part is None for part in parts):
            return None, None
        found.append(torch.cat([part for part in parts if part is not None]))
    return found[0], found[1]


def diversity(options: Options, inference: Inference, material: Material, console: Console) -> dict[str, Any]:
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


def class_accuracies(method: Method, options: Options, material: Material) -> dict[str, Any]:
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


def flicker(options: Options, inference: Inference, side: int) -> dict[str, Any]:
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
    translated = [bytes_from_tensor(inference(tensor_of(frame[None]), style))[0] for frame in source]
    found = metrics.flicker(source, translated)
    return {
        "warping_error": found.translated,
        "warping_error_of_source": found.source,
        "warping_error_frames": found.frames,
    }
