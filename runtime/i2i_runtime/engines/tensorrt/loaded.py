"""A plan on the device: makes execution contexts, and keeps the kernels that TensorRT for RTX compiled."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

from i2i_runtime.engines.tensorrt.api import (
    CudaEngine,
    ExecutionContext,
    LogBook,
    RtxContext,
    RtxEngine,
    RuntimeCache,
    RuntimeConfig,
    TensorRT,
)
from i2i_runtime.engines.tensorrt.device import Device
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX
from i2i_runtime.errors import EngineError
from i2i_runtime.files import write_whole

logger = logging.getLogger(__name__)


class LoadedPlan:
    """Every call is made while the device is current."""

    def __init__(
        self,
        trt: TensorRT,
        flavour: str,
        plan: bytes,
        device: Device,
        *,
        origin: str,
        cache: Path | None = None,
    ) -> None:
        self.device = device
        self.origin = origin
        self.without_graph = ""
        self._trt = trt
        self._log = LogBook(trt)
        try:
            self._runtime: Any = trt.Runtime(self._log.logger)
        except (TypeError, RuntimeError) as error:  # so the bindings report a library that makes no runtime
            raise EngineError(
                f"TensorRT {trt.__version__} does not start here ({self._log.last_error}): "
                "check that its libraries and the NVIDIA driver belong together (`i2i-doctor`)."
            ) from error
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                f"{origin} cannot be loaded by TensorRT {trt.__version__} on {device.facts.name} "
                f"({self._log.last_error}): build it again here with `i2i-export ENGINE.onnx --plan`."
            )
        self._engine: CudaEngine | None = engine
        self._cache_path = cache
        self._config: RuntimeConfig | None = None
        self._cache: RuntimeCache | None = None
        if flavour == TENSORRT_RTX:
            self._config = _rtx_config(trt, cast(RtxEngine, engine))
            self._cache = self._config.create_runtime_cache()
            if cache is not None and cache.exists() and not self._cache.deserialize(cache.read_bytes()):
                logger.info("%s is of another driver or GPU and is made anew", cache.name)
            self._config.set_runtime_cache(self._cache)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all inputs and outputs."""
        engine = self._opened()
        return tuple(engine.get_tensor_name(index) for index in range(engine.num_io_tensors))

    def create_context(self) -> ExecutionContext:
        """A context that takes its device memory from the caller. Raises EngineError."""
        engine = self._opened()
        if self._config is not None:
            context = cast(RtxEngine, engine).create_execution_context(self._config)
        else:
            context = engine.create_execution_context(_user_managed(self._trt))
        if context is None:
            raise EngineError(
                f"{self.origin} gets no execution context on {self.device.facts.name} ({self._log.last_error}): "
                "close other programs that use the GPU, or build a plan for a smaller --size."
            )
        return context

    def refuses_capture(self, context: ExecutionContext, stream: int) -> bool:
        """Whether TensorRT itself says that no CUDA graph can be captured; only TensorRT for RTX can be asked."""
        return self._config is not None and not cast(RtxContext, context).is_stream_capturable(stream)

    def failed(self, what: str, reason: str = "") -> EngineError:
        """The sentence for a call that TensorRT refused."""
        return EngineError(
            f"{self.origin} failed at {what} ({reason or self._log.last_error}): "
            "build the plan again with `i2i-export ENGINE.onnx --plan`, or run the .onnx itself."
        )

    def note_no_graph(self, reason: str) -> None:
        """Says once that frames run without a CUDA graph."""
        if not self.without_graph:
            self.without_graph = reason
            logger.warning(
                "%s runs without a CUDA graph (%s): each frame takes more processor time", self.origin, reason
            )

    def save_cache(self) -> None:
        """Writes the compiled kernels beside the plan if that is possible; the next start then does not compile."""
        if self._cache is None or self._cache_path is None:
            return
        content = bytes(self._cache.serialize())
        if self._cache_path.exists() and self._cache_path.read_bytes() == content:
            return
        try:
            write_whole(self._cache_path, content)
        except OSError as error:
            logger.info(
                "%s cannot be kept (%s): every start compiles again", self._cache_path, error.strerror
            )

    def close(self) -> None:
        """Frees TensorRT's objects, each before the one that made it; their contexts must be gone."""
        self._cache = self._config = None
        self._engine = None
        self._runtime = None

    def _opened(self) -> CudaEngine:
        if self._engine is None:
            raise RuntimeError("the plan was closed")
        return self._engine


def _rtx_config(trt: TensorRT, engine: RtxEngine) -> RuntimeConfig:
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(_user_managed(trt))
    # A captured graph keeps the kernels it was captured with: the ones made for this size, not a stand-in for them.
    strategies: Any = getattr(trt, "DynamicShapesKernelSpecializationStrategy")  # noqa: B009 - only this flavour has it
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return config


def _user_managed(trt: TensorRT) -> Any:
    return trt.ExecutionContextAllocationStrategy.__members__["USER_MANAGED"]
