"""Exact graph rewrites, in dependency order."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.graph import edit
from i2i_export.passes import fold, norms, shuffles, upsampling

_PASSES: dict[str, Callable[[ir.Model], int]] = {
    "written-out norms collapsed": norms.collapse_written_norms,
    "channel orders folded into convolutions": fold.fold_channel_order,
    "attention maps folded": fold.fold_attention_maps,
    "scales and batch norms folded into convolutions": fold.fold_into_convolution,
    "constant AdaIN folded": norms.fold_adain,
    "biases before norms removed": norms.remove_bias_before_norm,
    "5x5 convolutions of doubled images as phases": upsampling.write_wide_upsampling_as_phases,
}


def optimise(model: ir.Model, *, for_cpu: bool = False) -> dict[str, int]:
    """Applies every rewrite that is exact and pays; returns how many places each changed.

    `for_cpu` adds what is faster on processors and slower on GPUs: four 2x2 convolutions for a 3x3 one behind a
    doubling do less work in more kernel launches, and a pyramid on blocks of pixels fills the registers of its
    convolutions, but is no longer the pyramid that a plan's kernels know.
    """
    steps = dict(_PASSES)
    if for_cpu:
        steps["3x3 convolutions of doubled images as phases"] = upsampling.write_upsampling_as_phases
        steps["pixel shuffles behind 1x1 convolutions"] = shuffles.sink_shuffles
    ShapeInferencePass(data_prop=True)(model)
    edit.fold_constants(model)
    edit.simplify(model)
    counts = {}
    for name, step in steps.items():
        ShapeInferencePass(data_prop=True)(model)
        changed = step(model)
        if changed:
            counts[name] = changed
            edit.simplify(model)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    return counts


def notes_from_changes(changes: dict[str, int]) -> dict[str, str]:
    """The metadata's note on what was rewritten."""
    if not changes:
        return {}
    return {"rewrites": ", ".join(f"{name} ({count})" for name, count in changes.items())}
