"""Norms become plugin nodes: a norm with its activation, residual and reflection is one, two or three of our kernels.

Each different kernel is an operator of its own name in the domain `i2i`, without attributes, because
everything is baked into the kernel. Images stay NCHW in the graph's words; the plugin asks for them
channels-last in memory. Such a graph is for full TensorRT alone and never written to disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.graph.edit import Writer, add_weight, replace_value, simplify
from i2i_export.graph.match import (
    Array,
    Convolution,
    fixed_size,
    nodes_of,
    only_use,
    producer,
    reflection_of,
)
from i2i_export.passes.nhwc_norms import write_spelled_norms_in_nhwc
from i2i_export.plugins.fused_norms import DTYPES, FusedNorm, fused_norms, share_of
from i2i_kernels.kind import Kind
from i2i_kernels.pack.policy import (
    CONVOLUTION_PIXELS,
    MERGE_LIMIT,
    SLAB_PIXELS,
    NormLaunch,
    convolution_splits,
    norm_launch,
    slab_tile,
)
from i2i_kernels.pack.recipes import CHANNEL_MULTIPLE, Affine, Argument, Op, Variant, recipe

DOMAIN = "i2i"
IMAGES = frozenset({"x_ptr", "residual_ptr", "y_ptr"})
"""Kernel arguments that hold `[N, H, W, C]` in memory; every other tensor lies in its own order."""


@dataclass(frozen=True)
class PluginKernel:
    """The kernel behind an operator; `size` (height, width) if it cannot be read off the plugin's
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
class _Partials:
    """Statistics of an image in `splits` parts, `[N, splits, 2, C] float32`."""

    value: ir.Value
    splits: int


def network_with_plugins(
    model: onnx.ModelProto, *, convolutions: bool = False, wide: bool = False
) -> PluginNetwork | None:
    """Replaces every norm that our kernels can do; None if there is none. Takes standard operators alone.

    `convolutions` also replaces reflected 3x3 convolutions between norms by the fused kernel that normalises
    what it loads and takes statistics of what it stores (half precision, maps of fixed size). The default is
    the fewest launches: one for a small map, two for an instance norm. `wide` cuts every norm of fixed size
    into the programs that a large GPU wants: statistics, coefficients, apply. A plugin is one launch, so the
    choice between them is one between networks, and TensorRT times both.
    """
    lowering = _Lowering(model, wide=wide)
    if convolutions and not lowering.replace_convolutions():
        return None
    lowering.replace_norms()
    lowering.rewrite_other_norms()
    return lowering.finish()


class _Lowering:
    """One graph on its way to plugin nodes."""

    def __init__(self, model: onnx.ModelProto, *, wide: bool) -> None:
        self.graph = ir.from_proto(model)
        self._wide = wide
        self._kernels: dict[str, PluginKernel] = {}
        self._partials: dict[ir.Value, _Partials] = {}
        self._new: dict[ir.Value, ir.Value] = {}
        self._wide_splits: dict[ir.Node, ir.Node] = {}
        simplify(self.graph)
        ShapeInferencePass()(self.graph)

    def finish(self) -> PluginNetwork | None:
        """The network with its plugins; None if there are none."""
        simplify(self.graph)
        used = {node.op_type for node in self.graph.graph if node.domain == DOMAIN}
        if not used:
            return None
        self.graph.opset_imports[DOMAIN] = 1
        kernels = {name: kernel for name, kernel in self._kernels.items() if name in used}
        return PluginNetwork(ir.to_proto(self.graph), kernels)

    def replace_norms(self) -> None:
        simplify(self.graph)
        for fused in fused_norms(self.graph):
            self._replace_norm(fused)

    def rewrite_other_norms(self) -> None:
        """Those that our kernels do not take and that are written out."""
        simplify(self.graph)
        write_spelled_norms_in_nhwc(self.graph)

    def _replace_norm(self, fused: FusedNorm) -> None:
        last = fused.result.producer()
        assert last is not None
        image = self._now(fused.norm.image)
        known = self._partials.get(image)
        cut = self._cut(fused, known)
        values, variant = {"x_ptr": image}, _variant(fused, cut)
        if fused.residual is not None:
            values["residual_ptr"] = self._now(fused.residual)
        pixels = fused.size[0] * fused.size[1] if fused.size else SLAB_PIXELS + 1
        if fused.norm.is_instance and known is None and pixels <= SLAB_PIXELS and not self._wide:
            values |= self._affine(fused, last)
            kernel = PluginKernel("norm_slab", _slab(variant, pixels))
        elif cut.merges:
            values |= self._affine(fused, last)
            partials = known or self._statistics(image, variant, last)
            values["moments_ptr"] = partials.value
            kernel = PluginKernel("norm_apply", replace(variant, splits=partials.splits))
        else:
            values["moments_ptr"] = self._coefficients(fused, last)
            kernel = PluginKernel("norm_apply", _applied(variant))
        (result,) = self._insert(last, kernel, values)
        self._put(result, fused.result)

    def replace_convolutions(self) -> int:
        """Every 3x3 convolution behind a reflection of 1 whose result a norm reads; returns how many."""
        changed, fused = 0, fused_norms(self.graph, padding=False)
        behind = {one.norm.image: one for one in fused}
        before = {one.result: one for one in fused if one.residual is None}
        for node in nodes_of(self.graph, "Conv"):
            convolution, pad = Convolution.of(node), producer(node.inputs[0], "Pad")
            reader = behind.get(node.outputs[0])
            if convolution is None or convolution.weight is None or pad is None or reader is None:
                continue
            given, size, weight = pad.inputs[0], fixed_size(pad.inputs[0]), convolution.weight
            if given is None or size is None or size[0] * size[1] > CONVOLUTION_PIXELS or min(size) < 2:
                continue
            is_ours = (
                convolution.kernel == (3, 3)
                and convolution.is_plain
                and not any(convolution.pads)
                and weight.shape[0] == weight.shape[1]
                and weight.shape[0] % CHANNEL_MULTIPLE == 0
                and reflection_of(pad) == 1
                and only_use(pad.outputs[0])
                # An instance norm removes whatever bias the convolution has.
                and (not convolution.has_bias or (reader.norm.is_instance and only_use(node.outputs[0])))
                and given.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
            )
            if is_ours:
                norm = before.get(given) if only_use(given) else None
                self._replace_convolution(node, given, norm, weight, size)
                changed += 1
        return changed

    def _replace_convolution(
        self,
        convolution: ir.Node,
        given: ir.Value,
        norm: FusedNorm | None,
        weight: Array,
        size: tuple[int, int],
    ) -> None:
        assert given.dtype is not None
        channels, splits = weight.shape[0], convolution_splits(size[0] * size[1])
        kind = Kind() if norm is None else Kind(activation=norm.kind.activation, slope=norm.kind.slope)
        variant = Variant(dtype=DTYPES[given.dtype], kind=kind, splits=splits)
        name = convolution.outputs[0].name or "convolution"
        rows = add_weight(self.graph, f"{name}/rows", np.ascontiguousarray(weight.transpose(0, 2, 3, 1)))
        values = {"x_ptr": given if norm is None else self._now(norm.norm.image), "weight_ptr": rows}
        if norm is None:
            as_it_is = np.zeros((1, 3, channels), np.float32)
            as_it_is[:, 1] = 1
            values["coefficients_ptr"] = add_weight(self.graph, f"{name}/as_it_is", as_it_is)
        else:
            values["coefficients_ptr"] = self._coefficients(norm, convolution)
        result, partials = self._insert(convolution, PluginKernel("conv_norm", variant), values)
        partials.type, partials.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, splits, 2, channels])
        self._partials[result] = _Partials(partials, splits)
        self._put(result, convolution.outputs[0])

    def _coefficients(self, fused: FusedNorm, before: ir.Node) -> ir.Value:
        """Mean, scale and offset per channel, `[N, 3, C] float32`."""
        image = self._now(fused.norm.image)
        known = self._partials.get(image)
        variant = _variant(fused, self._cut(fused, known))
        partials = known or self._statistics(image, variant, before)
        kind = replace(variant.kind, activation="none", slope=0.2, pad=0)
        if fused.norm.is_layer:
            kind = replace(kind, family="layer")
        elif not fused.norm.is_instance:
            kind = replace(kind, family="clamp")
        plain = Variant(kind=kind, affine=variant.affine, splits=partials.splits, block_c=variant.block_c)
        values = {"partials_ptr": partials.value, **self._affine(fused, before)}
        if kind.family == "clamp":
            share = share_of(fused.norm)
            assert share is not None
            values["mix_ptr"] = add_weight(self.graph, f"{fused.result.name}/share", share)
        (value,) = self._insert(before, PluginKernel("norm_coefficients", plain, fused.size), values)
        assert image.shape is not None
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([image.shape[0], 3, image.shape[1]])
        return value

    def _statistics(self, image: ir.Value, variant: Variant, before: ir.Node) -> _Partials:
        stats = Variant(dtype=variant.dtype, splits=variant.splits, block_c=variant.block_c)
        (value,) = self._insert(before, PluginKernel("norm_stats", stats), {"x_ptr": image})
        assert image.shape is not None
        value.type = ir.TensorType(ir.DataType.FLOAT)
        value.shape = ir.Shape([image.shape[0], stats.splits, 2, image.shape[1]])
        return _Partials(value, stats.splits)

    def _cut(self, fused: FusedNorm, known: _Partials | None) -> NormLaunch:
        """How the norm is cut into programs; with a size known at run time alone, a pair for maps of usual size."""
        image, size = fused.norm.image, fused.size
        batch = image.shape[0] if image.shape is not None else None
        if size is None or not isinstance(batch, int):
            # The coefficients kernel reads no image and could not tell the number of pixels.
            return NormLaunch(block_c=64, splits=MERGE_LIMIT, tiles=4, merges=True)
        return norm_launch(
            Kind("instance" if fused.norm.is_instance else "layer"),
            samples=batch,
            channels=fused.norm.channels,
            pixels=size[0] * size[1],
            fewest=not self._wide,
            splits=known.splits if known else None,
        )

    def _affine(self, fused: FusedNorm, before: ir.Node) -> dict[str, ir.Value]:
        """Weight and bias as the kernels read them: float32, `[C]`, or `[N, C]` if a style makes them."""
        norm, affine = fused.norm, _affine_of(fused)
        if affine == "none":
            return {}
        weight, shift = norm.instance + norm.layer, norm.shift
        if affine == "channel":
            both = {"weight_ptr": weight, "bias_ptr": shift}
            return {
                name: add_weight(
                    self.graph, f"{fused.result.name}/{name}", np.array(np.broadcast_to(array, norm.channels))
                )
                for name, array in both.items()
            }
        write = Writer(self.graph, before)

        def row(value: ir.Value | None, factor: Array, rest: Array) -> ir.Value:
            """`value * factor + rest`, one number per sample and channel."""
            assert norm.image.shape is not None
            batch = norm.image.shape[0]
            assert isinstance(batch, int)
            shape = batch, norm.channels
            if value is None:
                return write.weight("row", np.array(np.broadcast_to(rest, shape), np.float32))
            made = self._part_of_wide_split(self._now(value), shape)
            if made is None:
                made = write("Reshape", [self._now(value), write.integers(-1, norm.channels)])
                made = write("Cast", [made], to=ir.DataType.FLOAT)
            made = made if np.all(factor == 1) else write("Mul", [made, write.weight("factor", factor)])
            made = write("Add", [made, write.weight("rest", rest)]) if np.any(rest) else made
            made.type, made.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
            return made

        none = np.zeros(1, np.float32)
        scaled = row(norm.scale, weight, none) if norm.scale is not None else row(None, weight, weight)
        return {"weight_ptr": scaled, "bias_ptr": row(norm.drift, norm.drift_factor, shift)}

    def _part_of_wide_split(self, value: ir.Value, shape: tuple[int, int]) -> ir.Value | None:
        """A part of one long vector as `[N, C] float32`, the vector widened once: a cast of each part is a launch."""
        node = value.producer()
        if node is not None and node.op_type in ("Unsqueeze", "Reshape") and node.inputs[0] is not None:
            value = node.inputs[0]
        split = producer(value, "Split")
        if split is None or list(value.shape or ()) != list(shape):
            return None
        if split not in self._wide_splits:
            write = Writer(self.graph, split)
            whole = write("Cast", [split.inputs[0]], to=ir.DataType.FLOAT)
            wide = ir.node(
                "Split",
                [whole, *split.inputs[1:]],
                attributes={name: entry.value for name, entry in split.attributes.items()},
                num_outputs=len(split.outputs),
                name=f"{split.name}/wide",
            )
            for index, part in enumerate(wide.outputs):
                part.name = f"{wide.name}_{index}"
                part.type, part.shape = ir.TensorType(ir.DataType.FLOAT), split.outputs[index].shape
            self.graph.graph.insert_before(split, wide)
            self._wide_splits[split] = wide
        return self._wide_splits[split].outputs[split.outputs.index(value)]

    def _now(self, value: ir.Value) -> ir.Value:
        """What stands for a value after the changes so far."""
        return self._new.get(value, value)

    def _insert(
        self, before: ir.Node, kernel: PluginKernel, values: Mapping[str, ir.Value]
    ) -> tuple[ir.Value, ...]:
        arguments = recipe(kernel.op, kernel.variant).arguments
        inputs = [values[argument.name] for argument in arguments if argument.role == "input"]
        outputs = sum(argument.role == "output" for argument in arguments)
        self._kernels[kernel.name] = kernel
        attributes = {"plugin_namespace": DOMAIN, "plugin_version": "1"}
        node = ir.node(kernel.name, inputs, domain=DOMAIN, attributes=attributes, num_outputs=outputs)
        node.name = f"{before.outputs[0].name}/{kernel.op}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}_{index}"
        self.graph.graph.insert_before(before, node)
        return tuple(node.outputs)

    def _put(self, result: ir.Value, old: ir.Value) -> None:
        """`result` takes the place of `old`; what made `old` is unused from now on."""
        result.type, result.shape = old.type, old.shape
        replace_value(old, result)
        self._new[old] = result


def _affine_of(fused: FusedNorm) -> Affine:
    norm = fused.norm
    if fused.is_styled:
        return "sample"
    is_neutral = np.all(norm.instance + norm.layer == 1) and not np.any(norm.shift)
    return "none" if is_neutral else "channel"


def _variant(fused: FusedNorm, cut: NormLaunch) -> Variant:
    return Variant(
        dtype=fused.dtype,
        kind=fused.kind,
        affine=_affine_of(fused),
        residual=fused.residual is not None,
        residual_pad=fused.residual_pad,
        splits=cut.splits,
        block_c=next(c for c in (64, 32, 16) if fused.norm.channels % c == 0 and c <= cut.block_c),
        tiles=cut.tiles,
    )


def _slab(variant: Variant, pixels: int) -> Variant:
    """The same for one launch; what it does not know goes to its default, so that one kernel has one name."""
    plain = Variant()
    return replace(
        variant, splits=plain.splits, block_c=plain.block_c, tiles=plain.tiles, slab_tile=slab_tile(pixels)
    )


def _applied(variant: Variant) -> Variant:
    """The kernel that takes coefficients: whatever made them is not its business."""
    kind = Kind(activation=variant.kind.activation, slope=variant.kind.slope, pad=variant.kind.pad)
    return replace(variant, kind=kind, affine="none", splits=0)


def in_graph_order(argument: Argument) -> tuple[str, ...]:
    """The argument's dimensions as the graph writes them: images NCHW, the rest as the kernel has it."""
    if argument.name not in IMAGES:
        return argument.shape
    batch, height, width, channels = argument.shape
    return batch, channels, height, width
