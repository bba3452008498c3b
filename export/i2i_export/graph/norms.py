"""Norms of a graph, however they are written: as one operator, or in means, roots and products.

Instance norm (Ulyanov et al., arXiv 1607.08022), layer norm over a whole sample, and the per-channel mixes of both
(U-GAT-IT, arXiv 1907.10830; NICE-GAN, arXiv 2003.00273) are one function once their statistics are known: an affine
map per channel. A centred image over its own deviation is such a norm; scales, shifts and the other half of a mix
join it, in whatever order they stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from i2i_export.graph.match import Array, constant, is_standard
from i2i_export.graph.moments import Centred, Flat, InverseRoot, Root
from i2i_export.graph.statistics import Statistics, fits, image_of

_ONE, _NONE = np.ones(1, np.float32), np.zeros(1, np.float32)


@dataclass(frozen=True)
class Norm:
    """`scale * (instance * IN(x) + layer * LN(x)) + shift + drift_factor * drift`, x an image `[N, C, H, W]`."""

    image: ir.Value
    result: ir.Value
    """What has been computed so far; its type is the norm's own."""
    unbiased: bool
    """Variances are divided by the count less one."""
    eps: float
    eps_inside: bool
    """`sqrt(variance + eps)`, else `sqrt(variance) + eps`."""
    is_operator: bool = False
    """One operator takes the statistics; else they are written out."""
    is_flat: bool = False
    """Laid out as `[N, 1, C * H * W]` so far."""
    instance: Array = field(default_factory=lambda: _NONE)
    """Shares of instance and layer norm, and the constant shift: one number, or `[C]`, float32."""
    layer: Array = field(default_factory=lambda: _NONE)
    shift: Array = field(default_factory=lambda: _NONE)
    scale: ir.Value | None = None
    """Known only at run time (AdaIN, AdaLIN): `[N, C, 1, 1]`, or `[C]` from an operator's own input."""
    drift: ir.Value | None = None
    """Likewise."""
    drift_factor: Array = field(default_factory=lambda: _ONE)

    @property
    def channels(self) -> int:
        assert self.image.shape is not None
        count = self.image.shape[1]
        assert isinstance(count, int)
        return count

    @property
    def is_instance(self) -> bool:
        return not np.any(self.layer)

    @property
    def is_layer(self) -> bool:
        return not np.any(self.instance)


def norms_of(model: ir.Model) -> list[Norm]:
    """Every norm on an image of known channels, as far as its scales and shifts reach, in graph order.

    Shapes must have been inferred.
    """
    statistics, found = Statistics(), dict[ir.Value, Norm]()
    for node in model.graph:
        statistics.learn(node)
        norm = _norm_at(node, statistics, found)
        if norm is not None:
            found[node.outputs[0]] = replace(norm, result=node.outputs[0])
    return [norm for norm in found.values() if not norm.is_flat and _ends(norm, found)]


def _ends(norm: Norm, found: dict[ir.Value, Norm]) -> bool:
    """Whether anything reads this norm that is not a later step of the same norm."""
    if norm.result.is_graph_output():
        return True
    readers = [found.get(reader.outputs[0]) for reader in norm.result.consumers()]
    return any(reader is None or reader.image is not norm.image for reader in readers)


def _norm_at(node: ir.Node, statistics: Statistics, found: dict[ir.Value, Norm]) -> Norm | None:
    """The norm that a node's result is."""
    if not is_standard(node):
        return None
    if node.op_type in ("InstanceNormalization", "GroupNormalization"):
        return _operator(node, statistics)
    if node.op_type == "Reshape":
        return _raised(node, found)
    if node.op_type == "Cast":
        norm, kind = _known(node.inputs[0], found), node.outputs[0].dtype
        return norm if kind is not None and kind.is_floating_point() else None
    if node.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    left, right = node.inputs
    if node.op_type in ("Mul", "Div"):
        return _normalised(node, statistics) or _scaled(node, found)
    norm, other = _known(left, found), _known(right, found)
    if norm is not None and other is not None:
        return _mix(norm, other) if node.op_type == "Add" else None
    if node.op_type == "Sub":
        amount = _per_channel(right, norm)
        return None if norm is None or amount is None else replace(norm, shift=norm.shift - amount)
    return _shifted(norm, right) if norm is not None else _shifted(other, left)


def _known(value: ir.Value | None, found: dict[ir.Value, Norm]) -> Norm | None:
    norm = found.get(value) if value is not None else None
    return None if norm is None or norm.is_flat else norm


def _raised(node: ir.Node, found: dict[ir.Value, Norm]) -> Norm | None:
    """A norm that was laid flat, as an image again."""
    norm = found.get(node.inputs[0]) if node.inputs[0] is not None else None
    shape = node.outputs[0].shape
    if norm is None or not norm.is_flat or shape is None or norm.image.shape is None:
        return None
    return replace(norm, is_flat=False) if list(shape) == list(norm.image.shape) else None


def _operator(node: ir.Node, statistics: Statistics) -> Norm | None:
    """InstanceNormalization and GroupNormalization: biased variance, epsilon inside the root (ONNX).

    Group norm of one group is layer norm; older exporters write it as instance norm of an image laid flat.
    """
    given, scale, bias = node.inputs[0], constant(node.inputs[1]), constant(node.inputs[2])
    image, flat = image_of(given), statistics.of(given)
    groups = node.attributes.get_int("num_groups", 0)
    is_flat = image is None and isinstance(flat, Flat) and len(flat.layout) == 3 and flat.layout[1] == 1
    if is_flat and isinstance(flat, Flat):
        image = flat.image
    is_layer = is_flat or groups == 1
    if image is None or image.shape is None or groups not in (0, 1, image.shape[1]):
        return None
    eps = node.attributes.get_float("epsilon", 1e-5)
    norm = Norm(image, image, False, eps, eps_inside=True, is_operator=True, is_flat=is_flat)
    if scale is not None and bias is not None:
        share, shift = scale.astype(np.float32), bias.astype(np.float32)
        return (
            replace(norm, layer=share, shift=shift)
            if is_layer
            else replace(norm, instance=share, shift=shift)
        )
    return None if is_layer else replace(norm, instance=_ONE, scale=node.inputs[1], drift=node.inputs[2])


def _normalised(node: ir.Node, statistics: Statistics) -> Norm | None:
    """A centred image over its own deviation."""
    left, right = node.inputs
    for one, other in ((left, right), (right, left)) if node.op_type == "Mul" else ((left, right),):
        centred, root = statistics.find(one, Centred), statistics.find(other, Root)
        if node.op_type == "Mul":
            inverse = statistics.find(other, InverseRoot)
            root = None if inverse is None else inverse.root
        if centred is not None and root is not None and _belong(centred, root, other):
            norm = Norm(centred.image, centred.image, root.unbiased, root.eps, root.eps_inside)
            return replace(norm, instance=_ONE) if centred.over == "channel" else replace(norm, layer=_ONE)
    return None


def _belong(centred: Centred, root: Root, value: ir.Value | None) -> bool:
    return centred.is_of_same(root) and not centred.layout and fits(value, centred.image, centred.over)


def _scaled(node: ir.Node, found: dict[ir.Value, Norm]) -> Norm | None:
    left, right = node.inputs
    norm, other = _known(left, found), right
    if norm is None and node.op_type == "Mul":
        norm, other = _known(right, found), left
    if norm is None or other is None:
        return None
    factor = _per_channel(other, norm)
    if factor is not None and node.op_type == "Div":
        factor = 1 / factor if np.all(factor) else None
    if factor is not None:
        return replace(
            norm,
            instance=norm.instance * factor,
            layer=norm.layer * factor,
            shift=norm.shift * factor,
            drift_factor=norm.drift_factor * factor,
        )
    is_first = norm.scale is None and norm.drift is None and not np.any(norm.shift)
    is_ours = node.op_type == "Mul" and is_first and _is_per_sample(other, norm.image)
    return replace(norm, scale=other, drift_factor=_ONE) if is_ours else None


def _shifted(norm: Norm | None, other: ir.Value | None) -> Norm | None:
    if norm is None or other is None:
        return None
    amount = _per_channel(other, norm)
    if amount is not None:
        return replace(norm, shift=norm.shift + amount)
    is_ours = norm.drift is None and _is_per_sample(other, norm.image)
    return replace(norm, drift=other, drift_factor=_ONE) if is_ours else None


def _mix(first: Norm, second: Norm) -> Norm | None:
    """A share of instance norm plus a share of layer norm of the same image."""
    alike = all(
        getattr(first, name) == getattr(second, name)
        for name in ("image", "unbiased", "eps", "eps_inside", "is_operator")
    )
    if not alike or any(part.scale is not None or part.drift is not None for part in (first, second)):
        return None
    return replace(
        first,
        instance=first.instance + second.instance,
        layer=first.layer + second.layer,
        shift=first.shift + second.shift,
    )


def _is_per_sample(value: ir.Value, image: ir.Value) -> bool:
    """Whether a value known only at run time is one number per sample and channel."""
    is_unknown = constant(value) is None and value.shape is not None and len(value.shape) == 4
    return is_unknown and fits(value, image, "channel")


def _per_channel(value: ir.Value | None, norm: Norm | None) -> Array | None:
    """A constant of one number, or one per channel of `[N, C, H, W]`, as float32 `[1]` or `[C]`."""
    array = constant(value)
    if array is None or norm is None or not np.issubdtype(array.dtype, np.floating) or array.ndim > 4:
        return None
    is_one_each = array.size == norm.channels and array.shape[-3:] == (norm.channels, 1, 1)
    return array.astype(np.float32).reshape(-1) if array.size == 1 or is_one_each else None
