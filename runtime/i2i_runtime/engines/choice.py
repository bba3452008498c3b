"""Which back end runs an engine: the fastest that this machine has and that gives the engine's image.

Asked in this order: TensorRT with a plan built once for this GPU, ONNX Runtime on CUDA, OpenVINO on a GPU or NPU if
one is asked for, OpenVINO on x86, CoreML on a Mac, ONNX Runtime. What this machine does not have is skipped. What it
has and does not work is skipped too, and the reason of the chosen one says why.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from i2i_runtime.engines.loading import loaded_in_time
from i2i_runtime.engines.parity import require_parity
from i2i_runtime.engines.protocol import Backend, Engine, Processor
from i2i_runtime.engines.tensorrt.cuda import has_nvidia_driver
from i2i_runtime.errors import EngineError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wish:
    """What the user asked for; None leaves the choice open. `size` is the (height, width) to pin a plan to."""

    path: Path
    backend: Backend | None = None
    processor: Processor | None = None
    threads: int | None = None
    slots: int = 1
    size: tuple[int, int] | None = None
    build: bool = True


@dataclass(frozen=True)
class Candidate:
    """One way to run an engine. `missing` says why this machine does not have it, empty if it has."""

    backend: Backend
    title: str
    processor: Processor
    reason: str
    open: Callable[[str], Engine]
    missing: str = ""


def choose(wish: Wish) -> Engine:
    """Opens the engine on the first candidate that works. Raises EngineError if none does."""
    missing: list[str] = []
    failed: dict[str, EngineError] = {}
    for candidate in candidates(wish):
        if candidate.missing:
            missing.append(f"{candidate.title}: {candidate.missing}")
            continue
        reason = candidate.reason if wish.backend is None else f"--backend {wish.backend}"
        if failed:
            reason += (
                f" ({'; '.join(f'{title} does not work: {_why(error)}' for title, error in failed.items())})"
            )
        try:
            engine = _opened(candidate, wish, reason)
        except EngineError as error:
            failed[candidate.title] = error
            continue
        for title, failure in failed.items():
            logger.warning("%s is not used: %s", title, _why(failure))
        return engine
    if failed:
        raise list(failed.values())[-1]
    asked = f"--backend {wish.backend}" if wish.processor is None else f"--device {wish.processor}"
    raise EngineError(
        f"Nothing here runs {wish.path.name} with {asked} ({'; '.join(missing)}): leave out {asked}."
    )


def what_runs_here(path: Path) -> str:
    """The title of what would run this engine without TensorRT; nothing is opened."""
    others = (each for each in candidates(Wish(path)) if each.backend != "tensorrt")
    return next(candidate.title for candidate in others if not candidate.missing)


def candidates(wish: Wish) -> Iterator[Candidate]:
    """The ways that the wish allows, in their order; each is looked for only when it is reached."""
    for candidate in _all(wish):
        if wish.backend in (None, candidate.backend) and wish.processor in (None, candidate.processor):
            yield candidate


def _all(wish: Wish) -> Iterator[Candidate]:
    yield Candidate("tensorrt", "TensorRT", "gpu", "", lambda reason: _tensorrt(wish, reason), _no_tensorrt())
    yield _onnxruntime(wish, "ONNX Runtime on CUDA", "gpu", "this GPU", "CUDAExecutionProvider")
    if wish.processor == "gpu":
        yield _openvino(wish, "OpenVINO on the GPU", "gpu", "--device gpu")
    if wish.processor == "npu":
        yield _openvino(wish, "OpenVINO on the NPU", "npu", "--device npu")
    yield _openvino(wish, "OpenVINO", "cpu", "the fastest back end on x86 processors")
    yield _onnxruntime(wish, "CoreML", "gpu", "the fastest back end on a Mac", "CoreMLExecutionProvider")
    portable = (
        f"the portable back end, because {_no_openvino()}" if _no_openvino() else "the portable back end"
    )
    yield _onnxruntime(wish, "ONNX Runtime", "cpu", portable, "CPUExecutionProvider")


def _opened(candidate: Candidate, wish: Wish, reason: str) -> Engine:
    if (
        candidate.backend == "tensorrt"
    ):  # a plan may be built first, which shows its own progress and takes its time
        engine = candidate.open(reason)
    else:
        engine = loaded_in_time(wish.path, lambda: candidate.open(reason))
    # The portable back end is the measure itself, and a back end that the user names is not second-guessed.
    if candidate.title == "ONNX Runtime" or wish.backend is not None:
        return engine
    # The reason of a plan names the GPU; a plan of another size is another plan.
    hardware = f"{candidate.title}, {engine.reason}, {engine.metadata.size}"
    try:
        loaded_in_time(wish.path, lambda: require_parity(engine, wish.path, hardware))
    except BaseException:
        engine.close()
        raise
    return engine


def _tensorrt(wish: Wish, reason: str) -> Engine:
    from i2i_runtime.engines.tensorrt.engine import open_tensorrt
    from i2i_runtime.engines.tensorrt.plans import cached_plan, plan_wanted

    plan = cached_plan(plan_wanted(wish.path, wish.size), build=wish.build)
    engine = open_tensorrt(plan, wish.slots)
    if reason:
        engine.reason = f"{reason}: {engine.reason}"
    return engine


def _no_tensorrt() -> str:
    from i2i_runtime.engines.tensorrt.plans import why_no_plans

    return why_no_plans()


def _onnxruntime(wish: Wish, title: str, processor: Processor, reason: str, provider: str) -> Candidate:
    def open_it(reason: str) -> Engine:
        from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(wish.path, reason, wish.threads, wish.slots, provider)

    return Candidate("onnxruntime", title, processor, reason, open_it, _no_provider(provider))


def _no_provider(provider: str) -> str:
    """Why ONNX Runtime does not have it; ONNX Runtime itself, which takes time, is asked last."""
    if provider == "CPUExecutionProvider":
        return ""
    if provider == "CUDAExecutionProvider" and not has_nvidia_driver():
        return "there is no NVIDIA driver"
    if provider == "CoreMLExecutionProvider" and platform.system() != "Darwin":
        return "this is not a Mac"
    import onnxruntime

    there = provider in onnxruntime.get_available_providers()
    return "" if there else f"this ONNX Runtime was built without {provider}"


def _openvino(wish: Wish, title: str, processor: Processor, reason: str) -> Candidate:
    def open_it(reason: str) -> Engine:
        from i2i_runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(wish.path, reason, wish.threads, wish.slots, processor.upper())

    missing = _no_openvino()
    if not missing and processor != "cpu":
        from i2i_runtime.engines.openvino import openvino_devices

        devices = openvino_devices()
        if not any(device.split(".")[0] == processor.upper() for device in devices):
            missing = f"it finds {', '.join(devices) or 'no device'}"
    return Candidate("openvino", title, processor, reason, open_it, missing)


def _no_openvino() -> str:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"OpenVINO is for x86 and this is {platform.machine()}"
    return "" if find_spec("openvino") is not None else "openvino is not installed"


def _why(error: EngineError) -> str:
    """A sentence without what to do about it."""
    return str(error).rpartition(": ")[0] or str(error).rstrip(".")
