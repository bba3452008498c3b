"""Opens the GPU: through cuda-python, else through PyCUDA. Neither is imported before that."""

from __future__ import annotations

import ctypes

from i2i_runtime.engines.tensorrt.device import DRIVER_LIBRARY, Device, DeviceFacts
from i2i_runtime.errors import EngineError

INSTALL = "`pip install 'cuda-bindings>=12.9.1'` (or `pip install pycuda` if the CUDA toolkit is installed)"


def has_nvidia_driver() -> bool:
    """Whether the driver's library can be loaded; it may still find no GPU."""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return False
    return True


def open_device(index: int = 0) -> Device:
    """The GPU through cuda-python, else through PyCUDA. Raises EngineError with what is missing."""
    reasons = []
    for opener in (_open_cuda_python, _open_pycuda):
        try:
            return opener(index)
        except ImportError as error:  # noqa: PERF203 - two libraries, tried once
            reasons.append(str(error))
    raise EngineError(
        f"No library to reach the GPU is installed ({'; '.join(reasons)}): install it with {INSTALL}."
    )


def find_device_facts() -> DeviceFacts | None:
    """The first GPU's facts, None on a machine that has none or cannot reach it."""
    try:
        device = open_device()
    except EngineError:
        return None
    facts = device.facts
    device.close()
    return facts


def _open_cuda_python(index: int) -> Device:
    from i2i_runtime.engines.tensorrt.cuda_python import open_cuda_python

    return open_cuda_python(index)


def _open_pycuda(index: int) -> Device:
    from i2i_runtime.engines.tensorrt.py_cuda import open_pycuda

    return open_pycuda(index)
