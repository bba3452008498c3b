"""The same fake in the shape of TensorRT for RTX: contexts take a configuration, and can be asked about capture.

Also on FAKE_TENSORRT: `not-capturable` says that no stream can be captured.
"""

from __future__ import annotations

import enum

import tensorrt
from tensorrt import ExecutionContextAllocationStrategy, ILogger

__version__ = "1.7.1.116"
__all__ = [
    "DynamicShapesKernelSpecializationStrategy",
    "ExecutionContextAllocationStrategy",
    "ILogger",
    "Runtime",
]


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class IRuntimeCache:
    def serialize(self) -> bytes:
        return b"compiled kernels"

    def deserialize(self, blob: bytes) -> bool:
        return blob == b"compiled kernels"


class IRuntimeConfig:
    def __init__(self) -> None:
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.strategy = ExecutionContextAllocationStrategy.STATIC

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy


class IExecutionContext(tensorrt.IExecutionContext):
    def is_stream_capturable(self, stream: int) -> bool:
        return "not-capturable" not in tensorrt._WISHES


class ICudaEngine(tensorrt.ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, strategy: IRuntimeConfig) -> IExecutionContext | None:
        assert strategy.strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        assert strategy.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"
        return IExecutionContext(self)


class Runtime(tensorrt.Runtime):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        return ICudaEngine(self, serialized_engine.decode().split()[1:])
