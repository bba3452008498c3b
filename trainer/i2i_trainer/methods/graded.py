"""A real-time translator with a knob: one generator that learns known translations at several levels.

Every image has a counterpart at each level, for example the same place at dusk, by night and in deep night. The
generator of the method `realtime` gets the level as a style of one number, 0 at the first level and 1 at the last, and
learns by regression what the counterparts show. Between two levels it learns their mixture, so that the knob is
continuous. An image that is of the target domain already stays as it is at every level: the images of domain B are
their own translations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.data import tensor_from_bytes
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.images import ImageFile, Pixels
from i2i_trainer.method import Batch, Inference, Losses, Method, Update
from i2i_trainer.methods.realtime import Generator, GeneratorConfig, RealtimeInference
from i2i_trainer.steps import adam, detached, weighted_sum
from i2i_trainer.temporal import steadiness

SOURCE = "source"
"""Folder of the images that the levels are translations of."""
BAR_SHARE = 0.1
"""Share of the crops that get the black bars of a letterboxed film; they stay black."""
WIDEST_BAR = 0.2
"""Height of the widest bar, as a share of the crop's."""
SCALES = (1, 2, 4)
"""Sides of the squares whose mean differences to their neighbours are compared."""


@dataclass(frozen=True, kw_only=True)
class GradedConfig(GeneratorConfig):
    """Learn a translator with a knob from known translations at several levels."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = GeneratorConfig.presets

    levels: Path = Path()
    """Folder with `source` and a folder per level that hold images of the same names and sizes."""
    level_names: tuple[str, ...] = ("dusk", "night", "deep")
    """The folders of the levels in the order of the knob, which become the engine's styles."""
    default_level: str = "night"
    """The level of an engine that is given no style."""
    level_batch: int = 2
    """Known translations that join every step, beside `batch` images of the target domain."""
    zoom: float = 1.5
    """Largest factor, both ways, by which a crop is scaled."""

    edge_weight: float = 1.0
    """Weight of the difference of the gradients, at three scales."""
    light_weight: float = 2.0
    """Weight of the squared difference: it keeps lights whose place is uncertain."""
    keep_weight: float = 1.0
    """Weight of what changes in images of the target domain."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    steps: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.level_names) < 2 or len(set(self.level_names)) < len(self.level_names):
            raise OptionError("--level-names needs two different names or more.")
        if self.default_level not in self.level_names:
            raise OptionError(
                f"--default-level {self.default_level} is not one of {', '.join(self.level_names)}."
            )
        if self.level_batch < 1 or self.zoom < 1:
            raise OptionError("--level-batch and --zoom must be at least 1.")


class Levels:
    """Images and their counterparts at every level, in memory; crops are drawn with torch's global generator.

    Raises OptionError if no folder is named, and DataError if an image is missing at a level or differs in size.
    """

    def __init__(self, config: GradedConfig) -> None:
        if not config.levels.name:
            raise OptionError("The method graded needs --levels: a folder with known translations.")
        self._config = config
        names = sorted(path.name for path in (config.levels / SOURCE).glob("*") if path.is_file())
        if not names:
            raise DataError(f"{config.levels / SOURCE} has no images: add the images that were translated.")
        self._images = [self._read(name) for name in names]

    def _read(self, name: str) -> list[Pixels]:
        config = self._config
        folders = (SOURCE, *config.level_names)
        images = [ImageFile(config.levels / folder / name).read(config.load_size) for folder in folders]
        if len({image.shape for image in images}) > 1:
            raise DataError(f"{name} differs in size between the folders of {config.levels}: cut all alike.")
        return images

    def draw(self, count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Sources and counterparts `[count, 3, S, S] float32` in [-1, 1], and their levels `[count, 1]` in [0, 1]."""
        crops = [self._crop(device) for _ in range(count)]
        source, wanted, level = (torch.stack(part) for part in zip(*crops, strict=True))
        return source, wanted, level

    def _crop(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        side, zoom = self._config.image_size, self._config.zoom
        images = self._images[_below(len(self._images))]
        level = torch.rand(1)
        place = float(level) * (len(images) - 2)
        first = min(int(place), len(images) - 3)
        height, width = images[0].shape[:2]
        span = min(height, width, round(side * zoom ** (2 * float(torch.rand(())) - 1)))
        top, left = _below(height - span + 1), _below(width - span + 1)
        mirror = -1 if _below(2) else 1
        window = np.s_[top : top + span, left : left + span]
        chosen = (images[0], images[1 + first], images[2 + first])
        cut = np.stack([image[window][:, ::mirror] for image in chosen])
        crops = tensor_from_bytes(torch.from_numpy(cut), device)
        crops = F.interpolate(crops, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        if float(torch.rand(())) < BAR_SHARE:
            bar = 1 + _below(int(WIDEST_BAR * side))
            crops[:, :, :bar] = crops[:, :, -bar:] = -1.0
        source, lower, upper = crops
        return source, torch.lerp(lower, upper, place - first), level.to(device)


def _below(end: int) -> int:
    return int(torch.randint(end, ()).item())


class GradedInference(RealtimeInference):
    """A generator and its level: style `[N, 1]` between 0 and 1, beyond which it stays at the nearest."""

    random_styles = False

    def __init__(self, generator: Generator, config: GradedConfig) -> None:
        super().__init__(generator, style_size=1)
        last = len(config.level_names) - 1
        self.presets = {name: (number / last,) for number, name in enumerate(config.level_names)}
        self.default_style = self.presets[config.default_level]

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        return super().forward(image, None if style is None else style.clamp(0, 1))


class Graded(Method):
    """Network `generator`; optimiser `generator`."""

    summary = "A real-time translator with a knob, from known translations at several levels (--levels DIR)."

    def __init__(self, config: GradedConfig) -> None:
        super().__init__()
        self.config: GradedConfig = config
        self.generator = config.generator(style_size=1)
        self._levels: Levels | None = None

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        self._levels = Levels(self.config)
        return {"generator": adam(self.config, self.generator)}

    def step(self, batch: Batch, update: Update) -> Losses:
        config = self.config
        assert self._levels is not None
        source, wanted, level = self._levels.draw(config.level_batch, batch.b.device)
        made = self.generator(source + config.steady_noise * torch.randn_like(source), level).float()
        kept = self.generator(batch.b, torch.rand(len(batch.b), 1, device=batch.b.device)).float()
        losses = {
            "colour": F.l1_loss(made, wanted),
            "edge": edge_difference(made, wanted),
            "light": F.mse_loss(made, wanted),
            "keep": F.l1_loss(kept, batch.b) + config.edge_weight * edge_difference(kept, batch.b),
        }
        if config.steady_weight > 0:
            again = partial(self.generator, style=level)
            losses["steady"] = steadiness(again, source, made, config.steady_noise)
        weights = {
            "colour": 1.0,
            "edge": config.edge_weight,
            "light": config.light_weight,
            "keep": config.keep_weight,
            "steady": config.steady_weight,
        }
        update("generator", weighted_sum(losses, weights))
        return detached(losses)

    @torch.no_grad()
    def preview(self, batch: Batch) -> dict[str, Tensor]:
        names = self.config.level_names
        columns = {"a": batch.a}
        for number, name in enumerate(names):
            level = torch.full((len(batch.a), 1), number / (len(names) - 1), device=batch.a.device)
            columns[name] = self.generator(batch.a, level).clamp(-1, 1)
        return columns

    def inference(self, direction: str = "a2b") -> Inference:
        return GradedInference(self.generator, self.config).eval()

    def ema_modules(self) -> dict[str, nn.Module]:
        return {"generator": self.generator}


def edge_difference(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute difference of the differences between neighbours of two `[N, 3, H, W]`, over three scales."""
    gap = made - wanted
    total = torch.zeros((), device=gap.device)
    for scale in SCALES:
        coarse = F.avg_pool2d(gap, scale) if scale > 1 else gap
        total = total + coarse.diff(dim=2).abs().mean() + coarse.diff(dim=3).abs().mean()
    return total / len(SCALES)
