"""Norms with everything that fits into one of our kernels: activation, residual, reflection, run-time style.

A residual block reads its input twice: padded before its first convolution, and unpadded behind its last norm. If
nothing else reads it, only the padded image is made, and the residual is taken from its inside.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import onnx_ir as ir

from i2i_export.graph.match import constant, fixed_size, only_reader, reflection_of
from i2i_export.graph.norms import Norm, norms_of
from i2i_kernels.kind import Activation, Kind
from i2i_kernels.pack.recipes import CHANNEL_MULTIPLE, Dtype

DTYPES: dict[ir.DataType, Dtype] = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT: "float32",
}


@dataclass(frozen=True)
class FusedNorm:
    """A norm and what follows it and fits into the same kernel."""

    norm: Norm
    kind: Kind
    result: ir.Value
    """The last of it; `[N, C, H + 2 pad, W + 2 pad]`."""
    residual: ir.Value | None = None
    residual_pad: int = 0
    addition: ir.Node | None = None
    """Which node reads the residual."""

    @property
    def dtype(self) -> Dtype:
        assert self.norm.image.dtype is not None
        return DTYPES[self.norm.image.dtype]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they are fixed."""
        return fixed_size(self.norm.image)

    @property
    def is_styled(self) -> bool:
        """Whether its scale or shift is known only at run time."""
        return self.norm.scale is not None or self.norm.drift is not None


def fused_norms(model: ir.Model, *, padding: bool = True) -> list[FusedNorm]:
    """Every norm that our kernels can do, as far as a kernel reaches, in graph order. Shapes must be inferred.

    Without `padding` the reflections behind them belong to another kernel.
    """
    found: list[FusedNorm] = []
    for norm in map(_in_its_own_type, norms_of(model)):
        if _is_ours(norm):
            # A sum of two norms belongs to one of them.
            found.append(_with_tail(norm, {one.addition for one in found}))
    if not padding:
        return found
    wider = {one.result: amount for one in found if (amount := _padding_of_every_other_reader(one, found))}
    return [_padded(one, wider) for one in found]


def share_of(norm: Norm) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """The share of instance norm in the whole, `[C]` in [0, 1]; None if the norm is not a mean of the two."""
    whole = norm.instance + norm.layer
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(whole == 0, 0, norm.instance / whole)
    is_empty = np.any((whole == 0) & (norm.instance != 0))
    if is_empty or np.any(share < -1e-6) or np.any(share > 1 + 1e-6):
        return None
    return np.broadcast_to(np.clip(share, 0, 1), norm.channels).astype(np.float32)


def _in_its_own_type(norm: Norm) -> Norm:
    """Without a last cast from the image's type to another."""
    last = norm.result.producer()
    before = last.inputs[0] if last is not None and last.op_type == "Cast" else None
    is_same = before is not None and before.dtype == norm.image.dtype != norm.result.dtype
    return replace(norm, result=before) if is_same and before is not None else norm


def _is_ours(norm: Norm) -> bool:
    """Whether our kernels take it: types, channels, and for layer norms and mixes a size that is known."""
    if norm.image.dtype not in DTYPES or norm.result.dtype != norm.image.dtype:
        return False
    batch = norm.image.shape[0] if norm.image.shape is not None else None
    is_vector = any(value is not None and len(value.shape or ()) == 1 for value in (norm.scale, norm.drift))
    if norm.channels % CHANNEL_MULTIPLE or (is_vector and batch != 1):
        return False
    return norm.is_instance or (fixed_size(norm.image) is not None and share_of(norm) is not None)


def _with_tail(norm: Norm, taken: set[ir.Node | None]) -> FusedNorm:
    """With its activation, and its residual unless that is taken."""
    activation, slope, value = "none", 0.2, norm.result
    reader = only_reader(value)
    if reader is not None and reader.op_type in ("Relu", "LeakyRelu"):
        activation = "relu" if reader.op_type == "Relu" else "leaky"
        if activation == "leaky":
            slope = _short(reader.attributes.get_float("alpha", 0.01))
        value = reader.outputs[0]
        reader = only_reader(value)
    kind = Kind(
        unbiased=norm.unbiased,
        eps=_short(norm.eps),
        eps_inside=norm.eps_inside,
        activation=cast(Activation, activation),
        slope=slope,
    )
    residual = None if reader is None or reader in taken else _residual_of(reader, value)
    if reader is None or residual is None:
        return FusedNorm(norm, kind, value)
    return FusedNorm(norm, kind, reader.outputs[0], residual, addition=reader)


def _padding_of_every_other_reader(fused: FusedNorm, found: list[FusedNorm]) -> int:
    """The reflection behind which every reader but residuals takes this result; 0 if there is none."""
    if fused.result.is_graph_output():
        return 0
    additions = {other.addition for other in found if other.residual is fused.result}
    rest = [reader for reader in fused.result.consumers() if reader not in additions]
    amounts = {reflection_of(reader) for reader in rest}
    return amounts.pop() if len(rest) == 1 and amounts else 0


def _padded(fused: FusedNorm, wider: dict[ir.Value, int]) -> FusedNorm:
    """With its reflection, and with a residual that has one of its own."""
    amount = wider.get(fused.result, 0)
    if fused.residual in wider:
        fused = replace(fused, residual=_pad_behind(fused.residual), residual_pad=wider[fused.residual])
    if not amount:
        return fused
    return replace(fused, kind=replace(fused.kind, pad=amount), result=_pad_behind(fused.result))


def _pad_behind(value: ir.Value) -> ir.Value:
    return next(reader.outputs[0] for reader in value.consumers() if reflection_of(reader))


def _residual_of(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other summand, if it is an image of the same shape."""
    if node.op_type != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    if other is None or other.shape is None or value.shape is None or constant(other) is not None:
        return None
    return other if list(other.shape) == list(value.shape) and other.dtype == value.dtype else None


def _short(value: float) -> float:
    """An attribute's float32 as the decimal that was meant, so that equal kernels get equal names."""
    return float(f"{value:.6g}")
