"""Style codes by name, and inference of a generator that takes a style."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from i2i_trainer.method import Inference


def normal_presets(size: int, count: int = 8) -> dict[str, tuple[float, ...]]:
    """`style-1` ... `style-<count>`: codes of `size` numbers from N(0, I), the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(count, size, generator=generator, device="cpu")
    return {f"style-{index}": tuple(code) for index, code in enumerate(codes.tolist(), start=1)}


class AverageStyle(nn.Module):
    """The average style of a domain's images, followed while training: the plain mean at first, then exponential.

    The default style of an engine. Zeros are not a typical style: codes from N(0, I) have a length of sqrt(size).
    """

    mean: Tensor
    batches: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def update(self, styles: Tensor) -> None:
        """Takes the styles `[N, size]` of a batch of real images."""
        self.batches += 1
        self.mean.lerp_(styles.detach().float().mean(0), (1 / self.batches).clamp_min(0.01))

    def code(self) -> tuple[float, ...]:
        """The average as numbers; zeros while networks are only counted."""
        return (0.0,) * len(self.mean) if self.mean.is_meta else tuple(self.mean.tolist())


class StyledInference(Inference):
    """A copy of a generator of (image, style), with the style that it takes if none is given."""

    def __init__(self, generator: nn.Module, default_style: tuple[float, ...], stride: int) -> None:
        super().__init__()
        self.generator = deepcopy(generator)
        self.style_size = len(default_style)
        self.default_style = default_style
        self.stride = stride
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = image.new_tensor(self.default_style).expand(len(image), -1)
        translated: Tensor = self.generator(image, style)
        return translated


class FirstOutput(nn.Module):
    """A copy of a network with several outputs that gives the first: image `[N, 3, S, S]` -> style `[N, S]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = deepcopy(network)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        first: Tensor = self.network(image)[0]
        return first
