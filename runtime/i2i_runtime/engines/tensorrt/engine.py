"""TensorRT plans, of either flavour, on the GPU at hand."""

from __future__ import annotations

import logging
import queue
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import contract
from i2i_runtime.engines.tensorrt.api import TensorRT, load_tensorrt
from i2i_runtime.engines.tensorrt.cuda import open_device
from i2i_runtime.engines.tensorrt.device import Device, TooLittleMemory, release_all
from i2i_runtime.engines.tensorrt.fit import rebuilt, why_unfit
from i2i_runtime.engines.tensorrt.loaded import LoadedPlan
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX, PlanManifest, read_manifest, sidecar_path
from i2i_runtime.engines.tensorrt.slot import ComputeOrder, FrameSlot
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata

MOST_SLOTS = 2
"""One frame copies while the other computes; a third brings latency, not speed."""

_CLOSE_S = 5.0
"""How long closing waits for a frame that the GPU does not finish."""

logger = logging.getLogger(__name__)


class TensorRTEngine:
    """A plan with its frame slots; up to `slots` threads translate at the same time.

    Takes over the plan and its device, and closes both.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        metadata: EngineMetadata,
        *,
        backend: str,
        reason: str,
        slots: int = 1,
    ) -> None:
        """With a slot that does not fit into the device's memory it goes on without it. Raises EngineError."""
        self.metadata = metadata
        self.backend = backend
        self._plan = plan
        self._device = plan.device
        self._free: queue.SimpleQueue[FrameSlot] = queue.SimpleQueue()
        self._counting = Lock()
        self._open = 0
        try:
            self._open_slots(min(slots, MOST_SLOTS))
        except BaseException:
            self.close()
            raise
        self.slots = self._open
        self.reason = f"{reason}, without a CUDA graph" if plan.without_graph else reason
        with self._device.current():
            plan.save_cache()

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        padded, inputs = contract.prepare(self.metadata, image, style)
        translated: Image | None = None
        while translated is None:
            translated = self._translate(padded, inputs, *image.shape[:2])
        return translated

    def close(self) -> None:
        try:
            while self._open:
                slot = self._free.get(timeout=_CLOSE_S)
                self._open -= 1
                release_all(slot.close)
        except queue.Empty:
            # Freeing what the GPU still works on would crash; the process gives it back when it ends.
            logger.warning("%s: the GPU did not finish its frame and is left as it is", self._plan.origin)
            return
        release_all(self._close_plan, self._device.close)

    def _close_plan(self) -> None:
        with self._device.current():
            self._plan.save_cache()
            self._plan.close()

    def _translate(
        self, padded: Image, inputs: Mapping[str, NDArray[np.float32]], height: int, width: int
    ) -> Image | None:
        """A copy of what one slot gave; None if the slot did not fit into memory and another one must do it."""
        slot = self._free.get()
        try:
            translated = slot.translate(padded, inputs)[:height, :width].copy()
        except TooLittleMemory:
            if self._gives_up(slot):
                return None
            self._free.put(slot)
            raise
        except BaseException:
            self._free.put(slot)
            raise
        self._free.put(slot)
        return translated

    def _open_slots(self, wanted: int) -> None:
        order = ComputeOrder(self._device) if wanted > 1 else None
        defaults = contract.default_inputs(self.metadata)
        for _ in range(wanted):
            slot = FrameSlot(self._plan, defaults, order)
            self._open += 1
            try:
                if self.metadata.size.is_fixed:
                    slot.prepare(self.metadata.size.max_height, self.metadata.size.max_width)
            except TooLittleMemory:
                if not self._gives_up(slot):
                    self._free.put(slot)
                    raise
                return
            except BaseException:
                self._free.put(slot)
                raise
            self._free.put(slot)

    def _gives_up(self, slot: FrameSlot) -> bool:
        """Closes a slot that does not fit, unless it is the last one."""
        with self._counting:
            if self._open == 1:
                return False
            self._open -= 1
        slot.close()
        logger.info("%s: the GPU's memory holds one frame at a time", self._plan.origin)
        return True


def open_tensorrt(path: Path, slots: int = 1) -> TensorRTEngine:
    """Opens a plan with its sidecar on the first GPU, rebuilding it if it does not fit. Raises EngineError.

    `slots` is 1 for a live source, whose frame must not share the GPU with another; 2 let copies and computing
    overlap.
    """
    plan_bytes = _read_plan(path)
    metadata, manifest = read_manifest(path)
    device = open_device()
    try:
        trt = load_tensorrt(manifest.flavour)
        reason = why_unfit(path, manifest, device.facts, trt.__version__)
        if reason is not None:
            metadata, manifest = rebuilt(path, metadata, manifest, reason)
            plan_bytes = _read_plan(path)
            if again := why_unfit(path, manifest, device.facts, trt.__version__):
                raise EngineError(
                    f"{path} was rebuilt and still does not fit ({again}): check which TensorRT `i2i-export` uses."
                )
        cache = path.with_name(path.name + ".cache") if manifest.flavour == TENSORRT_RTX else None
        plan = _load(trt, manifest.flavour, plan_bytes, device, str(path), cache)
    except BaseException:
        device.close()
        raise
    return TensorRTEngine(
        plan,
        metadata,
        backend=_title(trt, manifest, metadata),
        reason=f"a plan for this GPU, {device.facts.name} ({device.facts.architecture}, through {device.library})",
        slots=slots,
    )


def open_built_plan(trt: TensorRT, flavour: str, plan: bytes, metadata: EngineMetadata) -> TensorRTEngine:
    """A plan that was just built and is not yet a file, on the first GPU, one frame at a time. Raises EngineError."""
    device = open_device()
    try:
        loaded = _load(trt, flavour, plan, device, "the plan just built", None)
    except BaseException:
        device.close()
        raise
    return TensorRTEngine(loaded, metadata, backend=flavour, reason="just built")


def _load(
    trt: TensorRT, flavour: str, plan: bytes, device: Device, origin: str, cache: Path | None
) -> LoadedPlan:
    with device.current():
        return LoadedPlan(trt, flavour, plan, device, origin=origin, cache=cache)


def _title(trt: TensorRT, manifest: PlanManifest, metadata: EngineMetadata) -> str:
    title = "tensorrt-rtx" if manifest.flavour == TENSORRT_RTX else "tensorrt"
    return f"{title} {trt.__version__} {metadata.precision}"


def _read_plan(path: Path) -> bytes:
    """The file's bytes. Raises EngineError for a file that cannot be one of TensorRT's."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error.strerror}): name a .plan or .onnx file.") from error
    # Both flavours begin with a letter and "trt"; with a sidecar the hash decides instead.
    if content[1:4] != b"trt" and not sidecar_path(path).is_file():
        raise EngineError(
            f"{path} is not a TensorRT plan (it does not begin like one and has no {sidecar_path(path).name} beside "
            "it): build one with `i2i-export ENGINE.onnx --plan`."
        )
    return content
