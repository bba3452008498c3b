"""Runs our TensorRT engine on the strict driver and prints what happened, as JSON: python drive.py SCENARIO PLAN

In a process of its own, because the driver must be found before anything is loaded. The library that reaches the
device is the first that is installed; DRIVE_LIBRARY=pycuda hides cuda-python.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
from pathlib import Path

import numpy as np

from i2i_runtime.engines.tensorrt import engine as engine_module
from i2i_runtime.engines.tensorrt.engine import TensorRTEngine, open_tensorrt
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image

SIZES = ((32, 48), (64, 32), (13, 21))
THREADS, ROUNDS = 2, 84

if os.environ.get("DRIVE_LIBRARY") == "pycuda":
    sys.modules["cuda.bindings.driver"] = None  # type: ignore[assignment]

driver = ctypes.CDLL("libcuda.so.1")


def image(seed: int, size: tuple[int, int]) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def right(engine: TensorRTEngine, seed: int, size: tuple[int, int]) -> bool:
    frame = image(seed, size)
    translated = engine.infer(frame)
    return translated.flags["C_CONTIGUOUS"] and np.array_equal(translated, 255 - frame)


def frames(plan: Path) -> dict[str, object]:
    """More than 500 frames of three sizes through two threads."""
    engine = open_tensorrt(plan, slots=2)
    wrong: list[int] = []

    def work(number: int) -> None:
        seeds = range(number * 10_000, number * 10_000 + ROUNDS * len(SIZES))
        wrong.extend(seed for seed in seeds if not right(engine, seed, SIZES[seed // 7 % len(SIZES)]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.close()
    return {
        "wrong": wrong,
        "frames": THREADS * ROUNDS * len(SIZES),
        "slots": engine.slots,
        "reason": engine.reason,
        "flags": driver.strict_flags(),
    }


def again(plan: Path) -> dict[str, object]:
    """Opened, used and closed three times in one process, closed by another thread than the one that opened."""
    good = []
    for seed in range(3):
        engine = open_tensorrt(plan)
        good.append(right(engine, seed, SIZES[0]))
        thread = threading.Thread(target=engine.close)
        thread.start()
        thread.join()
    return {"good": good, "left": driver.strict_left()}


CALLS = (
    *(
        "cuMemAlloc",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuEventCreate",
        "cuStreamBeginCapture",
        "cuStreamEndCapture",
    ),
    *("cuGraphInstantiate", "cuGraphLaunch", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"),
    *("cuEventRecord", "cuStreamWaitEvent", "cuMemHostGetDevicePointer", "cuMemGetInfo"),
)
OUT_OF_MEMORY, LAUNCH_FAILED = 2, 719


def failures(plan: Path) -> dict[str, object]:
    """Every call fails at each of its first turns: what is said, and whether anything is left over afterwards."""
    said: dict[str, list[str]] = {}
    left: list[str] = []
    wrong: list[str] = []
    for call in CALLS:
        for turn in range(1, 8):
            driver.strict_fail(call.encode(), turn, OUT_OF_MEMORY if "Alloc" in call else LAUNCH_FAILED)
            engine = None
            try:
                engine = open_tensorrt(plan, slots=2)
                for seed, size in enumerate((*SIZES, SIZES[0])):
                    if not right(engine, seed, size):
                        wrong.append(f"{call} {turn}")
            except EngineError as error:
                said.setdefault(call, []).append(str(error))
            driver.strict_fail(b"", 0, 0)
            if engine is not None:
                engine.close()
            if driver.strict_left():
                left.append(f"{call} {turn}")
    return {"said": said, "left": left, "wrong": wrong}


def waiting(plan: Path) -> dict[str, object]:
    """While one thread waits for the GPU, another runs Python: it sees the wait and ends it."""
    engine = open_tensorrt(plan)
    right(engine, 0, SIZES[0])
    driver.strict_hold(1)
    worker = threading.Thread(target=right, args=(engine, 1, SIZES[0]))
    worker.start()
    while not driver.strict_waiting():
        pass
    driver.strict_hold(0)
    worker.join()
    engine.close()
    return {"left": driver.strict_left()}


def hanging(plan: Path) -> dict[str, object]:
    """The GPU never ends a frame: closing gives up after a while."""
    engine_module._CLOSE_S = 0.2
    engine = open_tensorrt(plan)
    right(engine, 0, SIZES[0])
    driver.strict_hold(1)
    worker = threading.Thread(target=right, args=(engine, 1, SIZES[0]))
    worker.start()
    while not driver.strict_waiting():
        pass
    engine.close()
    still = bool(driver.strict_waiting())
    driver.strict_hold(0)
    worker.join()
    engine.close()
    return {"closed_while_waiting": still, "left": driver.strict_left()}


def memory(plan: Path) -> dict[str, object]:
    """What fits: the slots that were opened and are left after a frame, or the sentence."""
    try:
        engine = open_tensorrt(plan, slots=2)
    except EngineError as error:
        return {"said": str(error), "left": driver.strict_left()}
    found: list[bool | str] = []

    def work() -> None:
        try:
            found.append(right(engine, 3, SIZES[0]))
        except EngineError as error:
            found.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    slots = engine._open
    engine.close()
    return {"found": found, "slots": slots, "reason": engine.reason, "left": driver.strict_left()}


SCENARIOS = {each.__name__: each for each in (frames, again, failures, waiting, hanging, memory)}

if __name__ == "__main__":
    print(json.dumps(SCENARIOS[sys.argv[1]](Path(sys.argv[2]))))
