"""What a measurement was made on: processor, power mode, versions; on a Jetson also the state of the board."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from i2i_runtime.board import model_of, read_board

_ROOT = Path("/")
_LIBRARIES = (
    "i2i-stream",
    "numpy",
    "av",
    "opencv-python",
    "opencv-python-headless",
    "onnxruntime",
    "openvino",
)
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")


def describe_machine(root: Path = _ROOT) -> dict[str, object]:
    """Processor, cores this process may use, power mode if the system reports it, and library versions.

    `power_mode` is nvpmodel's on a Jetson, elsewhere the frequency governor of the first core. A Jetson adds `board`.
    """
    info = _cpuinfo(root)
    board = read_board(root)
    governor = _governor(root)
    described: dict[str, object] = {
        "system": platform.platform(),
        "processor": info.get("model name") or model_of(root) or platform.processor() or platform.machine(),
        # ARM's list is called Features.
        "features": [
            name for name in _FEATURES if name in (info.get("flags") or info.get("Features", "")).split()
        ],
        "cores": usable_cores(),
        "power_mode": governor if board is None else board.power_mode,
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
    }
    if board is not None:
        described |= {"governor": governor, "board": board.to_dict()}
    return described


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo(root: Path) -> dict[str, str]:
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _governor(root: Path) -> str:
    """The frequency governor of the first core; empty if it is not reported."""
    file = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else ""


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
