"""What each kernel of the pack is compiled from: arguments, constants and launch grid, without torch or triton.

Expressions are over N, C, H and W of the input image (before padding), written so that TensorRT's symbolic dimensions
can evaluate them too: `cdiv(a, b)`, `+`, `-`, `*`, an expression always on the left of an operator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Literal, get_args

from i2i_kernels.kind import Kind

Op = Literal[
    "norm_stats",
    "norm_coefficients",
    "norm_apply",
    "norm_slab",
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

    Raises ValueError where a field is out of range.
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
        if self.splits & (self.splits - 1) or not 0 <= self.splits <= 256:
            raise ValueError(f"splits is {self.splits}, it must be 0 or a power of two up to 256")

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


def recipe(op: Op, variant: Variant) -> Recipe:
    """Raises ValueError where the op does not exist or cannot be what the variant asks."""
    if op not in _RECIPES:
        raise ValueError(f"there is no kernel {op!r} in the pack, there are {', '.join(_RECIPES)}")
    return _RECIPES[op](variant)


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
    return {"BLOCK_HW": 4096 // variant.block_c, "BLOCK_C": variant.block_c}


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
    block_c = min(32, variant.block_c)
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
            "SPLITS": variant.splits,
            "BLOCK_C": block_c,
        },
        warps=4,
        grid=(f"cdiv(C, {block_c})", "N", "1"),
    )


def _apply(variant: Variant) -> Recipe:
    merged = variant.splits > 0
    if merged and variant.kind.family != "instance":
        raise ValueError(
            f"norm_apply merges the partials of the instance family alone, for {variant.kind.family} run "
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
        constants={**_tail(variant), "PAD": pad, "SPLITS": variant.splits, "TILES": 1, **tiles},
        warps=4,
        grid=(f"cdiv({pixels}, {tiles['BLOCK_HW']})", f"cdiv(C, {variant.block_c})", "N"),
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
            "BLOCK_HW": 4096,
            "BLOCK_C": 8,
            "BLOCK_BORDER": 512,
        },
        warps=16,
        grid=("cdiv(C, 8)", "N", "1"),
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
            "BLOCK_M": 128,
            "BLOCK_O": 128,
            "BLOCK_C": 32,
        },
        warps=8,
        grid=(str(variant.splits), "cdiv(C, 128)", "N"),
        least_arch=80,
        stages=2,
    )


_PYRAMID_BLOCK = 128


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
            "BLOCK": _PYRAMID_BLOCK,
        },
        warps=4,
        grid=(f"cdiv({out[0]} * {out[1]} * 3, {_PYRAMID_BLOCK})", "N", "1"),
    )


_NV12_BLOCK = 1024


def _nv12(variant: Variant, back: bool) -> Recipe:
    """BT.709 limited, the coding of cameras and of high-definition video; rows without padding."""
    frame = Argument("frame_ptr", "output" if back else "input", "uint8", shape=("N", "cdiv(H * 3, 2)", "W"))
    image = Argument("image_ptr", "input" if back else "output", variant.dtype, shape=("N", "H", "W", "3"))
    first, last = (image, frame) if back else (frame, image)
    pixels = f"cdiv(H * W, {4 * _NV12_BLOCK})" if back else f"cdiv(H * W, {_NV12_BLOCK})"
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
            "BLOCK": _NV12_BLOCK,
        },
        warps=4,
        grid=(pixels, "N", "1"),
    )


_RECIPES: dict[str, Callable[[Variant], Recipe]] = {
    "norm_stats": _stats,
    "norm_coefficients": _coefficients,
    "norm_apply": _apply,
    "norm_slab": _slab,
    "conv_norm": _conv,
    "pyramid_down": partial(_pyramid, up=False),
    "pyramid_up": partial(_pyramid, up=True),
    "image_from_nv12": partial(_nv12, back=False),
    "nv12_from_image": partial(_nv12, back=True),
}


def default_entries() -> list[tuple[Op, Variant]]:
    """What the command builds when no list is given: the norms of the ten methods in half precision."""
    plain, relu, pad = Kind(), Kind(activation="relu"), Kind(activation="relu", pad=1)
    munit = Kind("layer", unbiased=True, eps_inside=False)
    entries: list[tuple[Op, Variant]] = [("norm_stats", Variant(splits=s)) for s in (8, 32, 128)]
    entries.append(("norm_stats", Variant("bfloat16")))
    entries.append(("norm_stats", Variant("float32")))
    for kind in (plain, relu, pad, Kind(activation="leaky")):
        entries.append(("norm_apply", Variant(kind=kind)))
        entries.append(("norm_apply", Variant(kind=kind, splits=0)))
    for kind in (plain, Kind(pad=1)):
        entries.append(("norm_apply", Variant(kind=kind, residual=True)))
        entries.append(("norm_apply", Variant(kind=kind, affine="sample", residual=True)))
    entries.append(("norm_apply", Variant(kind=relu, affine="sample")))
    entries.append(("norm_apply", Variant("float32", relu)))
    entries.append(("norm_apply", Variant(kind=plain, residual=True, splits=0)))
    mixes = (Kind("clamp", unbiased=True), Kind("softmax", unbiased=True))
    entries += [("norm_coefficients", Variant(kind=kind, affine="channel")) for kind in (munit, *mixes)]
    entries += [("norm_coefficients", Variant(kind=kind, affine="sample")) for kind in mixes]
    entries.append(("norm_coefficients", Variant(kind=plain, splits=128)))
    entries += [("norm_slab", Variant(kind=kind)) for kind in (relu, pad)]
    entries += [("norm_slab", Variant(kind=plain, residual=True))]
    entries.append(("norm_slab", Variant(kind=Kind(pad=1), residual=True, residual_pad=1)))
    entries += [("conv_norm", Variant(kind=relu)), ("pyramid_down", Variant()), ("pyramid_up", Variant())]
    entries += [("pyramid_up", Variant(residual=True)), ("image_from_nv12", Variant())]
    entries.append(("nv12_from_image", Variant()))
    return entries
