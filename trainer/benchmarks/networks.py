"""Whole networks of the trainer, and the same networks with our kernels in place of their norms.

The rewrite goes by the modules' types: a norm, the ReLU after it and the reflected border of the next convolution
become one call; a residual block's last norm adds the residual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from i2i_kernels.kind import Kind
from i2i_kernels.norm import norm
from i2i_trainer import blocks, norms
from i2i_trainer.config import TrainConfig
from i2i_trainer.method import Batch, Losses
from i2i_trainer.methods import METHODS, cyclegan

SIZES = {"256": (256, 256), "512": (512, 512), "720p": (720, 1280)}

GENERATORS = ("cyclegan", "munit", "realtime")
"""The two published generators, and the student that is made for live video."""


def generator(method: str) -> nn.Module:
    """One direction of the method at its published size, untrained, in evaluation mode, its norms in plain torch."""
    entry = METHODS[method]
    torch.manual_seed(0)
    network = entry.method(entry.config()).inference("a2b").eval()
    leave_kernels(network)
    return network


class PlainInstanceNorm(norms.InstanceNorm):
    def forward(self, x: Tensor) -> Tensor:
        return norm(x, Kind(eps=self.eps), impl="reference")


class PlainAdaptiveInstanceNorm(norms.AdaptiveInstanceNorm):
    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return norm(x, Kind(eps=self.eps), weight=scale, bias=shift, impl="reference")


class PlainLayerNormOverStd(norms.LayerNormOverStd):
    def forward(self, x: Tensor) -> Tensor:
        kind = Kind("layer", unbiased=True, eps=self.eps, eps_inside=False)
        return norm(x, kind, weight=self.weight, bias=self.bias, impl="reference")


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    norms.InstanceNorm: PlainInstanceNorm,
    norms.AdaptiveInstanceNorm: PlainAdaptiveInstanceNorm,
    norms.LayerNormOverStd: PlainLayerNormOverStd,
}


def leave_kernels(network: nn.Module) -> None:
    """Makes the network's norms plain torch on every device: on a GPU the trainer's own pick kernels."""
    for module in network.modules():
        module.__class__ = PLAIN.get(type(module), type(module))


class FusedNorm(nn.Module):
    """A norm with what follows it, in one call."""

    def __init__(
        self, kind: Kind, weight: nn.Parameter | None = None, bias: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.kind = kind
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        # Autocast hands the norm what the convolution made, and a residual of another dtype.
        residual = None if residual is None else residual.to(x.dtype)
        return norm(x, self.kind, weight=self.weight, bias=self.bias, residual=residual)


class FusedResBlock(nn.Module):
    """`x + scale * body(x)`, the addition inside the last norm."""

    def __init__(self, body: nn.Sequential, scale: float = 1.0) -> None:
        super().__init__()
        last = body[-1]
        if not isinstance(last, FusedNorm):
            raise TypeError(f"a residual block ends in a norm, this one in {type(last).__name__}")
        self.last = FusedNorm(replace(last.kind, residual_scale=scale), last.weight, last.bias)
        self.body = nn.Sequential(*list(body)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.body(x), x)
        return y


class FusedAdaptiveResBlock(nn.Module):
    """MUNIT's residual block: two AdaINs, the first with ReLU and border, the second with the residual."""

    def __init__(self, block: blocks.AdaptiveResBlock) -> None:
        super().__init__()
        eps = block.norm1.eps
        self.conv1 = block.conv1
        self.conv2 = _without_border(block.conv2)
        self.first = Kind(eps=eps, activation="relu", pad=1)
        self.second = Kind(eps=eps, residual_scale=block.residual_scale)

    def forward(self, x: Tensor, first: blocks.ScaleShift, second: blocks.ScaleShift) -> Tensor:
        hidden = norm(self.conv1(x), self.first, weight=first[0], bias=first[1])
        y = self.conv2(hidden)
        return norm(y, self.second, weight=second[0], bias=second[1], residual=x.to(y.dtype))


def fused(network: nn.Module) -> nn.Module:
    """A copy of the network that calls our kernels; same weights, same function."""
    return _rewritten(deepcopy(network))


def replace_norms(network: nn.Module) -> None:
    """Makes the network itself call our kernels."""
    for name, child in list(network.named_children()):
        setattr(network, name, _rewritten(child))


def _rewritten(module: nn.Module) -> nn.Module:
    if isinstance(module, blocks.AdaptiveResBlock):
        return FusedAdaptiveResBlock(module)
    if isinstance(module, blocks.ResBlock) and not isinstance(module.body[-1], nn.Dropout):
        return FusedResBlock(_rewritten_chain(module.body), module.residual_scale)
    if isinstance(module, cyclegan.ResBlock):
        return FusedResBlock(_rewritten_chain(module.layers))
    if isinstance(module, nn.Sequential):
        return _rewritten_chain(module)
    replace_norms(module)
    return module


def _rewritten_chain(chain: nn.Sequential) -> nn.Sequential:
    """Norm, ReLU and the next convolution's border become one module; everything else is rewritten in its place."""
    made: list[nn.Module] = []
    for module in _flattened(chain):
        last = made[-1] if made else None
        if (norm_module := _fused_norm(module)) is not None:
            made.append(norm_module)
        elif isinstance(module, nn.ReLU) and isinstance(last, FusedNorm) and last.kind.activation == "none":
            last.kind = replace(last.kind, activation="relu")
        elif (
            isinstance(module, nn.Conv2d) and module.padding_mode == "reflect" and isinstance(last, FusedNorm)
        ):
            last.kind = replace(last.kind, pad=int(module.padding[0]))
            made.append(_without_border(module))
        else:
            made.append(_rewritten(module))
    return nn.Sequential(*made)


def _flattened(chain: nn.Sequential) -> Iterable[nn.Module]:
    for module in chain:
        if isinstance(module, nn.Sequential):
            yield from _flattened(module)
        else:
            yield module


def _fused_norm(module: nn.Module) -> FusedNorm | None:
    if isinstance(module, nn.InstanceNorm2d | norms.InstanceNorm):
        return FusedNorm(Kind(eps=module.eps))
    if isinstance(module, norms.LayerNormOverStd):
        return FusedNorm(
            Kind("layer", unbiased=True, eps=module.eps, eps_inside=False), module.weight, module.bias
        )
    return None


def _without_border(conv: nn.Conv2d) -> nn.Conv2d:
    conv.padding = (0, 0)
    conv.padding_mode = "zeros"
    conv._reversed_padding_repeated_twice = [0, 0, 0, 0]
    return conv


def training_step(
    method: str, config: TrainConfig, device: torch.device, *, ours: bool, autocast: bool
) -> Callable[[], Losses]:
    """One step of the method's own game on random images, batch 1, channels-last; bfloat16 where `autocast`."""
    torch.manual_seed(0)
    model = METHODS[method].method(config)
    if ours:
        replace_norms(model)
    else:
        leave_kernels(model)
    to_channels_last(model.to(device))
    optimisers = model.optimisers()
    side = config.image_size
    images = [torch.rand(1, 3, side, side, device=device) * 2 - 1 for _ in range(2)]
    batch = Batch(*(p.contiguous(memory_format=torch.channels_last) for p in images))

    def update(optimiser: str, loss: Tensor, *, retain_graph: bool = False) -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, retain_graph=retain_graph)
        optimisers[optimiser].step()

    def step() -> Losses:
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            return model.step(batch, update)

    return step


def to_channels_last(network: nn.Module) -> None:
    """Lays the convolutions' weights out as the kernels lay out images."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
