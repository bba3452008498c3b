"""What a measurement was made on: processor, power mode, versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def describe_machine() -> dict[str, object]:
    """Processor, cores this process may use, power mode if the system reports it, and library versions."""
    info = _cpuinfo()
    return {
        "system": platform.platform(),
        "processor": info.get("model name", platform.processor() or platform.machine()),
        "features": [name for name in _FEATURES if name in info.get("flags", "").split()],
        "cores": usable_cores(),
        "power_mode": _power_mode(),
        "python": platform.python_version(),
        "versions": {name: found for name in _LIBRARIES if (found := _version(name))},
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())
    }


def _power_mode() -> str:
    """The frequency governor of the first core, or the Jetson power model; empty if neither is reported."""
    files = ("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "/var/lib/nvpmodel/status")
    return next(
        (Path(file).read_text(encoding="utf-8").strip() for file in files if Path(file).is_file()), ""
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
