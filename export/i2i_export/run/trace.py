"""A trained run becomes one portable ONNX file. The only room of export that needs torch."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from i2i_export import parity
from i2i_export.enginefile import EngineFile, default_style
from i2i_export.errors import ExportError
from i2i_export.frames import fit_all, read_frames
from i2i_export.graph.macs import cost_of
from i2i_export.passes.order import notes_from_changes, optimise
from i2i_export.run.guided import GuidedInference
from i2i_export.run.torch_ops import TRANSLATIONS
from i2i_export.sizes import FRAMES_IN_GATE, dynamic_size, gate_sizes, size_from_text
from i2i_runtime.errors import UsageError
from i2i_runtime.files import reason_of, sha256_of_file
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, STYLE, TRANSLATED, EngineMetadata, Provenance, SizePolicy, StyleSpec
from i2i_trainer.checkpoint import checkpoint_file, load_method, read_config, read_state
from i2i_trainer.errors import OptionError, TrainError
from i2i_trainer.method import Inference, Method

OPSET = 18
"""The dynamo exporter's own opset; newer ones only pass through a converter, and every back end takes 18."""


@contextlib.contextmanager
def _trainer_errors() -> Iterator[None]:
    """The trainer's error sentences as export's own."""
    try:
        yield
    except OptionError as error:
        raise UsageError(str(error)) from error
    except TrainError as error:
        raise ExportError(str(error)) from error


@dataclass(frozen=True)
class Origin:
    """What the run knows and the network does not: goes into the metadata unchanged."""

    name: str
    method: str
    direction: str
    provenance: Provenance
    licence: str = ""


class _EngineModule(nn.Module):
    """The engine contract around a network: uint8 NHWC in and out, each uint8 tensor meeting only a cast."""

    def __init__(self, inference: Inference, fixed_style: Tensor | None) -> None:
        super().__init__()
        self.inference = inference
        self.register_buffer("fixed_style", fixed_style)

    def forward(self, frame: Tensor, style: Tensor | None = None) -> Tensor:
        image = frame.to(torch.float32).permute(0, 3, 1, 2) * (1 / 127.5) - 1
        code = self.fixed_style if style is None else style
        translated = self.inference(image) if code is None else self.inference(image, code)
        levels: Tensor = (translated * 127.5 + 127.5).clamp(0, 255).round()
        return levels.permute(0, 2, 3, 1).to(torch.uint8)


class _EncoderModule(nn.Module):
    """A style encoder that reads camera frames: uint8 NHWC to style `[1, S] float32`."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frame: Tensor) -> Tensor:
        style: Tensor = self.encoder(frame.to(torch.float32).permute(0, 3, 1, 2) * (1 / 127.5) - 1)
        return style


class TorchTranslator:
    """The torch network under the same reading of frames as its engine."""

    def __init__(self, inference: Inference, fixed_style: NDArray[np.float32] | None) -> None:
        self._inference = inference
        self._fixed_style = fixed_style

    @torch.no_grad()
    def translate(self, frame: Image, style: NDArray[np.float32] | None) -> parity.Translation:
        image = torch.from_numpy(frame).permute(2, 0, 1)[None].float() * (1 / 127.5) - 1
        code = self._fixed_style if self._fixed_style is not None else style
        style_code = () if code is None else (torch.from_numpy(code),)
        translated = self._inference(image, *style_code)
        unrounded = translated[0].float().clamp(-1, 1).permute(1, 2, 0)
        levels = (unrounded * 127.5 + 127.5).clamp(0, 255).round().to(torch.uint8)
        return parity.Translation(unrounded.numpy(), levels.numpy())


def engine_from_inference(
    inference: Inference,
    size: SizePolicy,
    origin: Origin,
    fixed_style: NDArray[np.float32] | None = None,
    *,
    for_cpu: bool = False,
) -> EngineFile:
    """Traces one direction of a method into an engine, not yet compared with the network.

    `fixed_style` `[1, S]` bakes a style in; without it a method that has one gets the input `style`.
    Raises ExportError if the network cannot be traced for these sizes.
    """
    inference.eval()
    has_style = inference.style_size > 0 and fixed_style is None
    module = _EngineModule(inference, None if fixed_style is None else torch.from_numpy(fixed_style)).eval()
    arguments: tuple[Tensor, ...] = (_example_frame(size),)
    if has_style:
        arguments += (torch.tensor([inference.default_style], dtype=torch.float32),)
    model = _trace(module, arguments, size, [FRAME, STYLE][: len(arguments)], TRANSLATED)
    changes = optimise(model, for_cpu=for_cpu)
    macs, macs_per_pixel = cost_of(model, size)
    metadata = EngineMetadata(
        name=origin.name,
        method=origin.method,
        direction=origin.direction,
        size=size,
        style=_style_spec(inference) if has_style else None,
        macs=macs,
        macs_per_pixel=macs_per_pixel,
        provenance=origin.provenance,
        licence=origin.licence,
        notes={**inference.notes, **notes_from_changes(changes)},
    )
    return EngineFile(model, metadata)


def check_against_torch(
    engine: EngineFile,
    inference: Inference,
    frames: Sequence[Image],
    fixed_style: NDArray[np.float32] | None = None,
) -> parity.Report:
    """Runs the gate and writes its figures into the engine's metadata. Raises ParityError past the bound."""
    report = parity.compare(
        "ONNX Runtime against torch",
        TorchTranslator(inference, fixed_style),
        parity.OnnxTranslator(engine.to_proto()),
        frames,
        parity.SAME_NETWORK,
        default_style(engine.metadata),
    )
    parity.require(
        report,
        "the exported engine",
        "the network has an operator that does not export exactly; no file was written.",
    )
    engine.metadata = replace(engine.metadata, parity=report.figures())
    return report


@_trainer_errors()
def onnx_from_run(
    run: Path,
    output: Path,
    *,
    direction: str = "a2b",
    size: str | None = None,
    style: str | None = None,
    frames: Path | None = None,
    name: str | None = None,
    licence: str = "",
    for_cpu: bool = False,
    guided: int | None = None,
    step: str | None = None,
) -> tuple[EngineFile, parity.Report, onnx.ModelProto | None]:
    """Turns one direction of a run folder into a checked engine; `output` is where the caller will write it.

    Beside the gate's table comes the style encoder, if the engine has a style and the method an encoder. `size` is
    `WIDTHxHEIGHT` or `dynamic`, `style` is `input` or `fixed:...`; `frames` names the clip or folder for the gate.
    `guided` lets the network see the image that many times smaller (guided.py). `step` is a step that the run kept, or
    `best`; the last one if None. Raises ExportError, also if the run
    cannot be loaded, and UsageError.
    """
    method_name, _ = read_config(run)
    method = load_method(run, step)
    if direction not in method.directions():
        raise UsageError(
            f"--direction {direction} is not what {run} learned: "
            f"it translates {' and '.join(method.directions())}."
        )
    inference = method.inference(direction).eval()
    if guided is not None:
        inference = GuidedInference(inference, guided)
    policy = _size_policy(inference, size)
    fixed_style = _fixed_style(inference, style)
    origin = Origin(
        name=name or output.stem,
        method=method_name,
        direction=method.config.direction(direction),
        provenance=_provenance(run, method, step),
        licence=licence,
    )
    engine = engine_from_inference(inference, policy, origin, fixed_style, for_cpu=for_cpu)
    gate = fit_all(read_frames(frames, FRAMES_IN_GATE), gate_sizes(policy))
    report = check_against_torch(engine, inference, gate, fixed_style)
    has_style = engine.metadata.style is not None
    return (
        engine,
        report,
        style_encoder_model(method.style_encoder(direction), policy.stride) if has_style else None,
    )


def _size_policy(inference: Inference, text: str | None) -> SizePolicy:
    if inference.fixed_size is None:
        return size_from_text(text or "dynamic", inference.stride)
    height, width = inference.fixed_size
    if text not in (None, f"{width}x{height}"):
        raise UsageError(f"--size {text} does not fit the network, which takes only {width}x{height}.")
    return SizePolicy.fixed(height, width)


def _fixed_style(inference: Inference, text: str | None) -> NDArray[np.float32] | None:
    """Reads `fixed:NAME` or `fixed:v1,v2,...` into `[1, S]`; None leaves the style to the runtime."""
    if text in (None, "input"):
        if text == "input" and inference.style_size == 0:
            raise UsageError("--style input asks for a style, and this method has none: leave the flag out.")
        return None
    kind, _, value = str(text).partition(":")
    if kind != "fixed" or not value or inference.style_size == 0:
        why = "this method has no style" if inference.style_size == 0 else "it cannot be read"
        raise UsageError(f"--style {text}: {why}; write `input`, `fixed:NAME` or `fixed:0.3,-1,...`.")
    if value == "default":
        code = inference.default_style
    elif value in inference.presets:
        code = inference.presets[value]
    else:
        try:
            code = tuple(float(number) for number in value.split(","))
        except ValueError as error:
            known = ", ".join(("default", *inference.presets))
            raise UsageError(f"--style {text} names no preset: there are {known}.") from error
    if len(code) != inference.style_size:
        raise UsageError(
            f"--style {text} holds {len(code)} numbers: this method's style has {inference.style_size}."
        )
    return np.asarray([code], dtype=np.float32)


def _provenance(run: Path, method: Method, step: str | None) -> Provenance:
    file, config = checkpoint_file(run, step), method.config
    steps = int(read_state(run, file).get("step", 0))
    return Provenance(
        checkpoint_sha256=sha256_of_file(run / file),
        data=config.data.name,
        pictures_seen=steps * 2 * config.batch * config.accumulate,
        source_file=run.name,
        step=steps,
        trained_short_side=config.load_size,
    )


def style_encoder_model(encoder: nn.Module | None, stride: int) -> onnx.ModelProto | None:
    """The network that reads a style off an image, `frame` uint8 `[1, H, W, 3]` -> `style` `[1, S]` float32.

    None if the method has none. H and W are multiples of `stride`.
    """
    if encoder is None:
        return None
    module = _EncoderModule(encoder).eval()
    size = dynamic_size(stride)
    model = _trace(module, (_example_frame(size),), size, [FRAME], STYLE)
    optimise(model)
    return ir.to_proto(model)


def _trace(
    module: nn.Module, arguments: tuple[Tensor, ...], size: SizePolicy, inputs: list[str], output: str
) -> ir.Model:
    dynamic: dict[str, Any] | None = None
    if not size.is_fixed:
        # Telling the exporter the multiple keeps size arithmetic out of the graph.
        height = torch.export.Dim(
            "height", min=size.min_height // size.stride, max=size.max_height // size.stride
        )
        width = torch.export.Dim(
            "width", min=size.min_width // size.stride, max=size.max_width // size.stride
        )
        dynamic = dict.fromkeys(inputs)
        dynamic[FRAME] = {1: size.stride * height, 2: size.stride * width}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                custom_translation_table=TRANSLATIONS,
                input_names=inputs,
                output_names=[output],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter wraps whatever the network raised into its own classes
        reason = reason_of(error.__cause__ or error)
        remedy = "change the network" if size.is_fixed else "fix one size with --size WxH"
        raise ExportError(f"the network cannot be traced ({reason}): {remedy}.") from error
    assert program is not None  # only without dynamo does it return nothing
    return _clean(ir.from_proto(program.model_proto))


def _clean(model: ir.Model) -> ir.Model:
    """Takes out what the tracer left of this machine: stack traces, module paths, symbolic names of sizes."""
    passes.ClearMetadataAndDocStringPass()(model)
    _ask_sizes_after_cast(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.graph.name = "i2i"
    model.producer_name, model.producer_version = "i2i-export", None
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = None
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
        if value.shape is not None and value.dtype == ir.DataType.UINT8:
            value.shape = ir.Shape(
                [
                    dim if isinstance(dim, int) else name
                    for dim, name in zip(value.shape, ("batch", "height", "width", "rgb"), strict=True)
                ]
            )
    return model


def _ask_sizes_after_cast(model: ir.Model) -> None:
    """Operators that only ask how large `frame` is ask its float copy: a uint8 tensor may meet nothing but Cast."""
    frame = model.graph.inputs[0]
    readers = frame.consumers()
    cast = next((node for node in readers if node.op_type == "Cast"), None)
    if cast is None:
        return
    for node in readers:
        if node is not cast:
            node.replace_input_with(list(node.inputs).index(frame), cast.outputs[0])
    model.graph.sort()


def _example_frame(size: SizePolicy) -> Tensor:
    height, width = gate_sizes(size)[-1]
    return torch.zeros(1, height, width, 3, dtype=torch.uint8)


def _style_spec(inference: Inference) -> StyleSpec:
    return StyleSpec(inference.style_size, tuple(inference.default_style), dict(inference.presets))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's remarks on absent libraries and deprecations: nothing a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
