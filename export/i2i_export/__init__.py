"""Turns training runs and foreign networks into engine files, and engine files into TensorRT plans.

    from i2i_export import export_run, plan_from_onnx

    engine = export_run("runs/day2night", "day2night.onnx")
    plan = plan_from_onnx(engine.path)

Everything is imported when it is first used, so importing this package needs neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from i2i_export.api import ExportedEngine, Lean, adopt_network, derive_engine, export_run
    from i2i_export.errors import ExportError, ForeignNetworkError
    from i2i_export.parity import ParityError
    from i2i_export.plan.candidates import plan_from_onnx

    __version__: str

__all__ = [
    "ExportError",
    "ExportedEngine",
    "ForeignNetworkError",
    "Lean",
    "ParityError",
    "__version__",
    "adopt_network",
    "derive_engine",
    "export_run",
    "plan_from_onnx",
]

_HOMES = {
    "ExportedEngine": "api",
    "Lean": "api",
    "adopt_network": "api",
    "derive_engine": "api",
    "export_run": "api",
    "ExportError": "errors",
    "ForeignNetworkError": "errors",
    "ParityError": "parity",
    "plan_from_onnx": "plan.candidates",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("i2i-stream")
    if name not in _HOMES:
        raise AttributeError(f"module 'i2i_export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"i2i_export.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
