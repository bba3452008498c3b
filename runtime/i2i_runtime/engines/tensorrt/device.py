"""The CUDA calls that a frame slot makes, behind one protocol; cuda-python or PyCUDA does them.

Both work on the device's primary context, so that TensorRT, PyTorch and this runtime see the same memory in one
process. The context is current on a thread only inside `Device.current()`: a thread that ends with a context still
on its stack aborts the process (PyCUDA), and one that keeps a released context gets errors for everything it does
afterwards.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import EngineError

DRIVER_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
"""NVIDIA's driver library, which no package brings."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceFacts:
    """What the device is: `architecture` as `sm_87`, `driver` as the CUDA version it speaks, memory in bytes.

    `shares_memory` says that the GPU reads the host's own memory (Jetson), so that no copies are needed.
    """

    name: str
    architecture: str
    driver: str
    memory_bytes: int
    free_bytes: int
    shares_memory: bool


@dataclass(frozen=True)
class PinnedBuffer:
    """Page-locked host memory: `array` is `[nbytes] uint8`; `address` is its address on the device, or 0."""

    array: NDArray[np.uint8]
    address: int
    owner: Any


class Device(Protocol):
    """One GPU. Addresses, streams, events and graphs are plain integers, as TensorRT wants them.

    Every call but `current` and `close` is made inside `current()`. A call that the driver refuses raises
    DriverError, one for which there is too little memory TooLittleMemory.
    """

    facts: DeviceFacts
    library: str

    def current(self) -> AbstractContextManager[None]:
        """Makes the device's context current on the calling thread, inside the `with` block alone."""

    def allocate(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes; returns its address."""

    def free(self, address: int) -> None: ...

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        """Page-locked host memory, mapped into the device's addresses on request."""

    def release(self, buffer: PinnedBuffer) -> None: ...

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None: ...

    def create_event(self) -> int:
        """An event that marks a place in a stream's work; it takes no times."""

    def destroy_event(self, event: int) -> None: ...

    def record(self, event: int, stream: int) -> None:
        """Marks what the stream was given so far."""

    def wait(self, stream: int, event: int) -> None:
        """The stream's next work begins after what the event has marked; an event never recorded marks nothing."""

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        """Host to device, all of `source`, in the order of the stream."""

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        """Device to host, all of `target`, in the order of the stream."""

    def synchronize(self, stream: int) -> None:
        """Returns when the stream has done all that it was given; other Python threads run meanwhile."""

    def begin_capture(self, stream: int) -> None:
        """From here on, what this thread gives the stream is recorded and not run."""

    def end_capture(self, stream: int) -> int:
        """Ends recording; returns a graph that can be launched."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...

    def close(self) -> None:
        """Gives the context back; everything made in it must be freed before."""


class DriverError(EngineError):
    """A driver call that failed."""

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(
            f"The GPU refused {call} ({reason}): look at `dmesg` and `nvidia-smi`, then start again."
        )
        self.reason = reason


class TooLittleMemory(EngineError):
    """The device has not the memory that was asked for."""

    def __init__(self, facts: DeviceFacts, nbytes: int, reason: str) -> None:
        super().__init__(
            f"{facts.name} does not have {nbytes / 2**20:.0f} MiB of memory free ({reason}; "
            f"{facts.free_bytes / 2**20:.0f} of {facts.memory_bytes / 2**20:.0f} MiB were free at start): "
            "close other programs that use the GPU, or build a plan for a smaller --size."
        )


def release_all(*steps: Callable[[], None]) -> None:
    """Does every step of giving things back: what a lost GPU refuses goes to the log and stops none of the others."""
    for step in steps:
        try:
            step()
        except DriverError as error:  # noqa: PERF203 - each step may fail by itself
            logger.debug("%s", error)


def no_driver(reason: str) -> EngineError:
    """The sentence for a machine without a working NVIDIA driver."""
    return EngineError(
        f"This machine does not have a working NVIDIA driver ({reason}), which a TensorRT plan needs: install the "
        "driver so that `nvidia-smi` shows a GPU, or give the .onnx file to --engine to run without one."
    )


def version_text(version: int) -> str:
    """13000 -> `13.0`, as the driver counts CUDA versions."""
    return f"{version // 1000}.{version % 1000 // 10}"
