"""Camera colours: RGB and NV12 bytes to images `[N, 3, H, W]` in [-1, 1], and back.

Images are RGB, channels-last, float16, bfloat16 or float32. `impl` None picks the kernel on a CUDA device where
triton is installed, plain torch elsewhere; an explicit `reference` or `triton` is obeyed or refused with RuntimeError.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from i2i_kernels.colour.reference import (
    Coding,
    Standard,
    image_from_nv12_reference,
    image_from_rgb_reference,
    nv12_from_image_reference,
    rgb_from_image_reference,
)
from i2i_kernels.dispatch import DTYPES, HAS_TRITON, require_kernel_input, require_kernels

__all__ = [
    "Coding",
    "Impl",
    "Standard",
    "image_from_nv12",
    "image_from_rgb",
    "nv12_from_image",
    "rgb_from_image",
]

Impl = Literal["reference", "triton"]


def image_from_rgb(frame: Tensor, *, dtype: torch.dtype = torch.float16, impl: Impl | None = None) -> Tensor:
    """`[N, H, W, 3] uint8` RGB, full range, contiguous -> `[N, 3, H, W]` of `dtype` in [-1, 1]: `byte / 127.5 - 1`.

    Raises ValueError or TypeError if the frame does not fit.
    """
    _check_frame(frame, dtype)
    if frame.dim() != 4 or frame.shape[3] != 3:
        raise ValueError(f"an RGB frame is [N, H, W, 3], this one is {list(frame.shape)}")
    if _picked(frame, impl) == "reference":
        return image_from_rgb_reference(frame, dtype)
    from i2i_kernels.colour.op import image_from_rgb_op

    y: Tensor = image_from_rgb_op(frame, dtype)
    return y


def rgb_from_image(image: Tensor, *, impl: Impl | None = None) -> Tensor:
    """`[N, 3, H, W]` in [-1, 1] -> `[N, H, W, 3] uint8` RGB, full range; clamped, rounded to the nearest.

    Raises ValueError or TypeError if the image does not fit.
    """
    _check_image(image)
    if _picked(image, impl) == "reference":
        return rgb_from_image_reference(image)
    require_kernel_input(image, "image", "triton")
    from i2i_kernels.colour.op import rgb_from_image_op

    frame: Tensor = rgb_from_image_op(image)
    return frame


def image_from_nv12(
    frame: Tensor,
    width: int,
    *,
    coding: Coding | None = None,
    dtype: torch.dtype = torch.float16,
    impl: Impl | None = None,
) -> Tensor:
    """NV12 -> `[N, 3, H, width]` of `dtype` in [-1, 1].

    frame: `[N, 3H/2, pitch] uint8`, H rows of luma, then H/2 rows of Cb Cr pairs, `width` bytes of each row used; H and
    width even. coding: BT.709 limited unless given. Each pair colours its four pixels alike.

    Raises ValueError or TypeError if frame and width do not fit.
    """
    _check_frame(frame, dtype)
    if frame.dim() != 3 or frame.shape[1] % 3:
        raise ValueError(f"an NV12 frame is [N, 3H/2, pitch], this one is {list(frame.shape)}")
    if width % 2 or not 2 <= width <= frame.shape[2]:
        raise ValueError(
            f"width is {width}, it must be even and at most the pitch, which is {frame.shape[2]}"
        )
    coding = coding or Coding()
    if _picked(frame, impl) == "reference":
        return image_from_nv12_reference(frame, width, coding, dtype)
    from i2i_kernels.colour.op import image_from_nv12_op

    y: Tensor = image_from_nv12_op(frame, width, coding.standard, coding.full_range, dtype)
    return y


def nv12_from_image(
    image: Tensor, *, pitch: int | None = None, coding: Coding | None = None, impl: Impl | None = None
) -> Tensor:
    """`[N, 3, H, W]` in [-1, 1], H and W even -> NV12 `[N, 3H/2, pitch] uint8`, zeros past the width.

    pitch: bytes per row, even, W unless given. Chroma is that of the mean of its four pixels.

    Raises ValueError or TypeError if image and pitch do not fit.
    """
    _check_image(image)
    h, w = image.shape[2:]
    pitch = w if pitch is None else pitch
    if h % 2 or w % 2:
        raise ValueError(f"NV12 needs even sizes, the image is {list(image.shape)}")
    if pitch % 2 or pitch < w:
        raise ValueError(f"pitch is {pitch}, it must be even and at least the width, which is {w}")
    coding = coding or Coding()
    if _picked(image, impl) == "reference":
        return nv12_from_image_reference(image, pitch, coding)
    require_kernel_input(image, "image", "triton")
    from i2i_kernels.colour.op import nv12_from_image_op

    frame: Tensor = nv12_from_image_op(image, pitch, coding.standard, coding.full_range)
    return frame


def _picked(given: Tensor, impl: Impl | None) -> Impl:
    if impl not in (None, "reference", "triton"):
        raise ValueError(f"impl is {impl!r}, it must be None, reference or triton")
    if impl == "triton":
        require_kernels(given, impl)
    return impl or ("triton" if given.is_cuda and HAS_TRITON else "reference")


def _check_frame(frame: Tensor, dtype: torch.dtype) -> None:
    if frame.dtype != torch.uint8:
        raise TypeError(f"a camera frame is uint8, this one is {frame.dtype}")
    if dtype not in DTYPES:
        raise TypeError(f"images are float16, bfloat16 or float32, {dtype} was asked for")
    if not frame.is_contiguous():
        raise ValueError(f"the frame {list(frame.shape)} has strides {frame.stride()}, it must be contiguous")


def _check_image(image: Tensor) -> None:
    if image.dim() != 4 or image.shape[1] != 3:
        raise ValueError(f"an image is [N, 3, H, W], this one is {list(image.shape)}")
    if not image.is_floating_point():
        raise TypeError(f"an image is floating point, this one is {image.dtype}")
