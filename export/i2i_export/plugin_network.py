"""Norms become plugin nodes: InstanceNormalization with its activation, residual and pad is one or two of our
kernels.

Each different kernel is an operator of its own name in the domain `i2i`, without attributes, because
everything is baked into the kernel. Pictures stay NCHW in the graph's words; the plugin asks for them
channels-last in memory. Such a graph is for full TensorRT alone and never written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.rewrites import add_weight, constant, nodes_of, only_use, simplify
from i2i_kernels.kind import Activation, Kind
from i2i_kernels.recipes import CHANNEL_MULTIPLE, Argument, Dtype, Op, Variant, recipe

DOMAIN = "i2i"
PICTURES = frozenset({"x_ptr", "residual_ptr", "y_ptr"})
"""Kernel arguments that hold `[N, H, W, C]` in memory; every other tensor lies in its own order."""

SLAB_PIXELS = 4096
"""A map this small fits into one block's registers: one launch instead of two."""

CONVOLUTION_PIXELS = 16384
"""The largest map that the fused convolution takes: 128 pixels a program, 128 partial statistics."""

_SPLITS = 32
_DTYPES: dict[ir.DataType, Dtype] = {
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.FLOAT: "float32",
}


@dataclass(frozen=True)
class PluginKernel:
    """The kernel behind an operator; `size` (height, width) where it cannot be read off the plugin's
    inputs.
    """

    op: Op
    variant: Variant
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The operator's name: `norm_apply_0123456789abcdef`."""
        stem = self.variant.file_stem(self.op).replace("-", "_")
        return stem if self.size is None else f"{stem}_{self.size[0]}x{self.size[1]}"


@dataclass
class PluginNetwork:
    """A model with plugin nodes, and the kernel behind each operator's name."""

    model: onnx.ModelProto
    kernels: dict[str, PluginKernel] = field(default_factory=dict)


@dataclass(frozen=True)
class _Norm:
    """An InstanceNormalization and what follows it and fits into the same kernel; `nodes` in graph order."""

    picture: ir.Value
    scale: ir.Value
    bias: ir.Value
    kind: Kind
    residual: ir.Value | None
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class _Partials:
    """Statistics of a picture in `splits` parts, `[N, splits, 2, C] float32`."""

    value: ir.Value
    splits: int


def network_with_plugins(model: onnx.ModelProto, *, convolutions: bool = False) -> PluginNetwork | None:
    """Replaces every norm that our kernels can do; None where there is none. Takes standard operators alone.

    `convolutions` also replaces reflected 3x3 convolutions between norms by the fused kernel that normalises
    what it loads and takes statistics of what it stores (half precision, maps of fixed size).
    """
    lowering = _Lowering(model)
    if convolutions and not lowering.replace_convolutions():
        return None
    lowering.replace_norms()
    if not lowering.kernels:
        return None
    return PluginNetwork(lowering.to_proto(), lowering.kernels)


class _Lowering:
    """One graph on its way to plugin nodes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = ir.from_proto(model)
        self.kernels: dict[str, PluginKernel] = {}
        self._partials: dict[ir.Value, _Partials] = {}
        simplify(self.graph)
        ShapeInferencePass()(self.graph)

    def to_proto(self) -> onnx.ModelProto:
        self.graph.opset_imports[DOMAIN] = 1
        return ir.to_proto(self.graph)

    def replace_norms(self) -> None:
        for node in nodes_of(self.graph, "InstanceNormalization"):
            norm = _norm_at(node)
            if norm is not None:
                self._replace_norm(norm)

    def _replace_norm(self, norm: _Norm) -> None:
        last, values, variant = norm.nodes[-1], {"x_ptr": norm.picture}, _variant(norm)
        if norm.residual is not None:
            values["residual_ptr"] = norm.residual
        values |= self._affine(norm, variant, last)
        known = self._partials.get(norm.picture)
        size = _fixed_size(norm.picture)
        if known is None and size is not None and size[0] * size[1] <= SLAB_PIXELS and not norm.kind.pad:
            whole = replace(variant, block_c=64)  # the slab has a tile of its own: one name for one kernel
            (result,) = self._insert(last, PluginKernel("norm_slab", whole), values)
        else:
            partials = known or self._statistics(norm.picture, variant, last)
            values["moments_ptr"] = partials.value
            kernel = PluginKernel("norm_apply", replace(variant, splits=partials.splits))
            (result,) = self._insert(last, kernel, values)
        self._put(result, last.outputs[0], norm.nodes)

    def replace_convolutions(self) -> int:
        """Every 3x3 convolution behind a reflection of 1 whose result only a norm reads; returns how many."""
        changed = 0
        for convolution in nodes_of(self.graph, "Conv"):
            weight, pad = constant(convolution.inputs[1]), _maker(convolution.inputs[0], "Pad")
            reader = _only_reader(convolution.outputs[0])
            if weight is None or pad is None or reader is None or reader.op_type != "InstanceNormalization":
                continue
            given, size = pad.inputs[0], _fixed_size(pad.inputs[0])
            if given is None or size is None or size[0] * size[1] > CONVOLUTION_PIXELS or min(size) < 2:
                continue
            # The norm behind removes whatever bias the convolution has.
            is_ours = (
                weight.shape[2:] == (3, 3)
                and weight.shape[0] == weight.shape[1]
                and weight.shape[0] % CHANNEL_MULTIPLE == 0
                and _reflection_of(pad) == 1
                and only_use(pad.outputs[0])
                and list(convolution.attributes.get_ints("pads", [0] * 4)) == [0] * 4
                and list(convolution.attributes.get_ints("strides", [1, 1])) == [1, 1]
                and list(convolution.attributes.get_ints("dilations", [1, 1])) == [1, 1]
                and convolution.attributes.get_int("group", 1) == 1
                and given.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
            )
            if is_ours:
                self._replace_convolution(convolution, pad, given, weight, size)
                changed += 1
        return changed

    def _replace_convolution(
        self,
        convolution: ir.Node,
        pad: ir.Node,
        given: ir.Value,
        weight: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
        size: tuple[int, int],
    ) -> None:
        assert given.dtype is not None
        channels, pixels = weight.shape[0], size[0] * size[1]
        splits = 1 << (-(-pixels // 128) - 1).bit_length()
        norm = _norm_behind(given)
        kind = Kind() if norm is None else Kind(activation=norm.kind.activation, slope=norm.kind.slope)
        variant = Variant(dtype=_DTYPES[given.dtype], kind=kind, splits=splits)
        name = convolution.outputs[0].name or "convolution"
        rows = add_weight(self.graph, f"{name}/rows", np.ascontiguousarray(weight.transpose(0, 2, 3, 1)))
        values = {"x_ptr": given if norm is None else norm.picture, "weight_ptr": rows}
        if norm is None:
            as_it_is = np.zeros((1, 3, channels), np.float32)
            as_it_is[:, 1] = 1
            values["coefficients_ptr"] = add_weight(self.graph, f"{name}/as_it_is", as_it_is)
        else:
            values["coefficients_ptr"] = self._coefficients(norm, size, convolution)
        result, partials = self._insert(convolution, PluginKernel("conv_norm", variant), values)
        partials.type, partials.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, splits, 2, channels])
        self._partials[result] = _Partials(partials, splits)
        self._put(result, convolution.outputs[0], (*(norm.nodes if norm else ()), pad, convolution))

    def _coefficients(self, norm: _Norm, size: tuple[int, int], before: ir.Node) -> ir.Value:
        """Mean, scale and offset per channel, `[N, 3, C] float32`."""
        variant = _variant(norm)
        partials = self._partials.get(norm.picture) or self._statistics(norm.picture, variant, before)
        plain = Variant(
            kind=Kind(eps=norm.kind.eps),
            affine=variant.affine,
            splits=partials.splits,
            block_c=variant.block_c,
        )
        values = {"partials_ptr": partials.value, **self._affine(norm, variant, before)}
        (value,) = self._insert(before, PluginKernel("norm_coefficients", plain, size), values)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        return value

    def _statistics(self, picture: ir.Value, variant: Variant, before: ir.Node) -> _Partials:
        stats = Variant(dtype=variant.dtype, splits=_SPLITS, block_c=variant.block_c)
        (value,) = self._insert(before, PluginKernel("norm_stats", stats), {"x_ptr": picture})
        assert picture.shape is not None
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([picture.shape[0], _SPLITS, 2, picture.shape[1]])
        return _Partials(value, _SPLITS)

    def _affine(self, norm: _Norm, variant: Variant, before: ir.Node) -> dict[str, ir.Value]:
        if variant.affine == "none":
            return {}
        return {"weight_ptr": self._wide(norm.scale, before), "bias_ptr": self._wide(norm.bias, before)}

    def _wide(self, vector: ir.Value, before: ir.Node) -> ir.Value:
        """`[C]` as float32, which is what the kernels read."""
        if vector.dtype == ir.DataType.FLOAT:
            return vector
        array = constant(vector)
        if array is not None:
            return add_weight(self.graph, f"{vector.name}/float32", array.astype(np.float32))
        node = ir.node("Cast", [vector], attributes={"to": ir.DataType.FLOAT})
        node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), vector.shape
        self.graph.graph.insert_before(before, node)
        return node.outputs[0]

    def _insert(
        self, before: ir.Node, kernel: PluginKernel, values: Mapping[str, ir.Value]
    ) -> tuple[ir.Value, ...]:
        arguments = recipe(kernel.op, kernel.variant).arguments
        inputs = [values[argument.name] for argument in arguments if argument.role == "input"]
        outputs = sum(argument.role == "output" for argument in arguments)
        self.kernels[kernel.name] = kernel
        attributes = {"plugin_namespace": DOMAIN, "plugin_version": "1"}
        node = ir.node(kernel.name, inputs, domain=DOMAIN, attributes=attributes, num_outputs=outputs)
        node.name = f"{before.outputs[0].name}/{kernel.op}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}_{index}"
        self.graph.graph.insert_before(before, node)
        return tuple(node.outputs)

    def _put(self, result: ir.Value, old: ir.Value, nodes: tuple[ir.Node, ...]) -> None:
        """`result` takes the place of `old`, and the nodes that made `old` go."""
        result.type, result.shape = old.type, old.shape
        ir.convenience.replace_all_uses_with(old, result)
        for node in reversed(nodes):
            self.graph.graph.remove(node, safe=True)


def _norm_at(node: ir.Node) -> _Norm | None:
    picture, scale, bias = node.inputs
    if picture is None or scale is None or bias is None or picture.shape is None or len(picture.shape) != 4:
        return None
    channels = picture.shape[1]
    if picture.dtype not in _DTYPES or not isinstance(channels, int) or channels % CHANNEL_MULTIPLE:
        return None
    activation, slope, pad, residual = "none", 0.2, 0, None
    nodes = [node]
    for step in ("activation", "residual", "pad"):
        reader = _only_reader(nodes[-1].outputs[0])
        if reader is None:
            break
        if step == "activation" and reader.op_type in ("Relu", "LeakyRelu"):
            activation = "relu" if reader.op_type == "Relu" else "leaky"
            if activation == "leaky":
                slope = _short(reader.attributes.get_float("alpha", 0.01))
        elif step == "residual" and (other := _residual_of(reader, nodes[-1].outputs[0])) is not None:
            residual = other
        elif step == "pad" and (amount := _reflection_of(reader)):
            pad = amount
        else:
            continue
        nodes.append(reader)
    eps = _short(node.attributes.get_float("epsilon", 1e-5))
    kind = Kind(eps=eps, activation=cast(Activation, activation), slope=slope, pad=pad)
    return _Norm(picture, scale, bias, kind, residual, tuple(nodes))


def _norm_behind(value: ir.Value) -> _Norm | None:
    """The norm whose result, activated or not, this value is and only the next convolution reads."""
    if not only_use(value):
        return None
    activation = _maker(value, "Relu") or _maker(value, "LeakyRelu")
    normed = value if activation is None else activation.inputs[0]
    node = _maker(normed, "InstanceNormalization")
    found = None if node is None else _norm_at(node)
    if found is None or found.residual is not None or node is None:
        return None
    # The pad belongs to the convolution here.
    nodes = tuple(step for step in found.nodes if step.op_type != "Pad")
    return replace(found, nodes=nodes) if nodes[-1].outputs[0] is value else None


def _variant(norm: _Norm) -> Variant:
    shape, dtype = norm.picture.shape, norm.picture.dtype
    assert shape is not None
    assert dtype is not None
    assert isinstance(shape[1], int)
    scale, bias = constant(norm.scale), constant(norm.bias)
    is_neutral = scale is not None and bias is not None and bool(np.all(scale == 1)) and not np.any(bias)
    return Variant(
        dtype=_DTYPES[dtype],
        kind=norm.kind,
        affine="none" if is_neutral else "channel",
        residual=norm.residual is not None,
        splits=_SPLITS,
        block_c=next(c for c in (64, 32, 16) if shape[1] % c == 0),
    )


def _short(value: float) -> float:
    """An attribute's float32 as the decimal that was meant, so that equal kernels get equal names."""
    return float(f"{value:.6g}")


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain in ("", "ai.onnx") else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    if not only_use(value):
        return None
    reader = next(iter(value.uses())).node
    return reader if reader.domain in ("", "ai.onnx") else None


def _fixed_size(picture: ir.Value | None) -> tuple[int, int] | None:
    if picture is None or picture.shape is None or len(picture.shape) != 4:
        return None
    height, width = picture.shape[2], picture.shape[3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _residual_of(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The other summand, where it is a picture of the same shape."""
    if node.op_type != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] is value else node.inputs[0]
    if other is None or other.shape is None or value.shape is None or constant(other) is not None:
        return None
    return other if list(other.shape) == list(value.shape) else None


def _reflection_of(node: ir.Node) -> int:
    """Rows and columns that a reflection pad adds on every side, 0 for anything else."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "reflect":
        return 0
    pads = constant(node.inputs[1])
    if pads is None or len(node.inputs) > 3 or pads.size != 8 or pads[2] < 1:
        return 0
    amount = int(pads[2])
    return amount if pads.tolist() == [0, 0, amount, amount] * 2 else 0


def in_graph_order(argument: Argument) -> tuple[str, ...]:
    """The argument's dimensions as the graph writes them: pictures NCHW, the rest as the kernel has it."""
    if argument.name not in PICTURES:
        return argument.shape
    batch, height, width, channels = argument.shape
    return batch, channels, height, width
