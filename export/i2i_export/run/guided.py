"""Any translator at the full resolution of a camera: it sees a small image, and the large one follows its change.

The network translates the image `factor` times smaller. Around every small pixel its colours are fitted as
`gain * source + bias`; gain and bias are smoothed, spread over the full image and applied to the full-resolution
source. Edges are those of the source; what the network invents between two small pixels is lost, and so is the
checkerboard of its transposed convolutions. He and Sun: Fast Guided Filter, 2015; per colour channel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from i2i_runtime.errors import UsageError
from i2i_trainer.method import Inference
from i2i_trainer.methods.realtime import bilinear_phases

FACTORS = (2, 3, 4, 6, 8)
RADIUS = 4
"""Of the windows in small pixels. With 1 or 2 the artefacts of a network stay in its gains; with 4 they average out."""
CENTRING = 16
"""Radius of the windows whose means are taken off before the fit."""
FLATNESS = 1e-3
"""Variance on the [-1, 1] scale below which a window counts as flat and only its bias changes: 4 of 255 levels."""


class GuidedInference(Inference):
    """A network that translates a smaller image, and the guided filter that brings its change to full size.

    `[N, 3, H, W]` in [-1, 1] -> the same; H and W multiples of `factor` times the network's stride.
    """

    average: Tensor
    phases: Tensor

    def __init__(self, inference: Inference, factor: int) -> None:
        super().__init__()
        if factor not in FACTORS:
            known = ", ".join(map(str, FACTORS))
            raise UsageError(f"--guided {factor} is not a supported factor: use {known}.")
        self.inference = inference
        self.factor = factor
        self.stride = factor * inference.stride
        if inference.fixed_size is not None:
            self.fixed_size = (factor * inference.fixed_size[0], factor * inference.fixed_size[1])
        self.style_size = inference.style_size
        self.default_style = inference.default_style
        self.random_styles = inference.random_styles
        self.presets = inference.presets
        self.notes = {**inference.notes, "guided": f"translated {factor} times smaller, applied at full size"}
        blocks = torch.eye(3)[:, :, None].expand(3, 3, factor**2).reshape(3, -1, 1, 1) / factor**2
        self.register_buffer("average", blocks.contiguous(), persistent=False)
        self.register_buffer("phases", bilinear_phases(factor, 3), persistent=False)
        self.eval()

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        # The layout of the real-time generator, whose shuffles back ends know how to avoid.
        positions = F.pixel_unshuffle(image, self.factor)
        small = F.conv2d(positions, self.average)
        translated = self.inference(small) if style is None else self.inference(small, style)
        gain, bias = fit(small, translated)
        gain, bias = (
            F.conv2d(F.pad(value, (1, 1, 1, 1), mode="replicate"), self.phases) for value in (gain, bias)
        )
        return F.pixel_shuffle(positions * gain + bias, self.factor).clamp(-1, 1)


def fit(source: Tensor, translated: Tensor) -> tuple[Tensor, Tensor]:
    """Smoothed gain and bias, `[N, 3, h, w]` each, with which `gain * source + bias` is nearest to the translation.

    Both are first centred on the mean of a much wider window, which changes next to nothing about the fit, but keeps
    the difference of two means of squares from vanishing in the eight bits of bfloat16.
    """
    wide = window_means(torch.cat([source, translated], dim=1), CENTRING)
    source, translated = source - wide[:, :3], translated - wide[:, 3:]
    products = [source * source, source * translated]
    means = window_means(torch.cat([source, translated, *products], dim=1), RADIUS)
    source_mean, translated_mean, square, product = means.chunk(4, dim=1)
    gain = (product - source_mean * translated_mean) / (square - source_mean * source_mean + FLATNESS)
    bias = translated_mean + wide[:, 3:] - gain * (source_mean + wide[:, :3])
    gain, bias = window_means(torch.cat([gain, bias], dim=1), RADIUS).chunk(2, dim=1)
    return gain, bias


def window_means(values: Tensor, radius: int) -> Tensor:
    """The mean of every window of `2 * radius + 1` pixels, of what lies inside the image."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(values, (1, side), stride=1, padding=(0, radius), count_include_pad=False)
    return F.avg_pool2d(rows, (side, 1), stride=1, padding=(radius, 0), count_include_pad=False)
