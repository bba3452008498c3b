"""The papers' ablations as data: what is compared, on what, by which measure, and what the authors found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Preset = Literal["cpu", "gpu", "smoke"]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One training: the options that differ from the experiment's, and the figure that the paper gives for it."""

    options: Mapping[str, Any] = field(default_factory=dict)
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Trainings of one method on one set of images that differ in what the paper compares."""

    method: str
    data: Literal["maps", "facades", "nordland", "flowers5"]
    claim: str
    measures: tuple[str, ...]
    """Names as in `metrics.json`; the first decides."""
    variants: Mapping[str, Variant]
    sizes: Mapping[Preset, Mapping[str, Any]]
    """Options of every variant by preset; `cpu` is for two cores and far below the paper's size."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)


TINY = {"steps": 2, "batch": 2, "workers": 0, "log_every": 1, "device": "cpu"}
SMALL = {"image_size": 64, "load_size": 72, "batch": 4, "log_every": 50, "sample_every": 1000}
UNIT_SMALL = {"width": 16, "disc_width": 16}

EXPERIMENTS: dict[str, Experiment] = {
    "unit_maps": Experiment(
        method="unit",
        data="maps",
        claim="Weight sharing and the cycle both raise the pixel accuracy; 5 layers in the discriminator are best; "
        "more weight on the likelihood is better, a KL weight of 0.1 is best.",
        measures=("pixel_accuracy_within_16", "l1"),
        variants={
            "full": Variant(published="0.600"),
            "no sharing": Variant(
                options={"share_blocks": 0, "reconstruction_weight": 0.0, "kl_weight": 0.0}, published="0.569"
            ),
            "no cycle": Variant(options={"cycle_weight": 0.0}, published="0.568"),
            "3 layers in the discriminator": Variant(options={"disc_layers": 3}),
            "4 layers in the discriminator": Variant(options={"disc_layers": 4}),
            "6 layers in the discriminator": Variant(options={"disc_layers": 6}),
            "2 shared blocks": Variant(options={"share_blocks": 2}),
            "3 shared blocks": Variant(options={"share_blocks": 3}),
            "4 shared blocks": Variant(options={"share_blocks": 4}),
            "likelihood weight 1": Variant(options={"reconstruction_weight": 1.0, "cycle_weight": 1.0}),
            "likelihood weight 10": Variant(options={"reconstruction_weight": 10.0, "cycle_weight": 10.0}),
            "likelihood weight 1000": Variant(
                options={"reconstruction_weight": 1000.0, "cycle_weight": 1000.0}
            ),
            "KL weight 0.01": Variant(options={"kl_weight": 0.01}),
            "KL weight 1": Variant(options={"kl_weight": 1.0}),
        },
        sizes={
            "cpu": {**SMALL, **UNIT_SMALL, "batch": 1, "steps": 3000},
            "gpu": {"steps": 100_000},
            "smoke": {**SMALL, **TINY, "width": 4, "disc_width": 4},
        },
        evaluation={"truth": True},
    ),
    "bicyclegan_facades": Experiment(
        method="bicyclegan",
        data="facades",
        claim="Both halves together are more diverse than cVAE-GAN and more faithful than cLR-GAN; pix2pix with noise "
        "ignores its code; the residual encoder is better than the plain one; codes of 8 numbers are a compromise.",
        measures=("patch_diversity", "patch_frechet", "l1_best_of_20"),
        variants={
            "both": Variant(published="LPIPS 0.110 (maps)"),
            "cVAE-GAN": Variant(options={"objective": "cvae"}, published="LPIPS 0.096 (maps)"),
            "cLR-GAN": Variant(options={"objective": "clr"}, published="LPIPS 0.090 (maps)"),
            "pix2pix with noise": Variant(options={"objective": "noise"}, published="LPIPS 0.013 (maps)"),
            "plain encoder": Variant(options={"encoder": "cnn"}),
            "code into the input alone": Variant(options={"style_place": "input"}),
            "code of 2": Variant(options={"style_size": 2}),
            "code of 256": Variant(options={"style_size": 256}),
        },
        sizes={
            "cpu": {
                **SMALL,
                "width": 16,
                "downs": 6,
                "encoder_width": 16,
                "disc_width": 16,
                "disc_layers": 2,
                "swap": True,
                "steps": 4000,
                "decay_from": 2000,
            },
            "gpu": {"swap": True},
            "smoke": {
                **SMALL,
                **TINY,
                "width": 4,
                "downs": 6,
                "encoder_width": 4,
                "disc_width": 4,
                "disc_layers": 2,
            },
        },
    ),
    "nicegan_nordland": Experiment(
        method="nicegan",
        data="nordland",
        claim="Decoupled training is better than coupled; attention, every scale of the classifier and the reuse of "
        "the encoder help; the domains lie closer in the latent space.",
        measures=("patch_kid_x100", "l1", "latent_mmd"),
        variants={
            "decoupled": Variant(),
            "coupled": Variant(options={"training": "coupled"}),
            "no attention": Variant(options={"attention": False}),
            "no classifier of the attention": Variant(options={"left_out": "attention"}),
            "no local classifier": Variant(options={"left_out": "local"}),
            "no overall classifier": Variant(options={"left_out": "overall"}),
            "encoders of their own": Variant(options={"reuse": False}),
        },
        sizes={
            "cpu": {
                **SMALL,
                "image_size": 32,
                "load_size": 32,
                "width": 16,
                "blocks": 4,
                "depth": 5,
                "steps": 2000,
                "decay_from": 1000,
            },
            "gpu": {"image_size": 32, "load_size": 32, "depth": 5, "steps": 50_000, "decay_from": 25_000},
            "smoke": {**TINY, "image_size": 32, "load_size": 32, "width": 4, "blocks": 1, "depth": 5},
        },
        evaluation={"truth": True},
    ),
    "tunit_flowers": Experiment(
        method="tunit",
        data="flowers5",
        claim="Joint training is better than separate; too few pseudo-domains merge classes, too many split them.",
        measures=("patch_mean_class_frechet", "cluster_accuracy"),
        variants={
            "joint": Variant(options={"classes": 5}),
            "separate": Variant(options={"classes": 5, "training": "separate"}),
            "3 pseudo-domains": Variant(options={"classes": 3}),
            "10 pseudo-domains": Variant(options={"classes": 10}),
            "20 pseudo-domains": Variant(options={"classes": 20}),
        },
        sizes={
            "cpu": {
                **SMALL,
                "load_size": 64,
                "width": 16,
                "disc_width": 16,
                "guide_width": 16,
                "batch": 8,
                "steps": 6000,
                "separated_steps": 2000,
            },
            "gpu": {"image_size": 128, "load_size": 128, "batch": 16},
            "smoke": {
                **TINY,
                "image_size": 32,
                "load_size": 32,
                "width": 4,
                "disc_width": 4,
                "guide_width": 8,
                "separated_steps": 1,
            },
        },
    ),
}
