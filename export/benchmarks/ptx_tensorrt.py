"""A stand-in for the module `tensorrt` on a true GPU that has none: its only network is a kernel in PTX.

It is TensorRT in no way. It shows that our runtime's device layer, frame slots, graphs and threads work on a true
driver; the network gives the negative of a frame. A plan is `vtrt` and the names of its tensors.
"""

from __future__ import annotations

import ctypes
import enum
from typing import Any

from cuda.bindings import driver

__version__ = "10.16.1.11"

NEGATIVE = """
.version 7.0
.target sm_75
.address_size 64
.visible .entry negative(.param .u64 source, .param .u64 target, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %rd<6>;
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %tid.x;
    mad.lo.s32 %r3, %r1, 256, %r2;
    ld.param.u32 %r4, [count];
    setp.ge.u32 %p1, %r3, %r4;
    @%p1 bra done;
    ld.param.u64 %rd1, [source];
    ld.param.u64 %rd2, [target];
    cvt.u64.u32 %rd3, %r3;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.u8 %r5, [%rd4];
    sub.u32 %r5, 255, %r5;
    st.global.u8 [%rd5], %r5;
done:
    ret;
}
"""


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


def checked(result: tuple[Any, ...]) -> Any:
    """What a driver call returns beside its status. Raises RuntimeError with the status."""
    status, *rest = result
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver answered {status.name}")
    return rest[0] if rest else None


class IExecutionContext:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if name == "frame":
            self._shape = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["frame"]

    def update_device_memory_size_for_shapes(self) -> int:
        return 1 << 20

    def set_device_memory(self, memory: int, size: int) -> None:
        """The kernel needs none."""

    def execute_async_v3(self, stream_handle: int) -> bool:
        count = self._shape[1] * self._shape[2] * 3
        values = (self._addresses["frame"], self._addresses["translated"], count)
        types = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32)
        grid = (-(-count // 256), 1, 1)
        checked(driver.cuLaunchKernel(self._kernel, *grid, 256, 1, 1, 0, stream_handle, (values, types), 0))
        return True


class ICudaEngine:
    def __init__(self, names: list[str]) -> None:
        self._names = names
        self.num_io_tensors = len(names)
        self._module = checked(driver.cuModuleLoadData(NEGATIVE.encode() + b"\0"))
        self._kernel = checked(driver.cuModuleGetFunction(self._module, b"negative"))

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def create_execution_context(self, strategy: Any) -> IExecutionContext:
        return IExecutionContext(self._kernel)


class Runtime:
    def __init__(self, logger: Any) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
        return ICudaEngine(serialized_engine.decode().split()[1:])
