"""What the steps of several methods share: optimisers, freezing, sums of weighted losses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from i2i_trainer.config import TrainConfig


def adam(config: TrainConfig, *networks: nn.Module) -> torch.optim.Adam:
    """One Adam over the parameters of the networks, with the config's rate, betas and weight decay."""
    parameters = chain.from_iterable(network.parameters() for network in networks)
    return torch.optim.Adam(parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)


class JointOptimiser(torch.optim.Optimizer):
    """Optimisers of different kinds that one loss moves together; each keeps its own parameters and rates."""

    def __init__(self, *members: torch.optim.Optimizer) -> None:
        self.members = members
        super().__init__([group for member in members for group in member.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Every member steps on its part of the common groups and on the common state."""
        start = 0
        for member in self.members:
            end = start + len(member.param_groups)
            member.param_groups = self.param_groups[start:end]
            member.state = self.state
            start = end

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for member in self.members:
            member.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Inside, the networks are used and do not learn: gradients pass through them and leave none on them."""
    learning = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the terms, each times the weight of its name; every term needs a weight."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The losses as plain numbers on the device, for the log."""
    return {name: loss.detach() for name, loss in losses.items()}
