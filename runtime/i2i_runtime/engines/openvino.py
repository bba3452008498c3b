"""OpenVINO on x86 processors, in the precision that is fastest there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import contract
from i2i_runtime.engines.openvino_rows import arrange_rows
from i2i_runtime.errors import EngineError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, METADATA_KEY, TRANSLATED

_ELEMENT = {"u8": "uint8", "f32": "float32", "f16": "float16"}
# OpenVINO compiles both branches of a condition for each level around it: 2 s at 16 levels, a minute at 20.
_DEEPEST_NESTING = 10


class OpenVinoEngine:
    """A portable engine compiled by OpenVINO, once for each frame size.

    Runs in bfloat16 if the processor supports it and the note `openvino_precision` in the metadata is not `f32`: the
    exporter writes that note for a network that loses too much quality in bfloat16.
    """

    def __init__(
        self,
        path: Path,
        reason: str = "chosen by the caller",
        threads: int | None = None,
        slots: int = 1,
        device: str = "CPU",
    ) -> None:
        """`device` is CPU, GPU or NPU, as OpenVINO calls them."""
        self._core = _core()
        self._device = device
        contract.refuse_text(path)
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            raise EngineError(
                f"{path} cannot be loaded by OpenVINO ({reason_of(error, last=True)}): "
                "the file is damaged, not an ONNX model, or uses an unsupported version."
            ) from error
        if (depth := _nesting(self._model)) > _DEEPEST_NESTING:
            raise EngineError(
                f"{path} has {depth} conditions or loops inside one another, which OpenVINO does not compile in "
                "reasonable time: use --backend onnxruntime."
            )
        self.metadata = contract.parse_metadata(_metadata_text(self._model), path)
        contract.check_interface(
            path,
            self.metadata,
            {entry.get_any_name(): _element(entry) for entry in self._model.inputs},
            {entry.get_any_name(): _element(entry) for entry in self._model.outputs},
        )
        self.slots = contract.granted_slots(self.metadata, slots)
        self._defaults = contract.default_inputs(self.metadata)
        on_processor = device == "CPU"
        precision = self._precision() if on_processor else "f16"
        self._properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            # One stream takes all threads for one frame; two side by side never wait for each other's threads.
            **({"PERFORMANCE_HINT": "LATENCY"} if self.slots == 1 else {"NUM_STREAMS": self.slots}),
        }
        if threads is not None and on_processor:
            # A limit on threads means several engines, and pinned they would share the first cores.
            self._properties |= {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}
        self._requests: dict[tuple[int, int], SimpleQueue[Any]] = {}
        self._lock = Lock()
        self.backend = f"openvino {precision}" if on_processor else f"openvino {device.lower()} {precision}"
        self.reason = reason

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        height, width = image.shape[:2]
        padded, given = contract.prepare(self.metadata, image, style)
        feeds = {**self._defaults, **given, FRAME: padded[None]}
        try:
            waiting = self._waiting_requests(padded.shape[0], padded.shape[1])
            request = waiting.get()
            try:
                request.infer(feeds, share_inputs=True)
                translated = request.get_tensor(TRANSLATED).data
                # The request keeps its output tensor for the next frame, so the result is a copy.
                return np.array(
                    contract.cropped(translated, padded.shape, height, width, self.metadata.name), order="C"
                )
            finally:
                waiting.put(request)
        except RuntimeError as error:
            raise EngineError(
                f"The engine {self.metadata.name} failed on a {width}x{height} image "
                f"({reason_of(error, last=True)}): try --size with a smaller one, or another --backend."
            ) from error

    def close(self) -> None:
        self._requests.clear()
        del self._model

    def _waiting_requests(self, height: int, width: int) -> SimpleQueue[Any]:
        """The compiled network for one padded size: a shape known in advance runs a fifth to a third faster."""
        with self._lock:
            if (height, width) not in self._requests:
                model = self._model.clone()
                if not self.metadata.size.is_fixed:
                    model.reshape({FRAME: [1, height, width, 3]})
                if self._device == "CPU":
                    arrange_rows(model)
                compiled = self._core.compile_model(model, self._device, self._properties)
                # Folders of images of many sizes must not pile up compiled networks.
                if len(self._requests) >= 4:
                    self._requests.pop(next(iter(self._requests)))
                requests: SimpleQueue[Any] = SimpleQueue()
                for _ in range(self.slots):
                    requests.put(compiled.create_infer_request())
                self._requests[height, width] = requests
            return self._requests[height, width]

    def _precision(self) -> str:
        wanted = self.metadata.notes.get("openvino_precision", "bf16")
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return "bf16" if wanted == "bf16" and "BF16" in capabilities else "f32"


def openvino_devices() -> list[str]:
    """What OpenVINO can compute on here: `CPU`, `GPU`, `GPU.1`, `NPU`."""
    return list(_core().available_devices)


@cache
def _core() -> Any:
    """OpenVINO itself, imported without its telemetry and kept until the process ends.

    Its processor plugin gives the opening thread a stack for signals and unmaps it when the last core goes, without
    telling the kernel: the next Ctrl-C would end in a segmentation fault.

    The telemetry package forks the process and reports to a server each time a network is read: nothing for a program
    with threads, and nothing that a translator of people's cameras may do. OpenVINO takes its own stub without it.
    """
    with _module_missing("openvino_telemetry"):
        import openvino

    # What the binding makes on its first array it makes under a C++ lock, which two threads with a frame each would
    # take in another order than Python's: both, and with them the process, would wait for ever.
    openvino.Type.u8.to_dtype()
    openvino.Tensor(np.zeros(1, np.uint8), shared_memory=True).data  # noqa: B018 - reading it is what counts
    return openvino.Core()


@contextmanager
def _module_missing(name: str) -> Iterator[None]:
    """Makes `import name` fail inside the block, as if it were not installed."""
    loaded = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if loaded is not None:
            sys.modules[name] = loaded


def _nesting(model: Any) -> int:
    """How many conditions and loops the network has inside one another."""
    bodies = {"If": 2, "Loop": 1, "TensorIterator": 1}
    inner = [
        _nesting(node.get_function(index))
        for node in model.get_ops()
        for index in range(bodies.get(node.get_type_name(), 0))
    ]
    return 1 + max(inner) if inner else 0


def _metadata_text(model: Any) -> str | None:
    # OpenVINO keeps an ONNX file's metadata_props under the key `framework` of its runtime information.
    if not model.has_rt_info(["framework", METADATA_KEY]):
        return None
    return str(model.get_rt_info(["framework", METADATA_KEY]).value)


def _element(entry: Any) -> str:
    name = str(entry.get_element_type().get_type_name())
    return _ELEMENT.get(name, name)
