"""Export from Python: `export_run`, `derive_engine`, `adopt_network`; the command calls the same functions.

Each writes one engine file (`.onnx`) atomically, after it was compared with what it is made from, and returns its path
and metadata. A `console`, if given, gets the tables of the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from rich.console import Console

from i2i_export.adopt.convert import check_against_original, engine_from_foreign
from i2i_export.adopt.declared import Answers
from i2i_export.adopt.interface import Channels, Layout, Range
from i2i_export.enginefile import EngineFile, atomic_file, default_style, read_engine, write_engine
from i2i_export.errors import ExportError
from i2i_export.frames import fit, fit_all, read_frames, read_held_back_frames
from i2i_export.parity import Report
from i2i_export.precision.half import half_from_engine
from i2i_export.precision.int8 import int8_from_engine
from i2i_export.precision.speed import compare_speed, require_faster
from i2i_export.sizes import FRAMES_IN_GATE, gate_sizes, timing_size
from i2i_runtime.errors import UsageError
from i2i_runtime.metadata import EngineMetadata

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

_FRAMES_TO_CALIBRATE = 8


@dataclass(frozen=True)
class ExportedEngine:
    """An engine file that was written, and what it says about itself."""

    path: Path
    metadata: EngineMetadata


@dataclass(frozen=True)
class Lean:
    """How an engine is made smaller or faster than its float32 form."""

    precision: Precision = "fp32"
    frames: Path | None = None
    """Clip, or folder of clips or images, to compare on and to calibrate int8; rendered frames if None."""
    for_cpu: bool = False
    """int8 in the form that processors compute fastest and TensorRT does not take."""
    insist: bool = False
    """Write an int8 engine even if it is not faster here."""
    for_plan: bool = False
    """The engine is the source of a TensorRT plan: int8 is not timed on this machine."""


def export_run(
    run: Path | str,
    out: Path | str | None = None,
    *,
    direction: Literal["a2b", "b2a"] = "a2b",
    size: str | None = None,
    style: str | None = None,
    guided: int | None = None,
    name: str | None = None,
    licence: str = "",
    step: str | None = None,
    lean: Lean | None = None,
    console: Console | None = None,
) -> ExportedEngine:
    """Turns one direction of a training run into an engine file, `RUN.onnx` in the current folder if `out` is None.

    `size` is `WIDTHxHEIGHT` or `dynamic` (every multiple of the network's stride, the default). `style` is `input`,
    `fixed:NAME` or `fixed:0.3,-1,...`. `guided` translates the image that many times smaller (2, 3, 4, 6 or 8) and
    applies the change at full size. `step` is a step that the run kept (`--keep`), or `best`; the last one if None. A
    style encoder, if the method has one, is written beside it as `NAME.style.onnx`. Needs torch. Raises ExportError if
    the run or the result cannot be used, UsageError for contradictory arguments.
    """
    from i2i_export.run.notes import notes_on_run
    from i2i_export.run.trace import onnx_from_run  # only here, and to guide an engine, torch is needed

    lean = lean or Lean()
    output = _output(out, f"{Path(run).name}.onnx")
    engine, report, encoder = onnx_from_run(
        Path(run),
        output,
        direction=direction,
        size=size,
        style=style,
        frames=lean.frames,
        name=name,
        licence=licence,
        for_cpu=lean.for_cpu,
        guided=guided,
        step=step,
    )
    _show(report, console)
    if console is not None:
        for note in notes_on_run(Path(run), direction, step, engine.metadata.size, guided):
            console.print(note, highlight=False, markup=False, soft_wrap=True)
    engine = _made_lean(engine, lean, console)
    _write(engine, None if encoder is None else encoder.SerializeToString(deterministic=True), output)
    return ExportedEngine(output, engine.metadata)


def derive_engine(
    source: Path | str,
    out: Path | str,
    *,
    guided: int | None = None,
    name: str | None = None,
    licence: str | None = None,
    lean: Lean | None = None,
    console: Console | None = None,
) -> ExportedEngine:
    """Makes another engine from an engine file: in half precision, in int8, or guided (see `export_run`).

    `name` and `licence` are the source's own if None. Raises ExportError if the source is not an engine or the result
    differs too much, UsageError if `out` is the source itself.
    """
    source, lean, output = Path(source), lean or Lean(), _output(out, "")
    if output.exists() and source.exists() and output.samefile(source):
        raise UsageError(f"-o {output} would overwrite the engine it is made from: give it another name.")
    engine = read_engine(source)
    metadata = engine.metadata
    engine.metadata = replace(
        metadata, name=name or metadata.name, licence=metadata.licence if licence is None else licence
    )
    encoder = _encoder_beside(engine, source, console)
    if guided is not None:
        from i2i_export.run.guided_engine import guided_from_engine  # here too torch is needed

        frames = read_frames(lean.frames, FRAMES_IN_GATE)
        engine, report = guided_from_engine(engine, guided, frames, name=name or output.stem)
        _show(report, console)
    engine = _made_lean(engine, lean, console)
    _write(engine, encoder, output)
    return ExportedEngine(output, engine.metadata)


def adopt_network(
    network: Path | str,
    out: Path | str | None = None,
    *,
    layout: Layout | None = None,
    range: Range | None = None,
    channels: Channels | None = None,
    output_range: Range | None = None,
    size: str | None = None,
    stride: int | None = None,
    direction: str = "image -> translated",
    licence: str | None = None,
    name: str | None = None,
    frames: Path | None = None,
    console: Console | None = None,
) -> ExportedEngine:
    """Wraps an ONNX network that somebody else trained into the engine contract.

    Writes `NAME.engine.onnx` in the current folder if `out` is None.

    `layout` (`nchw`, `nhwc`), `range` (`0,255`, `0,1`, `-1,1`) and `channels` (`rgb`, `bgr`, `luma`) describe its
    image; what the file itself states may be None. `frames` names the clip or folder on which the engine is compared
    with the untouched network. Raises UsageError for what has to be stated, ForeignNetworkError if it is not a
    network from image to image.
    """
    source = Path(network)
    output = _output(out, f"{source.stem}.engine.onnx")
    if output == source:
        raise UsageError(f"-o {output} must be another file, and end in .onnx.")
    adopted = engine_from_foreign(
        source,
        Answers(layout, range, output_range, channels, size, stride),
        name=name or output.stem,
        direction=direction,
        licence=licence,
    )
    gate = fit_all(read_frames(frames, FRAMES_IN_GATE), adopted.gate_sizes)
    _show(check_against_original(adopted, gate), console)
    write_engine(adopted.engine, output)
    return ExportedEngine(output, adopted.engine.metadata)


def _output(out: Path | str | None, otherwise: str) -> Path:
    path = Path(out if out is not None else otherwise)
    if path.suffix != ".onnx":
        raise UsageError(f"-o {path} must end in .onnx: plans are written beside it with --plan.")
    return path


def _show(report: Report, console: Console | None) -> None:
    if console is not None:
        console.print(report.to_table())


def _made_lean(engine: EngineFile, lean: Lean, console: Console | None) -> EngineFile:
    """The engine in half precision or int8, compared with the float32 one on the gate's frames."""
    if lean.precision == "int8":
        return _int8(engine, lean, console)
    if lean.precision == "fp32":
        return engine
    sizes, style = gate_sizes(engine.metadata.size), default_style(engine.metadata)
    half, report = half_from_engine(engine, fit_all(read_frames(lean.frames, FRAMES_IN_GATE), sizes), style)
    _show(report, console)
    return half


def _int8(engine: EngineFile, lean: Lean, console: Console | None) -> EngineFile:
    """The engine in int8, compared on frames it was not calibrated on, and timed against the original."""
    if lean.frames is None:
        raise UsageError("int8 is calibrated on real frames: name a clip or a folder with --frames.")
    if lean.for_cpu and lean.for_plan:
        raise UsageError("--for-cpu writes int8 as TensorRT does not take it: leave out --for-cpu or --plan.")
    sizes = gate_sizes(engine.metadata.size)
    calibration, held_out = read_held_back_frames(lean.frames, _FRAMES_TO_CALIBRATE)
    # The rendered street stands for the scene that nobody thought of when the clip was chosen.
    gate = fit_all([*held_out, *read_frames(None, 1)], sizes)
    small, report = int8_from_engine(
        engine, fit_all(calibration, sizes), gate, default_style(engine.metadata), for_cpu=lean.for_cpu
    )
    _show(report, console)
    if not lean.for_plan:
        speed = compare_speed(engine, small, fit(held_out[0], *timing_size(engine.metadata.size)))
        if console is not None:
            console.print(f"The int8 engine is {speed}.", highlight=False, soft_wrap=True)
        if not lean.insist:
            remedy = "keep the original" if lean.for_cpu else "try --for-cpu, the form for processors"
            require_faster(speed, remedy)
    return small


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


def _encoder_beside(engine: EngineFile, source: Path, console: Console | None) -> bytes | None:
    """The style encoder beside an engine, None if it has none."""
    style = engine.metadata.style
    if style is None or style.encoder is None:
        return None
    try:
        return source.with_name(style.encoder).read_bytes()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise ExportError(
                f"{style.encoder} cannot be read ({error.strerror}): check its permissions."
            ) from error
        if console is not None:
            console.print(
                f"{style.encoder} is not beside {source}: the new engine cannot read a style from an image, "
                "unless it is put there and this is run again.",
                highlight=False,
                soft_wrap=True,
            )
        return None
