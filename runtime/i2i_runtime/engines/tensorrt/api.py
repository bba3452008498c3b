"""The part of TensorRT's Python interface that this project touches, and how either flavour of it is found.

TensorRT (10.3 and later, 11.x) and TensorRT for RTX have the same classes under different module names. The
protocols name each call that the plan builder and the runtime make; the test suite checks them against the
true bindings.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from i2i_runtime.engines.tensorrt.manifest import TENSORRT, TENSORRT_RTX
from i2i_runtime.errors import EngineError

MODULES = {
    TENSORRT: ("tensorrt",),
    TENSORRT_RTX: ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
INSTALL = {
    TENSORRT: "`pip install tensorrt` (on Jetson: `sudo apt install python3-libnvinfer`)",
    TENSORRT_RTX: "`pip install tensorrt-rtx`",
}


class HostMemory(Protocol):
    """Bytes that TensorRT owns; `bytes(memory)` copies them."""

    nbytes: int

    def __buffer__(self, flags: int, /) -> memoryview: ...


class Enumeration(Protocol):
    """A TensorRT enum class: members by attribute, and by name in `__members__`."""

    __members__: Mapping[str, Any]


class ParserError(Protocol):
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    num_errors: int

    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class NetworkTensor(Protocol):
    name: str
    shape: Sequence[int]
    dtype: Any
    allowed_formats: int


class Network(Protocol):
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> NetworkTensor: ...
    def get_output(self, index: int) -> NetworkTensor: ...


class OptimizationProfile(Protocol):
    def set_shape(
        self,
        input: str,  # the bindings' own parameter name
        min: tuple[int, ...],
        opt: tuple[int, ...],
        max: tuple[int, ...],
    ) -> None: ...


class TimingCache(Protocol):
    def serialize(self) -> HostMemory: ...


class BuilderConfig(Protocol):
    progress_monitor: Any
    num_compute_capabilities: int

    def set_flag(self, flag: Any) -> None: ...
    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache: ...
    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool: ...
    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...


class Builder(Protocol):
    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> BuilderConfig: ...
    def create_optimization_profile(self) -> OptimizationProfile: ...
    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None: ...


class RuntimeCache(Protocol):
    """Compiled kernels of TensorRT for RTX, kept beside the plan."""

    def serialize(self) -> HostMemory: ...
    def deserialize(self, blob: bytes) -> bool: ...


class RuntimeConfig(Protocol):
    dynamic_shapes_kernel_specialization_strategy: Any

    def create_runtime_cache(self) -> RuntimeCache: ...
    def set_runtime_cache(self, cache: RuntimeCache) -> bool: ...
    def set_execution_context_allocation_strategy(self, strategy: Any) -> None: ...


class ExecutionContext(Protocol):
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def infer_shapes(self) -> list[str]: ...
    def update_device_memory_size_for_shapes(self) -> int: ...
    def set_device_memory(self, memory: int, size: int) -> None: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class RtxContext(Protocol):
    """What an execution context of TensorRT for RTX has besides."""

    def is_stream_capturable(self, stream: int) -> bool: ...


class CudaEngine(Protocol):
    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Sequence[int]]: ...
    def create_execution_context(self, strategy: Any) -> ExecutionContext | None: ...


class RtxEngine(Protocol):
    """The same of TensorRT for RTX, whose contexts take a configuration."""

    def create_execution_context(self, runtime_config: RuntimeConfig) -> ExecutionContext | None: ...
    def create_runtime_config(self) -> RuntimeConfig: ...


class Runtime(Protocol):
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None: ...


class TensorRT(Protocol):
    """The module `tensorrt`, or `tensorrt_rtx`."""

    __version__: str
    ILogger: type[Any]
    IProgressMonitor: type[Any]
    DataType: Enumeration
    NetworkDefinitionCreationFlag: Enumeration
    TensorFormat: Enumeration
    ExecutionContextAllocationStrategy: Enumeration

    def Builder(self, logger: Any) -> Builder: ...
    def OnnxParser(self, network: Network, logger: Any) -> OnnxParser: ...
    def Runtime(self, logger: Any) -> Runtime: ...


def load_tensorrt(flavour: str) -> TensorRT:
    """Imports TensorRT's bindings. Raises EngineError with the command that installs them."""
    reasons = []
    for module in MODULES[flavour]:
        try:
            return cast(TensorRT, importlib.import_module(module))
        except ImportError as error:  # noqa: PERF203 - two names, tried once
            reasons.append(str(error))
    raise EngineError(
        f"{_TITLES[flavour]} is not installed here ({reasons[-1]}): install it with {INSTALL[flavour]}."
    )


def version_of(trt: TensorRT) -> tuple[int, ...]:
    """`10.16.1.11` -> `(10, 16, 1, 11)`."""
    return tuple(int(part) for part in trt.__version__.split(".") if part.isdigit())


_TITLES = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT for RTX"}


class LogBook:
    """TensorRT's log, kept in memory: the library prints nothing, and its last error becomes our sentence."""

    def __init__(self, trt: TensorRT) -> None:
        self.errors: list[str] = []
        severities = trt.ILogger.Severity
        grave = (severities.INTERNAL_ERROR, severities.ERROR)

        def log(_: object, severity: Any, message: str) -> None:
            if severity in grave:
                self.errors.append(message)

        self.logger = _subclass(trt.ILogger, {"log": log})

    @property
    def last_error(self) -> str:
        """The newest error on one line, or a plain word where TensorRT gave none."""
        text = " ".join(self.errors[-1].split()) if self.errors else "TensorRT gave no reason"
        return text.rstrip(".")


def progress_monitor(
    trt: TensorRT,
    start: Callable[[str, str | None, int], None],
    step: Callable[[str, int], bool],
    finish: Callable[[str], None],
) -> Any:
    """An `IProgressMonitor` that calls these: `start(phase, parent, steps)`, `step(phase, index)`,
    `finish(phase)`.

    `step` answers False to stop the build.
    """

    def phase_start(_: object, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        start(phase_name, parent_phase, num_steps)

    def step_complete(_: object, phase_name: str, step_index: int) -> bool:
        return step(phase_name, step_index)

    def phase_finish(_: object, phase_name: str) -> None:
        finish(phase_name)

    methods: dict[str, Callable[..., Any]] = {
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return _subclass(trt.IProgressMonitor, methods)


def _subclass(base: type[Any], methods: Mapping[str, Callable[..., Any]]) -> Any:
    """An instance of a subclass of a class that the type checker cannot see; the base must be initialised
    itself."""

    def initialise(self: Any) -> None:
        base.__init__(self)

    return type(base.__name__.removeprefix("I"), (base,), {"__init__": initialise, **methods})()
