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


class StyledInference(Inference):
    """A copy of a generator of (image, style); the default style is all zeros."""

    def __init__(self, generator: nn.Module, style_size: int, stride: int) -> None:
        super().__init__()
        self.generator = deepcopy(generator)
        self.style_size = style_size
        self.default_style = (0.0,) * style_size
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
