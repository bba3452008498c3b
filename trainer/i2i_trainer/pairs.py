"""Known translations beside unpaired data: a few pairs that show an unpaired method what is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from i2i_trainer.config import TrainConfig
from i2i_trainer.data import tensor_from_bytes
from i2i_trainer.errors import DataError
from i2i_trainer.images import TrainingImage
from i2i_trainer.layouts import find_domains


class Pairs:
    """Images and their counterparts, held in memory; crops are drawn with torch's global generator.

    Raises DataError if a pair differs in size or cannot be read.
    """

    def __init__(self, pairs: Iterable[tuple[TrainingImage, TrainingImage]], config: TrainConfig) -> None:
        self._side = config.image_size
        self._pairs = []
        for a, b in pairs:
            pair = tuple(image.read(config.load_size) for image in (a, b))
            if pair[0].shape != pair[1].shape:
                raise DataError(
                    f"{a.name} and {b.name} are a pair of different sizes: cut both to the same section."
                )
            self._pairs.append(pair)

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """`count` crops and their counterparts, each `[count, 3, S, S] float32 RGB in [-1, 1]`, mirrored by chance."""
        crops = [self._crop() for _ in range(count)]
        a, b = (torch.from_numpy(np.stack(side)) for side in zip(*crops, strict=True))
        return tensor_from_bytes(a, device), tensor_from_bytes(b, device)

    def _crop(self) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], ...]:
        pair = self._pairs[_below(len(self._pairs))]
        height, width = pair[0].shape[:2]
        top, left = _below(height - self._side + 1), _below(width - self._side + 1)
        mirror = -1 if _below(2) else 1
        window = np.s_[top : top + self._side, left : left + self._side]
        return tuple(np.ascontiguousarray(image[window][:, ::mirror]) for image in pair)


def pairs_of_folder(folder: Path, config: TrainConfig) -> Pairs:
    """The pairs of a folder in one of the paired layouts. Raises DataError if it has none, or as `Pairs` does."""
    domains = find_domains(replace(config, data=folder, layout="auto", white=(0, 0)), paired=True)
    return Pairs(zip(domains.a, domains.b, strict=True), config)


def _below(end: int) -> int:
    return int(torch.randint(end, ()).item())
