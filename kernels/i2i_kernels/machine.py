"""What the kernels need of the machine, and the sentence where it is not there."""

from __future__ import annotations

import importlib.util

from torch import Tensor

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Looked up without importing it: a trainer on a CPU never pays for triton."""


def require_kernels(x: Tensor, impl: str) -> None:
    """Raises RuntimeError where `impl` cannot run on x's device."""
    if not HAS_TRITON:
        raise RuntimeError(
            f"impl={impl!r} needs triton, which is not installed: pip install triton, or pass impl='reference'"
        )
    if x.is_cuda:
        return
    # The interpreter runs the same kernels on CPU tensors; it is how they are tested.
    from triton import knobs

    if not knobs.runtime.interpret:
        raise RuntimeError(
            f"impl={impl!r} needs a CUDA device and x lies on {x.device}: move x there, or pass impl='reference'"
        )
