"""What a foreign file and its user state about the images that the network takes and gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from i2i_export.adopt.interface import Channels, Interface, Layout, Range
from i2i_export.errors import ForeignNetworkError
from i2i_runtime.errors import UsageError

_NOMINAL_RANGES: dict[str, Range] = {
    "nominalrange_0_255": "0,255",
    "normalized_0_1": "0,1",
    "normalized_1_1": "-1,1",
}
"""Values of `Image.NominalPixelRange` (ONNX's metadata for images, which Windows ML reads), in lower case."""

_KEEPS_RANGE = ("Identity", "Cast", "Transpose", "Reshape", "Squeeze")


@dataclass(frozen=True)
class Answers:
    """What the user said about the network; None if the file itself must state it."""

    layout: Layout | None = None
    range: Range | None = None
    output_range: Range | None = None
    channels: Channels | None = None
    size: str | None = None
    stride: int | None = None


def stated_by(model: onnx.ModelProto) -> dict[str, str]:
    """The file's metadata, keys in lower case: the standard's spelling of them is not everybody's."""
    return {entry.key.lower(): entry.value for entry in model.metadata_props}


def interface_from_file(
    original: onnx.ModelProto, model: ir.Model, answers: Answers, path: Path
) -> Interface:
    """Puts together what the file states for certain and what the user said.

    `original` is the untouched file, `model` the same in current operators. Raises UsageError for what is left to
    ask, ForeignNetworkError if the two contradict each other.
    """
    stated = stated_by(original)
    shape = model.graph.inputs[0].shape
    assert shape is not None
    layout = answers.layout or _certain_layout(shape)
    count = None if layout is None else shape[1 if layout == "nchw" else 3]
    channels: Channels | None = answers.channels or ("luma" if count == 1 else None)
    pixel_format = stated.get("image.bitmappixelformat", "").lower()
    if channels is None and pixel_format[:3] in ("rgb", "bgr"):
        channels = "rgb" if pixel_format.startswith("rgb") else "bgr"
    span: Range | None = answers.range or _stated_range(stated, path)
    if span is None and (pixel_format or any(node.op_type == "ImageScaler" for node in original.graph.node)):
        span = "0,255"  # Windows ML hands such networks 8-bit levels as they are
    wanted = {
        "--layout nchw or nhwc": layout,
        "--range 0,255 or 0,1 or -1,1": span,
        "--channels rgb or bgr": channels,
    }
    missing = [flag for flag, value in wanted.items() if value is None]
    if layout is None or span is None or channels is None:
        raise UsageError(f"{path} does not state how it takes images: add {' and '.join(missing)}.")
    if count not in (1, 3) or (count == 1) != (channels == "luma"):
        raise ForeignNetworkError(
            f"{path} takes {count} channels, which is not {channels}: give --channels and --layout as it was trained."
        )
    return Interface(layout, span, answers.output_range or _certain_output_range(model) or span, channels)


def _stated_range(stated: dict[str, str], path: Path) -> Range | None:
    text = stated.get("image.nominalpixelrange", "")
    if not text:
        return None
    if text.lower() not in _NOMINAL_RANGES:
        raise UsageError(
            f"{path} states the pixel range {text}, which an engine does not make of a frame: "
            "say which of 0,255 or 0,1 or -1,1 comes nearest with --range."
        )
    return _NOMINAL_RANGES[text.lower()]


def _certain_layout(shape: ir.Shape) -> Layout | None:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        return None
    return "nchw" if first else "nhwc"


def _certain_output_range(model: ir.Model) -> Range | None:
    """A network that ends in Tanh or Sigmoid, whatever only moves its values behind, says its range itself."""
    last = model.graph.outputs[0].producer()
    while last is not None and last.op_type in _KEEPS_RANGE and last.inputs[0] is not None:
        last = last.inputs[0].producer()
    ranges: dict[str, Range] = {"Tanh": "-1,1", "Sigmoid": "0,1"}
    return ranges.get(last.op_type) if last is not None else None
