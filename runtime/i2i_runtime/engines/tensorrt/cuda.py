"""The dozen CUDA calls that a frame slot makes, behind one protocol, with PyCUDA or cuda-python below it.

Both work on the device's primary context, so that TensorRT, PyTorch and this runtime see the same memory in
one process. PyCUDA has no stream capture and no graphs: those calls go to the driver itself on PyCUDA's
stream, through cuda-python where it is installed, else through ctypes. Nothing here is imported before a
device is opened.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import EngineError

INSTALL = "`pip install cuda-python` (or `pip install pycuda` where the CUDA toolkit is installed)"


@dataclass(frozen=True)
class DeviceFacts:
    """What the device is: `architecture` as `sm_87`, `driver` as the CUDA version it speaks, memory in bytes.

    `shares_memory` says that the GPU reads the host's own memory (Jetson), so that copies are needless.
    """

    name: str
    architecture: str
    driver: str
    memory_bytes: int
    free_bytes: int
    shares_memory: bool


@dataclass(frozen=True)
class PinnedBuffer:
    """Page-locked host memory: `array` is `[nbytes] uint8`; `address` is its address as the device sees
    it, or 0.
    """

    array: NDArray[np.uint8]
    address: int
    owner: Any


class Device(Protocol):
    """One GPU. Addresses, streams and graphs are plain integers, as TensorRT wants them."""

    facts: DeviceFacts
    library: str

    def make_current(self) -> None:
        """Binds the device to the calling thread; every other call needs it once per thread."""

    def allocate(self, nbytes: int) -> int:
        """Device memory; returns its address. Raises EngineError where there is too little."""

    def free(self, address: int) -> None: ...

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        """Page-locked host memory, mapped into the device's addresses on request."""

    def release(self, buffer: PinnedBuffer) -> None: ...

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None: ...

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        """Host to device, all of `source`, in the order of the stream."""

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        """Device to host, all of `target`, in the order of the stream."""

    def synchronize(self, stream: int) -> None:
        """Returns when the stream has done all it was given."""

    def begin_capture(self, stream: int) -> None:
        """From here on, what this thread gives the stream is recorded and not run."""

    def end_capture(self, stream: int) -> int:
        """Ends recording; returns a graph that can be launched."""

    def launch(self, graph: int, stream: int) -> None: ...

    def destroy_graph(self, graph: int) -> None: ...

    def close(self) -> None: ...


def open_device(index: int = 0) -> Device:
    """The GPU through PyCUDA, else through cuda-python. Raises EngineError with what is missing."""
    reasons = []
    for opener in (_open_pycuda, _open_cuda_python):
        try:
            return opener(index)
        except ImportError as error:  # noqa: PERF203 - two libraries, tried once
            reasons.append(str(error))
    raise EngineError(
        f"No library to reach the GPU is installed ({'; '.join(reasons)}): install it with {INSTALL}."
    )


def find_device_facts() -> DeviceFacts | None:
    """The first GPU's facts, None on a machine that has none or cannot reach it."""
    try:
        device = open_device()
    except EngineError:
        return None
    facts = device.facts
    device.close()
    return facts


def no_driver(reason: str) -> EngineError:
    """The sentence for a machine without a working NVIDIA driver."""
    return EngineError(
        f"This machine has no working NVIDIA driver ({reason}), which a TensorRT plan needs: install the driver so "
        "that `nvidia-smi` shows a GPU, or give the .onnx file to --engine to run without one."
    )


def _open_cuda_python(index: int) -> Device:
    driver = importlib.import_module("cuda.bindings.driver")
    return CudaPythonDevice(driver, index)


def _open_pycuda(index: int) -> Device:
    driver = importlib.import_module("pycuda.driver")
    return PyCudaDevice(driver, index)


class CudaPythonDevice:
    """NVIDIA's cuda-python: the driver's own functions, each returning its status first."""

    def __init__(self, driver: Any, index: int) -> None:
        self.library = "cuda-python"
        self._driver = driver
        try:
            self._call("cuInit", 0)
        except RuntimeError as error:  # cuda-python raises this where the driver library itself is missing
            raise no_driver(str(error)) from error
        except _DriverError as error:
            raise no_driver(error.reason) from error
        if self._call("cuDeviceGetCount") <= index:
            raise no_driver(f"it lists no GPU {index}")
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self.make_current()
        self.facts = self._read_facts()

    def make_current(self) -> None:
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, nbytes: int) -> int:
        try:
            return int(self._call("cuMemAlloc", nbytes))
        except _DriverError as error:
            raise _too_little_memory(self.facts, nbytes, error.reason) from error

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        flags = int(self._driver.CU_MEMHOSTALLOC_DEVICEMAP) if mapped else 0
        pointer = int(self._call("cuMemHostAlloc", nbytes, flags))
        array = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(pointer))
        address = int(self._call("cuMemHostGetDevicePointer", pointer, 0)) if mapped else 0
        return PinnedBuffer(array, address, pointer)

    def release(self, buffer: PinnedBuffer) -> None:
        self._call("cuMemFreeHost", buffer.owner)

    def create_stream(self) -> int:
        flag = int(self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING)
        return int(self._call("cuStreamCreate", flag))

    def destroy_stream(self, stream: int) -> None:
        self._call("cuStreamDestroy", stream)

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
        graph = int(self._call("cuGraphInstantiate", recorded, 0))
        self._call("cuGraphDestroy", recorded)
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        self._call("cuDevicePrimaryCtxRelease", self._device)

    def _read_facts(self) -> DeviceFacts:
        names = self._driver.CUdevice_attribute
        attribute: Callable[[str], int] = lambda name: int(  # noqa: E731
            self._call("cuDeviceGetAttribute", getattr(names, f"CU_DEVICE_ATTRIBUTE_{name}"), self._device)
        )
        major = attribute("COMPUTE_CAPABILITY_MAJOR")
        minor = attribute("COMPUTE_CAPABILITY_MINOR")
        free, total = self._call("cuMemGetInfo")
        name = self._call("cuDeviceGetName", 128, self._device)
        return DeviceFacts(
            name=name.split(b"\0")[0].decode("ascii", "replace"),
            architecture=f"sm_{major}{minor}",
            driver=_version_text(int(self._call("cuDriverGetVersion"))),
            memory_bytes=int(total),
            free_bytes=int(free),
            shares_memory=attribute("INTEGRATED") == 1,
        )

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *results = getattr(self._driver, name)(*arguments)
        if int(status) != 0:
            raise _DriverError(name, getattr(status, "name", str(status)))
        return results[0] if len(results) == 1 else tuple(results)


class PyCudaDevice:
    """PyCUDA, the library that Jetson users have; capture and graphs go to the driver on PyCUDA's streams."""

    def __init__(self, driver: Any, index: int) -> None:
        self.library = "PyCUDA"
        self._driver = driver
        try:
            driver.init()
            if driver.Device.count() <= index:
                raise no_driver(f"it lists no GPU {index}")
            self._device = driver.Device(index)
            self._context = self._device.retain_primary_context()
        except driver.Error as error:
            raise no_driver(str(error)) from error
        self._graphs = _graph_calls()
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._thread = threading.local()
        self.make_current()
        self.facts = self._read_facts()

    def make_current(self) -> None:
        if not getattr(
            self._thread, "has_context", False
        ):  # PyCUDA keeps a stack: one entry per thread is enough
            self._context.push()
            self._thread.has_context = True

    def allocate(self, nbytes: int) -> int:
        try:
            memory = self._driver.mem_alloc(nbytes)
        except self._driver.MemoryError as error:
            raise _too_little_memory(self.facts, nbytes, str(error)) from error
        self._allocations[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._driver.pagelocked_empty(nbytes, np.uint8, mem_flags=flags)
        address = int(array.base.get_device_pointer()) if mapped else 0
        return PinnedBuffer(array, address, array.base)

    def release(self, buffer: PinnedBuffer) -> None:
        buffer.owner.free()

    def create_stream(self) -> int:
        stream = self._driver.Stream(self._driver.stream_flags.NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        self._driver.memcpy_htod_async(address, source.array, self._streams[stream])

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        self._driver.memcpy_dtoh_async(target.array, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        self._streams[stream].synchronize()

    def begin_capture(self, stream: int) -> None:
        self._graphs.begin_capture(stream)

    def end_capture(self, stream: int) -> int:
        return self._graphs.end_capture(stream)

    def launch(self, graph: int, stream: int) -> None:
        self._graphs.launch(graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._graphs.destroy(graph)

    def close(self) -> None:
        if getattr(self._thread, "has_context", False):
            self._context.pop()
            self._thread.has_context = False
        self._context.detach()

    def _read_facts(self) -> DeviceFacts:
        major, minor = self._device.compute_capability()
        free, total = self._driver.mem_get_info()
        integrated = self._device.get_attribute(self._driver.device_attribute.INTEGRATED)
        return DeviceFacts(
            name=str(self._device.name()),
            architecture=f"sm_{major}{minor}",
            driver=_version_text(int(self._driver.get_driver_version())),
            memory_bytes=int(total),
            free_bytes=int(free),
            shares_memory=integrated == 1,
        )


class DriverGraphs:
    """Stream capture and graphs by the driver library's own entry points, through ctypes."""

    _THREAD_LOCAL = 1

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(self._THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        recorded, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(recorded))
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(graph), recorded, ctypes.c_ulonglong(0))
        self._call("cuGraphDestroy", recorded)
        return graph.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise _DriverError(name, f"CUDA error {status}")


def _graph_calls() -> DriverGraphs:
    try:
        return DriverGraphs(ctypes.CDLL("libcuda.so.1"))
    except OSError as error:
        raise no_driver(str(error)) from error


class _DriverError(EngineError):
    """A driver call that failed."""

    def __init__(self, call: str, reason: str) -> None:
        super().__init__(
            f"The GPU refused {call} ({reason}): look at `dmesg` and `nvidia-smi`, then start again."
        )
        self.reason = reason


def _too_little_memory(facts: DeviceFacts, nbytes: int, reason: str) -> EngineError:
    return EngineError(
        f"{facts.name} has no {nbytes / 2**20:.0f} MiB of memory free ({reason}; "
        f"{facts.free_bytes / 2**20:.0f} of {facts.memory_bytes / 2**20:.0f} MiB were free at start): "
        "close other programs that use the GPU, or build a plan for a smaller --size."
    )


def _version_text(version: int) -> str:
    """13000 -> `13.0`, as the driver counts CUDA versions."""
    return f"{version // 1000}.{version % 1000 // 10}"
