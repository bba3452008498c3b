"""A measure of the translations while training, on images that the training does not see."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor

from i2i_trainer import metrics
from i2i_trainer.config import TrainConfig
from i2i_trainer.data import squares_from_images, tensor_from_bytes
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.features import RandomPatches
from i2i_trainer.layouts import Domains, find_domains
from i2i_trainer.method import Method

HELD_OUT = 10
"""Without images set aside as `val`, every tenth of each domain is."""
MOST = 64
"""Most images of a domain that are measured."""


def with_validation(config: TrainConfig, domains: Domains, paired: bool) -> tuple[Domains, Domains | None]:
    """Images to train with, and images to measure on if `--eval-every` asks for it; never those of `test`.

    Raises DataError if a domain has too few images to set some aside.
    """
    if not config.eval_every:
        return domains, None
    with suppress(DataError):
        return domains, find_domains(config, "val", paired)
    for name, images in zip(domains.names, (domains.a, domains.b), strict=True):
        if len(images) < 2 * HELD_OUT:
            raise DataError(
                f"--eval-every needs a val split, or at least {2 * HELD_OUT} images per domain to set some aside, and "
                f"{name} has {len(images)}: add images, or leave --eval-every out."
            )
    return _every(domains, held_out=False), _every(domains, held_out=True)


def _every(domains: Domains, held_out: bool) -> Domains:
    def part(length: int) -> list[int]:
        return [i for i in range(length) if (i % HELD_OUT == HELD_OUT - 1) == held_out]

    of_a, of_b = part(len(domains.a)), part(len(domains.b))
    return replace(
        domains,
        a=[domains.a[i] for i in of_a],
        b=[domains.b[i] for i in of_b],
        labels_a=None if domains.labels_a is None else [domains.labels_a[i] for i in of_a],
        labels_b=None if domains.labels_b is None else [domains.labels_b[i] for i in of_b],
    )


class Validation:
    """Measures the direction a2b on fixed images, in the default style; lower is better.

    `l1` is the mean absolute error to the counterparts in grey levels of 255; `patch_kid_x100` and `patch_frechet` are
    distances to the target images as seen by fixed random filters, which compare only within a run.
    """

    def __init__(self, config: TrainConfig, domains: Domains) -> None:
        paired = domains.paired
        auto = "l1" if paired else "patch_kid_x100"
        self.measure = auto if config.eval_measure == "auto" else config.eval_measure
        if self.measure == "l1" and not paired:
            raise OptionError(
                "--eval-measure l1 needs counterparts: use a paired layout, or another measure."
            )
        source, kept_a = squares_from_images(domains.a, config.image_size, MOST, announce=False)
        target, kept_b = squares_from_images(domains.b, config.image_size, MOST, announce=False)
        both = sorted(set(kept_a) & set(kept_b)) if paired else []
        cpu = torch.device("cpu")
        self._source, self._target = (
            tensor_from_bytes(
                torch.from_numpy(images[[kept.index(i) for i in both]] if paired else images), cpu
            )
            for images, kept in ((source, kept_a), (target, kept_b))
        )
        self._patches = RandomPatches()
        self._real = self._patches(self._target)

    @torch.no_grad()
    def __call__(self, method: Method, device: torch.device) -> float:
        """The measure of the method's present weights."""
        network = method.inference("a2b").eval().to(device)
        parts = [network(part.to(device)).float().cpu() for part in torch.split(self._source, 8)]
        return self._distance(torch.cat(parts).clamp(-1, 1))

    def _distance(self, translated: Tensor) -> float:
        if self.measure == "l1":
            return metrics.error_to_truth(translated, self._target)["l1"]
        fake = self._patches(translated)
        if self.measure == "patch_frechet":
            return metrics.frechet_distance(self._real, fake)
        return 100 * metrics.kernel_distance(self._real, fake)[0]
