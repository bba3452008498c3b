"""What one image size needs on the GPU: buffers, an execution context with its memory, and a CUDA graph.

A captured graph freezes shapes, addresses and context, so each size has its own three.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.tensorrt.api import ExecutionContext
from i2i_runtime.engines.tensorrt.device import DriverError, PinnedBuffer, release_all
from i2i_runtime.engines.tensorrt.loaded import LoadedPlan
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, TRANSLATED

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Tensor:
    """An input or output in host and device memory; on shared memory both are the same and nothing is copied."""

    host: PinnedBuffer
    address: int
    copied: bool


class Layout:
    """One size on one stream. Made, used and closed while the device is current."""

    def __init__(
        self,
        plan: LoadedPlan,
        stream: int,
        height: int,
        width: int,
        defaults: Mapping[str, NDArray[np.float32]],
    ) -> None:
        """Runs the network once at the real shape and captures it. Raises EngineError, and then holds nothing."""
        self._plan = plan
        self._device = plan.device
        self._stream = stream
        self._size = (height, width)
        self._tensors: dict[str, _Tensor] = {}
        self._context: ExecutionContext | None = None
        self._scratch: int | None = None
        self._graph: int | None = None
        try:
            self._create_context(defaults)
            self.fill(np.zeros((height, width, 3), np.uint8), defaults)
            self.copy_in()
            self._execute()  # TensorRT allocates and compiles in its first run, which no capture may see
            self._device.synchronize(stream)
            self._capture()
        except BaseException:
            self.close()
            raise

    def fill(self, image: Image, inputs: Mapping[str, NDArray[np.float32]]) -> None:
        """Writes `[H, W, 3] uint8` and the other inputs into host memory."""
        self._tensors[FRAME].host.array[:] = image.reshape(-1)
        for name, value in inputs.items():
            content = np.ascontiguousarray(value, np.float32)
            self._tensors[name].host.array[:] = content.view(np.uint8).reshape(-1)

    def copy_in(self) -> None:
        for name, tensor in self._tensors.items():
            if tensor.copied and name != TRANSLATED:
                self._device.copy_in(tensor.address, tensor.host, self._stream)

    def compute(self) -> None:
        """Gives the network to the stream: as a graph if there is one."""
        if self._graph is not None:
            self._device.launch(self._graph, self._stream)
        else:
            self._execute()

    def copy_out(self) -> None:
        translated = self._tensors[TRANSLATED]
        if translated.copied:
            self._device.copy_out(translated.host, translated.address, self._stream)

    @property
    def translated(self) -> Image:
        """`[H, W, 3] uint8`, a view of the host memory that the next frame overwrites."""
        return self._tensors[TRANSLATED].host.array.reshape(*self._size, 3)

    def close(self) -> None:
        """Frees everything, but first waits for what the stream still does with it."""
        release_all(partial(self._device.synchronize, self._stream))
        if self._graph is not None:
            release_all(partial(self._device.destroy_graph, self._graph))
        self._graph = self._context = None
        if self._scratch is not None:
            release_all(partial(self._device.free, self._scratch))
        self._scratch = None
        for tensor in self._tensors.values():
            if tensor.copied:
                release_all(partial(self._device.free, tensor.address))
            release_all(partial(self._device.release, tensor.host))
        self._tensors = {}

    @property
    def _running(self) -> ExecutionContext:
        """The context, which no local variable may hold: an error's traceback would keep it after the device closed."""
        assert self._context is not None
        return self._context

    def _create_context(self, defaults: Mapping[str, NDArray[np.float32]]) -> None:
        shapes = {name: value.shape for name, value in defaults.items()}
        shapes[FRAME] = shapes[TRANSLATED] = (1, *self._size, 3)
        if sorted(shapes) != sorted(self._plan.tensors):
            raise EngineError(
                f"{self._plan.origin} has the tensors {', '.join(sorted(self._plan.tensors))}, but its sidecar names "
                f"{', '.join(sorted(shapes))}: build the plan again with `i2i-export ENGINE.onnx --plan`."
            )
        self._context = self._plan.create_context()
        for name, shape in shapes.items():
            nbytes = int(np.prod(shape)) * (1 if name in (FRAME, TRANSLATED) else 4)
            self._tensors[name] = self._create_tensor(nbytes)
            if name != TRANSLATED and not self._running.set_input_shape(name, shape):
                raise self._plan.failed(f"a {name} of {shape}")
            if not self._running.set_tensor_address(name, self._tensors[name].address):
                raise self._plan.failed(f"binding {name}")
        try:
            missing = self._running.infer_shapes()
        except RuntimeError as error:
            raise self._plan.failed("working out the shapes", str(error)) from error
        if missing:
            raise self._plan.failed(f"working out the shapes behind {missing[0]}")
        needed = max(1, self._running.update_device_memory_size_for_shapes())
        self._warn_if_scarce(needed)
        self._scratch = self._device.allocate(needed)
        self._running.set_device_memory(self._scratch, needed)

    def _create_tensor(self, nbytes: int) -> _Tensor:
        shared = self._device.facts.shares_memory
        host = self._device.pinned(nbytes, mapped=shared)
        if shared:
            return _Tensor(host, host.address, copied=False)
        try:
            return _Tensor(host, self._device.allocate(nbytes), copied=True)
        except BaseException:
            self._device.release(host)
            raise

    def _execute(self) -> None:
        if not self._running.execute_async_v3(self._stream):
            raise self._plan.failed("running the network")

    def _capture(self) -> None:
        """Records the network, or keeps running it without a graph and says why."""
        if self._plan.refuses_capture(self._running, self._stream):
            self._plan.note_no_graph("TensorRT says that this network cannot be captured")
            return
        try:
            self._device.begin_capture(self._stream)
            self._graph = self._end_capture()
        except EngineError as error:
            self._plan.note_no_graph(str(error).rpartition(": ")[0])
            self._execute()
            self._device.synchronize(self._stream)

    def _end_capture(self) -> int:
        """The graph. Raises TensorRT's own sentence, if it gave one: it says more than the driver's."""
        try:
            self._execute()
        except EngineError:
            with suppress(DriverError):
                self._device.destroy_graph(self._device.end_capture(self._stream))
            raise
        return self._device.end_capture(self._stream)

    def _warn_if_scarce(self, nbytes: int) -> None:
        """On shared memory the driver counts as used what the system would give back, so only the system's own
        figure tells; it may still swap or stop the process instead of refusing."""
        if not self._device.facts.shares_memory:
            return
        available = available_host_bytes()
        if available is not None and nbytes > available:
            logger.warning(
                "%s needs %.0f MiB for this image size and the system has %.0f MiB available: close other programs, "
                "or build a plan for a smaller --size",
                self._plan.origin,
                nbytes / 2**20,
                available / 2**20,
            )


def available_host_bytes(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """What the system can give without swapping, None if it does not say."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None
