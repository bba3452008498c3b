"""One frame's place on the GPU: its buffers, its execution context, and one CUDA graph of copy in, network,
copy out.

Several slots let one frame copy while another computes. A captured graph freezes shapes, addresses and
context, so each slot owns all three and captures again when the image's size changes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.tensorrt.api import (
    CudaEngine,
    ExecutionContext,
    LogBook,
    RuntimeCache,
    RuntimeConfig,
    TensorRT,
)
from i2i_runtime.engines.tensorrt.cuda import Device, PinnedBuffer
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX
from i2i_runtime.errors import EngineError
from i2i_runtime.files import write_whole
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, TRANSLATED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tensor:
    """An input or output in host and device memory; on shared memory both are the same and nothing is
    copied.
    """

    host: PinnedBuffer
    address: int
    shape: tuple[int, ...]
    copied: bool


class LoadedPlan:
    """A plan on the device: makes execution contexts, and keeps the kernels that TensorRT for RTX
    compiled.
    """

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
        self._log = LogBook(trt)
        try:
            self._runtime = trt.Runtime(self._log.logger)
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
        self._engine: CudaEngine = engine
        needed = engine.device_memory_size_v2
        if needed > device.facts.free_bytes:
            raise EngineError(
                f"{origin} needs {needed / 2**20:.0f} MiB of device memory per slot and {device.facts.name} has "
                f"{device.facts.free_bytes / 2**20:.0f} MiB free: close other programs that use the GPU, or build a "
                "plan for a smaller --size."
            )
        self._cache_path = cache
        self._config: RuntimeConfig | None = None
        self._cache: RuntimeCache | None = None
        if flavour == TENSORRT_RTX:
            self._config = engine.create_runtime_config()
            self._cache = self._config.create_runtime_cache()
            if cache is not None and cache.exists() and not self._cache.deserialize(cache.read_bytes()):
                logger.info("%s is of another driver or GPU and is made anew", cache.name)
            self._config.set_runtime_cache(self._cache)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all inputs and outputs."""
        return tuple(self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors))

    def create_context(self) -> ExecutionContext:
        """Raises EngineError, mostly for want of device memory."""
        if self._config is not None:
            context = self._engine.create_execution_context(self._config)
        else:
            context = self._engine.create_execution_context()
        if context is None:
            raise EngineError(
                f"{self.origin} gets no execution context on {self.device.facts.name} ({self._log.last_error}): "
                "close other programs that use the GPU, or build a plan for a smaller --size."
            )
        return context

    def failed(self, what: str) -> EngineError:
        """The sentence for a call that TensorRT refused."""
        return EngineError(
            f"{self.origin} failed at {what} ({self._log.last_error}): "
            "build the plan again with `i2i-export ENGINE.onnx --plan`, or run the .onnx itself."
        )

    def save_cache(self) -> None:
        """Writes the compiled kernels beside the plan where that is possible; the next start then skips
        compiling.
        """
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


class FrameSlot:
    """Translates one frame at a time; any thread may call it, one after the other."""

    def __init__(self, plan: LoadedPlan, defaults: Mapping[str, NDArray[np.float32]]) -> None:
        self._plan = plan
        self._device = plan.device
        self._defaults = dict(defaults)
        self._context = plan.create_context()
        self._stream = self._device.create_stream()
        self._tensors: dict[str, _Tensor] = {}
        self._graph: int | None = None
        self._size: tuple[int, int] | None = None

    def prepare(self, height: int, width: int) -> None:
        """Lays out buffers for this size, runs once at the real shape, and captures the graph. Raises
        EngineError.
        """
        self._drop_buffers()
        shapes = {name: value.shape for name, value in self._defaults.items()}
        shapes[FRAME] = shapes[TRANSLATED] = (1, height, width, 3)
        if sorted(shapes) != sorted(self._plan.tensors):
            raise EngineError(
                f"{self._plan.origin} has the tensors {', '.join(sorted(self._plan.tensors))} where its sidecar speaks "
                f"of {', '.join(sorted(shapes))}: build the plan again with `i2i-export ENGINE.onnx --plan`."
            )
        for name, shape in shapes.items():
            nbytes = int(np.prod(shape)) * (1 if name in (FRAME, TRANSLATED) else 4)
            self._tensors[name] = self._create_tensor(shape, nbytes)
            if name != TRANSLATED and not self._context.set_input_shape(name, shape):
                raise self._plan.failed(f"a {name} of {shape}")
            if not self._context.set_tensor_address(name, self._tensors[name].address):
                raise self._plan.failed(f"binding {name}")
        if missing := self._context.infer_shapes():
            raise self._plan.failed(f"working out the shapes behind {missing[0]}")
        for name, value in self._defaults.items():
            self._fill(name, value)
        self._tensors[FRAME].host.array[:] = 0
        self._enqueue()  # TensorRT allocates and compiles in its first run, which no capture may see
        self._device.synchronize(self._stream)
        self._device.begin_capture(self._stream)
        try:
            self._enqueue()
        finally:
            self._graph = self._device.end_capture(self._stream)
        self._size = (height, width)

    def translate(self, image: Image, inputs: Mapping[str, NDArray[np.float32]]) -> Image:
        """`[H, W, 3] uint8` into the same, as a view of the slot's memory that the next frame overwrites.

        `inputs` replaces defaults (`style`).
        """
        self._device.make_current()
        height, width = image.shape[:2]
        if self._size != (height, width):
            self.prepare(height, width)
        self._tensors[FRAME].host.array[:] = image.reshape(-1)
        for name, default in self._defaults.items():
            self._fill(name, inputs.get(name, default))
        self.run()
        return self._tensors[TRANSLATED].host.array.reshape(height, width, 3)

    def run(self) -> None:
        """The captured frame once more: copy in, network, copy out; returns when it is done."""
        if self._graph is None:
            raise RuntimeError("a slot must be prepared before it runs")
        self._device.launch(self._graph, self._stream)
        self._device.synchronize(self._stream)

    def close(self) -> None:
        """Gives back buffers, graph and stream."""
        self._device.make_current()
        self._drop_buffers()
        self._device.destroy_stream(self._stream)

    def _enqueue(self) -> None:
        inputs = [tensor for name, tensor in self._tensors.items() if name != TRANSLATED and tensor.copied]
        for tensor in inputs:
            self._device.copy_in(tensor.address, tensor.host, self._stream)
        if not self._context.execute_async_v3(self._stream):
            raise self._plan.failed("running the network")
        translated = self._tensors[TRANSLATED]
        if translated.copied:
            self._device.copy_out(translated.host, translated.address, self._stream)

    def _create_tensor(self, shape: tuple[int, ...], nbytes: int) -> _Tensor:
        shared = self._device.facts.shares_memory
        host = self._device.pinned(nbytes, mapped=shared)
        address = host.address if shared else self._device.allocate(nbytes)
        return _Tensor(host, address, shape, copied=not shared)

    def _fill(self, name: str, value: NDArray[np.float32]) -> None:
        self._tensors[name].host.array[:] = np.ascontiguousarray(value, np.float32).view(np.uint8).reshape(-1)

    def _drop_buffers(self) -> None:
        if self._graph is not None:
            self._device.destroy_graph(self._graph)
        self._graph, self._size = None, None
        for tensor in self._tensors.values():
            if tensor.copied:
                self._device.free(tensor.address)
            self._device.release(tensor.host)
        self._tensors = {}
