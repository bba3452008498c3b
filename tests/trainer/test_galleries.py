"""What `i2i-eval --sheets` draws and measures beyond distances: latent space, best of several, styles, clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from i2i_trainer import metrics
from i2i_trainer.evaluation import Options, evaluate
from i2i_trainer.galleries import interpolated, write_map
from i2i_trainer.layouts import Domains
from i2i_trainer.loop import train
from i2i_trainer.material import Material
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS
from i2i_trainer.scores import best_of


def trained(name: str, streets: Path, run: Path, **options: Any) -> Path:
    kind = METHODS[name].config
    values = dict(kind.presets["small"]) | {"batch": 2, "steps": 1, "workers": 0, "device": "cpu"}
    return train(name, kind(**values | options | {"data": streets, "out": run}))


def test_latents_of_one_domain_are_close_and_of_two_far_whatever_their_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(120, 6, generator=generator) for _ in range(2))
    same, _ = metrics.latent_distance(one, other)
    apart, _ = metrics.latent_distance(one, other + 2)
    assert abs(same) < 0.1 < apart
    assert metrics.latent_distance(100 * one, 100 * (other + 2))[0] == pytest.approx(apart, rel=1e-6)


class Offset(Inference):
    """Adds its style to the image."""

    style_size = 1

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        assert style is not None
        return image + style[:, :, None, None]


def test_the_nearest_of_several_translations_counts() -> None:
    images = torch.zeros(3, 3, 4, 4)
    domains = Domains("paired", ("a", "b"), [], [], True, (), None, None)
    material = Material(domains, "test", images, images + 0.5, None, None, True)

    def score(count: int) -> float:
        found = best_of(Options(run=Path(), best_of=count), Offset(), material)
        return float(found[f"l1_best_of_{count}"])

    assert score(40) < score(1)
    assert score(40) < 127.5 * 0.1
    assert best_of(Options(run=Path(), best_of=0), Offset(), material) == {}


def test_interpolation_begins_and_ends_with_the_styles_given() -> None:
    columns = interpolated(Offset(), torch.zeros(2, 3, 4, 4), torch.zeros(1, 1), torch.full((1, 1), 0.6))
    assert list(columns)[:2] == ["source", "0%"]
    levels = [float(images.mean()) for images in columns.values()]
    assert levels == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_the_same_vectors_give_the_same_map(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = {name: torch.randn(8, 5, generator=generator) + 9 * i for i, name in enumerate(("day", "night"))}
    for name in ("one.png", "two.png"):
        write_map(tmp_path / name, groups)
    one, two = (Image.open(tmp_path / name).convert("RGB").tobytes() for name in ("one.png", "two.png"))
    assert one == two


@pytest.mark.parametrize(
    ("name", "options", "sheets", "measures"),
    [
        ("unit", {}, {"latents.png"}, {"latent_mmd"}),
        ("nicegan", {}, {"latents.png"}, {"latent_mmd"}),
        ("bicyclegan", {}, {"styles.png", "references.png", "interpolation.png"}, {"l1_best_of_2"}),
        (
            "tunit",
            {"separated_steps": 0},
            {"styles.png", "references.png", "interpolation.png", "clusters.png"},
            set(),
        ),
    ],
)
def test_every_method_is_drawn_as_far_as_it_goes(
    name: str, options: dict[str, Any], sheets: set[str], measures: set[str], streets: Path, tmp_path: Path
) -> None:
    run = trained(name, streets, tmp_path / "run", **options)
    before = {path.name for path in run.glob("*.png")}
    asked = Options(run=run, split="train", best_of=2, sheets=True, diversity_inputs=1, batch=6)
    record = evaluate(asked)
    drawn = {path.name for path in run.glob("*.png")} - before - {"metrics.png"}
    assert drawn == sheets
    assert {key for key in record["metrics"] if key in ("latent_mmd", "l1_best_of_2")} == measures
