"""A kernel of the pack launched by the CUDA driver with the arguments and the grid that TensorRT would use."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from cuda.bindings import driver
from ptx_tensorrt import checked
from torch import Tensor

from i2i_kernels.compile import CompiledKernel
from i2i_kernels.pack.recipes import evaluate

GUARD_BYTES = 4096
GUARD = 0xAB


def launch_on_driver(
    kernel: CompiledKernel, given: Mapping[str, Tensor], sizes: Mapping[str, int], form: str
) -> dict[str, Tensor]:
    """The outputs by argument name; `form` is `ptx` or `cubin`.

    Raises RuntimeError if the driver refuses, or if a byte beside an output was written.
    """
    torch.cuda.current_stream()  # makes the primary context current
    image = kernel.ptx.encode() + b"\0" if form == "ptx" else kernel.cubin
    module = checked(driver.cuModuleLoadDataEx(image, 0, [], []))
    function = checked(driver.cuModuleGetFunction(module, kernel.name.encode()))
    values: list[int] = []
    types: list[type] = []
    fenced: dict[str, Tensor] = {}
    for argument in kernel.arguments:
        if argument.role == "int32":
            values.append(int(evaluate(argument.value, sizes)))
            types.append(ctypes.c_int32)
            continue
        if argument.role == "input":
            pointer = given[argument.name].data_ptr()
        else:
            shape = [int(evaluate(extent, sizes)) for extent in argument.shape]
            dtype = getattr(torch, argument.dtype)
            size = torch.Size(shape).numel() * dtype.itemsize
            fenced[argument.name] = torch.full(
                (size + 2 * GUARD_BYTES,), GUARD, dtype=torch.uint8, device="cuda"
            )
            pointer = fenced[argument.name].data_ptr() + GUARD_BYTES
        values.append(pointer)
        types.append(ctypes.c_uint64)
    grid = kernel.launch_grid(**sizes)
    stream = torch.cuda.current_stream().cuda_stream
    launch = (*grid, kernel.block, 1, 1, kernel.shared, stream, (tuple(values), tuple(types)), 0)
    checked(driver.cuLaunchKernel(function, *launch))
    torch.cuda.synchronize()
    checked(driver.cuModuleUnload(module))
    made = {}
    for argument in kernel.arguments:
        if argument.role == "output":
            whole = fenced[argument.name]
            fence = torch.cat([whole[:GUARD_BYTES], whole[-GUARD_BYTES:]])
            if bool((fence != GUARD).any()):
                raise RuntimeError(f"{kernel.name} wrote beside {argument.name}")
            inner = whole[GUARD_BYTES:-GUARD_BYTES].view(getattr(torch, argument.dtype))
            made[argument.name] = inner.view([int(evaluate(extent, sizes)) for extent in argument.shape])
    return made
