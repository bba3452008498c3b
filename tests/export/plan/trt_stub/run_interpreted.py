"""Runs a network with plugin nodes on the CPU: ONNX's reference evaluator, our kernels in Triton's
interpreter.

python run_interpreted.py MODEL.onnx KERNELS.json FRAME.npy GRIDS.json OUT.npy

Every plugin node is launched with the grid and the int32 arguments of GRIDS.json, which TensorRT's side
answered.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from i2i_export.plugins.lowering import DOMAIN, IMAGES, PluginKernel
from i2i_kernels.kind import Kind
from i2i_kernels.pack.recipes import Variant, recipe


def plugin_class(kernel: PluginKernel, answers: dict[str, Any]) -> type:
    """An operator of the reference evaluator that launches one kernel."""
    plan = recipe(kernel.op, kernel.variant)
    function = getattr(importlib.import_module(plan.module), plan.function)
    inputs = [argument for argument in plan.arguments if argument.role == "input"]
    integers = [argument for argument in plan.arguments if argument.role == "int32"]
    outputs = [argument for argument in plan.arguments if argument.role == "output"]

    def run(self: Any, *arrays: np.ndarray, **_: Any) -> tuple[np.ndarray, ...]:
        height, width = kernel.size or arrays[0].shape[2:]
        answer = answers[f"{kernel.name} {height}x{width}"]
        given: dict[str, Any] = dict.fromkeys(plan.absent)
        for argument, array in zip(inputs, arrays, strict=True):
            tensor = torch.from_numpy(array.copy())
            if argument.name in IMAGES:
                tensor = tensor.permute(0, 2, 3, 1).contiguous()
            given[argument.name] = tensor
        given |= {argument.name: value for argument, value in zip(integers, answer["extra"], strict=True)}
        for argument, shape in zip(outputs, answer["output_shapes"], strict=True):
            is_image = argument.name in IMAGES
            extents = [shape[0], *shape[2:], shape[1]] if is_image else shape
            given[argument.name] = torch.zeros(extents, dtype=getattr(torch, argument.dtype))
        function[tuple(answer["grid"])](**given, **plan.constants)
        results = []
        for argument in outputs:
            result = given[argument.name]
            results.append(result.permute(0, 3, 1, 2) if argument.name in IMAGES else result)
        return tuple(result.contiguous().numpy() for result in results)

    return type(kernel.name, (OpRun,), {"op_domain": DOMAIN, "_run": run})


def main() -> None:
    model, kernels, frame, grids, out = sys.argv[1:]
    with open(kernels, encoding="utf-8") as file:
        listed = json.load(file)
    with open(grids, encoding="utf-8") as file:
        answers = json.load(file)
    operators = []
    for op, variant, size in listed:
        variant["kind"] = Kind(**variant["kind"])
        kernel = PluginKernel(op, Variant(**variant), tuple(size) if size else None)
        operators.append(plugin_class(kernel, answers))
    evaluator = ReferenceEvaluator(onnx.load(model), new_ops=operators)
    (translated,) = evaluator.run(None, {"frame": np.load(frame)})
    np.save(out, translated)


if __name__ == "__main__":
    main()
