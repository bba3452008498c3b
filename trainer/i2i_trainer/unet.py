"""The U-Net of pix2pix and BicycleGAN: halve down to one position, then double, with the way down beside the way up.

Isola, Zhu, Zhou, Efros: Image-to-Image Translation with Conditional Adversarial Networks, CVPR 2017; the code of
BicycleGAN enters as in Zhu et al.: Toward Multimodal Image-to-Image Translation, NeurIPS 2017.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from i2i_trainer.blocks import Norm, conv
from i2i_trainer.errors import OptionError

CodePlace = Literal["nowhere", "input", "all"]
Upsampling = Literal["transposed", "bilinear"]


def check_unet_size(image_size: int, downs: int) -> None:
    """Raises OptionError unless images of this size can be halved `downs` times."""
    if downs < 5:
        raise OptionError(f"--downs is {downs} but the U-Net needs at least 5 halvings.")
    if image_size % 2**downs:
        raise OptionError(f"--image-size {image_size} must be a multiple of {2**downs} for --downs {downs}.")


class UNet(nn.Module):
    """Image `[N, 3, H, W] in [-1, 1]` -> the same shape and range; H and W multiples of `2 ** downs`.

    Way down: [LeakyReLU(0.2), C4s2, norm], the first without activation and norm, the innermost without norm.
    Way up: [ReLU, upsampling, norm, dropout 0.5 if both sides are 8 times the width], the last to tanh.
    A code `[N, code_size]`, repeated over all positions, is put beside the input of every convolution of the way
    down (`all`) or of the first (`input`), before its activation. `bias` is that of layers before a norm.
    """

    def __init__(
        self,
        width: int,
        downs: int,
        *,
        norm: Norm,
        bias: bool,
        dropout: bool,
        code_size: int = 0,
        code_place: CodePlace = "nowhere",
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.code_place = code_place
        widths = [3] + [width * min(2**level, 8) for level in range(downs)]
        innermost = downs - 1
        self.downs = nn.ModuleList()
        for level, (before, after) in enumerate(pairwise(widths)):
            code = code_size if code_place == "all" or (code_place == "input" and level == 0) else 0
            layers: list[nn.Module] = [] if level == 0 else [nn.LeakyReLU(0.2)]
            layers.append(conv(before + code, after, 4, stride=2, pad=1, padding="zeros", bias=bias))
            if 0 < level < innermost:
                layers.append(norm(after))
            self.downs.append(nn.Sequential(*layers))
        self.ups = nn.ModuleList()
        for level in reversed(range(downs)):
            before, after = widths[level + 1] * (1 if level == innermost else 2), widths[level]
            if level == 0:
                self.ups.append(
                    nn.Sequential(nn.ReLU(), doubling(before, after, upsampling, bias=True), nn.Tanh())
                )
                continue
            layers = [nn.ReLU(), doubling(before, after, upsampling, bias=bias), norm(after)]
            if dropout and 4 <= level < innermost:
                layers.append(nn.Dropout(0.5))
            self.ups.append(nn.Sequential(*layers))

    def forward(self, image: Tensor, code: Tensor | None = None) -> Tensor:
        x = image
        skips: list[Tensor] = []
        for level, layer in enumerate(self.downs):
            if code is not None and (self.code_place == "all" or level == 0):
                x = torch.cat([x, code[..., None, None].expand(-1, -1, *x.shape[2:])], dim=1)
            x = layer(x)
            skips.append(x)
        skips.pop()
        for layer in self.ups:
            x = layer(x)
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
        return x


def doubling(inputs: int, outputs: int, upsampling: Upsampling, *, bias: bool) -> nn.Module:
    """Doubles the size: transposed 4x4 convolution, or bilinear, reflect-padded 3x3 convolution."""
    if upsampling == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=bias)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv(inputs, outputs, 3, bias=bias))
