"""The colour kernels as torch operators. Bytes have no gradient, so neither have these."""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.library import triton_op

from i2i_kernels.colour import kernel
from i2i_kernels.colour.reference import (
    Coding,
    image_from_nv12_reference,
    image_from_rgb_reference,
    nv12_from_image_reference,
    rgb_from_image_reference,
)
from i2i_kernels.launch import is_plain, launch
from i2i_kernels.pack.recipes import COLOUR_BLOCK


@triton_op("i2i::image_from_rgb", mutates_args=())
def image_from_rgb_op(frame: Tensor, dtype: torch.dtype) -> Tensor:
    if is_plain(frame):
        return image_from_rgb_reference(frame, dtype)
    image = torch.empty(frame.shape, dtype=dtype, device=frame.device)
    count = frame.numel()
    launch(kernel.from_rgb_kernel, (triton.cdiv(count, COLOUR_BLOCK),))(
        frame, count, image, BLOCK=COLOUR_BLOCK
    )
    return image.permute(0, 3, 1, 2)


@triton_op("i2i::rgb_from_image", mutates_args=())
def rgb_from_image_op(image: Tensor) -> Tensor:
    if is_plain(image):
        return rgb_from_image_reference(image)
    n, c, h, w = image.shape
    frame = torch.empty((n, h, w, c), dtype=torch.uint8, device=image.device)
    count = n * c * h * w
    launch(kernel.to_rgb_kernel, (triton.cdiv(count, COLOUR_BLOCK),))(image, count, frame, BLOCK=COLOUR_BLOCK)
    return frame


@triton_op("i2i::image_from_nv12", mutates_args=())
def image_from_nv12_op(
    frame: Tensor, width: int, standard: str, full_range: bool, dtype: torch.dtype
) -> Tensor:
    if is_plain(frame):
        return image_from_nv12_reference(frame, width, _coding(standard, full_range), dtype)
    n, rows, pitch = frame.shape
    height = rows * 2 // 3
    image = torch.empty((n, height, width, 3), dtype=dtype, device=frame.device)
    launch(kernel.from_nv12_kernel, (triton.cdiv(height * width, COLOUR_BLOCK), n))(
        *(frame, height, width, pitch, image), **_constants(standard, full_range), BLOCK=COLOUR_BLOCK
    )
    return image.permute(0, 3, 1, 2)


@triton_op("i2i::nv12_from_image", mutates_args=())
def nv12_from_image_op(image: Tensor, pitch: int, standard: str, full_range: bool) -> Tensor:
    if is_plain(image):
        return nv12_from_image_reference(image, pitch, _coding(standard, full_range))
    n, _, height, width = image.shape
    frame = torch.empty((n, height * 3 // 2, pitch), dtype=torch.uint8, device=image.device)
    pairs = height // 2 * (pitch // 2)
    launch(kernel.to_nv12_kernel, (triton.cdiv(pairs, COLOUR_BLOCK), n))(
        *(image, height, width, pitch, frame), **_constants(standard, full_range), BLOCK=COLOUR_BLOCK
    )
    return frame


def _constants(standard: str, full_range: bool) -> dict[str, float]:
    coding = _coding(standard, full_range)
    black, white = coding.luma
    return {"KR": coding.kr, "KB": coding.kb, "BLACK": black, "WHITE": white, "CHROMA": coding.chroma}


def _coding(standard: str, full_range: bool) -> Coding:
    return Coding("bt601" if standard == "bt601" else "bt709", full_range)
