"""Networks that somebody else trained, wrapped into the engine contract.

The foreign graph keeps its function and is brought to a current opset and standard operators; around it go the
casts, the layout, the channel order and the ranges that its users otherwise write in NumPy. What the file states for
certain is taken from it, the rest is asked for by the name of its flag.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from i2i_export import parity
from i2i_export.enginefile import EngineFile, first_line, read_model
from i2i_export.errors import ExportError, ForeignNetworkError
from i2i_export.legacy import replace_legacy_operators
from i2i_export.macs import count_macs
from i2i_export.optimise import notes_from_changes, optimise
from i2i_export.sizes import gate_sizes, size_from_text
from i2i_export.wrapping import Channels, Interface, Layout, Range, wrap_picture_network
from i2i_runtime.errors import UsageError
from i2i_runtime.frame import Picture
from i2i_runtime.metadata import EngineMetadata, Provenance, SizePolicy

OPSET = 18

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Answers:
    """What the user said about the network; None where the file itself must know."""

    layout: Layout | None = None
    range: Range | None = None
    output_range: Range | None = None
    channels: Channels | None = None
    size: str | None = None
    stride: int = 1


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

    Raises ForeignNetworkError with the reason where it cannot be an engine, UsageError where a flag is needed.
    """
    original = read_model(path)
    _require_runnable(original, path)
    model = ir.from_proto(_current(original, path))
    RemoveInitializersFromInputsPass()(model)
    picture = _picture_input(model, path)
    interface = _interface(original, model, answers, path)
    own_size = _size(picture, interface, replace(answers, size=None))
    size = _size(picture, interface, answers)
    _pin_sizes(picture, interface.layout, size)
    _require_same_size(model, interface, size, path)
    wrap_picture_network(model, interface, size)
    changes = optimise(model)
    macs = count_macs(ir.to_proto(model), size.min_height, size.min_width)
    stated = {entry.key: entry.value for entry in original.metadata_props}
    author = {"author": stated["author"]} if "author" in stated else {}
    metadata = EngineMetadata(
        name=name,
        method="adopted",
        direction=direction,
        size=size,
        macs=macs,
        macs_per_pixel=macs / (size.min_height * size.min_width),
        provenance=Provenance(source_file=path.name),
        licence=licence if licence is not None else stated.get("license", ""),
        notes={"interface": str(interface), **author, **notes_from_changes(changes)},
    )
    sizes = gate_sizes(own_size if own_size.is_fixed else size)
    return Adopted(EngineFile(model, metadata), original, interface, sizes)


def check_against_original(adopted: Adopted, frames: Sequence[Picture]) -> parity.Report:
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

    def translate(self, frame: Picture, style: NDArray[np.float32] | None) -> parity.Translation:
        entry = self._session.get_inputs()[0]
        given = self._interface.input_from_picture(frame)
        kind = np.float16 if entry.type == "tensor(float16)" else np.float32
        output = self._session.run(None, {entry.name: given.astype(kind)})[0]
        levels = self._interface.levels_from_output(output.astype(np.float32), frame)
        unrounded = np.clip(levels, 0, 255)
        picture: Picture = np.rint(unrounded).astype(np.uint8)
        return parity.Translation(unrounded / np.float32(127.5) - 1, picture)


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
    model = onnx.ModelProto()
    model.CopyFrom(original)
    model.ir_version = max(model.ir_version, 8)  # before 4, weights had to be inputs too
    versions = {entry.domain: entry.version for entry in model.opset_import}
    standard = versions.get("", versions.get("ai.onnx", 0))
    if standard < 10:
        replace_legacy_operators(model)
    if standard < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter raises bare RuntimeErrors of its own kinds
            raise ForeignNetworkError(
                f"{path} cannot be brought from opset {standard} to {OPSET} ({first_line(error)}): "
                "export it again from its source."
            ) from error
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise ForeignNetworkError(
            f"{path} uses operators of {', '.join(foreign)}, which only one back end knows: "
            "export it with standard ONNX operators."
        )
    return model


def _picture_input(model: ir.Model, path: Path) -> ir.Value:
    """The one input; like the one output, a four-dimensional float tensor."""
    for what, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        if len(values) != 1:
            names = ", ".join(str(value.name) for value in values)
            raise ForeignNetworkError(
                f"{path} has {len(values)} {what}s ({names}) where a translator has one picture: "
                f"export it with the picture as its only {what}."
            )
        value = values[0]
        if value.dtype not in _FLOATS or value.shape is None or len(value.shape) != 4:
            raise ForeignNetworkError(
                f"{path} has the {what} {value.name} of type {value.dtype} and shape {value.shape}, which is no "
                "float picture [N, C, H, W]: only networks from picture to picture can be adopted."
            )
    return model.graph.inputs[0]


def _interface(original: onnx.ModelProto, model: ir.Model, answers: Answers, path: Path) -> Interface:
    """Puts together what the file states for certain and what the user said; asks for what is left."""
    stated = {entry.key: entry.value for entry in original.metadata_props}
    shape = model.graph.inputs[0].shape
    assert shape is not None
    layout = answers.layout or _certain_layout(shape)
    count = None if layout is None else shape[1 if layout == "nchw" else 3]
    channels: Channels | None = answers.channels or ("luma" if count == 1 else None)
    pixel_format = stated.get("Image.BitmapPixelFormat", "").lower()
    if channels is None and pixel_format[:3] in ("rgb", "bgr"):
        channels = "rgb" if pixel_format.startswith("rgb") else "bgr"
    span: Range | None = answers.range
    if span is None and (pixel_format or any(node.op_type == "ImageScaler" for node in original.graph.node)):
        span = "0,255"  # Windows ML hands such networks 8-bit levels as they are
    wanted = {
        "--layout nchw or nhwc": layout,
        "--range 0,255 or 0,1 or -1,1": span,
        "--channels rgb or bgr": channels,
    }
    missing = [flag for flag, value in wanted.items() if value is None]
    if layout is None or span is None or channels is None:
        raise UsageError(f"{path} does not say how it takes pictures: add {' and '.join(missing)}.")
    if count not in (1, 3) or (count == 1) != (channels == "luma"):
        raise ForeignNetworkError(
            f"{path} takes {count} channels, which is not {channels}: give --channels and --layout as it was trained."
        )
    return Interface(layout, span, answers.output_range or _certain_output_range(model) or span, channels)


def _certain_layout(shape: ir.Shape) -> Layout | None:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        return None
    return "nchw" if first else "nhwc"


def _certain_output_range(model: ir.Model) -> Range | None:
    """A network that ends in Tanh or Sigmoid says its output range itself."""
    last = model.graph.outputs[0].producer()
    ranges: dict[str, Range] = {"Tanh": "-1,1", "Sigmoid": "0,1"}
    return ranges.get(last.op_type) if last is not None else None


def _size(picture: ir.Value, interface: Interface, answers: Answers) -> SizePolicy:
    rows, columns = (2, 3) if interface.layout == "nchw" else (1, 2)
    assert picture.shape is not None
    height, width = picture.shape[rows], picture.shape[columns]
    if not isinstance(height, int) or not isinstance(width, int):
        return size_from_text(answers.size or "dynamic", answers.stride)
    if answers.size is not None:
        return size_from_text(answers.size, answers.stride)
    return SizePolicy.fixed(height, width)


def _pin_sizes(picture: ir.Value, layout: Layout, size: SizePolicy) -> None:
    """Declares batch 1 and the policy's height and width on the foreign input."""
    assert picture.shape is not None
    height: int | str = size.min_height if size.is_fixed else "height"
    width: int | str = size.min_width if size.is_fixed else "width"
    channels = picture.shape[1 if layout == "nchw" else 3]
    dims = [1, channels, height, width] if layout == "nchw" else [1, height, width, channels]
    picture.shape = ir.Shape(dims)


def _require_same_size(model: ir.Model, interface: Interface, size: SizePolicy, path: Path) -> None:
    """Runs one grey frame: the only sure way to learn what size comes out, and whether the size goes at all."""
    output = model.graph.outputs[0]
    output.shape = None
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    grey = np.full((size.min_height, size.min_width, 3), 128, np.uint8)
    proto = ir.to_proto(model)
    session = parity.cpu_session(proto)
    kind = np.float16 if model.graph.inputs[0].dtype == ir.DataType.FLOAT16 else np.float32
    given = interface.input_from_picture(grey).astype(kind)
    try:
        got = session.run(None, {session.get_inputs()[0].name: given})[0].shape
    except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
        raise ForeignNetworkError(
            f"{path} does not run at {size.min_width}x{size.min_height} ({first_line(error)}): "
            "leave --size out, or give the network's own multiple with --stride."
        ) from error
    rows, columns, last = (2, 3, 1) if interface.layout == "nchw" else (1, 2, 3)
    if (got[rows], got[columns]) != (size.min_height, size.min_width):
        raise ForeignNetworkError(
            f"{path} makes {got[columns]}x{got[rows]} pixels of {size.min_width}x{size.min_height}, and an engine "
            "keeps the size of the frame: a network that enlarges or shrinks pictures cannot be one."
        )
    if got[last] not in (1, 3) or (got[last] == 1 and interface.channels != "luma"):
        raise ForeignNetworkError(f"{path} gives {got[last]} channels, and an engine gives a colour picture.")
