"""Does a back end give this engine's image? One frame through it and through the portable back end, once.

A driver, a library or a plan may compute garbage quickly. What passes is remembered in the user's cache, so that only
the first opening of an engine on a back end takes the time of two.
"""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from i2i_runtime.engines import contract
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.engines.protocol import Engine
from i2i_runtime.errors import EngineError
from i2i_runtime.files import sha256_of_file
from i2i_runtime.frame import Image
from i2i_runtime.machine import describe_machine
from i2i_runtime.metadata import SizePolicy

LOWEST_DB = 30.0
"""Half and bfloat16 stay above 38 dB of the float32 image; a wrong layout, an overflow or black is below 20."""

_USUAL = (96, 128)
_LIBRARIES = ("openvino", "onnxruntime", "onnxruntime-gpu")

logger = logging.getLogger(__name__)


def require_parity(engine: Engine, path: Path, hardware: str) -> None:
    """Compares one frame with ONNX Runtime on the processor. `hardware` names what computes, as far as it matters.

    Raises EngineError if the image is another one.
    """
    passed = _passed(path, engine.backend, hardware)
    if passed.exists():
        return
    frame = sample_frame(*frame_size(engine.metadata.size))
    portable = OnnxRuntimeEngine(path)
    try:
        found_db = psnr_db(portable.infer(frame), engine.infer(frame))
    finally:
        portable.close()
    if found_db < LOWEST_DB:
        raise EngineError(
            f"{engine.backend} gives another image than ONNX Runtime ({found_db:.0f} dB, at least {LOWEST_DB:.0f} are "
            "expected): update its library or the driver, or name another --backend."
        )
    try:
        passed.parent.mkdir(parents=True, exist_ok=True)
        passed.touch()
    except OSError as error:
        logger.debug("%s cannot be kept (%s): every start compares again", passed, error.strerror)


def psnr_db(first: Image, second: Image) -> float:
    """The peak signal-to-noise ratio of two `[H, W, 3] uint8` images; infinite if they are equal."""
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def frame_size(size: SizePolicy) -> tuple[int, int]:
    """The engine's own (height, width), or a small one that it takes."""
    height = min(max(_USUAL[0], size.min_height), size.max_height)
    width = min(max(_USUAL[1], size.min_width), size.max_width)
    return contract.padded_size(size, height, width)


def sample_frame(height: int, width: int) -> Image:
    """A frame with slopes, an edge, texture and three different colours, so that no mistake can hide."""
    y, x = np.mgrid[0:height, 0:width]
    texture = np.random.default_rng(7).normal(0, 6, (height, width))
    planes = (40 + 160 * x / width, 200 - 150 * y / height, np.where(x + y < (width + height) / 2, 60, 150))
    return np.stack([np.clip(plane + texture, 0, 255) for plane in planes], axis=-1).astype(np.uint8)


def _passed(path: Path, backend: str, hardware: str) -> Path:
    versions = [f"{name} {_version(name)}" for name in _LIBRARIES]
    processor = str(describe_machine()["processor"])
    key = "\n".join([sha256_of_file(path), backend, hardware, processor, *versions])
    return user_cache_path("i2i-stream") / "parity" / hashlib.sha256(key.encode()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
