"""`i2i-export`: a run becomes an engine, an engine a leaner one, a foreign network an engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from i2i_export import parity
from i2i_export.adopt.convert import check_against_original, engine_from_foreign
from i2i_export.adopt.declared import Answers
from i2i_export.enginefile import EngineFile, atomic_file, default_style, read_engine, write_engine
from i2i_export.frames import fit, fit_all, read_frames, read_held_back_frames
from i2i_export.precision.half import half_from_engine
from i2i_export.precision.int8 import int8_from_engine
from i2i_export.precision.speed import compare_speed, require_faster
from i2i_export.serving import repository_from_engine
from i2i_export.sizes import FRAMES_IN_GATE, gate_sizes, size_from_text, timing_size
from i2i_runtime.errors import I2IError, UsageError
from i2i_trainer.errors import TrainError

_FRAMES_TO_CALIBRATE = 8


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
    """Direction to export, where the method learned both."""
    size: str | None = None
    """WIDTHxHEIGHT, or `dynamic` for every multiple of the network's stride."""
    precision: Literal["fp32", "fp16", "int8"] | None = None
    """Numbers inside the engine; int8 is calibrated on --frames, and refused where it is no faster here."""
    style: str | None = None
    """`input` leaves the style to the runtime, `fixed:NAME` or `fixed:0.3,-1,...` bakes one in."""
    frames: Path | None = None
    """Clip, or folder of clips or images, for the gate and to calibrate int8; rendered ones if not given."""
    name: str | None = None
    """Name written into the metadata; the output's name if not given."""
    licence: str = ""
    """Licence of the weights, written into the metadata."""
    for_cpu: bool = False
    """Also rewrite what makes the engine faster on processors and slower on GPUs; int8 in uint8 codes."""
    guided: int | None = None
    """Translate the image this many times smaller, and bring the change to full size by a guided filter; for runs
    and for any engine in fp32."""
    insist: bool = False
    """Write an int8 engine also where this machine does not run it faster than the original."""
    triton_repository: Path | None = None
    """Also write a model repository for NVIDIA Triton Inference Server here."""
    plan: bool = False
    """Also build the TensorRT plan beside the engine."""
    target: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt"
    """Flavour of the plan: `tensorrt` builds on the GPU that will run it, `tensorrt-rtx` anywhere."""
    arch: tuple[str, ...] = ()
    """GPU architectures of the plan, as sm_89; the GPU at hand if not given."""
    plugins: Literal["auto", "on", "off"] = "auto"
    """Our kernels in a TensorRT plan: `auto` builds with and without, times both and keeps the faster."""
    kernel_pack: Path | None = None
    """Folder of kernels built ahead of time; compiled here, with triton, if not given."""
    timing_cache: Path | None = None
    """File in which TensorRT keeps what it timed, so that the next build of this network is quick."""
    plan_file: Path | None = None
    """Name of the plan, or a folder that is there; the name is made of size, precision, flavour, version and
    architecture if not given."""


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
    """Values that stand for black and white."""
    channels: Literal["rgb", "bgr", "luma"] | None = None
    """What the network's channels are."""
    output_range: Literal["0,255", "0,1", "-1,1"] | None = None
    """Range of the network's output, where it differs from its input."""
    size: str | None = None
    """WIDTHxHEIGHT or `dynamic`, for networks that take several sizes."""
    stride: int | None = None
    """Multiple that height and width must have, for networks that take several sizes; found by trying 1 to 64 if not
    given."""
    direction: str = "image -> translated"
    """What the engine says it does."""
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
    except parity.ParityError as error:
        console.print(error.report.to_table())
        console.print(f"i2i-export: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except (I2IError, TrainError) as error:
        console.print(f"i2i-export: {error}", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("i2i-export: interrupted, nothing was written.")
        return 130
    return 0


def _export(options: ExportOptions, console: Console) -> None:
    output = options.output or Path(f"{options.source.stem}.onnx")
    if output.suffix != ".onnx":
        raise UsageError(f"-o {output} must end in .onnx: plans are written beside it with --plan.")
    is_run = options.source.is_dir()
    if is_run:
        engine, encoder = _engine_from_run(options, output, console)
    else:
        engine = _engine_from_file(options)
        encoder = _encoder_beside(engine, options.source, console)
        if options.guided is not None:
            engine = _guided(engine, options, output, console)
    if options.precision in ("fp16", "int8"):
        engine = _lean(engine, options, console)
    if not output.exists() or not options.source.exists() or not output.samefile(options.source):
        _write(engine, encoder, output)
    elif options.precision or options.guided or options.name or options.licence:
        raise UsageError(f"-o {output} would overwrite the engine it is made from: give it another name.")
    console.print(f"{output}: {_summary(engine)}", highlight=False, soft_wrap=True)
    served = _plan(options, output, engine, console) if options.plan else output
    if options.triton_repository is not None:
        model = repository_from_engine(served, options.triton_repository)
        console.print(
            f"{model}: for tritonserver --model-repository {options.triton_repository}", soft_wrap=True
        )


def _write(engine: EngineFile, encoder: bytes | None, output: Path) -> None:
    """The engine, then the style encoder that belongs to it, as NAME.style.onnx."""
    path, style = output.with_name(f"{output.stem}.style.onnx"), engine.metadata.style
    if style is not None:
        named = replace(style, encoder=path.name if encoder is not None else None)
        engine.metadata = replace(engine.metadata, style=named)
    write_engine(engine, output)
    if encoder is not None:
        with atomic_file(path) as part:
            part.write_bytes(encoder)


def _encoder_beside(engine: EngineFile, source: Path, console: Console) -> bytes | None:
    """The style encoder that lies beside an engine, None where it has none."""
    style = engine.metadata.style
    if style is None or style.encoder is None:
        return None
    try:
        return source.with_name(style.encoder).read_bytes()
    except OSError:
        console.print(
            f"{style.encoder} does not lie beside {source}: the new engine reads no style off an image, "
            "unless it is put there and this is run again.",
            highlight=False,
            soft_wrap=True,
        )
        return None


def _lean(engine: EngineFile, options: ExportOptions, console: Console) -> EngineFile:
    """The engine in half precision or int8, compared with the float32 one on the gate's frames."""
    if options.precision == "int8":
        return _int8(engine, options, console)
    sizes, style = gate_sizes(engine.metadata.size), default_style(engine.metadata)
    gate = fit_all(read_frames(options.frames, FRAMES_IN_GATE), sizes)
    lean, report = half_from_engine(engine, gate, style)
    console.print(report.to_table())
    return lean


def _int8(engine: EngineFile, options: ExportOptions, console: Console) -> EngineFile:
    """The engine in int8, held against frames it was not calibrated on and against the original's speed."""
    if options.frames is None:
        raise UsageError("int8 is calibrated on real frames: name a clip or a folder with --frames.")
    if options.for_cpu and options.plan:
        raise UsageError("--for-cpu writes int8 as TensorRT does not take it: leave out --for-cpu or --plan.")
    sizes = gate_sizes(engine.metadata.size)
    known, unknown = read_held_back_frames(options.frames, _FRAMES_TO_CALIBRATE)
    # The rendered street stands for the scene that nobody thought of when the clip was chosen.
    gate = fit_all([*unknown, *read_frames(None, 1)], sizes)
    lean, report = int8_from_engine(
        engine, fit_all(known, sizes), gate, default_style(engine.metadata), for_cpu=options.for_cpu
    )
    console.print(report.to_table())
    if not options.plan:  # which another device runs
        speed = compare_speed(engine, lean, fit(unknown[0], *timing_size(engine.metadata.size)))
        console.print(f"The int8 engine is {speed}.", highlight=False, soft_wrap=True)
        if not options.insist:
            remedy = "keep the original" if options.for_cpu else "try --for-cpu, the form for processors"
            require_faster(speed, remedy)
    return lean


def _plan(options: ExportOptions, output: Path, engine: EngineFile, console: Console) -> Path:
    from i2i_export.plan.candidates import plan_from_onnx, plan_summary

    policy = engine.metadata.size
    wanted = size_from_text(options.size, policy.stride) if options.size else policy
    file = options.plan_file
    if file is not None and file.suffix != ".plan" and not file.is_dir():
        file = file.with_name(f"{file.name}.plan")
    plan = plan_from_onnx(
        output,
        file,
        target=options.target,
        arch=options.arch,
        size=(wanted.max_height, wanted.max_width) if wanted.is_fixed else None,
        plugins=options.plugins,
        kernel_pack=options.kernel_pack,
        timing_cache=options.timing_cache,
        console=console,
    )
    console.print(plan_summary(plan), highlight=False, soft_wrap=True)
    return plan


def _adopt(options: AdoptOptions, console: Console) -> None:
    output = options.output or Path(f"{options.source.stem}.engine.onnx")
    if output.suffix != ".onnx" or output == options.source:
        raise UsageError(f"-o {output} must be another file, and end in .onnx.")
    answers = Answers(
        options.layout, options.range, options.output_range, options.channels, options.size, options.stride
    )
    adopted = engine_from_foreign(
        options.source,
        answers,
        name=options.name or output.stem,
        direction=options.direction,
        licence=options.licence,
    )
    engine = adopted.engine
    gate = fit_all(read_frames(options.frames, FRAMES_IN_GATE), adopted.gate_sizes)
    console.print(check_against_original(adopted, gate).to_table())
    write_engine(engine, output)
    console.print(f"{output}: {_summary(engine)}", highlight=False)


def _engine_from_run(
    options: ExportOptions, output: Path, console: Console
) -> tuple[EngineFile, bytes | None]:
    from i2i_export.run.trace import onnx_from_run  # only here, and to guide an engine, torch is needed

    engine, report, encoder = onnx_from_run(
        options.source,
        output,
        direction=options.direction,
        size=options.size,
        style=options.style,
        frames=options.frames,
        name=options.name,
        licence=options.licence,
        for_cpu=options.for_cpu,
        guided=options.guided,
    )
    console.print(report.to_table())
    return engine, None if encoder is None else encoder.SerializeToString(deterministic=True)


def _engine_from_file(options: ExportOptions) -> EngineFile:
    run_only = {
        "--style": options.style,
        "--direction b2a": options.direction == "b2a",
        "--for-cpu": options.for_cpu and options.precision != "int8",
        "--size": options.size is not None and not options.plan,
    }
    asked = [flag for flag, given in run_only.items() if given]
    if asked:
        raise UsageError(
            f"{asked[0]} is settled when a run is exported: name the run folder, not {options.source}."
        )
    engine = read_engine(options.source)
    metadata = engine.metadata
    if options.precision == "fp32" and metadata.precision != "fp32":
        raise UsageError(
            f"{options.source} is {metadata.precision} and cannot be made fp32 again: export its run."
        )
    engine.metadata = replace(
        metadata, name=options.name or metadata.name, licence=options.licence or metadata.licence
    )
    return engine


def _guided(engine: EngineFile, options: ExportOptions, output: Path, console: Console) -> EngineFile:
    from i2i_export.run.guided_engine import guided_from_engine  # here too torch is needed

    assert options.guided is not None
    guided, report = guided_from_engine(
        engine,
        options.guided,
        read_frames(options.frames, FRAMES_IN_GATE),
        name=options.name or output.stem,
    )
    console.print(report.to_table())
    return guided


def _summary(engine: EngineFile) -> str:
    metadata, size = engine.metadata, engine.metadata.size
    sizes = f"{size.min_width}x{size.min_height}"
    if not size.is_fixed:
        sizes = f"{sizes} to {size.max_width}x{size.max_height} in steps of {size.stride}"
    return (
        f"{metadata.method}, {metadata.direction}, {metadata.precision}, {sizes}, "
        f"{metadata.macs_per_pixel:,.0f} MACs per pixel"
    )
