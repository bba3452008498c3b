"""Opens the GPU and makes a runtime of each TensorRT that is installed, in a process that may die of it.

python -m i2i_runtime.doctor.probe: one JSON object per line, each written as soon as it is known.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict

from i2i_runtime.engines.tensorrt.api import MODULES, LogBook, load_tensorrt
from i2i_runtime.engines.tensorrt.cuda import open_device
from i2i_runtime.engines.tensorrt.device import Device
from i2i_runtime.errors import EngineError
from i2i_runtime.files import reason_of


def main() -> None:
    device: Device | None = None
    _say({"step": "device"})
    try:
        device = open_device()
        _say({"device": {**asdict(device.facts), "library": device.library}})
    except EngineError as error:
        _say({"device_error": str(error)})
    for flavour, modules in MODULES.items():
        if not any(importlib.util.find_spec(module) for module in modules):
            continue
        _say({"step": flavour})
        _say({flavour: _examined(flavour, device)})
    if device is not None:
        device.close()


def _examined(flavour: str, device: Device | None) -> dict[str, str]:
    """The version, and why no runtime could be made; no reason if it was made or there is no device."""
    try:
        trt = load_tensorrt(flavour)
    except Exception as error:  # bindings over a broken library raise whatever they like
        return {"version": "", "error": reason_of(error)}
    found = {"version": trt.__version__, "error": ""}
    if device is not None:
        log = LogBook(trt)
        try:
            with device.current():
                trt.Runtime(log.logger)
        except (TypeError, RuntimeError, EngineError):
            found["error"] = log.last_error
    return found


def _say(entry: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(entry) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
