"""Networks that somebody else trained, wrapped into the engine contract.

The foreign graph keeps its function and is converted to a current opset and standard operators; around it go the
casts, the layout, the channel order and the ranges that its users otherwise write in NumPy. What the file states for
certain is taken from it, the rest is asked for by the name of its flag.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from i2i_export import parity
from i2i_export.adopt.declared import Answers, interface_from_file, stated_by
from i2i_export.adopt.interface import Interface, Layout, frame_shape, wrap_image_network
from i2i_export.adopt.legacy_ops import replace_legacy_operators
from i2i_export.adopt.probe import Trial
from i2i_export.enginefile import EngineFile, nodes_inside, read_model
from i2i_export.errors import ExportError, ForeignNetworkError
from i2i_export.graph.macs import cost_of
from i2i_export.passes.order import notes_from_changes, optimise
from i2i_export.precision.half import precision_of
from i2i_export.sizes import dynamic_size, gate_sizes, odd_multiple, size_from_text
from i2i_runtime.errors import UsageError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, Provenance, SizePolicy

OPSET = 18

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Adopted:
    """A wrapped network, with what is needed to run the original beside it.

    `gate_sizes` are the (height, width) pairs that both take: of a file made for one size, that one.
    """

    engine: EngineFile
    original: onnx.ModelProto
    interface: Interface
    gate_sizes: tuple[tuple[int, int], ...]


def engine_from_foreign(
    path: Path, answers: Answers, *, name: str, direction: str, licence: str | None = None
) -> Adopted:
    """Wraps a foreign ONNX file, not yet compared with it.

    Raises ForeignNetworkError with the reason if it cannot be an engine, UsageError if a flag is needed.
    """
    original = read_model(path)
    _require_runnable(original, path)
    model = ir.from_proto(_current(original, path))
    RemoveInitializersFromInputsPass()(model)
    image = _image_input(model, path)
    interface = interface_from_file(original, model, answers, path)
    own = _own_sides(image, interface.layout)
    size = _asked_size(own, answers, path)
    is_opened = own != (size.min_height, size.min_width)
    _declare(model, interface.layout, None if is_opened else size)
    trial = Trial(model, interface, path)
    if not size.is_fixed and answers.stride is None:
        size = dynamic_size(trial.smallest_stride())
    channels = trial.require_same_size(size)
    # What is opened keeps asking the image for its size, for the gate compares it at the file's own.
    wrap_image_network(model, interface, None if is_opened else size, channels)
    changes = optimise(model)
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        value.shape = frame_shape(size)
    macs, macs_per_pixel = cost_of(model, size)
    stated = stated_by(original)
    author = {"author": stated["author"]} if "author" in stated else {}
    metadata = EngineMetadata(
        name=name,
        method="adopted",
        direction=direction,
        size=size,
        precision=precision_of(model),
        macs=macs,
        macs_per_pixel=macs_per_pixel,
        provenance=Provenance(source_file=path.name),
        licence=licence if licence is not None else stated.get("license", ""),
        notes={"interface": str(interface), **author, **notes_from_changes(changes)},
    )
    return Adopted(EngineFile(model, metadata), original, interface, _gate_sizes(own, size))


def check_against_original(adopted: Adopted, frames: Sequence[Image]) -> parity.Report:
    """Runs the foreign file as its users would, with NumPy around it, and compares. Raises ParityError."""
    engine = adopted.engine
    report = parity.compare(
        "the engine against the network inside",
        _OriginalTranslator(adopted.original, adopted.interface),
        parity.OnnxTranslator(_freed_from_size(engine.to_proto())),
        frames,
        parity.SAME_NETWORK,
    )
    parity.require(
        report, "the wrapped network", "the conversion to a current opset failed, no file was written."
    )
    engine.metadata = replace(engine.metadata, parity=report.figures())
    return report


def _freed_from_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """The engine with its size undeclared: the original may know another one, at which both are compared."""
    for entry in (*model.graph.input, *model.graph.output):
        for axis, name in ((1, "height"), (2, "width")):
            entry.type.tensor_type.shape.dim[axis].dim_param = name
    return model


class _OriginalTranslator:
    """The untouched file under ONNX Runtime."""

    def __init__(self, model: onnx.ModelProto, interface: Interface) -> None:
        self._session = parity.cpu_session(model)
        self._interface = interface

    def translate(self, frame: Image, style: NDArray[np.float32] | None) -> parity.Translation:
        entry = self._session.get_inputs()[0]
        given = self._interface.input_from_image(frame)
        kind = np.float16 if entry.type == "tensor(float16)" else np.float32
        batch = entry.shape[0] if isinstance(entry.shape[0], int) else 1
        try:
            output = self._session.run(None, {entry.name: np.repeat(given.astype(kind), batch, axis=0)})[0]
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
            height, width = frame.shape[:2]
            raise ForeignNetworkError(
                f"the untouched file does not run at {width}x{height} ({reason_of(error)}): "
                "fix the size that it was made for with --size."
            ) from error
        levels = self._interface.levels_from_output(output.astype(np.float32), frame)
        unrounded = np.clip(levels, 0, 255)
        image: Image = np.rint(unrounded).astype(np.uint8)
        return parity.Translation(unrounded / np.float32(127.5) - 1, image)


def _require_runnable(model: onnx.ModelProto, path: Path) -> None:
    if not model.opset_import:
        raise ForeignNetworkError(
            f"{path} has an ONNX format older than 1.0 (it names no operator set), which ONNX Runtime refuses: "
            "export it again from its source."
        )
    try:
        parity.cpu_session(model)
    except ExportError as error:
        raise ForeignNetworkError(f"{path}: {error}") from error


def _current(original: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The same network at opset 18 or newer, in standard operators."""
    if original.functions:
        model = onnx.inliner.inline_local_functions(original)
    else:
        model = onnx.ModelProto()
        model.CopyFrom(original)
    _spell_standard_domain_empty(model)
    model.ir_version = max(model.ir_version, 8)  # before 4, weights had to be inputs too
    standard = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if standard < 10:
        replace_legacy_operators(model)
    if standard < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises bare RuntimeErrors of its own kinds
            raise ForeignNetworkError(
                f"{path} cannot be converted from opset {standard} to {OPSET} ({reason_of(error)}): "
                "export it again from its source."
            ) from error
    foreign = sorted({node.domain for node in _all_nodes(model.graph)} - {""})
    if foreign:
        raise ForeignNetworkError(
            f"{path} uses operators of {', '.join(foreign)}, which only one back end knows: "
            "export it with standard ONNX operators."
        )
    return model


def _spell_standard_domain_empty(model: onnx.ModelProto) -> None:
    """`ai.onnx` is the standard's other name for its own operators; what is added later uses the empty one."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if "ai.onnx" in versions:
        versions.setdefault("", versions.pop("ai.onnx"))
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in versions.items())
    for node in _all_nodes(model.graph):
        if node.domain == "ai.onnx":
            node.domain = ""


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Also those inside If and Loop."""
    for node in graph.node:
        yield node
        yield from nodes_inside(node)


def _image_input(model: ir.Model, path: Path) -> ir.Value:
    """The one input; like the one output, a four-dimensional float tensor."""
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        if len(values) != 1:
            names = ", ".join(str(value.name) for value in values)
            raise ForeignNetworkError(
                f"{path} has {len(values)} {what}s ({names}) and a translator has one image: "
                f"export it with the image as its only {what}."
            )
        value = values[0]
        if value.dtype not in _FLOATS or value.shape is None or len(value.shape) != 4:
            raise ForeignNetworkError(
                f"{path} has the {what} {value.name} of type {value.dtype} and shape {value.shape}, which is not a "
                "float image [N, C, H, W]: only networks from image to image can be adopted."
            )
    return model.graph.inputs[0]


def _own_sides(image: ir.Value, layout: Layout) -> tuple[int | None, int | None]:
    """Height and width that the file declares, None if it leaves one open."""
    assert image.shape is not None
    sides = (image.shape[axis] for axis in ((2, 3) if layout == "nchw" else (1, 2)))
    height, width = (side if isinstance(side, int) else None for side in sides)
    return height, width


def _asked_size(own: tuple[int | None, int | None], answers: Answers, path: Path) -> SizePolicy:
    """What --size says, else the file; of a dynamic one the stride may still have to be found."""
    height, width = own
    if answers.stride is not None and answers.stride < 1:
        raise UsageError(f"--stride {answers.stride} must be 1 or more (pixels).")
    if answers.size is None and height is not None and width is not None:
        return SizePolicy.fixed(height, width)
    if answers.size is None and (height is not None or width is not None):
        side = f"the height {height}" if height is not None else f"the width {width}"
        raise UsageError(
            f"{path} fixes {side} and leaves the other side open, which no camera does: "
            f"fix both, as --size {width or 640}x{height or 360}."
        )
    return size_from_text(answers.size or "dynamic", answers.stride or 1)


def _gate_sizes(own: tuple[int | None, int | None], size: SizePolicy) -> tuple[tuple[int, int], ...]:
    """Sizes at which original and engine are compared: the file's own, open ones also against the stride."""
    sizes = gate_sizes(size)
    if not size.is_fixed:
        sizes = (sizes[0], (odd_multiple(192, size.stride), odd_multiple(320, size.stride)))
    return tuple(dict.fromkeys((own[0] or height, own[1] or width) for height, width in sizes))


def _declare(model: ir.Model, layout: Layout, size: SizePolicy | None) -> None:
    """Declares batch 1 and the height and width on the foreign input, free ones for None; forgets all other shapes."""
    graph = model.graph
    image = graph.inputs[0]
    assert image.shape is not None
    one, height, width, _ = frame_shape(size)
    channels = image.shape[1 if layout == "nchw" else 3]
    image.shape = ir.Shape(
        [one, channels, height, width] if layout == "nchw" else [one, height, width, channels]
    )
    graph.outputs[0].shape = None
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None
