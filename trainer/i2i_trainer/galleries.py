"""Sheets that show what a method has learned: its latent space, its styles, its clusters.

`latents.png` and `styles.png` are t-SNE maps; `interpolation.png` goes from one style to another; `references.png`
gives every source the style of every reference; `clusters.png` has a column of images per pseudo-domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from i2i_trainer.errors import OptionError
from i2i_trainer.images import Pixels
from i2i_trainer.material import Material, Options, encoded, translations
from i2i_trainer.method import Inference, Method
from i2i_trainer.scores import latents_of
from i2i_trainer.sheets import bytes_from_tensor, sheet_from_columns, write_png, write_points

ROWS, COLUMNS = 6, 7
FEWEST_FOR_MAP = 5


def write_galleries(options: Options, method: Method, inference: Inference, material: Material) -> list[str]:
    """Writes the sheets that the method allows into the run folder; returns their names."""
    encoder = method.style_encoder(options.direction)
    sources = material.a[torch.linspace(0, len(material.a) - 1, min(ROWS, len(material.a))).long()]
    drawn: list[str] = []

    def sheet(name: str, columns: Mapping[str, Tensor]) -> None:
        pixels: dict[str, Pixels] = {title: bytes_from_tensor(images) for title, images in columns.items()}
        write_png(options.run / name, sheet_from_columns(pixels))
        drawn.append(name)

    def points(name: str, groups: Mapping[str, Tensor]) -> None:
        if sum(len(vectors) for vectors in groups.values()) >= FEWEST_FOR_MAP:
            write_map(options.run / name, groups)
            drawn.append(name)

    source, target = latents_of(method, options, material)
    if source is not None and target is not None:
        points("latents.png", dict(zip(material.domains.names, (source, target), strict=True)))
    if encoder is not None:
        points("styles.png", style_groups(encoder, material, options.batch))
        sheet("references.png", by_references(inference, encoder, sources, material.b))
    if inference.style_size and (inference.random_styles or encoder is not None):
        ends = style_ends(inference, encoder, material.b)
        sheet("interpolation.png", interpolated(inference, sources, *ends))
    if (clusters := by_cluster(method, torch.cat([material.a, material.b]), options.batch)) is not None:
        sheet("clusters.png", clusters)
    return drawn


def write_map(path: Path, groups: Mapping[str, Tensor]) -> None:
    """A t-SNE map of vectors `[N, D]` by group (van der Maaten, Hinton 2008); the same points give the same map."""
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise OptionError(f"--sheets needs scikit-learn ({error}): pip install scikit-learn.") from error

    vectors = torch.cat(list(groups.values())).double().numpy()
    near = min(30.0, (len(vectors) - 1) / 3)
    places = TSNE(perplexity=near, init="random", random_state=0).fit_transform(vectors)
    ends = np.cumsum([len(members) for members in groups.values()])[:-1]
    write_points(path, dict(zip(groups, np.split(places, ends), strict=True)))


def style_groups(encoder: nn.Module, material: Material, batch: int) -> dict[str, Tensor]:
    """Styles of the target images: by class if they have labels, else of both domains."""
    styles = encoded(encoder, material.b, batch)
    if material.labels_b is None or not bool((material.labels_b >= 0).any()):
        return {material.domains.names[1]: styles}
    names = material.domains.classes
    return {
        names[label] if label < len(names) else str(label): styles[material.labels_b == label]
        for label in sorted(set(material.labels_b[material.labels_b >= 0].tolist()))
    }


def by_references(
    inference: Inference, encoder: nn.Module, sources: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    """The sources, then a column per reference; the first row shows the references themselves."""
    places = torch.linspace(0, len(targets) - 1, min(COLUMNS, len(targets))).long()
    corner = torch.ones_like(sources[:1])
    columns = {"source": torch.cat([corner, sources])}
    for number, reference in enumerate(torch.split(targets[places], 1), start=1):
        style = encoder(reference).expand(len(sources), -1)
        made = translations(inference, sources, style, len(sources))
        columns[f"reference {number}"] = torch.cat([reference, made])
    return columns


def style_ends(inference: Inference, encoder: nn.Module | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Two styles `[1, style_size]`: drawn if that is what it was trained with, else of the first and last target."""
    if inference.random_styles or encoder is None:
        drawn = torch.randn(2, inference.style_size, generator=torch.Generator().manual_seed(3))
        return drawn[:1], drawn[1:]
    return encoder(targets[:1]), encoder(targets[-1:])


def interpolated(inference: Inference, sources: Tensor, first: Tensor, last: Tensor) -> dict[str, Tensor]:
    """The sources, then a column per style on the straight line between two."""
    columns = {"source": sources}
    for share in torch.linspace(0, 1, COLUMNS).tolist():
        style = torch.lerp(first, last, share).expand(len(sources), -1)
        columns[f"{share:.0%}"] = translations(inference, sources, style, len(sources))
    return columns


def by_cluster(method: Method, images: Tensor, batch: int) -> dict[str, Tensor] | None:
    """A column of images per pseudo-domain that has any, titled with its size; None if the method has none."""
    found = [method.cluster(part) for part in torch.split(images, batch)]
    known = [clusters for clusters in found if clusters is not None]
    if not known:
        return None
    clusters = torch.cat(known)
    return {
        f"{cluster}: {int((clusters == cluster).sum())}": images[clusters == cluster][:ROWS]
        for cluster in sorted(set(clusters.tolist()))
    }
