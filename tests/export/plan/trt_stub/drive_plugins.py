"""Drives NVIDIA's quick-plugin Python through a plugin's whole life on the fake core; prints what each
answers.

python drive_plugins.py FOLDER-WITH-tensorrt/plugin PACK ARCH N C H W < kernels.json

The input names each plugin's kernel as `[[op, variant, size], ...]`, pickle-free.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fake_core

from i2i_export.plugins.lowering import PluginKernel, PluginNetwork, in_graph_order
from i2i_export.plugins.register import compile_kernels, register_plugins
from i2i_kernels.compile import CompiledKernel
from i2i_kernels.kind import Kind
from i2i_kernels.pack.recipes import Variant, evaluate


class Launch:
    """TensorRT's launch parameters, as the plugin fills them."""

    grid_x: Any
    grid_y: Any
    grid_z: Any
    block_x: Any
    block_y: Any
    block_z: Any
    shared_mem: Any


class Expressions:
    def __init__(self) -> None:
        self.values: dict[int, Any] = {}
        self.nbSymExprs = 0

    def __setitem__(self, index: int, value: Any) -> None:
        self.values[index] = value


def life_of(trt: Any, name: str, kernel: CompiledKernel, sizes: dict[str, int]) -> dict[str, Any]:
    """Every question that a build asks, in its order."""
    creator = trt.registry.get_creator(name, "1", "i2i")
    request = trt.QuickPluginCreationRequest.UNKNOWN
    plugin = creator.create_plugin(name, "i2i", trt.PluginFieldCollection(), trt.TensorRTPhase.BUILD, request)
    inputs = [argument for argument in kernel.arguments if argument.role == "input"]
    words = {"float16": "HALF", "bfloat16": "BF16", "float32": "FLOAT"}
    types = [trt.DataType[words[argument.dtype]] for argument in inputs]
    shapes = [
        tuple(int(evaluate(extent, sizes)) for extent in in_graph_order(argument)) for argument in inputs
    ]
    builder = trt.IExprBuilder()
    expressions = [[trt.IDimensionExpr(extent) for extent in shape] for shape in shapes]
    output_types = plugin.get_output_data_types(types, [len(shape) for shape in shapes])
    answered = plugin.get_output_shapes(expressions, [], builder)
    outs = [tuple(extent.value for extent in extents) for extents in answered]
    count = len(inputs)
    descriptors = [trt.DynamicPluginTensorDesc(shape) for shape in (*shapes, *outs)]
    combination = plugin.get_supported_format_combinations(descriptors, count)
    for descriptor, wanted in zip(descriptors, combination, strict=True):
        descriptor.desc.type, descriptor.desc.format = wanted.type, wanted.format
    plugin.configure_plugin(descriptors[:count], descriptors[count:])
    tactics = plugin.get_valid_tactics()
    plugin.set_tactic(0)
    launch, extra = Launch(), Expressions()
    plugin.get_launch_params(expressions, descriptors, count, launch, extra, builder)
    entry, ptx = plugin.clone().get_kernel(
        [descriptor.desc for descriptor in descriptors[:count]],
        [descriptor.desc for descriptor in descriptors[count:]],
    )
    return {
        "output_types": [kind.name for kind in output_types],
        "output_shapes": outs,
        "types": [wanted.type.name for wanted in combination],
        "formats": [wanted.format.name for wanted in combination],
        "tactics": tactics,
        "grid": [getattr(launch, f"grid_{axis}").expr.value for axis in "xyz"],
        "block": [getattr(launch, f"block_{axis}").expr.value for axis in "xyz"],
        "shared": launch.shared_mem.expr.value,
        "extra": [extra.values[index].expr.value for index in range(extra.nbSymExprs)],
        "entry": entry,
        "ptx_bytes": len(ptx),
        "is_our_ptx": ptx == kernel.ptx.encode(),
        "attributes": len(plugin.attrs),
    }


def main() -> None:
    folder, pack, arch, *extents = sys.argv[1:]
    trt = fake_core.install(Path(folder) / "plugin")
    sizes = dict(zip("NCHW", map(int, extents), strict=True))
    network = PluginNetwork(None)  # type: ignore[arg-type]
    for op, variant, size in json.load(sys.stdin):
        variant["kind"] = Kind(**variant["kind"])
        kernel = PluginKernel(op, Variant(**variant), tuple(size) if size else None)
        if kernel.size in (None, (sizes["H"], sizes["W"])):
            network.kernels[kernel.name] = kernel
    kernels = compile_kernels(network, arch, Path(pack))
    register_plugins(network, kernels)
    register_plugins(network, kernels)
    print(json.dumps({name: life_of(trt, name, kernel, sizes) for name, kernel in kernels.items()}))


if __name__ == "__main__":
    main()
