"""What all back ends share: checks of the engine contract, sizes, padding, default inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import FRAME, METADATA_KEY, STYLE, TRANSLATED, EngineMetadata, SizePolicy

LIGHT_MACS = 200_000
"""Multiply-adds per pixel up to which two frames at once are affordable: a 9-block CycleGAN has 760,000."""


def parse_metadata(text: str | None, path: Path) -> EngineMetadata:
    """The metadata of a portable engine from its JSON, None if the file has none. Raises EngineError."""
    if text is None:
        raise EngineError(
            f"{path} is a network but not an engine, because it has no {METADATA_KEY!r} metadata: "
            f"wrap it with `i2i-export adopt {path.name} -o engine.onnx`."
        )
    return EngineMetadata.from_json(text, origin=str(path))


def check_interface(
    path: Path, metadata: EngineMetadata, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> None:
    """Refuses a network whose tensors are not those of the contract; the mappings are name -> element type."""
    known = {FRAME, *(extra.name for extra in metadata.extra_inputs)}
    if metadata.style is not None:
        known.add(STYLE)
    problem = None
    if inputs.get(FRAME) != "uint8":
        problem = f"its input {FRAME!r} is {inputs.get(FRAME, 'missing')} instead of uint8"
    elif outputs.get(TRANSLATED) != "uint8":
        problem = f"its output {TRANSLATED!r} is {outputs.get(TRANSLATED, 'missing')} instead of uint8"
    elif unknown := set(inputs) - known:
        problem = f"its metadata gives no default for the input {sorted(unknown)[0]!r}"
    elif missing := known - set(inputs):
        problem = f"its metadata names an input {sorted(missing)[0]!r} that the network does not have"
    if problem is not None:
        raise EngineError(
            f"{path} does not follow the engine contract ({problem}): export it again with i2i-export."
        )


def default_inputs(metadata: EngineMetadata) -> dict[str, NDArray[np.float32]]:
    """The default values of all inputs except `frame`."""
    feeds: dict[str, NDArray[np.float32]] = {}
    if metadata.style is not None:
        feeds[STYLE] = np.asarray([metadata.style.default], np.float32)
    for extra in metadata.extra_inputs:
        values = np.asarray(extra.default, np.float32)
        feeds[extra.name] = (
            np.full(extra.shape, values[0], np.float32) if values.size == 1 else values.reshape(extra.shape)
        )
    return feeds


def padded_size(size: SizePolicy, height: int, width: int) -> tuple[int, int]:
    """The height and width the network sees for an image of this size. Raises EngineError if it takes none."""
    padded_height = -(-height // size.stride) * size.stride
    padded_width = -(-width // size.stride) * size.stride
    low = (_ceil_to(size.min_height, size.stride), _ceil_to(size.min_width, size.stride))
    # An image a little too small for a dynamic engine is padded like any other; a fixed one takes its size alone.
    if not size.is_fixed and height < low[0] <= height + size.stride:
        padded_height = low[0]
    if not size.is_fixed and width < low[1] <= width + size.stride:
        padded_width = low[1]
    fits = low[0] <= padded_height <= size.max_height and low[1] <= padded_width <= size.max_width
    if fits:
        return padded_height, padded_width
    if size.is_fixed:
        wanted = f"exactly {size.max_width}x{size.max_height}"
    else:
        wanted = f"{size.min_width}x{size.min_height} to {size.max_width}x{size.max_height}"
    best_width = min(max(width, size.min_width), size.max_width)
    best_height = min(max(height, size.min_height), size.max_height)
    raise EngineError(
        f"The engine takes images of {wanted} and this one is {width}x{height}: "
        f"add --size {best_width}x{best_height}, or use another engine."
    )


def prepare(
    metadata: EngineMetadata, image: Image, style: NDArray[np.float32] | None
) -> tuple[Image, dict[str, NDArray[np.float32]]]:
    """The frame padded to a size that the network takes, and the inputs that replace their defaults.

    `image` is `[H, W, 3] uint8 RGB`, `style` float32 `[1, S]` or None for the default. Raises EngineError.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise EngineError(
            f"An engine takes frames of [H, W, 3] uint8 RGB and was given {list(image.shape)} {image.dtype}: "
            "convert the frame first."
        )
    padded = pad(image, *padded_size(metadata.size, *image.shape[:2]))
    if style is None:
        return np.ascontiguousarray(padded), {}
    check_style(metadata, style)
    return np.ascontiguousarray(padded), {STYLE: np.asarray(style, np.float32)}


def pad(image: Image, height: int, width: int) -> Image:
    """`[H, W, 3]` grown at bottom and right to height x width by reflection, as far as there is something to
    reflect, and by the edge pixel beyond that; the image itself if nothing is to be added."""
    while image.shape[:2] != (height, width):
        have_height, have_width = image.shape[:2]
        if min(have_height, have_width) == 1:
            mode, room_height, room_width = cv2.BORDER_REPLICATE, height, width
        else:
            # One reflection can at most double the image, less the edge line.
            mode, room_height, room_width = cv2.BORDER_REFLECT_101, have_height - 1, have_width - 1
        bottom = min(height - have_height, room_height)
        right = min(width - have_width, room_width)
        image = np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, mode), np.uint8)
    return image


def check_style(metadata: EngineMetadata, style: NDArray[np.float32]) -> None:
    """Refuses a style code that the engine does not accept. Raises EngineError."""
    if metadata.style is None:
        raise EngineError(f"The engine {metadata.name} has no style input: leave out --style.")
    if style.shape != (1, metadata.style.size):
        raise EngineError(
            f"The engine {metadata.name} takes a style of {metadata.style.size} numbers "
            f"and was given {style.size}: see its presets with i2i-stream --help."
        )


def _ceil_to(value: int, stride: int) -> int:
    return -(-value // stride) * stride


def cropped(
    translated: NDArray[np.uint8], padded: tuple[int, ...], height: int, width: int, name: str
) -> Image:
    """The part of the network's `[1, H, W, 3]` that is the image, as a view.

    Raises EngineError if the network returned another shape than its input had."""
    if translated.shape != (1, *padded):
        raise EngineError(
            f"The engine {name} returned a tensor of {translated.shape} for a frame of {padded}: "
            "export it again with i2i-export."
        )
    return translated[0, :height, :width]


def granted_slots(metadata: EngineMetadata, wanted: int) -> int:
    """How many frames side by side a processor takes on: those of a heavy network would fill its memory."""
    return wanted if 0 < metadata.macs_per_pixel <= LIGHT_MACS else 1


def refuse_text(path: Path) -> None:
    """Raises EngineError for a text file, which some back ends would take for one of their own formats."""
    with path.open("rb") as file:
        start = file.read(64)
    if start and all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        raise EngineError(
            f"{path} is a text file, not a network: give a .onnx or .plan file made by i2i-export."
        )
