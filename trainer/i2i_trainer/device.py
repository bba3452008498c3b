"""Where a training runs: the device, the processes that torchrun started, the precision."""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import OptionError


def fabric_of(config: TrainConfig, scaler: torch.amp.GradScaler | None) -> Fabric:
    """Devices as torchrun laid them out, or a single one. Raises OptionError if the machine does not have it."""
    device = device_kind(config)
    plugins: list[Any] = []
    if config.precision != "32":
        precision: Any = {"bf16": "bf16-mixed", "16": "16-mixed"}[config.precision]
        plugins.append(MixedPrecision(precision, device, scaler))
    launched = torch.distributed.is_torchelastic_launched()
    if launched:
        local, nodes = _torchrun_shape()
        fabric = Fabric(accelerator=device, devices=local, num_nodes=nodes, strategy="ddp", plugins=plugins)
    else:
        fabric = Fabric(accelerator=device, devices=1, plugins=plugins)
    fabric.launch()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric


def is_first_process() -> bool:
    """Whether this is the process that writes and prints."""
    return os.environ.get("RANK", "0") == "0"


def device_kind(config: TrainConfig) -> str:
    """`cpu`, `cuda` or `mps`. Raises OptionError if the one that is asked for is not on this machine."""
    if config.device != "auto":
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there[config.device]:
            raise OptionError(f"--device {config.device} is not on this machine: use --device auto or cpu.")
        return config.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def scaler_of(config: TrainConfig) -> torch.amp.GradScaler | None:
    """What keeps small gradients alive in half precision, None for the others."""
    return torch.amp.GradScaler(device_kind(config)) if config.precision == "16" else None


def seed_everything(seed: int) -> None:
    """Seeds the generators of torch, numpy and python."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a library may draw from it)
    torch.manual_seed(seed)


def _torchrun_shape() -> tuple[int, int]:
    """Processes per host and hosts, from the variables that torchrun hands to its processes."""
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local
