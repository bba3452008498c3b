"""Engines: one protocol, several back ends."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.frame import Picture
from i2i_runtime.metadata import EngineMetadata


class Engine(Protocol):
    """A network that turns one camera frame into one translated frame.

    `backend` names the library and precision that run it ("openvino bf16"), `reason` says in words why it was
    chosen. `slots` is how many threads may call `infer` at the same time.
    """

    metadata: EngineMetadata
    backend: str
    reason: str
    slots: int

    def infer(self, picture: Picture, style: NDArray[np.float32] | None = None) -> Picture:
        """Translates `[H, W, 3] uint8 RGB` into the same shape; the caller owns the result.

        Any H and W that the size policy allows after reflection padding to `stride`; the result is cropped back.
        `style` is float32 `[1, S]`, None takes the engine's default. Raises EngineError.
        """

    def close(self) -> None:
        """Frees the back end; `infer` must not be called afterwards."""
