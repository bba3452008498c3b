"""Engines: one protocol, several back ends."""

from __future__ import annotations

from pathlib import Path

from i2i_runtime.engines.protocol import Backend, Engine, Processor
from i2i_runtime.errors import EngineError
from i2i_runtime.machine import usable_cores

__all__ = ["MODELS", "Backend", "Engine", "Processor", "engine_path", "open_engine", "slots_for_throughput"]

MODELS = Path(__file__).parent.parent / "models"
"""The engines that ship: `i2i-stream --engine NAME` finds NAME.onnx here."""


def open_engine(
    engine: str | Path,
    backend: Backend | None = None,
    threads: int | None = None,
    slots: int = 1,
    *,
    device: Processor | None = None,
    size: tuple[int, int] | None = None,
    build: bool = True,
) -> Engine:
    """Opens an engine file, or by name one that ships, on the fastest back end of this machine.

    `threads` bounds the processor threads of the engine, None leaves it to the back end. `slots` of 2 or more translate
    that many frames at the same time: more frames per second, each with more latency. `device` restricts the choice to
    what computes there. On a GPU with TensorRT a plan is built once, pinned to `size` (height, width) if that is given;
    `build` False uses one that was built before. A `.plan` that does not exist is built from the `.onnx` beside it or
    from the engine that ships under its name. Raises EngineError.
    """
    path = Path(engine)
    if path.suffix == ".plan":
        from i2i_runtime.engines.tensorrt.engine import open_tensorrt

        if backend not in (None, "tensorrt") or device not in (None, "gpu"):
            raise EngineError(
                f"{path} runs on TensorRT and a GPU only: give its .onnx file, or leave out the back end."
            )
        return (
            open_tensorrt(path, slots)
            if path.is_file()
            else _open_missing_plan(path, slots, size, build=build)
        )
    from i2i_runtime.engines.choice import Wish, choose

    return choose(Wish(engine_path(engine), backend, device, threads, slots, size, build))


def slots_for_throughput() -> int:
    """How many frames a processor should translate at the same time if only frames per second count, not latency.

    Two share the cores without waiting for each other's threads, which matters most if decoder and encoder need the
    same cores; more would only take more memory.
    """
    return min(2, usable_cores())


def engine_path(engine: str | Path) -> Path:
    """The file behind a path or the name of an engine that ships. Raises EngineError.

    For a `.plan` that does not exist, the `.onnx` file that it is built from.
    """
    path = Path(engine)
    if path.suffix in (".onnx", ".plan"):
        found = path if path.is_file() or path.suffix == ".onnx" else _source_of(path)
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


def _source_of(plan: Path) -> Path:
    """The engine that a missing plan is built from: beside it, or else one that ships."""
    beside = plan.with_suffix(".onnx")
    return beside if beside.is_file() else MODELS / beside.name


def _open_missing_plan(plan: Path, slots: int, size: tuple[int, int] | None, *, build: bool) -> Engine:
    from i2i_runtime.engines.choice import what_runs_here
    from i2i_runtime.engines.parity import require_parity
    from i2i_runtime.engines.tensorrt.engine import open_tensorrt
    from i2i_runtime.engines.tensorrt.plans import build_plan, cached_plan, plan_wanted

    source = engine_path(plan)
    beside = source.parent == plan.parent
    try:
        if beside and not build:
            raise EngineError("--no-build")
        wanted = plan_wanted(source, size)
        built = build_plan(plan, wanted) if beside else cached_plan(wanted, build=build)
    except EngineError as error:
        raise EngineError(
            f"{plan} does not exist and cannot be built from {source.name} here ({str(error).rstrip('.')}): "
            f"`--engine {source if beside else source.stem}` runs the same engine on {what_runs_here(source)}."
        ) from error
    engine = open_tensorrt(built, slots)
    try:
        require_parity(engine, source, "TensorRT")
    except BaseException:
        engine.close()
        raise
    return engine


def _shipped() -> str:
    names = sorted(file.stem for file in MODELS.glob("*.onnx"))
    return ", ".join(names) if names else "none in this installation"
