"""TensorRT plans, of either flavour, on the GPU at hand."""

from __future__ import annotations

import queue
import statistics
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import contract
from i2i_runtime.engines.tensorrt.api import TensorRT, load_tensorrt
from i2i_runtime.engines.tensorrt.cuda import Device, open_device
from i2i_runtime.engines.tensorrt.fit import rebuilt, why_unfit
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX, PlanManifest, read_manifest, sidecar_path
from i2i_runtime.engines.tensorrt.slot import FrameSlot, LoadedPlan
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata

SLOTS = 2
"""One frame copies while the other computes; a third brings latency, not speed."""

_TIMED_RUNS = 50


class TensorRTEngine:
    """A plan with its frame slots; up to `slots` threads translate at the same time."""

    def __init__(
        self,
        plan: LoadedPlan,
        metadata: EngineMetadata,
        *,
        backend: str,
        reason: str,
        slots: int = SLOTS,
    ) -> None:
        self.metadata = metadata
        self.backend = backend
        self.reason = reason
        self.slots = slots
        self._plan = plan
        self._device = plan.device
        defaults = contract.default_inputs(metadata)
        self._free: queue.SimpleQueue[FrameSlot] = queue.SimpleQueue()
        for _ in range(slots):
            slot = FrameSlot(plan, defaults)
            if metadata.size.is_fixed:
                slot.prepare(metadata.size.max_height, metadata.size.max_width)
            self._free.put(slot)
        plan.save_cache()

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        height, width = image.shape[:2]
        padded, given = contract.prepare(self.metadata, image, style)
        slot = self._free.get()
        try:
            translated = slot.translate(padded, given)
            return translated[:height, :width].copy()
        finally:
            self._free.put(slot)

    def close(self) -> None:
        for _ in range(self.slots):
            self._free.get().close()
        self._plan.save_cache()
        self._device.close()


def open_tensorrt(path: Path) -> TensorRTEngine:
    """Opens a plan with its sidecar on the first GPU, rebuilding it where it does not fit. Raises
    EngineError.
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
        return _engine(trt, path, plan_bytes, metadata, manifest, device)
    except BaseException:
        device.close()
        raise


def time_plan_ms(
    trt: TensorRT, flavour: str, plan: bytes, metadata: EngineMetadata, height: int, width: int
) -> float:
    """Median milliseconds of one frame, copies included, at this size on the first GPU. Raises
    EngineError.
    """
    device = open_device()
    try:
        loaded = LoadedPlan(trt, flavour, plan, device, origin="the plan just built")
        slot = FrameSlot(loaded, contract.default_inputs(metadata))
        slot.prepare(height, width)
        durations = []
        for _ in range(_TIMED_RUNS):
            start = time.perf_counter()
            slot.run()
            durations.append(time.perf_counter() - start)
        slot.close()
        return statistics.median(durations) * 1000
    finally:
        device.close()


def _engine(
    trt: TensorRT,
    path: Path,
    plan: bytes,
    metadata: EngineMetadata,
    manifest: PlanManifest,
    device: Device,
) -> TensorRTEngine:
    cache = path.with_name(path.name + ".cache") if manifest.flavour == TENSORRT_RTX else None
    loaded = LoadedPlan(trt, manifest.flavour, plan, device, origin=str(path), cache=cache)
    title = "tensorrt-rtx" if manifest.flavour == TENSORRT_RTX else "tensorrt"
    return TensorRTEngine(
        loaded,
        metadata,
        backend=f"{title} {trt.__version__} {metadata.precision}",
        reason=f"a plan for this GPU, {device.facts.name} ({device.facts.architecture}, through {device.library})",
    )


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
