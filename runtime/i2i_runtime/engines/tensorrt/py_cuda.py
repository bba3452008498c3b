"""The device through PyCUDA, the library that Jetson users have.

PyCUDA has neither stream capture nor graphs: those calls, and the few that its context handling leaves out, go to the
driver library itself through ctypes, on PyCUDA's own streams.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import numpy as np

from i2i_runtime.engines.tensorrt.device import (
    DRIVER_LIBRARY,
    Device,
    DeviceFacts,
    DriverError,
    PinnedBuffer,
    TooLittleMemory,
    no_driver,
    version_text,
)

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which PyCUDA has no name


def open_pycuda(index: int) -> Device:
    """Raises ImportError if PyCUDA is missing, EngineError without a working driver."""
    calls = (
        _load_driver_calls() if find_spec("pycuda") else None
    )  # its module cannot be imported without a driver
    driver = importlib.import_module("pycuda.driver")
    assert calls is not None
    return PyCudaDevice(driver, calls, index)


class PyCudaDevice:
    """One GPU through `pycuda.driver`."""

    def __init__(self, driver: Any, calls: DriverCalls, index: int) -> None:
        self.library = "PyCUDA"
        self._driver = driver
        self._calls = calls
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._next_event = 1
        try:
            driver.init()
            if driver.Device.count() <= index:
                raise no_driver(f"it lists no GPU {index}")
            self._device = driver.Device(index)
            self._calls.wait_without_spinning(index)
            self._context = self._device.retain_primary_context()
        except driver.Error as error:
            raise no_driver(str(error)) from error
        try:
            with self.current():
                self.facts = self._read_facts()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def current(self) -> Iterator[None]:
        self._call(self._context.push)
        try:
            yield
        except BaseException:
            with suppress(self._driver.Error):  # the first error is the one that counts
                self._context.pop()
            raise
        else:
            self._call(self._context.pop)

    def allocate(self, nbytes: int) -> int:
        memory = self._call_for_memory(nbytes, self._driver.mem_alloc, nbytes)
        self._allocations[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        self._call(self._allocations.pop(address).free)

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        array = self._call_for_memory(
            nbytes, self._driver.pagelocked_empty, nbytes, np.uint8, mem_flags=flags
        )
        address = int(self._call(array.base.get_device_pointer)) if mapped else 0
        return PinnedBuffer(array, address, array.base)

    def release(self, buffer: PinnedBuffer) -> None:
        self._call(buffer.owner.free)

    def create_stream(self) -> int:
        stream = self._call(self._driver.Stream, _NON_BLOCKING)
        self._streams[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        del self._streams[stream]

    def create_event(self) -> int:
        # PyCUDA does not give out an event's handle: a number of our own stands for it.
        number, self._next_event = self._next_event, self._next_event + 1
        self._events[number] = self._call(self._driver.Event, self._driver.event_flags.DISABLE_TIMING)
        return number

    def destroy_event(self, event: int) -> None:
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._call(self._events[event].record, self._streams[stream])

    def wait(self, stream: int, event: int) -> None:
        self._call(self._streams[stream].wait_for_event, self._events[event])

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        self._call(self._driver.memcpy_htod_async, address, source.array, self._streams[stream])

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        self._call(self._driver.memcpy_dtoh_async, target.array, address, self._streams[stream])

    def synchronize(self, stream: int) -> None:
        self._call(self._streams[stream].synchronize)

    def begin_capture(self, stream: int) -> None:
        self._calls.begin_capture(stream)

    def end_capture(self, stream: int) -> int:
        return self._calls.end_capture(stream)

    def launch(self, graph: int, stream: int) -> None:
        self._calls.launch(graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._calls.destroy_graph(graph)

    def close(self) -> None:
        # PyCUDA's detach releases the context of whichever thread calls it only if it is current there, and then
        # leaves it on the driver's stack: pushed before by PyCUDA, taken off afterwards by hand.
        self._call(self._context.push)
        self._call(self._context.detach)
        self._calls.pop_context()

    def _read_facts(self) -> DeviceFacts:
        major, minor = self._call(self._device.compute_capability)
        free, total = self._call(self._driver.mem_get_info)
        integrated = self._call(self._device.get_attribute, self._driver.device_attribute.INTEGRATED)
        return DeviceFacts(
            name=str(self._call(self._device.name)),
            architecture=f"sm_{major}{minor}",
            driver=version_text(int(self._call(self._driver.get_driver_version))),
            memory_bytes=int(total),
            free_bytes=int(free),
            shares_memory=integrated == 1,
        )

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except self._driver.Error as error:  # its text is `cuMemAlloc failed: out of memory`
            call, _, reason = str(error).partition(" failed: ")
            raise DriverError(call, reason.strip() or "PyCUDA gave no reason") from error

    def _call_for_memory(
        self, nbytes: int, function: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        try:
            return self._call(function, *arguments, **options)
        except DriverError as error:
            if isinstance(error.__cause__, self._driver.MemoryError):
                raise TooLittleMemory(self.facts, nbytes, error.reason) from error
            raise


class DriverCalls:
    """What PyCUDA does not have, by the driver library's own entry points."""

    _THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
    _BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def wait_without_spinning(self, index: int) -> None:
        """Waiting must not spin on a core that decodes or encodes.

        Refused if another library has the context already.
        """
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(index))
        self._library.cuDevicePrimaryCtxSetFlags_v2(device, ctypes.c_uint(self._BLOCKING_SYNC))

    def pop_context(self) -> None:
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), ctypes.c_int(self._THREAD_LOCAL))

    def end_capture(self, stream: int) -> int:
        recorded, graph = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(recorded))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(graph), recorded, ctypes.c_ulonglong(0))
        finally:
            self._library.cuGraphDestroy(recorded)
        return graph.value or 0

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise DriverError(name, f"CUDA error {status}")


def _load_driver_calls() -> DriverCalls:
    try:
        return DriverCalls(ctypes.CDLL(DRIVER_LIBRARY))
    except OSError as error:
        raise no_driver(str(error)) from error
