"""Parameters and multiply-adds of networks, counted on the meta device: no memory, no arithmetic.

`python -m i2i_trainer.summary` prints the README's table of all methods.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from i2i_trainer.config import TrainConfig
from i2i_trainer.method import Batch, Inference, Method
from i2i_trainer.methods import METHODS

COUNTED_SIZE = (256, 256)
META = torch.device("meta")


@dataclass(frozen=True)
class Cost:
    """Size of a network: parameters, and multiply-adds of one pass of one image of `size` (H, W).

    `macs` is None if the first step of a training does not reach the network.
    """

    parameters: int
    macs: int | None
    size: tuple[int, int]


@dataclass(frozen=True)
class Summary:
    """What one direction costs at inference, and what every network of the training costs."""

    inference: Cost
    networks: dict[str, Cost]

    def as_json(self) -> dict[str, Any]:
        """`{"inference": {"parameters", "macs", "size"}, "networks": {name: the same}}`."""
        return asdict(self)

    def as_table(self) -> Table:
        """The same for a terminal."""
        table = Table("network", "parameters", "MACs", "at", title="networks")
        for name, cost in (*self.networks.items(), ("inference, one direction", self.inference)):
            height, width = cost.size
            if cost is self.inference:
                table.add_section()
            macs = "" if cost.macs is None else f"{cost.macs / 1e9:.2f} G"
            table.add_row(name, f"{cost.parameters:,}", macs, f"{width}x{height}")
        return table


def summarise(name: str, config: TrainConfig) -> Summary:
    """Counts a method's networks: one direction at 256x256 (or its fixed size), and the first step of a training."""
    with META:
        method: Method = METHODS[name].method(config)
        inference = method.inference(method.directions()[0])
    size = inference.fixed_size or COUNTED_SIZE
    side = config.image_size
    training = _training_macs(method)
    networks = {
        child: Cost(parameters_of(module), training[child] or None, (side, side))
        for child, module in method.named_children()
    }
    return Summary(Cost(parameters_of(inference), macs_of(inference, size), size), networks)


def parameters_of(module: nn.Module) -> int:
    """Numbers in all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def macs_of(inference: Inference, size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions, transposed convolutions (by input size) and linear layers for one image.

    Fixed filters (buffers: a pyramid, a blur) are no layers and are left out, as the published figures do.
    """
    device = next(inference.parameters()).device
    image = torch.empty(1, 3, *size, device=device)
    style = torch.empty(1, inference.style_size, device=device) if inference.style_size else None
    with _Counter(inference) as counter:
        inference(image, style)
    return int(counter.macs)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-adds by torch's own formulas; a value that a meta tensor is asked for is 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: int = 0
        self._fixed = {id(buffer) for buffer in network.buffers()}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0.0 if args[0].is_floating_point() else 0
        if (
            func is torch.ops.aten._to_copy.default
            and args[0].is_meta
            and kwargs.get("device") not in (None, META)
        ):
            return torch.zeros(
                args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype, device=kwargs["device"]
            )
        result = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and not any(id(arg) in self._fixed for arg in args):
            self.macs += formula(*args, **kwargs, out_val=result) // 2
        return result


def _training_macs(method: Method) -> dict[str, int]:
    """Multiply-adds of every child network for one image: each layer's first call in a step counts once."""
    counter = _Counter(method)
    before: dict[nn.Module, int] = {}
    macs: dict[nn.Module, int] = {}

    def start(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        before[layer] = counter.macs

    def stop(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if layer not in macs:
            macs[layer] = (counter.macs - before[layer]) // inputs[0].shape[0]

    hooks = []
    for layer in method.modules():
        if isinstance(layer, nn.modules.conv._ConvNd | nn.Linear) or not list(layer.children()):
            hooks += [layer.register_forward_pre_hook(start), layer.register_forward_hook(stop)]
    side, images = method.config.image_size, max(2, method.config.batch)
    with META:
        image = torch.zeros(images, 3, side, side)
        labels = torch.zeros(images, dtype=torch.int64)
    # A step may ask for more than a meta tensor has, such as a teacher's run; what it reached by then is counted.
    with META, counter, suppress(Exception):
        method.step(Batch(image, image, labels, labels), _NoUpdate())
    for hook in hooks:
        hook.remove()
    return {
        name: sum(macs.get(layer, 0) for layer in child.modules()) for name, child in method.named_children()
    }


class _NoUpdate:
    """Leaves the weights as they are."""

    step = 0
    last_micro_batch = True

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None: ...


def markdown() -> str:
    """Table of every method in its default configuration: one direction at inference."""
    rows = ["| method | parameters | MACs | at | what it is |", "|---|---|---|---|---|"]
    for name, entry in METHODS.items():
        cost = summarise(name, entry.config()).inference
        figures = (
            f"{cost.parameters / 1e6:.2f} M | {(cost.macs or 0) / 1e9:.2f} G | {cost.size[1]}x{cost.size[0]}"
        )
        rows.append(f"| `{name}` | {figures} | {entry.method.summary} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(markdown())
