"""Named style codes for methods whose styles are drawn from N(0, I)."""

from __future__ import annotations

import torch


def normal_presets(size: int, count: int = 8) -> dict[str, tuple[float, ...]]:
    """`style-1` ... `style-<count>`: codes of `size` numbers from N(0, I), the same on every machine."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(count, size, generator=generator, device="cpu")
    return {f"style-{index}": tuple(code) for index, code in enumerate(codes.tolist(), start=1)}
