"""A fake of the module `tensorrt`, on the strict driver: its only network gives the negative of a frame.

It is TensorRT in no way. It takes the calls that our runtime makes, hands them to the strict driver, and blames us for
what TensorRT forbids: a call without a current context, one context in two threads, memory that was not given.
FAKE_TENSORRT names what it shall do, with commas between: `allocates` allocates in the first run of a context,
`refuses-capture` in every run, `fails` never runs, `needs=MIB` wants that much scratch memory, `aborts` kills the
process when a runtime is made, `broken` cannot be imported.
"""

from __future__ import annotations

import ctypes
import enum
import os
import threading
from typing import Any

__version__ = "10.16.1.11"

_driver = ctypes.CDLL("libcuda.so.1")
_WISHES = dict(wish.partition("=")[::2] for wish in os.environ.get("FAKE_TENSORRT", "").split(",") if wish)

if "broken" in _WISHES:
    raise ImportError("libnvinfer.so.10: cannot open shared object file: No such file or directory")


def _needs_context(what: str) -> None:
    if not _driver.strict_depth():
        _driver.strict_blame(f"TensorRT {what} without a current context".encode())


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def log(self, severity: ILogger.Severity, message: str) -> None:
        raise NotImplementedError


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        _needs_context("made an execution context")
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._scratch = (0, 0)
        self._runs = 0
        self._busy = threading.Lock()

    def __del__(self) -> None:
        _needs_context("freed an execution context")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name == "frame":
            self._shape = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["frame"]

    def update_device_memory_size_for_shapes(self) -> int:
        megabytes = _WISHES.get("needs")
        return int(megabytes) << 20 if megabytes else 2 * self._bytes

    def set_device_memory(self, memory: int, size: int) -> None:
        self._scratch = (memory, size)

    def execute_async_v3(self, stream_handle: int) -> bool:
        _needs_context("ran")
        if not self._busy.acquire(blocking=False):
            _driver.strict_blame(b"one execution context ran in two threads")
            return False
        try:
            return self._run(stream_handle)
        finally:
            self._busy.release()

    def _run(self, stream: int) -> bool:
        first, self._runs = self._runs == 0, self._runs + 1
        if "fails" in _WISHES:
            return self._engine.complain("Error Code 1: the network does not run")
        if "refuses-capture" in _WISHES or ("allocates" in _WISHES and first):
            address = ctypes.c_ulonglong()
            if _driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1 << 10)):
                return self._engine.complain("Error Code 1: a Loop allocates while it runs")
            _driver.cuMemFree_v2(address)
        memory, size = self._scratch
        if size < self.update_device_memory_size_for_shapes():
            _driver.strict_blame(b"TensorRT was given too little scratch memory")
        status = _driver.strict_network(
            ctypes.c_void_p(stream),
            ctypes.c_ulonglong(self._addresses["frame"]),
            ctypes.c_ulonglong(self._addresses["translated"]),
            ctypes.c_size_t(self._bytes),
            ctypes.c_ulonglong(self._addresses.get("style", 0)),
            ctypes.c_ulonglong(memory),
            ctypes.c_size_t(size),
        )
        return status == 0 or self._engine.complain(f"Error Code 1: CUDA error {status}")

    @property
    def _bytes(self) -> int:
        return self._shape[1] * self._shape[2] * 3


class ICudaEngine:
    def __init__(self, runtime: Runtime, names: list[str]) -> None:
        self._runtime = runtime
        self._names = names
        self.num_io_tensors = len(names)

    def __del__(self) -> None:
        _needs_context("freed an engine")

    def complain(self, text: str) -> bool:
        self._runtime.logger.log(ILogger.Severity.ERROR, text)
        return False

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _needs_context("started")
        if "aborts" in _WISHES:
            os.abort()
        self.logger = logger

    def __del__(self) -> None:
        _needs_context("ended")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """A plan is `vtrt` and the names of its tensors."""
        _needs_context("loaded a plan")
        return ICudaEngine(self, serialized_engine.decode().split()[1:])
