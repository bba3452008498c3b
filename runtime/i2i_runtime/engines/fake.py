"""An engine without a network, for the tests of programs that use the runtime."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import contract
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, SizePolicy


class FakeEngine:
    """Inverts every frame (255 - x), or with `invert=False` returns a copy of it.

    It takes frames of any size, and `style` if its `metadata` has one, which changes nothing. `slots` is how many
    threads may call `infer` at the same time. `before` is called with the number of each frame, from 0; it may wait or
    raise, to test what a program does then.
    """

    backend, reason = "fake", "a test asked for it"

    def __init__(
        self,
        slots: int = 1,
        before: Callable[[int], None] | None = None,
        *,
        invert: bool = True,
        metadata: EngineMetadata | None = None,
    ) -> None:
        self.slots = slots
        self.metadata = metadata or EngineMetadata("fake", "fake", "source -> target", SizePolicy())
        self._before, self._invert = before, invert
        self._count, self._lock = 0, Lock()

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        """`[H, W, 3] uint8 RGB` to the same shape; the caller owns the result. Raises EngineError as every engine."""
        with self._lock:
            number = self._count
            self._count += 1
        contract.prepare(self.metadata, image, style)
        if self._before is not None:
            self._before(number)
        return 255 - image if self._invert else image.copy()

    def close(self) -> None:
        """Does nothing: there is nothing to free."""
