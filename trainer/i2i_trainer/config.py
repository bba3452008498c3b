"""The options every method shares: one frozen dataclass is the options, the help and the record of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Precision = Literal["32", "bf16", "16"]
Schedule = Literal["constant", "linear", "halve"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fields of every method's config; a method subclasses it and overrides the defaults of its paper.

    Lengths are counted in steps (one step = one batch through every network of the method), never in epochs.
    """

    data: Path = Path("data")
    """Folder of pictures, in one of the layouts of the trainer's README."""
    out: Path = Path("runs/run")
    """Run folder to write."""
    layout: Literal["auto", "unpaired", "paired", "class-folders", "lists", "digits"] = "auto"
    """How the folder is laid out; `auto` recognises it."""
    domains: tuple[str, str] = ("A", "B")
    """Names of the source and the target domain, used as the direction of the engine."""
    swap: bool = False
    """Exchange the two domains (direction B to A)."""

    load_size: int = 286
    """Short side in pixels after loading; the crop is taken from it."""
    image_size: int = 256
    """Height and width of the training crop in pixels."""
    flip: bool = True
    """Mirror half of the pictures."""
    batch: int = 1
    """Pictures per domain and step, over all processes."""
    workers: int = 2
    """Processes that load pictures; 0 loads in the training process."""

    steps: int = 200_000
    """Length of the training in steps."""
    lr: float = 2e-4
    """Learning rate of Adam at the start."""
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    """`linear`: constant until `decay_from`, then linearly to 0; `halve`: times 0.5 every `decay_every` steps."""
    decay_from: int = 100_000
    decay_every: int = 100_000
    clip_norm: float = 0.0
    """Largest gradient norm, 0 for none."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged before an optimiser steps."""
    ema: float = 0.0
    """Decay of the moving average of the weights used for inference, 0 for none."""

    precision: Precision = "32"
    channels_last: bool = True
    seed: int = 0
    log_every: int = 50
    sample_every: int = 1000
    checkpoint_every: int = 1000
