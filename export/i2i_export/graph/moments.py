"""What a value of a graph can be, seen from an image: its mean, its variance, the image less its mean, and so on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

Over = Literal["channel", "sample"]
"""Statistics of H and W in each channel, or of C, H and W in each sample."""

Layout: TypeAlias = tuple[int, ...]
"""Extents of a flattened image, -1 for what is left; none for `[N, C, H, W]`."""


@dataclass(frozen=True)
class Moment:
    """A statistic of an image `[N, C, H, W]`, or the image changed by one."""

    image: ir.Value
    over: Over

    def is_of_same(self, other: Moment) -> bool:
        """Whether both are statistics of the same values."""
        return self.image is other.image and self.over == other.over


@dataclass(frozen=True)
class Mean(Moment):
    """`mean(x)`."""


@dataclass(frozen=True)
class Centred(Moment):
    """`x - mean(x)`."""

    layout: Layout = ()


@dataclass(frozen=True)
class Lifted:
    """A centred image plus a constant: times the centred one it has the same mean as the square."""

    centred: Centred


@dataclass(frozen=True)
class CentredSquare(Moment):
    """`(x - mean(x))^2`."""

    layout: Layout = ()


@dataclass(frozen=True)
class CentredSum(Moment):
    """`sum((x - mean(x))^2)`."""


@dataclass(frozen=True)
class MeanOfSquare(Moment):
    """`mean(x^2)`."""


@dataclass(frozen=True)
class SquareOfMean(Moment):
    """`mean(x)^2`."""


@dataclass(frozen=True)
class Variance(Moment):
    """`mean((x - mean(x))^2) + eps`, or the sum divided by the count less one."""

    unbiased: bool = False
    eps: float = 0.0


@dataclass(frozen=True)
class Root(Moment):
    """`sqrt(variance + eps)`, or `sqrt(variance) + eps`."""

    unbiased: bool
    eps: float
    eps_inside: bool = True


@dataclass(frozen=True)
class InverseRoot(Moment):
    """`1 / root`."""

    root: Root


@dataclass(frozen=True)
class Flat:
    """An image in another layout."""

    image: ir.Value
    layout: Layout


@dataclass(frozen=True)
class Square:
    """An image times itself."""

    image: ir.Value
    layout: Layout = ()


@dataclass(frozen=True)
class Extents:
    """Height and width of an image, or channels too, or their product, less `without`; read when the network runs."""

    image: ir.Value
    over: Over | None
    is_product: bool = False
    without: int = 0


Statistic: TypeAlias = Moment | Lifted | Flat | Square | Extents
