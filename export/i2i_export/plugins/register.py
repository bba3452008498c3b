"""Our kernels inside a TensorRT plan: ahead-of-time quick plugins that carry the kernels' PTX.

TensorRT asks Python for shapes, layouts, grid and kernel text while it builds; the plan then holds all of it
and needs neither Python nor a plugin library (TensorRT 10.9 and later, `tensorrt.plugin`). Building needs no
triton if a kernel pack is given.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from i2i_export.errors import ExportError
from i2i_export.plugins.lowering import DOMAIN, IMAGES, PluginNetwork, in_graph_order
from i2i_kernels.compile import CompiledKernel, PackError, pack_entry
from i2i_kernels.pack.recipes import evaluate
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX, PluginRecord, sha256_of

_TYPE_WORDS = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32"}
_LAYOUTS = {"float16": "HWC8", "bfloat16": "HWC8", "float32": "HWC"}
"""TensorRT's names of channels-last in memory; with channels a multiple of 8 nothing is padded."""

_TRT_DTYPES = {"float16": "HALF", "bfloat16": "BF16", "float32": "FLOAT"}

_registered: set[str] = set()
"""TensorRT's registry lives as long as the process and takes a name once."""


def why_no_plugins(flavour: str, version: str) -> str | None:
    """Why this TensorRT takes no ahead-of-time plugins, None if it does."""
    if flavour == TENSORRT_RTX:
        return "TensorRT for RTX takes no ahead-of-time plugins"
    release = tuple(int(part) for part in version.split(".")[:2])
    if release < (10, 9):
        return (
            f"ahead-of-time plugins came with TensorRT 10.9 and this is {version}; JetPack 6 has nothing newer, "
            "JetPack 7 has"
        )
    if release == (10, 14):
        return f"ahead-of-time plugins are broken in TensorRT 10.14 and this is {version}; 10.15 fixes them"
    return None


def compile_kernels(
    network: PluginNetwork, architecture: str, pack: Path | None
) -> dict[str, CompiledKernel]:
    """The kernel of every plugin for `sm_87`, out of a pack's folder or compiled here. Raises ExportError."""
    try:
        return {
            name: pack_entry(kernel.op, kernel.variant, int(architecture.removeprefix("sm_")), pack)
            for name, kernel in network.kernels.items()
        }
    except PackError as error:
        raise ExportError(f"The plugins' kernels cannot be had: {error}.") from error


def plugin_records(kernels: Mapping[str, CompiledKernel]) -> tuple[PluginRecord, ...]:
    """What the plan's sidecar says about each."""
    return tuple(
        PluginRecord(f"{DOMAIN}::{name}", sha256_of(kernel.ptx.encode())) for name, kernel in kernels.items()
    )


def register_plugins(network: PluginNetwork, kernels: Mapping[str, CompiledKernel]) -> None:
    """Makes TensorRT's parser know the operators. Never call this in a process that builds with TensorRT
    for RTX.
    """
    trt = importlib.import_module("tensorrt")
    quick = importlib.import_module("tensorrt.plugin")
    for name, kernel in kernels.items():
        if name not in _registered:
            _register(trt, quick, f"{DOMAIN}::{name}", kernel, network.kernels[name].size)
            _registered.add(name)


def _register(
    trt: Any, quick: Any, plugin_id: str, kernel: CompiledKernel, size: tuple[int, int] | None
) -> None:
    inputs = [argument for argument in kernel.arguments if argument.role == "input"]
    outputs = [argument for argument in kernel.arguments if argument.role == "output"]
    names = [argument.name for argument in inputs]

    def sizes_from(tensors: tuple[Any, ...]) -> dict[str, Any]:
        """N, C, H and W of the image, as TensorRT's symbolic dimensions."""
        sizes = {"cdiv": quick.cdiv}
        if size is not None:  # the image is not an input: its size is part of the plugin's name
            moments = tensors[names.index("partials_ptr")].shape_expr
            return {**sizes, "N": moments[0], "C": moments[3], "H": size[0], "W": size[1]}
        image = tensors[names.index("x_ptr")].shape_expr
        return {**sizes, **{letter: image[axis] for axis, letter in enumerate("NCHW")}}

    def describe(*tensors: Any) -> Any:
        sizes = sizes_from(tensors)
        described = [
            quick.from_shape_expr(
                tuple(evaluate(extent, sizes) for extent in in_graph_order(output)),
                dtype=getattr(trt.DataType, _TRT_DTYPES[output.dtype]),
            )
            for output in outputs
        ]
        return described[0] if len(described) == 1 else tuple(described)

    def tune(*_: Any) -> Any:
        tensors = (*inputs, *outputs)
        types = ", ".join(_TYPE_WORDS[argument.dtype] for argument in tensors)
        layouts = ", ".join(
            _LAYOUTS[argument.dtype] if argument.name in IMAGES else "LINEAR" for argument in tensors
        )
        return [quick.AutoTuneCombination(types, layouts)]

    def launch(*given: Any) -> Any:
        sizes = sizes_from(given[: len(inputs)])
        parameters = quick.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y, parameters.grid_z = kernel.launch_grid(**sizes)
        parameters.block_x = kernel.block
        parameters.shared_mem = kernel.shared
        values = kernel.int32_arguments(**sizes)
        extra = quick.SymIntExprs(len(values))
        for index, value in enumerate(values):
            extra[index] = quick.SymInt32(value)
        return kernel.name, kernel.ptx, parameters, extra

    described: Any = tuple[(quick.TensorDesc,) * len(outputs)]  # type: ignore[misc]
    launched = tuple[str, str, quick.KernelLaunchParams, quick.SymIntExprs]
    _sign(describe, names, (), quick.TensorDesc, returns=described)
    _sign(tune, names, ("outputs",), quick.TensorDesc, returns=list[quick.AutoTuneCombination])
    _sign(launch, names, ("outputs", "tactic"), quick.TensorDesc, returns=launched)
    quick.register(plugin_id)(describe)
    quick.autotune(plugin_id)(tune)
    quick.aot_impl(plugin_id)(launch)


def _sign(
    function: Callable[..., Any], tensors: list[str], rest: tuple[str, ...], kind: Any, *, returns: Any
) -> None:
    """TensorRT reads a plugin's inputs off the function's signature; ours differ from kernel to kernel."""
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, named, annotation=kind) for name in tensors]
    parameters += [inspect.Parameter(name, named) for name in rest]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
