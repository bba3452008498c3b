"""A portable engine becomes a TensorRT plan with its sidecar: `plan_from_onnx`.

Needs the ONNX file and TensorRT, neither torch nor triton, because a board has neither. A TensorRT for RTX
plan is built for any supported GPU on any machine; a TensorRT plan for the GPU at hand alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import onnx.inliner
from rich.console import Console

from i2i_export import parity
from i2i_export.enginefile import EngineFile, atomic_file, default_style, read_engine
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all, read_frames
from i2i_export.plan.builder import (
    BuildBar,
    FrameProfile,
    PlanBuilder,
    pinned_to_size,
    plan_name,
    profile_from_policy,
    supported_architectures,
)
from i2i_export.plan.passes import PASSES, rewritten, smallest_rewrite
from i2i_export.plan.structure import PlanStructure, structure_from_plan
from i2i_export.plugins.functions import model_with_functions
from i2i_export.plugins.lowering import PluginNetwork, network_with_plugins
from i2i_export.plugins.register import compile_kernels, plugin_records, register_plugins, why_no_plugins
from i2i_runtime.engines.tensorrt.api import TensorRT, load_tensorrt, version_of
from i2i_runtime.engines.tensorrt.cuda import find_device_facts
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.engine import time_plan_ms
from i2i_runtime.engines.tensorrt.manifest import (
    TENSORRT_RTX,
    Candidate,
    PlanManifest,
    PluginRecord,
    read_manifest,
    sha256_of,
    sidecar_path,
)
from i2i_runtime.metadata import EngineMetadata

Target = Literal["tensorrt", "tensorrt-rtx"]
PluginChoice = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class _Form:
    """One way to hand the network to TensorRT."""

    name: str
    model: onnx.ModelProto
    rewrites: tuple[str, ...] = ()
    plugins: tuple[PluginRecord, ...] = ()


@dataclass(frozen=True)
class _Built:
    form: _Form
    plan: bytes
    build_s: float
    candidate: Candidate


def plan_from_onnx(
    engine_path: Path,
    out: Path | None = None,
    *,
    target: Target = "tensorrt",
    arch: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    plugins: PluginChoice = "auto",
    kernel_pack: Path | None = None,
    timing_cache: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Builds the plan of an engine file and returns its path.

    `out` is a folder or a `.plan` file, the engine's own folder if None; in a folder the file name carries
    size, precision, flavour, version and architecture. `arch` names one GPU architecture (`sm_89`) or
    several, the GPU at hand if None. `size` (height, width) pins a dynamic engine to one size. `plugins`
    `auto` builds with and without the fused kernels, times both on the GPU and keeps the faster; their
    kernels come out of the folder `kernel_pack`, or are compiled if None. Nothing is left behind by a failed
    build. Raises ExportError, and EngineError if TensorRT or the driver is missing.
    """
    engine = read_engine(engine_path)
    trt = load_tensorrt(target)
    facts = find_device_facts()
    architectures = _architectures(trt, target, arch, facts)
    profile = profile_from_policy(engine.metadata.size, size)
    obstacle = why_no_plugins(target, trt.__version__)
    if plugins == "on" and obstacle:
        raise ExportError(f"--plugins on is not possible ({obstacle}): build with --plugins auto or off.")
    left_out: list[Candidate] = []
    with BuildBar(console) as bar:
        builder = PlanBuilder(trt, target, architectures, timing_cache=timing_cache, bar=bar)
        if target == TENSORRT_RTX:
            smallest, left_out = _smallest(
                builder, _portable(engine.to_proto(), profile), profile, str(engine_path)
            )
            built = [smallest]
        else:
            choice = "off" if obstacle else plugins
            forms, left_out = _forms_to_time(engine, profile, architectures[0], choice, kernel_pack)
            built = [_build(builder, form, profile, str(engine_path)) for form in forms]
    if len(built) > 1:
        built = [_timed(trt, target, one, engine.metadata, profile) for one in built]
    best = min(built, key=lambda one: one.candidate.latency_ms or 0.0)
    candidates = [replace(one.candidate, kept=one is best) for one in built] + left_out
    if plugins == "auto" and obstacle:
        candidates.append(Candidate("plugins", kept=False, note=obstacle))
    manifest = PlanManifest(
        flavour=target,
        tensorrt_version=trt.__version__,
        architectures=architectures,
        onnx_file=engine_path.name,
        onnx_sha256=sha256_of(engine_path.read_bytes()),
        plan_sha256=sha256_of(best.plan),
        gpu=facts.name if facts else "",
        driver=facts.driver if facts else "",
        builder_flags=builder.network_flags,
        rewrites=best.form.rewrites,
        plugins=best.form.plugins,
        candidates=tuple(candidates),
        build_s=round(best.build_s, 3),
    )
    metadata = replace(engine.metadata, size=profile.narrow(engine.metadata.size))
    target_name = "+".join(architectures)
    name = plan_name(engine_path.stem, profile, metadata.precision, target, version_of(trt), target_name)
    return _write(_path(out, engine_path, name), best.plan, manifest, metadata)


def _timed(
    trt: TensorRT, target: Target, built: _Built, metadata: EngineMetadata, profile: FrameProfile
) -> _Built:
    """The same with its median latency at the usual size on the GPU at hand."""
    latency_ms = time_plan_ms(trt, target, built.plan, metadata, *profile.usual)
    return replace(built, candidate=replace(built.candidate, latency_ms=round(latency_ms, 4)))


def _architectures(
    trt: TensorRT, target: Target, arch: str | Sequence[str] | None, facts: DeviceFacts | None
) -> tuple[str, ...]:
    """The GPU architectures to build for. Raises ExportError if they are not available."""
    asked = (arch,) if isinstance(arch, str) else tuple(arch or ())
    here = facts.architecture if facts else None
    if target == TENSORRT_RTX:
        known = supported_architectures(trt)
        wanted = asked or ((here,) if here else ())
        if not wanted:
            raise ExportError(
                f"No GPU was found to build for: name one with --arch, out of {', '.join(known)}."
            )
        if unknown := [name for name in wanted if name not in known]:
            raise ExportError(
                f"TensorRT for RTX {trt.__version__} does not know {unknown[0]}: choose --arch out of "
                f"{', '.join(known)}, or build with --target tensorrt on that GPU."
            )
        return tuple(dict.fromkeys(wanted))
    if here is None:
        raise ExportError(
            "TensorRT builds plans only on the GPU that will run them and there is none here: "
            "run this command there, or build with --target tensorrt-rtx --arch sm_89."
        )
    if asked and asked != (here,):
        raise ExportError(
            f"TensorRT builds plans only for the GPU at hand, which is {here}, not {', '.join(asked)}: "
            "leave out --arch, or run this command on that GPU."
        )
    return (here,)


def _portable(model: onnx.ModelProto, profile: FrameProfile) -> onnx.ModelProto:
    """Standard operators alone, and a fixed size if the profile has one."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return pinned_to_size(model, *profile.largest) if profile.is_fixed else model


def _smallest(
    builder: PlanBuilder, model: onnx.ModelProto, profile: FrameProfile, origin: str
) -> tuple[_Built, list[Candidate]]:
    """The form whose launches or bytes are fewest, and the plain one if that is another.

    A dynamic network is counted at its usual size.
    """
    counted = FrameProfile(profile.usual, profile.usual, profile.usual)
    fixed_plans: dict[int, tuple[bytes, float]] = {}

    def count(trial: onnx.ModelProto) -> PlanStructure | None:
        start = time.perf_counter()
        plan = builder.build(pinned_to_size(trial, *profile.usual), counted, origin=origin)
        structure = structure_from_plan(plan)
        if profile.is_fixed:
            fixed_plans[id(structure)] = plan, time.perf_counter() - start
        return structure

    found = smallest_rewrite(model, count)
    form = _Form("rewritten" if found.kept else "plain", found.model, rewrites=found.kept)
    left_out = [_candidate("plain", found.before)] if found.kept else []
    if found.after is None or not profile.is_fixed:
        return _build(builder, form, profile, origin), left_out
    return _built(form, *fixed_plans[id(found.after)]), left_out


def _forms_to_time(
    engine: EngineFile, profile: FrameProfile, architecture: str, plugins: PluginChoice, pack: Path | None
) -> tuple[list[_Form], list[Candidate]]:
    """The forms that full TensorRT tries: unchanged, rewritten, and with our kernels as plugins.

    Under `auto` a form whose kernels are not available, or that gives another image, is left out and noted.
    """
    portable = _portable(engine.to_proto(), profile)
    forms, left_out = [], []
    if plugins != "on":
        forms.append(_Form("plain", portable))
        small = rewritten(portable, tuple(PASSES))
        if small is not None:
            forms.append(_Form("rewritten", small, rewrites=tuple(PASSES)))
    networks = {} if plugins == "off" else _plugin_networks(portable)
    if plugins == "on" and not networks:
        raise ExportError("--plugins on is not possible (no norm that our kernels do): use --plugins off.")
    for name, network in networks.items():
        try:
            check_plugin_form(name, network, portable, engine.metadata, profile)
            kernels = compile_kernels(network, architecture, pack)
        except ExportError as error:
            if plugins == "on" and name == "plugins":
                raise
            left_out.append(Candidate(name, kept=False, note=str(error)))
            continue
        register_plugins(network, kernels)
        forms.append(_Form(name, network.model, plugins=plugin_records(kernels)))
    return forms, left_out


def _plugin_networks(portable: onnx.ModelProto) -> dict[str, PluginNetwork]:
    found = {
        "plugins": network_with_plugins(portable),
        "convolution plugins": network_with_plugins(portable, convolutions=True),
    }
    return {name: network for name, network in found.items() if network is not None}


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
        fit_all(read_frames(None, 1), [profile.smallest]),
        bounds.get(metadata.precision, parity.HALF_PRECISION),
        default_style(metadata),
    )
    parity.require(report, f"the form with {name}", "build with --plugins off.")
    return report


def _build(builder: PlanBuilder, form: _Form, profile: FrameProfile, origin: str) -> _Built:
    start = time.perf_counter()
    plan = builder.build(form.model, profile, origin=origin)
    return _built(form, plan, time.perf_counter() - start)


def _built(form: _Form, plan: bytes, build_s: float) -> _Built:
    return _Built(form, plan, build_s, _candidate(form.name, structure_from_plan(plan)))


def _candidate(form: str, structure: PlanStructure | None) -> Candidate:
    if structure is None:
        return Candidate(form, kept=False)
    return Candidate(form, False, structure.launch_count, round(structure.megabytes, 2))


def plan_summary(path: Path) -> str:
    """One line about a plan that was written: what it is for, its forms and which one was kept."""
    metadata, manifest = read_manifest(path)
    forms = []
    for candidate in manifest.candidates:
        figures = []
        if candidate.launches is not None and candidate.megabytes is not None:
            figures.append(f"{candidate.launches} launches, {candidate.megabytes:.0f} MB per frame")
        if candidate.latency_ms is not None:
            figures.append(f"{candidate.latency_ms:.2f} ms")
        kept = "kept" if candidate.kept else candidate.note or "not kept"
        forms.append(f"{candidate.form} ({', '.join([*figures, kept])})")
    return (
        f"{path}: {manifest.flavour} {manifest.tensorrt_version} for {', '.join(manifest.architectures)}, "
        f"{metadata.precision}, built in {manifest.build_s:.1f} s; {'; '.join(forms)}"
    )


def _path(out: Path | None, engine_path: Path, name: str) -> Path:
    if out is not None and out.suffix == ".plan":
        return out
    return (out or engine_path.parent) / name


def _write(path: Path, plan: bytes, manifest: PlanManifest, metadata: EngineMetadata) -> Path:
    """Sidecar first: a sidecar alone does no harm, and its hash detects a plan that is not its own."""
    with atomic_file(sidecar_path(path)) as part:
        part.write_text(manifest.to_json(metadata), encoding="utf-8")
    with atomic_file(path) as part:
        part.write_bytes(plan)
    return path
