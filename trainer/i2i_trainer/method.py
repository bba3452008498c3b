"""What a translation method is to the loop, the evaluator and the exporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from i2i_trainer.config import TrainConfig
from i2i_trainer.layouts import Domains


@dataclass(frozen=True)
class Batch:
    """One step's images: `a` and `b` are `[N, 3, H, W] float32 RGB in [-1, 1]` unless the method says otherwise.

    In paired layouts `b[i]` is the counterpart of `a[i]`. `labels_a` and `labels_b` are class indices `[N] int64`
    if the layout has classes (class folders, digits), else None.
    """

    a: Tensor
    b: Tensor
    labels_a: Tensor | None = None
    labels_b: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """A part of a training, for methods that train in stages."""

    name: str
    end: int | None = None
    """The last step of the stage, None if it lasts."""
    translates: bool = True
    """Whether the translation is trained in it."""


Losses = dict[str, Tensor]
"""Detached scalars on the device; the loop reads them once per print."""


class Update(Protocol):
    """What the loop gives a step to move weights with.

    Calling it zeroes the optimiser's gradients, runs backward (scaled under fp16), averages over processes and
    micro-batches, clips, and steps. Gradients left on parameters of other optimisers are cleared before their own
    update. `clip_norm` is the largest gradient norm of this update, beside that of the config; 0 for none.
    """

    @property
    def step(self) -> int:
        """Steps that were finished before this one: 0 in the first step of a run."""
        ...

    @property
    def last_micro_batch(self) -> bool:
        """Whether this is the step's last micro-batch, in which the weights move."""
        ...

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None: ...


class Inference(nn.Module):
    """One direction of a trained method, ready to export: evaluation mode, noise and dropout gone, norms folded.

    `forward(image, style=None)`: image `[N, 3, H, W] float32 RGB in [-1, 1]`, H and W multiples of `stride`
    (or exactly `fixed_size`), style `[N, style_size] float32` if `style_size` is not 0; returns the image's
    shape, in [-1, 1].
    """

    stride: int = 4
    fixed_size: tuple[int, int] | None = None
    style_size: int = 0
    default_style: tuple[float, ...] = ()
    random_styles: bool = True
    """Whether styles drawn from N(0, 1) are styles that it was trained on."""
    presets: dict[str, tuple[float, ...]]
    notes: dict[str, str]

    def __init__(self) -> None:
        super().__init__()
        self.presets = {}
        self.notes = {}


class Method(nn.Module):
    """Base of every method: networks as child modules, optimisers by name, and one step.

    The loop moves it to the device, calls `optimisers()` once, then `step` per batch under autocast; it scales the
    learning rates by the config's schedule. Random numbers come from torch's global generator, which the
    checkpoint holds.
    """

    summary: ClassVar[str] = ""
    """One line for `i2i-train --help`."""
    paired: ClassVar[bool] = False
    """Needs `b[i]` to be the counterpart of `a[i]`."""
    augments: ClassVar[bool] = False
    """Shows its discriminators what `--augment` asks for."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Parts of parameter names in older checkpoints, and what they are called now."""
    added: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that older checkpoints do not have; what is missing keeps its first value."""
    config: TrainConfig

    def check_data(self, domains: Domains) -> list[str]:
        """Sentences that the user should read before the first step.

        Raises OptionError or DataError in one sentence if it cannot learn from these images.
        """
        return []

    def stage(self, step: int) -> Stage | None:
        """The stage that step `step`, counted from 0, belongs to; None if the training has one stage."""
        return None

    def teacher_run(self) -> Path | None:
        """A run that it learns from, None if there is none. Asked for after `check_data`."""
        return None

    def learn_from(self, teacher: Method) -> None:
        """Takes the trained method of `teacher_run`, on the CPU. Raises OptionError if it cannot teach this one."""

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Every optimiser by the name that `update` takes. Called once; no module may be created lazily later."""
        raise TypeError(f"{type(self).__name__} defines no optimisers")

    def step(self, batch: Batch, update: Update) -> Losses:
        """One training step in the method's order of updates."""
        raise TypeError(f"{type(self).__name__} defines no step")

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of the image sheet, each `[N, 3, H, W] in [-1, 1]`, in reading order; without gradients."""
        raise TypeError(f"{type(self).__name__} defines no preview")

    def directions(self) -> tuple[str, ...]:
        """Directions it can translate: `a2b`, and `b2a` if it has one."""
        return ("a2b",)

    def inference(self, direction: str = "a2b") -> Inference:
        """The network of one direction, sharing no state that training would change under it."""
        raise TypeError(f"{type(self).__name__} defines no inference")

    def style_encoder(self, direction: str = "a2b") -> nn.Module | None:
        """A copy of the network that reads a target image's style: `[N, 3, S, S]` in [-1, 1] -> `[N, style_size]`.

        None if the method has no such network.
        """
        return None

    def classify(self, images: Tensor, domain: str = "b") -> Tensor | None:
        """Class logits `[N, C]` of images of a domain (domain adaptation), None if it learns no classes."""
        return None

    def latents(self, images: Tensor, domain: str = "a") -> Tensor | None:
        """Latent vectors `[N, D]` of images of a domain, `a` or `b`, averaged over positions.

        None if it has no latent space that both domains reach.
        """
        return None

    def cluster(self, images: Tensor) -> Tensor | None:
        """Pseudo-domain `[N] int64` of images, None if it finds none."""
        return None

    def ema_modules(self) -> dict[str, nn.Module]:
        """Modules whose moving average is kept when `config.ema` is above 0."""
        return {}

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors outside parameters and buffers that exact resume needs (image pool, queue)."""
        return {}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        """Puts back what `extra_state` returned; names it does not know, from older versions, are ignored."""


MethodFactory = Callable[[TrainConfig], Method]
