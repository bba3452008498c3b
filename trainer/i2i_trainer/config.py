"""The options every method shares: one frozen dataclass is the options, the help and the record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from i2i_trainer.errors import OptionError

Precision = Literal["32", "bf16", "16"]
Layout = Literal["auto", "unpaired", "paired", "class-folders", "lists", "digits", "single"]
Schedule = Literal["constant", "linear", "halve", "milestones"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fields of every method's config; a method subclasses it and overrides the defaults of its paper.

    Lengths are counted in steps (one step = one move of every optimiser of the method), never in epochs.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named sets of values over the defaults, for `--preset`: `{"small": {"width": 16, "image_size": 64}}`."""

    formerly: ClassVar[Mapping[str, Any]] = {}
    """Options that older runs do not record, and what these runs did."""

    data: Path = Path("data")
    """Folder of images, in one of the layouts of the trainer's README."""
    out: Path = Path("runs/run")
    """Run folder to write."""
    layout: Layout = "auto"
    """How the folder is laid out; `auto` recognises it."""
    domains: tuple[str, str] = ("A", "B")
    """Names of the source and the target domain, used as the direction of the engine."""
    swap: bool = False
    """Exchange the two domains of the folder (direction B to A); `domains` names them as exchanged."""
    white: tuple[int, int] = (0, 0)
    """Value of white in the 16-bit images of source and target, such as 4095 for 12 bits; 0 takes the
    smallest of 8, 10, 12, 14 and 16 bits that fits all of them."""

    load_size: int = 286
    """Short side in pixels after loading; the crop is taken from it."""
    image_size: int = 256
    """Height and width of the training crop in pixels."""
    flip: bool = True
    """Mirror half of the images."""
    augment: Literal["none", "diff"] = "none"
    """`diff`: the discriminators see real and translated images changed at random, for few images."""
    batch: int = 1
    """Images per domain and micro-batch, over all processes."""
    workers: int = 2
    """Threads that load images ahead of the training; 0 loads in between the steps."""
    cache_mb: int = 1024
    """Megabytes of resized images that stay in memory, so that a small folder is decoded only once."""
    clip_fps: float = 2.0
    """Frames per second taken from the video clips in a domain's folder."""

    steps: int = 200_000
    """Length of the training in steps."""
    lr: float = 2e-4
    """Learning rate of Adam at the start."""
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    """`linear`: constant until `decay_from`, then linearly to 0; `halve`: times 0.5 every `decay_every` steps;
    `milestones`: times 0.5 at each of them."""
    decay_from: int = 100_000
    decay_every: int = 100_000
    milestones: tuple[int, ...] = ()
    """Steps at which the schedule `milestones` halves the learning rates."""
    clip_norm: float = 0.0
    """Largest gradient norm, 0 for none."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged before an optimiser steps; a step then takes that many batches."""
    ema: float = 0.0
    """Decay of the moving average of the weights used for inference, 0 for none."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Precision = "32"
    """`16` and `bf16` run the networks in mixed precision; weights and losses stay float32."""
    channels_last: bool = True
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    """Steps between sheets of samples; there is one at steps 1, 50, 100, 200 and 500 and at every stop, too."""
    checkpoint_every: int = 1000
    keep: int = 0
    """Checkpoints that stay beside the last one, weights alone, to go back to by `i2i-export --step N`."""
    eval_every: int = 0
    """Steps between measurements on images that are set aside (`val`, or every tenth); the best step is kept."""
    eval_measure: Literal["auto", "l1", "patch_kid_x100", "patch_frechet"] = "auto"
    """What is measured, lower is better: `auto` is l1 to the counterparts if there are any, else patch_kid_x100."""
    start_from: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Run folder whose weights this run starts with, those that fit by name and shape."""

    def __post_init__(self) -> None:
        positive = (
            "load_size image_size batch steps lr decay_every accumulate clip_fps log_every sample_every "
            "checkpoint_every"
        )
        for name in positive.split():
            if getattr(self, name) <= 0:
                raise OptionError(f"{flag(name)} is {getattr(self, name)} but must be above 0.")
        if min(self.white) < 0 or max(self.white) > 65535:
            raise OptionError(f"--white {self.white[0]} {self.white[1]} must lie between 0 and 65535.")
        for name in (
            "workers",
            "cache_mb",
            "keep",
            "eval_every",
            "weight_decay",
            "decay_from",
            "clip_norm",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise OptionError(f"{flag(name)} is {getattr(self, name)} but must not be below 0.")
        if self.load_size < self.image_size:
            raise OptionError(
                f"--image-size {self.image_size} does not fit into --load-size {self.load_size}: "
                "raise --load-size or lower --image-size."
            )
        if not 0 <= self.ema < 1:
            raise OptionError(f"--ema is {self.ema} but must be at least 0 and below 1.")
        if self.domains[0] == self.domains[1]:
            raise OptionError(f"--domains names {self.domains[0]!r} twice: give two different names.")

    def direction(self, direction: str = "a2b") -> str:
        """What a direction translates, as engines state it: `day -> night`."""
        source, target = self.domains if direction == "a2b" else reversed(self.domains)
        return f"{source} -> {target}"

    def check_image_size(
        self, multiple_of: int = 1, at_least: int = 0, needed_by: str = "the network"
    ) -> None:
        """Raises OptionError if `image_size` is not a multiple of the one number or is below the other."""
        if self.image_size % multiple_of:
            raise OptionError(f"--image-size {self.image_size} must be a multiple of {multiple_of}.")
        if self.image_size < at_least:
            raise OptionError(
                f"--image-size {self.image_size} is too small for {needed_by}: use at least {at_least}."
            )


SMALL_RUN: dict[str, Any] = {
    "image_size": 64,
    "load_size": 72,
    "batch": 4,
    "steps": 4000,
    "log_every": 20,
    "sample_every": 250,
    "checkpoint_every": 250,
}
"""Lengths and sizes of the `small` presets: an hour on a processor, not good images."""


def batch_share(config: TrainConfig, processes: int) -> int:
    """Images per domain and micro-batch of each process. Raises OptionError if they cannot share the batch."""
    if config.batch % processes:
        raise OptionError(
            f"--batch {config.batch} cannot be shared by {processes} processes: use a multiple of {processes}."
        )
    share = config.batch // processes
    try:
        replace(config, batch=share)  # what a method asks of a batch, every process must have
    except OptionError as error:
        raise OptionError(
            f"--batch {config.batch} leaves {share} for each of {processes} processes, which is refused: {error}"
        ) from error
    return share


def flag(field: str) -> str:
    """Command line spelling of a field: `image_size` -> `--image-size`."""
    return "--" + field.replace("_", "-")
