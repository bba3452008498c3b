"""The optional parts of the installation, and the command that adds one."""

from __future__ import annotations

import importlib.util

EXTRAS = {
    "serve": ("starlette", "uvicorn", "prometheus_client", "mss"),
    "export": ("onnx", "torch"),
}
"""Extra of the package -> the modules that come with it."""


def missing_of(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]


def install_command(extra: str) -> str:
    """The command that adds an extra; it is run in the folder of the project, which no package index holds."""
    return f"pip install '.[{extra}]'"
