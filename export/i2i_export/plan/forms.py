"""The forms of one network that full TensorRT is given: unchanged, rewritten, with our kernels, in half precision.

TensorRT compiles some ways to write a network into faster plans than others, and only building and timing tells which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import onnx
import onnx.inliner

from i2i_export import parity
from i2i_export.enginefile import EngineFile, default_style
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all, read_frames
from i2i_export.plan.builder import FrameProfile, pinned_to_size
from i2i_export.plan.passes import PASSES, rewritten
from i2i_export.plugins.functions import model_with_functions
from i2i_export.plugins.lowering import PluginNetwork, network_with_plugins
from i2i_export.precision.half import half_for_plan
from i2i_runtime.engines.tensorrt.manifest import Candidate
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata

PluginChoice = Literal["auto", "on", "off"]
PluginKind = Literal["plugins", "wide plugins", "convolution plugins"]


@dataclass(frozen=True)
class Form:
    """One way to hand the network to TensorRT."""

    name: str
    model: onnx.ModelProto
    """In standard operators, also if our kernels will replace some of them."""
    precision: str
    rewrites: tuple[str, ...] = ()
    plugins: PluginKind | None = None
    """Which operators our kernels replace. Such a form is built in a process of its own."""


def portable(model: onnx.ModelProto, profile: FrameProfile) -> onnx.ModelProto:
    """Standard operators alone, and a fixed size if the profile has one."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return pinned_to_size(model, *profile.largest) if profile.is_fixed else model


def forms_of(
    engine: EngineFile, profile: FrameProfile, plugins: PluginChoice, *, half: bool
) -> tuple[list[Form], list[Candidate]]:
    """The forms to build, and a note on each that cannot be.

    With `half` a float32 or int8 engine is also tried with half precision, from which the plugin forms are then made.
    `plugins` `on` asks for plugin forms alone: it raises ExportError if no norm suits our kernels, and ParityError if
    the first plugin form gives another image than the engine.
    """
    left_out: list[Candidate] = []
    bases = {"": engine}
    if half and engine.metadata.precision != "fp16":
        try:
            bases["half "] = half_base(engine, profile)
        except ExportError as error:
            left_out.append(Candidate("half plain", kept=False, note=str(error)))
    forms: list[Form] = []
    if plugins != "on":
        for prefix, base in bases.items():
            forms += _written_forms(prefix, portable(base.to_proto(), profile), base.metadata.precision)
    if plugins != "off":
        base = bases.get("half ", engine)
        with_plugins, notes = _plugin_forms(base, profile, must=plugins == "on")
        forms += with_plugins
        left_out += notes
    return forms, left_out


def half_base(engine: EngineFile, profile: FrameProfile) -> EngineFile:
    """The engine in half precision, compared on one frame of the smallest size. Raises ExportError."""
    return half_for_plan(engine, _gate(profile), default_style(engine.metadata))


def _written_forms(prefix: str, model: onnx.ModelProto, precision: str) -> Iterator[Form]:
    yield Form(f"{prefix}plain", model, precision)
    small = rewritten(model, tuple(PASSES))
    if small is not None:
        yield Form(f"{prefix}rewritten", small, precision, rewrites=tuple(PASSES))


def _plugin_forms(
    engine: EngineFile, profile: FrameProfile, *, must: bool
) -> tuple[list[Form], list[Candidate]]:
    model, forms, left_out = portable(engine.to_proto(), profile), [], []
    networks = plugin_networks(model)
    if must and not networks:
        raise ExportError("--plugins on is not possible (no norm that our kernels do): use --plugins off.")
    for kind, network in networks.items():
        try:
            check_plugin_form(kind, network, model, engine.metadata, profile)
        except ExportError as error:
            if must and kind == "plugins":
                raise
            left_out.append(Candidate(kind, kept=False, note=str(error)))
            continue
        forms.append(Form(kind, model, engine.metadata.precision, plugins=kind))
    return forms, left_out


def plugin_networks(model: onnx.ModelProto) -> dict[PluginKind, PluginNetwork]:
    """The network with our kernels as plugin nodes, in each of the ways that change it."""
    fewest, wide = network_with_plugins(model), network_with_plugins(model, wide=True)
    found: dict[PluginKind, PluginNetwork | None] = {
        "plugins": fewest,
        # Of maps that are all cut the same way there is nothing to choose.
        "wide plugins": None if _kernels_of(wide) == _kernels_of(fewest) else wide,
        "convolution plugins": network_with_plugins(model, convolutions=True),
    }
    return {kind: network for kind, network in found.items() if network is not None}


def _kernels_of(network: PluginNetwork | None) -> list[str]:
    return [] if network is None else [node.op_type for node in network.model.graph.node if node.domain]


def check_plugin_form(
    name: str,
    network: PluginNetwork,
    master: onnx.ModelProto,
    metadata: EngineMetadata,
    profile: FrameProfile,
) -> parity.Report:
    """Compares what the plugins mean, run by ONNX Runtime, with the master on one frame of the smallest size.

    The kernels themselves are not run. Raises ParityError, which carries the table, past the precision's bound.
    """
    bounds = {"fp32": parity.SAME_NETWORK, "int8": parity.INT8}
    report = parity.compare(
        f"{name} against the engine",
        parity.OnnxTranslator(master),
        parity.OnnxTranslator(model_with_functions(network)),
        _gate(profile),
        bounds.get(metadata.precision, parity.HALF_PRECISION),
        default_style(metadata),
    )
    parity.require(report, f"the form with {name}", "build with --plugins off.")
    return report


def _gate(profile: FrameProfile) -> list[Image]:
    return fit_all(read_frames(None, 1), [profile.smallest])
