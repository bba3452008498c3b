"""The Laplacian pyramid of LPTN: blur and halve, double and blur, the band's subtraction or sum in the same pass."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from i2i_kernels.dispatch import kernels_fit, require_kernel_input
from i2i_kernels.pyramid.reference import down_reference, up_reference

__all__ = ["down", "up"]

Impl = Literal["reference", "triton"]


def down(x: Tensor, *, impl: Impl | None = None) -> Tensor:
    """Blurs by the 5 x 5 binomial kernel, border reflected, and keeps every second pixel.

    `[N, C, H, W]` floating point, H and W of 3 or more -> `[N, C, ceil(H / 2), ceil(W / 2)]`. impl: None picks the
    kernel on a CUDA device where triton is installed and x is channels-last float16, bfloat16 or float32, plain
    torch elsewhere. Any order of gradient.

    Raises ValueError or TypeError if x does not fit, RuntimeError if an explicit `impl` cannot be served.
    """
    _check("down", x, least=3)
    if _picked(x, impl) == "reference":
        return down_reference(x)
    require_kernel_input(x, "x", "triton")
    from i2i_kernels.pyramid.op import coarse_op

    y: Tensor = coarse_op(x, -(-x.shape[2] // 2), -(-x.shape[3] // 2), 1.0, False)
    return y


def up(x: Tensor, *, add: Tensor | None = None, scale: float = 1.0, impl: Impl | None = None) -> Tensor:
    """Doubles by zero insertion and four times the blur, returns `add + scale * doubled`.

    `[N, C, h, w]`, h and w of 2 or more -> `[N, C, 2h, 2w]`; `add` has the result's shape and x's dtype. A band is
    `up(down(x), add=x, scale=-1)`, and `up(low, add=band)` puts the image together again. impl and errors as `down`.
    """
    _check("up", x, least=2)
    n, c, h, w = x.shape
    if add is not None and (
        add.shape != (n, c, 2 * h, 2 * w) or add.dtype != x.dtype or add.device != x.device
    ):
        raise ValueError(
            f"add is {list(add.shape)} {add.dtype} on {add.device}, for x of {list(x.shape)} it must be "
            f"{[n, c, 2 * h, 2 * w]} {x.dtype} on {x.device}"
        )
    if _picked(x, impl) == "reference":
        return up_reference(x, add, scale)
    require_kernel_input(x, "x", "triton")
    if add is not None:
        require_kernel_input(add, "add", "triton")
    from i2i_kernels.pyramid.op import fine_op

    y: Tensor = fine_op(x, add, 2 * h, 2 * w, scale, False)
    return y


def _picked(x: Tensor, impl: Impl | None) -> Impl:
    if impl not in (None, "reference", "triton"):
        raise ValueError(f"impl is {impl!r}, it must be None, reference or triton")
    return impl or ("triton" if kernels_fit(x) else "reference")


def _check(name: str, x: Tensor, least: int) -> None:
    if x.dim() != 4 or min(x.shape[2:]) < least:
        raise ValueError(f"{name} takes [N, C, H, W] with H and W of {least} or more, x is {list(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} takes floating-point images, x is {x.dtype}")
