"""`i2i-export`: makes engines from runs, from engines and from foreign networks, and TensorRT plans from engines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from i2i_export.errors import ExportError
from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.metadata import EngineMetadata
from i2i_runtime.opencv import sentence_of_import_error


@dataclass(frozen=True)
class ExportOptions:
    """Write an engine from a run folder, or derive one from an engine.

    i2i-export runs/NAME -o NAME.onnx            a portable engine from a run

    i2i-export NAME.onnx --precision fp16 ...    a leaner engine from an engine

    i2i-export adopt THIRD.onnx -o MINE.onnx     an engine from a network trained elsewhere (see adopt --help)
    """

    source: Annotated[Path, tyro.conf.Positional]
    """A run folder, or an engine as .onnx."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Engine to write; NAME.onnx in the current folder if not given."""
    direction: Literal["a2b", "b2a"] = "a2b"
    """Direction to export, if the method learned both."""
    size: str | None = None
    """WIDTHxHEIGHT, or `dynamic` for every multiple of the network's stride."""
    precision: Literal["fp32", "fp16", "int8"] | None = None
    """Numbers inside the engine; int8 is calibrated on --frames, and refused if it is not faster here."""
    style: str | None = None
    """`input` leaves the style to the runtime, `fixed:NAME` or `fixed:0.3,-1,...` bakes one in."""
    step: str | None = None
    """Step of the run to export: one that --keep kept, or `best`; the last one if not given."""
    frames: Path | None = None
    """Clip, or folder of clips or images, to compare on and to calibrate int8; a rendered street if not given."""
    name: str | None = None
    """Name written into the metadata; the output's name if not given."""
    licence: str = ""
    """Licence of the weights, written into the metadata."""
    for_cpu: bool = False
    """Also apply rewrites that make the engine faster on processors and slower on GPUs; int8 in uint8 codes."""
    guided: int | None = None
    """Translate the image this many times smaller, and bring the change to full size by a guided filter; for runs
    and for any engine in fp32."""
    insist: bool = False
    """Write the int8 engine even if it is not faster here."""
    triton_repository: Path | None = None
    """Also write a model repository for NVIDIA Triton Inference Server here."""
    web: Path | None = None
    """Also write a static site here that runs the engine in the visitor's browser; adds the engine to a site that is
    there."""
    ort_web: Path | None = None
    """Folder of the npm package onnxruntime-web for --web; fetched by npm into the user's cache if not given."""
    plan: bool = False
    """Also build the TensorRT plan beside the engine."""
    target: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt"
    """Flavour of the plan: `tensorrt` builds on the GPU that will run it, `tensorrt-rtx` anywhere."""
    arch: tuple[str, ...] = ()
    """GPU architectures of the plan, as sm_89; the GPU at hand if not given."""
    plugins: Literal["auto", "on", "off"] = "auto"
    """Our kernels in a TensorRT plan: `auto` builds with and without, compares and times all, and keeps the fastest."""
    kernel_pack: Path | None = None
    """Folder of kernels built ahead of time; compiled here, with triton, if not given."""
    timing_cache: Path | None = None
    """File in which TensorRT keeps what it timed; one for this GPU and version in the user's cache if not given."""
    plan_file: Path | None = None
    """Name of the plan, ENGINE.plan beside the engine if not given; or an existing folder, in which the name states
    size, precision, flavour, version and architecture."""


@dataclass(frozen=True)
class AdoptOptions:
    """Wrap a network that somebody else trained into the engine contract."""

    source: Annotated[Path, tyro.conf.Positional]
    """The foreign ONNX file."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Engine to write; NAME.engine.onnx in the current folder if not given."""
    layout: Literal["nchw", "nhwc"] | None = None
    """Order of the network's axes."""
    range: Literal["0,255", "0,1", "-1,1"] | None = None
    """Input value range."""
    channels: Literal["rgb", "bgr", "luma"] | None = None
    """Channel order."""
    output_range: Literal["0,255", "0,1", "-1,1"] | None = None
    """Output value range, if it differs from the input."""
    size: str | None = None
    """WIDTHxHEIGHT or `dynamic`, for networks that take several sizes."""
    stride: int | None = None
    """Multiple that height and width must have, for networks that take several sizes; found by trying 1 to 64 if not
    given."""
    direction: str = "image -> translated"
    """Direction text for the metadata, e.g. `day -> night`."""
    licence: str | None = None
    """Licence of the weights; the foreign file's own statement if not given."""
    name: str | None = None
    frames: Path | None = None
    """Clip or folder whose images prove that the wrapped network gives the network's own image."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    console = Console(stderr=True)
    try:
        if given[:1] == ["adopt"]:
            _adopt(tyro.cli(AdoptOptions, prog="i2i-export adopt", args=given[1:]), console)
        else:
            _export(tyro.cli(ExportOptions, prog="i2i-export", args=given), console)
    except I2IError as error:
        if isinstance(error, ExportError) and error.table is not None:
            console.print(error.table)
        console.print(f"i2i-export: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("i2i-export: interrupted, nothing was written.")
        return 130
    except ImportError as error:
        sentence = sentence_of_import_error(error)
        if sentence is None:
            raise
        console.print(f"i2i-export: {sentence}", markup=False, highlight=False, soft_wrap=True)
        return 1
    return 0


def _export(options: ExportOptions, console: Console) -> None:
    from i2i_export.api import ExportedEngine, Lean, derive_engine, export_run
    from i2i_export.enginefile import read_engine

    lean = Lean(
        options.precision or "fp32", options.frames, options.for_cpu, options.insist, for_plan=options.plan
    )
    if options.source.is_dir():
        exported = export_run(
            options.source,
            options.output,
            direction=options.direction,
            size=options.size,
            style=options.style,
            guided=options.guided,
            name=options.name,
            licence=options.licence,
            step=options.step,
            lean=lean,
            console=console,
        )
    elif options.source.suffix == ".safetensors":
        raise UsageError(
            f"{options.source} is the checkpoint of a run: name its folder, {options.source.parent}."
        )
    else:
        _refuse_what_a_run_settles(options)
        metadata = read_engine(options.source).metadata
        if options.precision == "fp32" and metadata.precision != "fp32":
            raise UsageError(
                f"{options.source} is {metadata.precision} and cannot be made fp32 again: export its run."
            )
        made = (options.triton_repository, options.web)
        is_made_from = options.plan or any(folder is not None for folder in made)
        beside = options.source if _is_as_it_is(options) and is_made_from else Path(options.source.name)
        output = options.output or beside
        if _is_as_it_is(options) and output.exists() and output.samefile(options.source):
            exported = ExportedEngine(output, metadata)
        else:
            exported = derive_engine(
                options.source,
                output,
                guided=options.guided,
                name=options.name,
                licence=options.licence or None,
                lean=lean,
                console=console,
            )
    console.print(f"{exported.path}: {_summary(exported.metadata)}", highlight=False, soft_wrap=True)
    served = _plan(options, exported.path, exported.metadata, console) if options.plan else exported.path
    if options.triton_repository is not None:
        from i2i_export.serving import repository_from_engine

        model = repository_from_engine(served, options.triton_repository)
        console.print(
            f"{model}: for tritonserver --model-repository {options.triton_repository}", soft_wrap=True
        )
    if options.web is not None:
        from i2i_export.web.site import site_from_engine

        count = site_from_engine(exported.path, options.web, options.ort_web)
        console.print(
            f"{options.web}: a site with {count} engine{'s' if count > 1 else ''}, for any web server; to try it: "
            f"python -m http.server --directory {options.web}",
            soft_wrap=True,
        )


def _refuse_what_a_run_settles(options: ExportOptions) -> None:
    """Raises UsageError for flags that change a run's network, if the source is an engine."""
    run_only = {
        "--style": options.style,
        "--step": options.step,
        "--direction b2a": options.direction == "b2a",
        "--for-cpu": options.for_cpu and options.precision != "int8",
        "--size": options.size is not None and not options.plan,
    }
    asked = [flag for flag, given in run_only.items() if given]
    if asked:
        raise UsageError(
            f"{asked[0]} is settled when a run is exported: name the run folder, not {options.source}."
        )


def _is_as_it_is(options: ExportOptions) -> bool:
    """Whether the engine itself stays as it is, as for a plan or a model repository alone."""
    is_changed = options.precision in ("fp16", "int8") or options.guided or options.name or options.licence
    return not is_changed


def _plan(options: ExportOptions, engine: Path, metadata: EngineMetadata, console: Console) -> Path:
    from i2i_export.plan.candidates import plan_from_onnx, plan_summary
    from i2i_export.sizes import size_from_text

    policy = metadata.size
    wanted = size_from_text(options.size, policy.stride) if options.size else policy
    file = options.plan_file
    if file is not None and file.suffix != ".plan" and not file.is_dir():
        file = file.with_name(f"{file.name}.plan")
    plan = plan_from_onnx(
        engine,
        file,
        target=options.target,
        arch=options.arch,
        size=(wanted.max_height, wanted.max_width) if wanted.is_fixed else None,
        plugins=options.plugins,
        half=options.precision is None,
        frames=options.frames,
        kernel_pack=options.kernel_pack,
        timing_cache=options.timing_cache,
        console=console,
    )
    console.print(plan_summary(plan), highlight=False, soft_wrap=True)
    return plan


def _adopt(options: AdoptOptions, console: Console) -> None:
    from i2i_export.api import adopt_network

    adopted = adopt_network(
        options.source,
        options.output,
        layout=options.layout,
        range=options.range,
        channels=options.channels,
        output_range=options.output_range,
        size=options.size,
        stride=options.stride,
        direction=options.direction,
        licence=options.licence,
        name=options.name,
        frames=options.frames,
        console=console,
    )
    console.print(f"{adopted.path}: {_summary(adopted.metadata)}", highlight=False)


def _summary(metadata: EngineMetadata) -> str:
    size = metadata.size
    sizes = f"{size.min_width}x{size.min_height}"
    if not size.is_fixed:
        sizes = f"{sizes} to {size.max_width}x{size.max_height} in steps of {size.stride}"
    return (
        f"{metadata.method}, {metadata.direction}, {metadata.precision}, {sizes}, "
        f"{metadata.macs_per_pixel:,.0f} MACs per pixel"
    )
