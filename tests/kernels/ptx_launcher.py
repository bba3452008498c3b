"""The launcher of the rehearsal: a kernel of the pack on the PTX interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ptx.interpreter import run
from ptx.memory import GlobalMemory
from ptx.program import parse
from torch import Tensor

from i2i_kernels.compile import CompiledKernel
from i2i_kernels.pack.recipes import evaluate


def launch_on_interpreter(
    kernel: CompiledKernel,
    given: Mapping[str, Tensor],
    sizes: Mapping[str, int],
    form: str = "ptx",
    *,
    misaligned: int = 0,
) -> dict[str, Tensor]:
    """The outputs of a launch with TensorRT's arguments: input pointers, int32 values, output pointers."""
    memory, arguments = GlobalMemory(), []
    outputs: dict[str, tuple[Any, tuple[int, ...]]] = {}
    for argument in kernel.arguments:
        if argument.role == "int32":
            arguments.append(evaluate(argument.value, sizes))
        elif argument.role == "input":
            array = given[argument.name].numpy()
            arguments.append(memory.place(argument.name, array, writable=False, misaligned=misaligned))
        else:
            shape = tuple(evaluate(extent, sizes) for extent in argument.shape)
            nothing = np.full(shape, np.nan, argument.dtype)
            outputs[argument.name] = nothing.dtype, shape
            arguments.append(memory.place(argument.name, nothing, writable=True))
    run(parse(kernel.ptx), memory, arguments, kernel.launch_grid(**sizes), kernel.shared)
    return {name: torch.from_numpy(memory.read_back(name, *made).copy()) for name, made in outputs.items()}
