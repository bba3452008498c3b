"""Parameters and multiply-adds of networks, counted on the meta device: no memory, no arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from i2i_trainer.config import TrainConfig
from i2i_trainer.method import Inference, Method
from i2i_trainer.methods import METHODS

COUNTED_SIZE = 256


@dataclass(frozen=True)
class Cost:
    """Size of a network: parameters, and multiply-adds of one pass (None where it was not run)."""

    parameters: int
    macs: int | None


@dataclass(frozen=True)
class Summary:
    """Costs of one direction at inference and of every network of the method."""

    size: tuple[int, int]
    inference: Cost
    networks: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """`{"inference": {"parameters", "macs"}, "networks": {name: parameters}}`."""
        return {
            "size": list(self.size),
            "inference": {"parameters": self.inference.parameters, "macs": self.inference.macs},
            "networks": self.networks,
        }

    def as_table(self) -> Table:
        """The same for a terminal."""
        height, width = self.size
        table = Table("network", "parameters", f"MACs at {width}x{height}", title="networks")
        for name, parameters in self.networks.items():
            table.add_row(name, f"{parameters:,}", "")
        macs = "" if self.inference.macs is None else f"{self.inference.macs / 1e9:.2f} G"
        table.add_section()
        table.add_row("inference, one direction", f"{self.inference.parameters:,}", macs)
        return table


def summarise(name: str, config: TrainConfig) -> Summary:
    """Counts a method's networks. Nothing is allocated, whatever their size."""
    with torch.device("meta"):
        method: Method = METHODS[name].method(config)
        inference = method.inference(method.directions()[0])
    size = inference.fixed_size or (COUNTED_SIZE, COUNTED_SIZE)
    networks = {child: parameters_of(module) for child, module in method.named_children()}
    return Summary(size, Cost(parameters_of(inference), macs_of(inference, size)), networks)


def parameters_of(module: nn.Module) -> int:
    """Numbers in all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def macs_of(inference: Inference, size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions, transposed convolutions (by input size) and linear layers for one picture."""
    device = next(inference.parameters()).device
    picture = torch.empty(1, 3, *size, device=device)
    style = torch.empty(1, inference.style_size, device=device) if inference.style_size else None
    with FlopCounterMode(display=False) as counter:
        inference(picture, style)
    return int(counter.get_total_flops()) // 2
