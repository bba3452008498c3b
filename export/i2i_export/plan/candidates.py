"""A portable engine becomes a TensorRT plan with its sidecar: `plan_from_onnx`.

Needs the ONNX file and TensorRT, neither torch nor triton, because a board has neither. A TensorRT for RTX
plan is built for any supported GPU on any machine; a TensorRT plan for this machine's GPU alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rich.console import Console

from i2i_export.enginefile import EngineFile, atomic_file, read_engine
from i2i_export.errors import ExportError
from i2i_export.plan.builder import (
    BuildBar,
    FrameProfile,
    PlanBuilder,
    plan_name,
    profile_from_policy,
    supported_architectures,
)
from i2i_export.plan.examine import Examination
from i2i_export.plan.forms import PluginChoice, forms_of, half_base, portable
from i2i_export.plan.selection import Selection
from i2i_export.plan.timing_cache import default_timing_cache
from i2i_export.plugins.register import why_no_plugins
from i2i_runtime.engines.tensorrt.api import TensorRT, load_tensorrt, version_of
from i2i_runtime.engines.tensorrt.cuda import find_device_facts
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import (
    TENSORRT_RTX,
    Candidate,
    PlanManifest,
    read_manifest,
    sha256_of,
    sidecar_path,
)
from i2i_runtime.metadata import EngineMetadata

Target = Literal["tensorrt", "tensorrt-rtx"]


def plan_from_onnx(
    engine_path: Path,
    out: Path | None = None,
    *,
    target: Target = "tensorrt",
    arch: str | Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    plugins: PluginChoice = "auto",
    half: bool = True,
    frames: Path | None = None,
    kernel_pack: Path | None = None,
    timing_cache: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Builds the plan of an engine file and returns its path.

    `out` is a `.plan` file or a folder; `ENGINE.plan` beside the engine if None. In a folder the file name carries
    size, precision, flavour, version and architecture. `arch` names one GPU architecture (`sm_89`) or several, this
    machine's GPU if None. `size` (height, width) pins a dynamic engine to one size.

    On a GPU each form of the network that is built is run on two frames, from the clip or folder `frames` or of a
    rendered street, and compared with the engine in ONNX Runtime; of those within the bounds the fastest is kept. A
    form that cannot be built, does not run or differs too much is a note in the sidecar. `plugins` `auto` tries forms
    with and without our kernels, which come from the folder `kernel_pack` or are compiled if None; `half` also tries
    half precision for an engine in float32 or int8.

    `timing_cache` is TensorRT's file of timings, one in the user's cache folder if None. Nothing is left behind by a
    failed build. Raises ExportError, and EngineError if TensorRT or the driver is missing.
    """
    engine = read_engine(engine_path)
    trt = load_tensorrt(target)
    facts = find_device_facts()
    architectures = _architectures(trt, target, arch, facts)
    profile = profile_from_policy(engine.metadata.size, size)
    obstacle = why_no_plugins(target, trt.__version__)
    if plugins == "on" and obstacle:
        raise ExportError(f"--plugins on is not possible ({obstacle}): build with --plugins auto or off.")
    if timing_cache is None and facts is not None:
        timing_cache = default_timing_cache(facts.name, trt.__version__)
    metadata = replace(engine.metadata, size=profile.narrow(engine.metadata.size))
    runs_here = facts is not None and facts.architecture in architectures
    with BuildBar(console) as bar:
        builder = PlanBuilder(trt, target, architectures, timing_cache=timing_cache, bar=bar)
        selection = Selection(
            trt,
            target,
            builder,
            profile,
            metadata,
            str(engine_path),
            Examination(engine, profile, frames) if runs_here else None,
            kernel_pack,
            timing_cache,
            bar,
        )
        if target == TENSORRT_RTX:
            best = selection.smallest(portable(_for_rtx(engine, profile, half).to_proto(), profile))
        else:
            choice = "off" if obstacle else plugins
            best = selection.fastest(*forms_of(engine, profile, choice, half=half))
    candidates = list(selection.candidates)
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
        plugins=best.plugins,
        candidates=tuple(candidates),
        build_s=round(best.build_s, 3),
    )
    metadata = replace(metadata, precision=best.form.precision)
    name = plan_name(
        engine_path.stem, profile, metadata.precision, target, version_of(trt), "+".join(architectures)
    )
    return _write(_path(out, engine_path, name), best.plan, manifest, metadata)


def _for_rtx(engine: EngineFile, profile: FrameProfile, half: bool) -> EngineFile:
    """An int8 engine with half precision around its codes, if that changes the image little; any other unchanged.

    Such a plan is built without a GPU, so that nothing can be timed: float32 stays float32 unless it was asked for.
    """
    if engine.metadata.precision != "int8" or not half:
        return engine
    try:
        return half_base(engine, profile)
    except ExportError:
        return engine


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
            "TensorRT builds plans only on the GPU that will run them, and no GPU was found here: "
            "run this command there, or build with --target tensorrt-rtx --arch sm_89."
        )
    if asked and asked != (here,):
        raise ExportError(
            f"TensorRT builds plans only for this machine's GPU, which is {here}, not {', '.join(asked)}: "
            "leave out --arch, or run this command on that GPU."
        )
    return (here,)


def plan_summary(path: Path) -> str:
    """One line about a plan that was written: what it is for, its forms and which one was kept."""
    metadata, manifest = read_manifest(path)
    forms = []
    for candidate in manifest.candidates:
        figures = []
        if candidate.launches is not None and candidate.megabytes is not None:
            figures.append(f"{candidate.launches} launches, {candidate.megabytes:.0f} MB per frame")
        if candidate.psnr_db is not None:
            figures.append(f"PSNR {candidate.psnr_db:.1f} dB")
        if candidate.latency_ms is not None:
            figures.append(f"{candidate.latency_ms:.2f} ms")
        kept = "kept" if candidate.kept else candidate.note or "not kept"
        forms.append(f"{candidate.form} ({', '.join([*figures, kept])})")
    return (
        f"{path}: {manifest.flavour} {manifest.tensorrt_version} for {', '.join(manifest.architectures)}, "
        f"{metadata.precision}, built in {manifest.build_s:.1f} s; {'; '.join(forms)}"
    )


def _path(out: Path | None, engine_path: Path, name: str) -> Path:
    if out is None:
        return engine_path.with_suffix(".plan")
    return out if out.suffix == ".plan" else out / name


def _write(path: Path, plan: bytes, manifest: PlanManifest, metadata: EngineMetadata) -> Path:
    """Sidecar first: a sidecar alone does no harm, and its hash detects a plan that is not its own."""
    with atomic_file(sidecar_path(path)) as part:
        part.write_text(manifest.to_json(metadata), encoding="utf-8")
    with atomic_file(path) as part:
        part.write_bytes(plan)
    return path
