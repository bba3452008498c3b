"""Engines: one protocol, several back ends."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines.loading import loaded_in_time
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.machine import usable_cores
from i2i_runtime.metadata import EngineMetadata

Backend: TypeAlias = Literal["tensorrt", "openvino", "onnxruntime"]

MODELS = Path(__file__).parent.parent / "models"
"""The engines that ship: `i2i-stream --engine NAME` finds NAME.onnx here."""


class Engine(Protocol):
    """A network that translates one frame at a time. `open_engine` opens one.

    `backend` is the library and precision that run it ("openvino bf16"), `reason` says why it was chosen. `slots` is
    how many threads may call `infer` at the same time.
    """

    metadata: EngineMetadata
    backend: str
    reason: str
    slots: int

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        """Translates `[H, W, 3] uint8 RGB`, full range, into the same shape; the caller owns the result.

        Any H and W that the size policy allows after reflection padding to `stride`; the result is cropped back.
        `style` is float32 `[1, S]`, None takes the engine's default. Raises EngineError.
        """

    def close(self) -> None:
        """Frees the back end; `infer` must not be called afterwards."""


def open_engine(
    engine: str | Path,
    backend: Backend | None = None,
    threads: int | None = None,
    slots: int = 1,
) -> Engine:
    """Opens an engine file, or by name one that ships, on the fastest back end of this machine.

    `threads` bounds the processor threads of the engine, None leaves it to the back end. With `slots` of 2 or more
    a processor translates that many frames at the same time: more frames per second, each with more latency. A GPU has
    its own slots. Raises EngineError.
    """
    path = engine_path(engine)
    chosen, reason = (backend, f"--backend {backend}") if backend is not None else _choose(path)
    if chosen == "tensorrt":  # a plan may be built first, which shows its own progress and takes its time
        return _OPENERS[chosen](path, reason, threads, slots)
    return loaded_in_time(path, lambda: _OPENERS[chosen](path, reason, threads, slots))


def slots_for_throughput() -> int:
    """How many frames a processor should translate at the same time if only frames per second count, not latency.

    Two share the cores without waiting for each other's threads, which matters most if decoder and encoder need the
    same cores; more would only take more memory.
    """
    return min(2, usable_cores())


def engine_path(engine: str | Path) -> Path:
    """The file behind a path or the name of an engine that ships. Raises EngineError."""
    path = Path(engine)
    if path.suffix in (".onnx", ".plan"):
        found = path
    elif path.suffix or len(path.parts) != 1:
        raise EngineError(
            f"{engine} is not an engine: give a .onnx or .plan file, or the name of one that ships "
            f"({_shipped()})."
        )
    else:
        found = MODELS / f"{path.name}.onnx"
        if not found.is_file():
            raise EngineError(f"No engine is called {path.name}: those that ship are {_shipped()}.")
    if not found.is_file():
        raise EngineError(
            f"{path} does not exist: give an engine file (.onnx or .plan) or one of {_shipped()}."
        )
    return found


def _shipped() -> str:
    names = sorted(file.stem for file in MODELS.glob("*.onnx"))
    return ", ".join(names) if names else "none in this installation"


def _choose(path: Path) -> tuple[Backend, str]:
    if path.suffix == ".plan":
        return "tensorrt", "plans run on TensorRT only"
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return (
            "onnxruntime",
            f"the portable back end, because OpenVINO is for x86 and this is {platform.machine()}",
        )
    if find_spec("openvino") is None:
        return "onnxruntime", "the portable back end, because openvino is not installed"
    return "openvino", "the fastest back end on x86 processors"


def _open_onnxruntime(path: Path, reason: str, threads: int | None, slots: int) -> Engine:
    from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, reason, threads, slots)


def _open_openvino(path: Path, reason: str, threads: int | None, slots: int) -> Engine:
    if find_spec("openvino") is None:
        raise EngineError("OpenVINO is not installed: pip install openvino, or leave out --backend.")
    from i2i_runtime.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(path, reason, threads, slots)


def _open_tensorrt(path: Path, reason: str, threads: int | None, slots: int) -> Engine:
    from i2i_runtime.engines.tensorrt.engine import open_tensorrt

    return open_tensorrt(path, slots)


_OPENERS: dict[Backend, Callable[[Path, str, int | None, int], Engine]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}
