"""Where TensorRT's timings are kept between builds: one file per GPU and version in the user's cache folder."""

from __future__ import annotations

import re
from pathlib import Path

from platformdirs import user_cache_path


def default_timing_cache(gpu: str, tensorrt_version: str) -> Path:
    """`NVIDIA GeForce RTX 4090`, `10.16.1.11` -> `.../i2i-stream/timing/nvidia-geforce-rtx-4090.trt-10.16.1.11.cache`.

    TensorRT refuses timings of another device or version, so each pair has a file.
    """
    device = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"
    return user_cache_path("i2i-stream") / "timing" / f"{device}.trt-{tensorrt_version}.cache"
