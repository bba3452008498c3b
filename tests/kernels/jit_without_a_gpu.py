"""Runs every numeric case through Triton's true JIT, with a driver that launches nothing.

    TRITON_DEFAULT_FP_FUSION=1 python tests/kernels/jit_without_a_gpu.py sm_90 0 2

takes the first of two halves of the cases.

What the interpreter and the pack both skip: specialisation by the arguments at hand (alignment, equal to 1, divisible
by 16), the JIT's cache keys, the launcher's arguments. Prints one line of JSON: launches, kernels, and what the real
driver would have refused.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget

from i2i_kernels import launch
from i2i_kernels.colour import op as colour_op  # noqa: F401
from i2i_kernels.conv_norm import op as conv_norm_op  # noqa: F401
from i2i_kernels.norm import op as norm_op  # noqa: F401
from i2i_kernels.numerics import cases
from i2i_kernels.pyramid import op as pyramid_op  # noqa: F401

MOST_BLOCKS = (2**31 - 1, 65535, 65535)
MOST_SHARED = {80: 166912, 90: 232448}


class Utilities:
    """What the JIT asks of the driver's library."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.kernels: set[str] = set()

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": MOST_SHARED[self.arch], "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[int, int, int, int, int]:
        assert binary.startswith(b"\x7fELF"), f"{name} is not a cubin"
        self.kernels.add(f"{name} {hash(binary)}")
        return 1, 1, 0, 0, 1024

    def unload_module(self, module: int) -> None:
        """Nothing was loaded."""


class Driver:
    """A GPU that takes every launch and runs none; its tensors lie in the processor's memory."""

    def __init__(self, arch: int) -> None:
        self.arch = arch
        self.utils = Utilities(arch)
        self.launches = 0
        self.refusals: list[str] = []
        driver = self

        class Launcher:
            def __init__(self, source: Any, metadata: Any) -> None:
                self.name, self.parameters = metadata.name, len(source.fn.arg_names)
                assert metadata.global_scratch_size == metadata.profile_scratch_size == 0

            def __call__(self, x: int, y: int, z: int, *rest: Any) -> None:
                driver.launches += 1
                if any(not 0 < n <= most for n, most in zip((x, y, z), MOST_BLOCKS, strict=True)):
                    driver.refusals.append(f"{self.name} has a grid of {x} x {y} x {z}")
                if len(rest) < self.parameters:
                    driver.refusals.append(f"{self.name} was launched with {len(rest)} arguments")

        self.launcher_cls = Launcher

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def main() -> int:
    driver = Driver(int(sys.argv[1].removeprefix("sm_")))
    triton.runtime.driver.set_active(driver)
    # The operators and the checks take CPU tensors to kernels only if they believe in the interpreter; the kernels
    # were compiled for real when they were imported above.
    launch.INTERPRETED = True
    knobs.runtime.interpret = True
    part, parts = map(int, sys.argv[2:])
    for case in cases()[part::parts]:
        case.run(torch.device("cpu"))
    found = {"launches": driver.launches, "kernels": len(driver.utils.kernels), "refusals": driver.refusals}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
