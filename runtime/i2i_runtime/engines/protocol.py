"""What every back end is to the rest of the runtime."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata

Backend: TypeAlias = Literal["tensorrt", "openvino", "onnxruntime"]

Processor: TypeAlias = Literal["gpu", "npu", "cpu"]
"""What computes: a graphics card, a laptop's network unit, or the processor itself."""


class Engine(Protocol):
    """A network that translates one frame at a time. `open_engine` opens one.

    `backend` is the library and precision that run it ("openvino bf16"), `reason` says why it was chosen. `slots` is
    how many threads may call `infer` at the same time.
    """

    metadata: EngineMetadata
    backend: str
    reason: str
    slots: int

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        """Translates `[H, W, 3] uint8 RGB`, full range, into the same shape; the caller owns the result.

        Any H and W that the size policy allows after reflection padding to `stride`; the result is cropped back.
        `style` is float32 `[1, S]`, None takes the engine's default. Raises EngineError.
        """

    def close(self) -> None:
        """Frees the back end; `infer` must not be called afterwards."""
