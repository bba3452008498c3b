"""Which member of the normalisation family: one frozen record, checked when it is made."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

Family = Literal["instance", "layer", "clamp", "softmax"]
Activation = Literal["none", "relu", "leaky"]


@dataclass(frozen=True)
class Kind:
    """`clamp` and `softmax` mix instance and layer norm per channel: by a clipped share, or by two logits.

    Raises ValueError if a field is out of range.
    """

    family: Family = "instance"
    _: KW_ONLY
    unbiased: bool = False
    """Divide the second moment by count - 1."""
    eps: float = 1e-5
    eps_inside: bool = True
    """Inside: `1 / sqrt(var + eps)`; outside: `1 / (sqrt(var) + eps)`."""
    activation: Activation = "none"
    slope: float = 0.2
    """Of the leaky activation, for negative values."""
    residual_scale: float = 1.0
    pad: int = 0
    """Reflected rows and columns put around the result, so that the next convolution needs no padding."""

    def __post_init__(self) -> None:
        if self.family not in get_args(Family):
            raise ValueError(
                f"norm family is {self.family!r}, it must be one of {', '.join(get_args(Family))}"
            )
        if self.activation not in get_args(Activation):
            raise ValueError(
                f"activation is {self.activation!r}, it must be one of {', '.join(get_args(Activation))}"
            )
        if not self.eps >= 0:
            raise ValueError(f"eps is {self.eps}, it must be 0 or more")
        if self.pad < 0:
            raise ValueError(f"pad is {self.pad}, it must be 0 or more")
