"""Moving the weights: backward, averaging over micro-batches and processes, unscaling, clipping, stepping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn


class Optimisation:
    """All optimisers of a method; calling it with a name and a loss is the `Update` that a step receives.

    Networks stay bare: gradients are averaged over the processes here, with one reduction of one flat tensor per
    optimiser, so a method may call its networks in any order and any number of times.
    """

    def __init__(
        self,
        fabric: Fabric,
        optimisers: dict[str, torch.optim.Optimizer],
        clip_norm: float = 0.0,
        accumulate: int = 1,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.optimisers = optimisers
        self.scaler = scaler
        self._fabric = fabric
        self._clip_norm = clip_norm
        self._accumulate = accumulate
        self.step = 0
        self.last_micro_batch = True
        self._calls: dict[str, int] = {}
        self._sums: dict[tuple[str, int], list[Tensor | None]] = {}
        self._parameters = {name: list(_parameters(optimiser)) for name, optimiser in optimisers.items()}
        self._base_lrs = {
            name: [float(group["lr"]) for group in optimiser.param_groups]
            for name, optimiser in optimisers.items()
        }

    def scale_lr(self, factor: float) -> None:
        """Sets every learning rate to `factor` times what the method gave it."""
        for name, optimiser in self.optimisers.items():
            for group, lr in zip(optimiser.param_groups, self._base_lrs[name], strict=True):
                group["lr"] = lr * factor

    def begin(self, step: int, micro_batch: int) -> None:
        """Announces micro-batch `micro_batch` of step `step`, both counted from 0; weights move in the last one."""
        self.step = step
        self.last_micro_batch = micro_batch + 1 == self._accumulate
        self._calls = {}
        if micro_batch == 0:
            self._sums = {}

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        for parameters in self._parameters.values():
            for parameter in parameters:
                parameter.grad = None
        self._fabric.backward(loss, retain_graph=retain_graph)
        if self._accumulate > 1 and not self._whole_gradient(optimiser):
            return
        mine = self._parameters[optimiser]
        self._average_over_processes(mine)
        self._move(self.optimisers[optimiser], mine, clip_norm)

    def _whole_gradient(self, optimiser: str) -> bool:
        """Adds this micro-batch's gradient to the step's; True once the mean of all is on the parameters.

        An optimiser that moves twice in a step has one sum for each of its calls.
        """
        call = self._calls.get(optimiser, 0)
        self._calls[optimiser] = call + 1
        mine = self._parameters[optimiser]
        sums = self._sums.setdefault((optimiser, call), [None] * len(mine))
        for i, parameter in enumerate(mine):
            if parameter.grad is not None:
                share = parameter.grad / self._accumulate
                earlier = sums[i]
                sums[i] = share if earlier is None else earlier + share
        if not self.last_micro_batch:
            return False
        for parameter, total in zip(mine, sums, strict=True):
            parameter.grad = total
        return True

    def _average_over_processes(self, parameters: list[nn.Parameter]) -> None:
        if self._fabric.world_size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        flat = mean_over_processes(self._fabric, flat)
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view(gradient.shape))

    def _move(
        self, optimiser: torch.optim.Optimizer, parameters: list[nn.Parameter], clip_norm: float
    ) -> None:
        if self.scaler is not None:
            self.scaler.unscale_(optimiser)
        if limits := [norm for norm in (self._clip_norm, clip_norm) if norm > 0]:
            nn.utils.clip_grad_norm_(parameters, min(limits))
        if self.scaler is None:
            optimiser.step()
        else:
            self.scaler.step(optimiser)
            self.scaler.update()
        # Autocast keeps the weights that it cast until the step ends: later updates would see them unmoved.
        torch.clear_autocast_cache()


class Average:
    """Moving average of the weights of some modules; buffers are copied as they are.

    The decay starts low, `(1 + step) / (10 + step)`, so that the average soon leaves the initial weights behind.
    """

    def __init__(self, modules: dict[str, nn.Module], decay: float) -> None:
        self._decay = decay
        self._modules = modules
        self.weights: dict[str, dict[str, Tensor]] = {}
        self.start()

    def start(self) -> None:
        """Starts from the present weights."""
        self.weights = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self._modules.items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the present weights after step `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, module in self._modules.items():
            average = self.weights[name]
            parameters = {key for key, _ in module.named_parameters()}
            for key, value in module.state_dict().items():
                if key in parameters:
                    average[key].lerp_(value, 1.0 - decay)
                else:
                    average[key].copy_(value)

    @torch.no_grad()
    def exchange(self) -> None:
        """Swaps the average and the present weights; calling it twice changes nothing."""
        for name, module in self._modules.items():
            for key, value in module.state_dict().items():
                average = self.weights[name][key]
                present = value.clone()
                value.copy_(average)
                average.copy_(present)


def mean_over_processes(fabric: Fabric, tensor: Tensor) -> Tensor:
    """The mean of a tensor over all processes, the same in each of them."""
    if fabric.world_size == 1:
        return tensor
    mean = fabric.all_reduce(tensor, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean


def _parameters(optimiser: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    for group in optimiser.param_groups:
        yield from group["params"]
