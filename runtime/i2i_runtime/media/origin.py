"""The facts of a source file that an output made from it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from i2i_runtime.media.interlace import FieldOrder

UNSPECIFIED = 2
LIMITED, FULL = 1, 2
_HDR_TRANSFERS = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}


@dataclass(frozen=True)
class Colour:
    """The four numbers of ITU-T H.273 as a file states them; 2 means unspecified, range 0 likewise."""

    matrix: int = UNSPECIFIED
    range: int = 0
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    @property
    def hdr(self) -> str | None:
        """The name of a high dynamic range transfer function, None for ordinary clips."""
        return _HDR_TRANSFERS.get(self.transfer)


@dataclass(frozen=True)
class Clip:
    """One video stream of a file.

    `width` and `height` are those of the stored images, before `rotation`: degrees counter-clockwise that a player
    rotates them by, as in the display matrix of ISO/IEC 14496-12. `rate` is the average, used by an encoder for its
    rate control and never for timing. `sample_aspect` is width to height of one pixel, None if it is not stated.
    `fields` is which field of an interlaced image comes first, None if images are progressive.
    """

    path: Path
    stream_index: int
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    rate: Fraction
    colour: Colour
    rotation: int = 0
    sample_aspect: Fraction | None = None
    fields: FieldOrder | None = None


@dataclass(frozen=True)
class ImageOrigin:
    """The file an image was read from.

    `deep` says that it has 16 bits per channel. `icc` is the bytes of its RGB colour profile. `sources` are all images
    of the input, none of which may be overwritten.
    """

    path: Path
    deep: bool
    icc: bytes | None
    sources: Sequence[Path] = ()
