"""Camera colours in plain torch: RGB and NV12 bytes to images in [-1, 1], and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Standard = Literal["bt601", "bt709"]

_WEIGHTS: dict[Standard, tuple[float, float]] = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
"""Kr and Kb of ITU-R BT.601-7 and BT.709-6."""


@dataclass(frozen=True)
class Coding:
    """How bytes mean luma and chroma. Limited range: luma 16 to 235, chroma 16 to 240; full: 0 to 255."""

    standard: Standard = "bt709"
    full_range: bool = False

    def __post_init__(self) -> None:
        if self.standard not in _WEIGHTS:
            raise ValueError(f"colour standard is {self.standard!r}, it must be one of {', '.join(_WEIGHTS)}")

    @property
    def kr(self) -> float:
        return _WEIGHTS[self.standard][0]

    @property
    def kb(self) -> float:
        return _WEIGHTS[self.standard][1]

    @property
    def luma(self) -> tuple[float, float]:
        """Byte of black, and bytes from black to white."""
        return (0.0, 255.0) if self.full_range else (16.0, 219.0)

    @property
    def chroma(self) -> float:
        """Bytes from one end of a colour difference to the other; 128 is no colour."""
        return 255.0 if self.full_range else 224.0


def image_from_rgb_reference(frame: Tensor, dtype: torch.dtype) -> Tensor:
    """`[N, H, W, 3] uint8` -> `[N, 3, H, W]` in [-1, 1], channels-last."""
    return (frame.float() / 127.5 - 1).to(dtype).permute(0, 3, 1, 2)


def rgb_from_image_reference(image: Tensor) -> Tensor:
    """`[N, 3, H, W]` in [-1, 1] -> `[N, H, W, 3] uint8`, clamped and rounded."""
    return _byte((image.float() + 1) * 127.5).permute(0, 2, 3, 1).contiguous()


def image_from_nv12_reference(frame: Tensor, width: int, coding: Coding, dtype: torch.dtype) -> Tensor:
    """`[N, 3H/2, pitch] uint8` -> `[N, 3, H, W]` in [-1, 1], channels-last; a chroma pair colours four pixels."""
    height = frame.shape[1] * 2 // 3
    black, white = coding.luma
    y = (frame[:, :height, :width].float() - black) / white
    pairs = frame[:, height:, :width].reshape(len(frame), height // 2, width // 2, 2).float()
    cb, cr = ((pairs - 128) / coding.chroma).repeat_interleave(2, 1).repeat_interleave(2, 2).unbind(3)
    red = y + 2 * (1 - coding.kr) * cr
    blue = y + 2 * (1 - coding.kb) * cb
    green = (y - coding.kr * red - coding.kb * blue) / (1 - coding.kr - coding.kb)
    return (torch.stack([red, green, blue], 3).clamp(0, 1) * 2 - 1).to(dtype).permute(0, 3, 1, 2)


def nv12_from_image_reference(image: Tensor, pitch: int, coding: Coding) -> Tensor:
    """`[N, 3, H, W]` in [-1, 1] -> `[N, 3H/2, pitch] uint8`; chroma of the mean of four pixels, rows filled with 0."""
    n, _, height, width = image.shape
    rgb = ((image.float() + 1) / 2).clamp(0, 1)
    frame = torch.zeros(n, height * 3 // 2, pitch, dtype=torch.uint8, device=image.device)
    black, white = coding.luma
    frame[:, :height, :width] = _byte(_luma(rgb, coding) * white + black)
    mean = torch.nn.functional.avg_pool2d(rgb, 2)
    y = _luma(mean, coding)
    cb = (mean[:, 2] - y) / (2 * (1 - coding.kb))
    cr = (mean[:, 0] - y) / (2 * (1 - coding.kr))
    frame[:, height:, :width] = _byte(torch.stack([cb, cr], 3) * coding.chroma + 128).flatten(2)
    return frame


def _luma(rgb: Tensor, coding: Coding) -> Tensor:
    red, green, blue = rgb.unbind(1)
    return coding.kr * red + (1 - coding.kr - coding.kb) * green + coding.kb * blue


def _byte(value: Tensor) -> Tensor:
    return (value + 0.5).floor().clamp(0, 255).to(torch.uint8)
