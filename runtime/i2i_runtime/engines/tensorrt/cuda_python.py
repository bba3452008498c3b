"""The device through NVIDIA's cuda-python: the driver's own functions, each returning its status first."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import numpy as np

from i2i_runtime.engines.tensorrt.device import (
    Device,
    DeviceFacts,
    DriverError,
    PinnedBuffer,
    TooLittleMemory,
    no_driver,
    version_text,
)

MINIMUM = (12, 9, 1)
"""The first cuda-bindings that releases Python's lock during a driver call (its release notes of 12.9.1). With an
older one decoding, encoding and the page would stand still while the GPU works."""


def open_cuda_python(index: int) -> Device:
    """Raises ImportError if cuda-bindings is missing or too old, EngineError without a working driver."""
    driver = importlib.import_module("cuda.bindings.driver")
    installed = version("cuda-bindings")
    if tuple(int(part) for part in installed.split(".")[:3] if part.isdigit()) < MINIMUM:
        wanted = ".".join(str(part) for part in MINIMUM)
        raise ImportError(
            f"cuda-bindings {installed} stops all other threads while the GPU works, {wanted} does not"
        )
    return CudaPythonDevice(
        driver, importlib.import_module("cuda.bindings.utils").get_cuda_native_handle, index
    )


class CudaPythonDevice:
    """One GPU through `cuda.bindings.driver`; `handle_of` is `cuda.bindings.utils.get_cuda_native_handle`."""

    def __init__(self, driver: Any, handle_of: Any, index: int) -> None:
        self.library = "cuda-python"
        self._driver = driver
        self._handle_of = handle_of
        try:
            self._call("cuInit", 0)
        except RuntimeError as error:  # cuda-python raises this if the driver library itself is missing
            raise no_driver(str(error)) from error
        except DriverError as error:
            raise no_driver(error.reason) from error
        if self._call("cuDeviceGetCount") <= index:
            raise no_driver(f"it lists no GPU {index}")
        self._device = self._call("cuDeviceGet", index)
        # Waiting must not spin on a core that decodes or encodes. Refused if another library has the context already.
        driver.cuDevicePrimaryCtxSetFlags(self._device, driver.CUctx_flags.CU_CTX_SCHED_BLOCKING_SYNC)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        try:
            with self.current():
                self.facts = self._read_facts()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        except BaseException:
            self._driver.cuCtxPopCurrent()  # whatever it answers, the first error is the one that counts
            raise
        else:
            self._call("cuCtxPopCurrent")

    def allocate(self, nbytes: int) -> int:
        return int(self._call_for_memory(nbytes, "cuMemAlloc", nbytes))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        flags = self._driver.CU_MEMHOSTALLOC_DEVICEMAP if mapped else 0
        pointer = int(self._call_for_memory(nbytes, "cuMemHostAlloc", nbytes, flags))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))
        address = int(self._call("cuMemHostGetDevicePointer", pointer, 0)) if mapped else 0
        return PinnedBuffer(array, address, pointer)

    def release(self, buffer: PinnedBuffer) -> None:
        self._call("cuMemFreeHost", buffer.owner)

    def create_stream(self) -> int:
        return self._handle(self._call("cuStreamCreate", self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

    def create_event(self) -> int:
        return self._handle(self._call("cuEventCreate", self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING))

    def destroy_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, source.array.ctypes.data, source.array.nbytes, stream)

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", target.array.ctypes.data, address, target.array.nbytes, stream)

    def synchronize(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        recorded = self._call("cuStreamEndCapture", stream)
        try:
            return self._handle(self._call("cuGraphInstantiate", recorded, 0))
        finally:
            self._driver.cuGraphDestroy(recorded)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _read_facts(self) -> DeviceFacts:
        major = self._attribute("COMPUTE_CAPABILITY_MAJOR")
        minor = self._attribute("COMPUTE_CAPABILITY_MINOR")
        free, total = self._call("cuMemGetInfo")
        name = self._call("cuDeviceGetName", 128, self._device)
        return DeviceFacts(
            name=name.split(b"\0")[0].decode("ascii", "replace"),
            architecture=f"sm_{major}{minor}",
            driver=version_text(int(self._call("cuDriverGetVersion"))),
            memory_bytes=int(total),
            free_bytes=int(free),
            shares_memory=self._attribute("INTEGRATED") == 1,
        )

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self._call("cuDeviceGetAttribute", attribute, self._device))

    def _handle(self, value: Any) -> int:
        return int(self._handle_of(value))

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            raise DriverError(name, status.name)
        return results[0] if len(results) == 1 else tuple(results)

    def _call_for_memory(self, nbytes: int, name: str, *arguments: Any) -> Any:
        try:
            return self._call(name, *arguments)
        except DriverError as error:
            if error.reason == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY.name:
                raise TooLittleMemory(self.facts, nbytes, error.reason) from error
            raise
