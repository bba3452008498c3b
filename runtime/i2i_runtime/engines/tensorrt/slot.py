"""One frame's place on the GPU: a stream, and the layouts of the image sizes that it met last.

Several slots let one frame copy while another computes; `ComputeOrder` keeps their networks from running into each
other, which would make both later and neither sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.tensorrt.device import Device, TooLittleMemory, release_all
from i2i_runtime.engines.tensorrt.layout import Layout
from i2i_runtime.engines.tensorrt.loaded import LoadedPlan
from i2i_runtime.frame import Image

_KEPT_SIZES = 2
"""Image sizes that a slot stays ready for: a folder of two formats must not lay out anew for each image."""


class ComputeOrder:
    """Puts the networks of several streams one behind the other, by events; their copies stay free."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = Lock()
        self._last: int | None = None

    @contextmanager
    def turn(self, stream: int, event: int) -> Iterator[None]:
        """What the stream is given inside begins when the network before it has ended."""
        with self._lock:
            if self._last not in (None, event):
                assert self._last is not None
                self._device.wait(stream, self._last)
            yield
            self._device.record(event, stream)
            self._last = event

    def forget(self, event: int) -> None:
        """The event is about to be destroyed, its work is done."""
        with self._lock:
            if self._last == event:
                self._last = None


class FrameSlot:
    """Translates one frame at a time; any thread may call it, one after the other."""

    def __init__(
        self,
        plan: LoadedPlan,
        defaults: Mapping[str, NDArray[np.float32]],
        order: ComputeOrder | None = None,
    ) -> None:
        """`order` is shared by the slots of one engine, None if there is one slot."""
        self._plan = plan
        self._device = plan.device
        self._defaults = dict(defaults)
        self._order = order
        self._layouts: dict[tuple[int, int], Layout] = {}
        with self._device.current():
            self._stream = self._device.create_stream()
            try:
                self._event = 0 if order is None else self._device.create_event()
            except BaseException:
                self._device.destroy_stream(self._stream)
                raise

    def prepare(self, height: int, width: int) -> None:
        """Gets ready for images of this size. Raises EngineError."""
        with self._device.current():
            self._layout(height, width)

    def translate(self, image: Image, inputs: Mapping[str, NDArray[np.float32]]) -> Image:
        """`[H, W, 3] uint8` into the same, as a view of the slot's memory that the next frame overwrites.

        `inputs` replaces defaults (`style`).
        """
        with self._device.current():
            layout = self._layout(*image.shape[:2])
            layout.fill(image, {**self._defaults, **inputs})
            layout.copy_in()
            with self._turn():
                layout.compute()
            layout.copy_out()
            self._device.synchronize(self._stream)
            return layout.translated

    def close(self) -> None:
        """Gives back all that the slot holds on the device."""
        with self._device.current():
            self._drop(0)
            if self._order is not None:
                self._order.forget(self._event)
                release_all(partial(self._device.destroy_event, self._event))
            release_all(partial(self._device.destroy_stream, self._stream))

    def _turn(self) -> AbstractContextManager[None]:
        return nullcontext() if self._order is None else self._order.turn(self._stream, self._event)

    def _layout(self, height: int, width: int) -> Layout:
        size = (height, width)
        if size in self._layouts:
            self._layouts[size] = self._layouts.pop(size)  # the newest last
        else:
            with (
                self._turn()
            ):  # the network runs to get ready, and two slots must not fight for the last memory
                self._lay_out(size)
        return self._layouts[size]

    def _lay_out(self, size: tuple[int, int]) -> None:
        self._drop(_KEPT_SIZES - 1)
        try:
            self._layouts[size] = Layout(self._plan, self._stream, *size, self._defaults)
        except TooLittleMemory:
            if not self._layouts:
                raise
            self._drop(0)
            self._layouts[size] = Layout(self._plan, self._stream, *size, self._defaults)

    def _drop(self, kept: int) -> None:
        """Closes the layouts that were used longest ago."""
        while len(self._layouts) > kept:
            self._layouts.pop(next(iter(self._layouts))).close()
