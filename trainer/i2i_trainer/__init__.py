"""Learns image-to-image translation: folders of images in, a run folder out.

    import i2i_trainer

    run = i2i_trainer.train("cyclegan", data="photos", out="runs/day2night", preset="small", steps=2000)
    print(i2i_trainer.evaluate(run)["metrics"])
    network = i2i_trainer.load_method(run).inference("a2b")
    translated = network(image)  # [N, 3, H, W] float32 RGB in [-1, 1]

These three names are the public surface. They are imported when they are first used, because torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2i_trainer.api import evaluate, train
    from i2i_trainer.checkpoint import load_method

    __version__: str

__all__ = ["__version__", "evaluate", "load_method", "train"]

_HOMES = {
    "evaluate": "i2i_trainer.api",
    "load_method": "i2i_trainer.checkpoint",
    "train": "i2i_trainer.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("i2i-stream")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'i2i_trainer' has no attribute {name!r}")
