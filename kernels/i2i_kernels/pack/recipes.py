"""What each kernel of the pack is compiled from: arguments, constants and launch grid, without torch or triton.

Expressions are over N, C, H and W of the input image (before padding), written so that TensorRT's symbolic dimensions
can evaluate them too: `cdiv(a, b)`, `+`, `-`, `*`, an expression always on the left of an operator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, partial
from types import CodeType
from typing import Any, Literal, get_args

from i2i_kernels.kind import Kind
from i2i_kernels.pack.policy import CONVOLUTION_RUN, MERGE_LIMIT, MOST_SPLITS, SLAB_PIXELS, tile_pixels

Op = Literal[
    "norm_stats",
    "norm_coefficients",
    "norm_apply",
    "norm_slab",
    "norm_sums",
    "norm_finish",
    "norm_gradient",
    "conv_norm",
    "pyramid_down",
    "pyramid_up",
    "image_from_nv12",
    "nv12_from_image",
]
Dtype = Literal["float16", "bfloat16", "float32"]
Affine = Literal["none", "channel", "sample"]

CHANNEL_MULTIPLE = 16
"""The kernels are compiled for channel counts of this multiple: it is what makes their loads 128 bits wide."""

TRITON_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "uint8": "u8"}


@dataclass(frozen=True)
class Variant:
    """Everything that is baked into one kernel. Two equal variants are the same kernel.

    Raises ValueError if a field is out of range.
    """

    dtype: Dtype = "float16"
    """Of x, the residual and the result; statistics, weight, bias and mix are float32."""
    kind: Kind = field(default_factory=Kind)
    affine: Affine = "none"
    """Weight and bias: none, per channel `[C]`, or per sample `[N, C]`."""
    residual: bool = False
    """An image is added: the residual of a norm, or the other summand of `pyramid_up`."""
    residual_pad: int = 0
    """Rows and columns that a norm's residual has around it, as the result of a norm with padding has."""
    splits: int = 32
    """Runs of pixels in the partial statistics, a power of two; 0 in `norm_apply`: takes coefficients instead."""
    block_c: int = 64
    """Channels per tile: 64, 32 or 16."""
    sum_splits: int = 32
    """Runs of pixels in the sums of `norm_finish`, a power of two."""
    tiles: int = 1
    """Tiles that a program of `norm_apply` walks."""
    slab_tile: int = SLAB_PIXELS
    """Pixels of the slab's only tile, a power of two that holds the map."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("dtype", get_args(Dtype)),
            ("affine", get_args(Affine)),
            ("block_c", (16, 32, 64)),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise ValueError(
                    f"{name} of a kernel is {getattr(self, name)!r}, it must be one of {choices}"
                )
        if self.splits & (self.splits - 1) or not 0 <= self.splits <= MOST_SPLITS:
            raise ValueError(f"splits is {self.splits}, it must be 0 or a power of two up to {MOST_SPLITS}")

    def label(self) -> str:
        """The fields that are not at their default, for a reader."""
        changed = _changes(self) | _changes(self.kind)
        changed.pop("kind", None)
        return " ".join(f"{v}" if isinstance(v, str) else f"{k}={v}" for k, v in changed.items()) or "plain"

    def file_stem(self, op: str) -> str:
        """Name of the pack's files: the op and a digest of every field."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"{op}-{digest[:16]}"


def _changes(record: Variant | Kind) -> dict[str, object]:
    plain = type(record)()
    return {
        f.name: getattr(record, f.name)
        for f in fields(record)
        if getattr(record, f.name) != getattr(plain, f.name)
    }


@dataclass(frozen=True)
class Argument:
    """One launch argument, in launch order: input pointers, then int32, then output pointers."""

    name: str
    role: Literal["input", "int32", "output"]
    dtype: str
    value: str = ""
    """Of an int32: its expression."""
    shape: tuple[str, ...] = ()
    """Of a pointer: the tensor's dimensions, one expression each; every tensor is contiguous in this order."""


@dataclass(frozen=True)
class Recipe:
    """How one kernel is compiled and launched."""

    module: str
    function: str
    arguments: tuple[Argument, ...]
    absent: tuple[str, ...]
    """Pointer parameters of the function that this variant compiles out."""
    constants: dict[str, object]
    warps: int
    grid: tuple[str, str, str]
    least_arch: int = 75
    """Below this the kernel compiles to something that is of no use."""
    stages: int = 3
    """Tiles in flight in a loop of matrix products; each takes shared memory."""

    def launch_grid(self, **sizes: Any) -> tuple[Any, ...]:
        """The grid for N, C, H and W: integers, or objects that add, multiply and divide (`cdiv` among the sizes)."""
        return tuple(evaluate(axis, sizes) for axis in self.grid)


def evaluate(expression: str, sizes: Mapping[str, Any]) -> Any:
    """Value of an expression of a recipe; `cdiv` rounds a quotient up unless the sizes bring their own."""
    return eval(_compiled(expression), {"__builtins__": {}}, {"cdiv": _cdiv, **sizes})


@cache
def _compiled(expression: str) -> CodeType:
    return compile(expression, "grid", "eval")


def _cdiv(a: Any, b: Any) -> Any:
    return -(-a // b)


@cache
def recipe(op: Op, variant: Variant) -> Recipe:
    """Raises ValueError if the op does not exist or cannot be what the variant asks."""
    if op not in _RECIPES:
        raise ValueError(f"the pack has no kernel {op!r}, it has {', '.join(_RECIPES)}")
    return _RECIPES[op](variant)


_SLAB_CHANNELS = 8

_SIZE = {"C": "C", "H": "H", "W": "W", "HW": "H * W", "OC": "C", "pitch": "W"}


def _int32(*names: str) -> tuple[Argument, ...]:
    return tuple(Argument(f"{name}", "int32", "int32", _SIZE[name]) for name in names)


def _image(name: str, role: Literal["input", "output"], dtype: str, pad: int = 0) -> Argument:
    shape = ("N", f"H + {2 * pad}", f"W + {2 * pad}", "C") if pad else ("N", "H", "W", "C")
    return Argument(name, role, dtype, shape=shape)


def _table(name: str, role: Literal["input", "output"], rows: str) -> Argument:
    return Argument(name, role, "float32", shape=("N", *rows.split(", "), "C"))


def _affine(variant: Variant) -> tuple[Argument, ...]:
    shape = ("N", "C") if variant.affine == "sample" else ("C",)
    return tuple(Argument(name, "input", "float32", shape=shape) for name in ("weight_ptr", "bias_ptr"))


def _with_optional(*arguments: tuple[bool, Argument]) -> tuple[list[Argument], tuple[str, ...]]:
    return [a for here, a in arguments if here], tuple(a.name for here, a in arguments if not here)


def _std(kind: Kind) -> dict[str, object]:
    return {"EPS": kind.eps, "UNBIASED": kind.unbiased, "EPS_INSIDE": kind.eps_inside}


def _tail(variant: Variant) -> dict[str, object]:
    kind = variant.kind
    return {
        **_std(kind),
        "PER_SAMPLE": variant.affine == "sample",
        "ACTIVATION": kind.activation,
        "SLOPE": kind.slope,
        "RESIDUAL_SCALE": kind.residual_scale,
        "RESIDUAL_PAD": variant.residual_pad,
    }


def _tiles(variant: Variant) -> dict[str, object]:
    return {"BLOCK_HW": tile_pixels(variant.block_c), "BLOCK_C": variant.block_c}


def _runs_at_once(variant: Variant) -> int:
    return 256 if variant.kind.family == "instance" else 64


def _merge(variant: Variant) -> dict[str, object]:
    """How a program takes the partials: 8 channels of many runs, or 32 of few if it needs every channel."""
    block_c = 8 if variant.kind.family == "instance" else min(32, variant.block_c)
    return {
        "SPLITS": variant.splits,
        "BLOCK_S": min(_runs_at_once(variant), variant.splits),
        "BLOCK_C": block_c,
    }


def _stats(variant: Variant) -> Recipe:
    if not variant.splits:
        raise ValueError("norm_stats needs splits of 1 or more, it is 0")
    return Recipe(
        module="i2i_kernels.norm.kernel",
        function="stats_kernel",
        arguments=(
            _image("x_ptr", "input", variant.dtype),
            *_int32("C", "HW"),
            _table("partials_ptr", "output", f"{variant.splits}, 2"),
        ),
        absent=(),
        constants={"SPLITS": variant.splits, **_tiles(variant)},
        warps=4,
        grid=(str(variant.splits), f"cdiv(C, {variant.block_c})", "N"),
    )


def _coefficients(variant: Variant) -> Recipe:
    if not variant.splits:
        raise ValueError("norm_coefficients needs splits of 1 or more, it is 0")
    mix_shape = ("2", "C") if variant.kind.family == "softmax" else ("C",)
    affine = [(variant.affine != "none", a) for a in _affine(variant)]
    mix = Argument("mix_ptr", "input", "float32", shape=mix_shape)
    present, absent = _with_optional(*affine, (variant.kind.family in ("clamp", "softmax"), mix))
    merge = _merge(variant)
    return Recipe(
        module="i2i_kernels.norm.kernel",
        function="coefficients_kernel",
        arguments=(
            _table("partials_ptr", "input", f"{variant.splits}, 2"),
            *present,
            *_int32("C", "HW"),
            _table("coefficients_ptr", "output", "3"),
        ),
        absent=absent,
        constants={
            "FAMILY": variant.kind.family,
            **_std(variant.kind),
            "PER_SAMPLE": variant.affine == "sample",
            **merge,
        },
        warps=4,
        grid=(f"cdiv(C, {merge['BLOCK_C']})", "N", "1"),
    )


def _apply(variant: Variant) -> Recipe:
    merged = variant.splits > 0
    if merged and variant.kind.family != "instance":
        raise ValueError(
            f"norm_apply merges the partials of the instance family alone, for {variant.kind.family} run "
            "norm_coefficients first and take norm_apply with splits of 0"
        )
    if variant.splits > MERGE_LIMIT:
        raise ValueError(
            f"norm_apply merges up to {MERGE_LIMIT} splits, it was asked for {variant.splits}: run "
            "norm_coefficients first and take norm_apply with splits of 0"
        )
    affine = [(merged and variant.affine != "none", a) for a in _affine(variant)]
    residual = _image("residual_ptr", "input", variant.dtype, variant.residual_pad)
    present, absent = _with_optional(*affine, (variant.residual, residual))
    pad = variant.kind.pad
    tiles = _tiles(variant)
    pixels = f"(H + {2 * pad}) * (W + {2 * pad})" if pad else "H * W"
    return Recipe(
        module="i2i_kernels.norm.kernel",
        function="apply_kernel",
        arguments=(
            _image("x_ptr", "input", variant.dtype),
            _table("moments_ptr", "input", f"{variant.splits}, 2" if merged else "3"),
            *present,
            *_int32("C", "H", "W"),
            _image("y_ptr", "output", variant.dtype, pad),
        ),
        absent=absent,
        constants={**_tail(variant), "PAD": pad, "SPLITS": variant.splits, "TILES": variant.tiles, **tiles},
        warps=4,
        grid=(
            f"cdiv({pixels}, {tile_pixels(variant.block_c) * variant.tiles})",
            f"cdiv(C, {variant.block_c})",
            "N",
        ),
    )


def _slab(variant: Variant) -> Recipe:
    if variant.kind.family != "instance":
        raise ValueError(f"norm_slab does the instance family, it was asked for {variant.kind}")
    affine = [(variant.affine != "none", a) for a in _affine(variant)]
    residual = _image("residual_ptr", "input", variant.dtype, variant.residual_pad)
    present, absent = _with_optional(*affine, (variant.residual, residual))
    return Recipe(
        module="i2i_kernels.norm.kernel",
        function="slab_kernel",
        arguments=(
            _image("x_ptr", "input", variant.dtype),
            *present,
            *_int32("C", "H", "W"),
            _image("y_ptr", "output", variant.dtype, variant.kind.pad),
        ),
        absent=(*absent, "partials_ptr"),
        constants={
            **_tail(variant),
            "PAD": variant.kind.pad,
            "BLOCK_HW": variant.slab_tile,
            "BLOCK_C": _SLAB_CHANNELS,
            "BLOCK_BORDER": 512,
        },
        # 64 numbers per thread are what fits beside the addresses of a padded border.
        warps=max(4, variant.slab_tile * _SLAB_CHANNELS // 64 // 32),
        grid=(f"cdiv(C, {_SLAB_CHANNELS})", "N", "1"),
    )


_GRADIENT_TILE = {16: 64, 32: 32, 64: 16}
"""Pixels of a tile of the backward pass by channels: 8 numbers per thread, since each holds two images and its sums."""


def _gradient_tail(variant: Variant) -> dict[str, object]:
    kind = variant.kind
    return {
        "ACTIVATION": kind.activation,
        "SLOPE": kind.slope,
        "PAD": kind.pad,
        "BLOCK_HW": _GRADIENT_TILE[variant.block_c],
        "BLOCK_C": variant.block_c,
    }


def _gradient_inputs(variant: Variant) -> tuple[Argument, ...]:
    return (
        _image("dy_ptr", "input", variant.dtype, variant.kind.pad),
        _image("x_ptr", "input", variant.dtype),
        _table("coefficients_ptr", "input", "3"),
    )


def _sums(variant: Variant) -> Recipe:
    """The first of three launches of the gradient: two sums per channel in `splits` runs."""
    return Recipe(
        module="i2i_kernels.norm.gradient",
        function="sums_kernel",
        arguments=(
            *_gradient_inputs(variant),
            *_int32("C", "H", "W"),
            _table("sums_ptr", "output", f"{variant.splits}, 2"),
        ),
        absent=(),
        constants={**_gradient_tail(variant), "SPLITS": variant.splits},
        warps=4,
        grid=(str(variant.splits), f"cdiv(C, {variant.block_c})", "N"),
    )


def _finish(variant: Variant) -> Recipe:
    """The second: the sums and the forward's partials become lines and the gradients of the parameters."""
    mix_shape = ("2", "C") if variant.kind.family == "softmax" else ("C",)
    weight, _ = _affine(variant)
    mix = Argument("mix_ptr", "input", "float32", shape=mix_shape)
    present, absent = _with_optional(
        (variant.affine != "none", weight), (variant.kind.family in ("clamp", "softmax"), mix)
    )
    merge = _merge(variant)
    return Recipe(
        module="i2i_kernels.norm.gradient",
        function="finish_kernel",
        arguments=(
            _table("sums_ptr", "input", f"{variant.sum_splits}, 2"),
            _table("partials_ptr", "input", f"{variant.splits}, 2"),
            *present,
            *_int32("C", "HW"),
            _table("lines_ptr", "output", "2"),
            _table("grads_ptr", "output", "3"),
        ),
        absent=absent,
        constants={
            "FAMILY": variant.kind.family,
            **_std(variant.kind),
            "PER_SAMPLE": variant.affine == "sample",
            "SUM_SPLITS": variant.sum_splits,
            "SUM_BLOCK_S": min(_runs_at_once(variant), variant.sum_splits),
            **merge,
        },
        warps=4,
        grid=(f"cdiv(C, {merge['BLOCK_C']})", "N", "1"),
    )


def _gradient(variant: Variant) -> Recipe:
    """The third: the gradient of x, and of the residual in the same pass if the padding must be folded."""
    d_residual = _image("d_residual_ptr", "output", variant.dtype)
    tail = _gradient_tail(variant)
    present, absent = _with_optional((variant.residual and variant.kind.pad > 0, d_residual))
    return Recipe(
        module="i2i_kernels.norm.gradient",
        function="dx_kernel",
        arguments=(
            *_gradient_inputs(variant),
            _table("lines_ptr", "input", "2"),
            *_int32("C", "H", "W"),
            _image("dx_ptr", "output", variant.dtype),
            *present,
        ),
        absent=absent,
        constants={**tail, "RESIDUAL_SCALE": variant.kind.residual_scale},
        warps=4,
        grid=(f"cdiv(H * W, {tail['BLOCK_HW']})", f"cdiv(C, {variant.block_c})", "N"),
    )


def _conv(variant: Variant) -> Recipe:
    kind = variant.kind
    if kind != Kind(eps=kind.eps, activation=kind.activation, slope=kind.slope) or not variant.splits:
        raise ValueError(
            f"conv_norm does the plain instance norm with an activation, it was asked for {variant}"
        )
    return Recipe(
        module="i2i_kernels.conv_norm.kernel",
        function="conv_norm_kernel",
        arguments=(
            _image("x_ptr", "input", variant.dtype),
            _table("coefficients_ptr", "input", "3"),
            Argument("weight_ptr", "input", variant.dtype, shape=("C", "3", "3", "C")),
            *_int32("C", "H", "W", "OC"),
            _image("y_ptr", "output", variant.dtype),
            _table("partials_ptr", "output", f"{variant.splits}, 2"),
        ),
        absent=(),
        constants={
            "ACTIVATION": kind.activation,
            "SLOPE": kind.slope,
            "SPLITS": variant.splits,
            "BLOCK_M": CONVOLUTION_RUN,
            "BLOCK_O": 128,
            "BLOCK_C": 32,
        },
        warps=8,
        grid=(str(variant.splits), "cdiv(C, 128)", "N"),
        least_arch=80,
        stages=2,
    )


PYRAMID_BLOCK = 128
"""Numbers of the result per program."""


def _pyramid(variant: Variant, up: bool) -> Recipe:
    """Images of three channels; `residual_scale` is the factor of the doubled image."""
    out = ("H * 2", "W * 2") if up else ("cdiv(H, 2)", "cdiv(W, 2)")
    add = Argument("add_ptr", "input", variant.dtype, shape=("N", *out, "3"))
    present, absent = _with_optional((variant.residual, add)) if up else ([], ())
    return Recipe(
        module="i2i_kernels.pyramid.kernel",
        function="fine_kernel" if up else "coarse_kernel",
        arguments=(
            Argument("x_ptr", "input", variant.dtype, shape=("N", "H", "W", "3")),
            *present,
            *_int32("H", "W"),
            Argument("OH", "int32", "int32", out[0]),
            Argument("OW", "int32", "int32", out[1]),
            Argument("y_ptr", "output", variant.dtype, shape=("N", *out, "3")),
        ),
        absent=absent,
        constants={
            "C": 3,
            "SCALE": 4 * variant.kind.residual_scale if up else 1.0,
            "TRANSPOSED": False,
            "BLOCK": PYRAMID_BLOCK,
        },
        warps=4,
        grid=(f"cdiv({out[0]} * {out[1]} * 3, {PYRAMID_BLOCK})", "N", "1"),
    )


COLOUR_BLOCK = 1024
"""Pixels or bytes per program."""


def _nv12(variant: Variant, back: bool) -> Recipe:
    """BT.709 limited, the coding of cameras and of high-definition video; rows without padding."""
    frame = Argument("frame_ptr", "output" if back else "input", "uint8", shape=("N", "cdiv(H * 3, 2)", "W"))
    image = Argument("image_ptr", "input" if back else "output", variant.dtype, shape=("N", "H", "W", "3"))
    first, last = (image, frame) if back else (frame, image)
    pixels = f"cdiv(H * W, {4 * COLOUR_BLOCK})" if back else f"cdiv(H * W, {COLOUR_BLOCK})"
    return Recipe(
        module="i2i_kernels.colour.kernel",
        function="to_nv12_kernel" if back else "from_nv12_kernel",
        arguments=(first, *_int32("H", "W", "pitch"), last),
        absent=(),
        constants={
            "KR": 0.2126,
            "KB": 0.0722,
            "BLACK": 16.0,
            "WHITE": 219.0,
            "CHROMA": 224.0,
            "BLOCK": COLOUR_BLOCK,
        },
        warps=4,
        grid=(pixels, "N", "1"),
    )


_RECIPES: dict[str, Callable[[Variant], Recipe]] = {
    "norm_stats": _stats,
    "norm_coefficients": _coefficients,
    "norm_apply": _apply,
    "norm_slab": _slab,
    "norm_sums": _sums,
    "norm_finish": _finish,
    "norm_gradient": _gradient,
    "conv_norm": _conv,
    "pyramid_down": partial(_pyramid, up=False),
    "pyramid_up": partial(_pyramid, up=True),
    "image_from_nv12": partial(_nv12, back=False),
    "nv12_from_image": partial(_nv12, back=True),
}
