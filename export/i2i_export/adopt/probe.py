"""A foreign network run on grey frames: the only sure way to learn what comes out, and which sizes it takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from i2i_export import parity
from i2i_export.adopt.interface import Interface
from i2i_export.errors import ForeignNetworkError
from i2i_export.sizes import odd_multiple, up_to_multiple
from i2i_runtime.files import reason_of
from i2i_runtime.metadata import SizePolicy

_STRIDES = (1, 2, 4, 8, 16, 32, 64)


class Trial:
    """The network under ONNX Runtime, at the sizes that its input declares."""

    def __init__(self, model: ir.Model, interface: Interface, path: Path) -> None:
        self._session = parity.cpu_session(ir.to_proto(model))
        self._kind = np.float16 if model.graph.inputs[0].dtype == ir.DataType.FLOAT16 else np.float32
        self._interface = interface
        self._path = path

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Height, width and channels of what comes out. Raises ForeignNetworkError if it does not run."""
        grey = np.full((height, width, 3), 128, np.uint8)
        given = self._interface.input_from_image(grey).astype(self._kind)
        try:
            got = self._session.run(None, {self._session.get_inputs()[0].name: given})[0].shape
        except Exception as error:  # ONNX Runtime raises a dozen unrelated classes here
            raise ForeignNetworkError(
                f"{self._path} does not run at {width}x{height} ({reason_of(error)}): "
                "leave --size out, or give the network's own multiple with --stride."
            ) from error
        rows, columns, last = (2, 3, 1) if self._interface.layout == "nchw" else (1, 2, 3)
        return got[rows], got[columns], got[last]

    def smallest_stride(self) -> int:
        """The smallest power of two whose multiples come out as large as they went in.

        Raises ForeignNetworkError if none up to 64 does.
        """
        for stride in _STRIDES:
            if self._keeps_multiples(stride):
                return stride
        height, width = _telling_sizes(_STRIDES[-1])[-1]
        got = self.shape(height, width)
        if got[:2] != (height, width):
            raise self._resizes(height, width, got)
        raise ForeignNetworkError(
            f"{self._path} keeps the size of the frame at some multiples of {_STRIDES[-1]} and at others not: "
            "name the multiple that the network needs with --stride."
        )

    def require_same_size(self, size: SizePolicy) -> int:
        """Refuses a network that does not keep the frame's size, and returns the channels that it gives."""
        sizes = [(size.min_height, size.min_width)]
        if not size.is_fixed:
            sizes += _telling_sizes(size.stride)
        for height, width in sizes:
            got = self.shape(height, width)
            if got[:2] != (height, width):
                raise self._resizes(height, width, got)
        channels = got[2]
        if channels not in (1, 3) or (channels == 1 and self._interface.channels != "luma"):
            raise ForeignNetworkError(
                f"{self._path} gives {channels} channels, and an engine gives a colour image."
            )
        return channels

    def _keeps_multiples(self, stride: int) -> bool:
        try:
            return all(self.shape(*size)[:2] == size for size in _telling_sizes(stride))
        except ForeignNetworkError:
            return False

    def _resizes(self, height: int, width: int, got: tuple[int, int, int]) -> ForeignNetworkError:
        return ForeignNetworkError(
            f"{self._path} makes {got[1]}x{got[0]} pixels of {width}x{height}, and an engine keeps the size of the "
            "frame: name the multiple that the network needs with --stride; one that enlarges or shrinks every "
            "image cannot be an engine."
        )


def _telling_sizes(stride: int) -> list[tuple[int, int]]:
    """Heights and widths that are multiples of `stride` and of nothing larger, and a pair that is mixed."""
    odd, next_odd = odd_multiple(64, stride), odd_multiple(64, stride) + 2 * stride
    return [(odd, next_odd), (odd + stride, odd), (up_to_multiple(64, stride),) * 2]
