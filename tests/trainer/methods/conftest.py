"""What the methods' tests share: recorded updates, costs on the meta device, networks with known answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from i2i_trainer.method import Batch, Method


class Recorder:
    """An `update` that does what the loop's does and notes who got gradients and who moved.

    A test says which step it is: `for update.step in range(3): method.step(batch, update)`.
    """

    last_micro_batch = True

    def __init__(self, method: Method) -> None:
        self.step = 0
        self.clip_norms: list[float] = []
        self.method = method
        self.optimisers = method.optimisers()
        self.order: list[str] = []
        self.losses: list[float] = []
        self.learned: list[set[str]] = []
        self.moved: list[set[str]] = []

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        self.clip_norms.append(clip_norm)
        self.method.zero_grad()
        torch.autograd.backward(loss, retain_graph=retain_graph)
        before = {name: p.detach().clone() for name, p in self.method.named_parameters()}
        self.order.append(optimiser)
        self.losses.append(float(loss.detach()))
        self.learned.append({name for name, p in self.method.named_parameters() if p.grad is not None})
        self.optimisers[optimiser].step()
        self.moved.append(
            {name for name, p in self.method.named_parameters() if not torch.equal(p, before[name])}
        )

    def networks(self, names: list[set[str]]) -> list[set[str]]:
        """The networks that the parameters belong to, update by update."""
        return [{name.split(".")[0] for name in step} for step in names]


@pytest.fixture
def record() -> Callable[[Method], Recorder]:
    """Makes the recording update of a method."""
    return Recorder


class Listener:
    """An `update` that only notes the losses it is given and for whom: nothing learns."""

    last_micro_batch = True

    def __init__(self) -> None:
        self.step = 0
        self.order: list[str] = []
        self.losses: list[float] = []

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        self.order.append(optimiser)
        self.losses.append(float(loss.detach()))


@pytest.fixture
def listen() -> Listener:
    """The listening update."""
    return Listener()


@pytest.fixture
def cost() -> Callable[..., tuple[int, int]]:
    """Parameters and multiply-adds of a network on the meta device, for inputs of the given shapes."""

    def count(network: nn.Module, *shapes: tuple[int, ...]) -> tuple[int, int]:
        inputs = [torch.empty(shape, device="meta") for shape in shapes]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(*inputs)
        return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2

    return count


def make_batch(count: int, size: int) -> Batch:
    """Random images, the same every time."""
    generator = torch.Generator().manual_seed(7)
    a, b = (torch.rand(count, 3, size, size, generator=generator) * 2 - 1 for _ in range(2))
    return Batch(a, b)


@pytest.fixture
def batch() -> Callable[[int, int], Batch]:
    """Makes a batch of random images: (count, size)."""
    return make_batch


@pytest.fixture
def flat_batch() -> Callable[[float, float], Batch]:
    """Makes a batch of one even image per domain: (value of a, value of b)."""
    return lambda a, b: Batch(torch.full((1, 3, 4, 4), a), torch.full((1, 3, 4, 4), b))


class Answer(nn.Module):
    """A network that gives what a function gives."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: object) -> object:
        return self.function(*inputs)


# What the fixtures are, for the tests' signatures. An answer is Any: it takes the place of any network.
Record = Callable[[Method], Recorder]
Cost = Callable[..., tuple[int, int]]
MakeBatch = Callable[[int, int], Batch]
FlatBatch = Callable[[float, float], Batch]
MakeAnswer = Callable[[Callable[..., object]], Any]


@pytest.fixture
def answer() -> MakeAnswer:
    """Wraps a function as a network, so that a loss can be worked out by hand."""
    return Answer
