"""Normalisation of images: instance, layer and their mixes, with activation, residual and padding in one pass.

`norm` is the public function; the others name the members that the literature uses. `x` is `[N, C, H, W]`
float16, bfloat16 or float32; the kernels need `torch.channels_last`, the reference takes any layout.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from torch import Tensor
from typing_extensions import Unpack

from i2i_kernels.dispatch import kernels_fit, require_kernel_input
from i2i_kernels.kind import Activation, Family, Kind
from i2i_kernels.norm.reference import norm_reference
from i2i_kernels.pack.policy import SLAB_PIXELS, norm_launch

__all__ = [
    "Activation",
    "Family",
    "Impl",
    "Kind",
    "ada_iln",
    "adain",
    "adalin",
    "iln",
    "instance_norm",
    "layer_norm",
    "layer_norm_munit",
    "lin",
    "norm",
]

Impl = Literal["reference", "split", "slab"]


def norm(
    x: Tensor,
    kind: Kind,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mix: Tensor | None = None,
    residual: Tensor | None = None,
    impl: Impl | None = None,
) -> Tensor:
    """`pad(act(weight * normalised(x) + bias) + residual_scale * residual)`, `[N, C, H + 2 pad, W + 2 pad]`.

    weight, bias: `[C]`, or `[N, C]` (one per sample), or None. mix: `[C]` for a clamp kind, `[2, C]` (logits of
    instance, layer) for a softmax kind. residual: like x. The result has x's dtype.

    impl: None picks by device: the kernels on a CUDA device where triton is installed and x is channels-last,
    plain torch elsewhere. `split` (two or three launches) and `slab` (one launch, instance family, H x W up to
    4096) are the kernels, `reference` plain torch. The kernels differentiate once; if a second
    derivative is needed (a gradient penalty through a norm), take `reference`.

    Raises ValueError or TypeError if the arguments do not fit each other, RuntimeError if an explicit
    `impl` cannot be served.
    """
    _check(x, kind, weight, bias, mix, residual)
    if impl is None:
        impl = "split" if kernels_fit(x) else "reference"
    if impl == "reference":
        return norm_reference(x, kind, weight, bias, mix, residual)
    if impl not in ("split", "slab"):
        raise ValueError(f"impl is {impl!r}, it must be None, reference, split or slab")
    _check_kernel(x, kind, residual, impl)
    from i2i_kernels.norm import op

    # Rows of a style are often slices of one vector; the kernels read them as rows of their own.
    weight, bias, mix = (None if p is None else p.contiguous() for p in (weight, bias, mix))
    n, c, h, w = x.shape
    splits = 1 if impl == "slab" else norm_launch(kind, samples=n, channels=c, pixels=h * w).splits
    y: Tensor = op.norm_op(x, weight, bias, mix, residual, *op.kind_fields(kind), splits)[0]
    return y


class Tail(TypedDict, total=False):
    """What the same pass does after the norm: fields of `Kind`."""

    activation: Activation
    slope: float
    residual_scale: float
    pad: int


def instance_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """Instance norm (Ulyanov 2016), no running statistics; biased variance, weight and bias `[C]` or None."""
    return norm(x, Kind(eps=eps, **tail), weight=weight, bias=bias, residual=residual, impl=impl)


def adain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """Adaptive instance norm (Huang 2017): weight and bias `[N, C]` from the style, the weight as it is."""
    return instance_norm(x, weight, bias, eps=eps, residual=residual, impl=impl, **tail)


def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """Layer norm over C, H and W with weight and bias per channel; biased, eps inside the root."""
    return norm(x, Kind("layer", eps=eps, **tail), weight=weight, bias=bias, impl=impl)


def layer_norm_munit(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    eps: float = 1e-5,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """The layer norm of MUNIT's and UNIT's upsamplers: unbiased standard deviation, eps added to it."""
    kind = Kind("layer", unbiased=True, eps=eps, eps_inside=False, **tail)
    return norm(x, kind, weight=weight, bias=bias, impl=impl)


def lin(
    x: Tensor,
    rho: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    unbiased: bool = True,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """Layer-instance norm of U-GAT-IT: rho `[C]`, clipped to [0, 1], is the share of instance norm."""
    kind = Kind("clamp", unbiased=unbiased, eps=eps, **tail)
    return norm(x, kind, weight=weight, bias=bias, mix=rho, residual=residual, impl=impl)


def iln(
    x: Tensor,
    logits: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    unbiased: bool = True,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    impl: Impl | None = None,
    **tail: Unpack[Tail],
) -> Tensor:
    """Instance-layer norm of NICE-GAN: logits `[2, C]`, instance first, go through a softmax."""
    kind = Kind("softmax", unbiased=unbiased, eps=eps, **tail)
    return norm(x, kind, weight=weight, bias=bias, mix=logits, residual=residual, impl=impl)


adalin = lin
"""U-GAT-IT's AdaLIN: `lin` with weight and bias `[N, C]`."""

ada_iln = iln
"""NICE-GAN's adaptive ILN: `iln` with weight and bias `[N, C]`."""


def _check(
    x: Tensor,
    kind: Kind,
    weight: Tensor | None,
    bias: Tensor | None,
    mix: Tensor | None,
    residual: Tensor | None,
) -> None:
    if x.dim() != 4:
        raise ValueError(f"norm takes [N, C, H, W], x is {list(x.shape)}")
    n, c, h, w = x.shape
    if not x.is_floating_point():
        raise TypeError(f"norm takes floating-point images, x is {x.dtype}")
    if h * w < 2 and kind.family != "layer":
        raise ValueError(f"a {kind.family} norm needs two pixels per channel or more, x is {list(x.shape)}")
    if kind.pad and kind.pad >= min(h, w):
        raise ValueError(
            f"reflection by {kind.pad} needs more than {kind.pad} rows and columns, x is {list(x.shape)}"
        )
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape not in ((c,), (n, c)):
            raise ValueError(
                f"{name} is {list(parameter.shape)}, for x of {list(x.shape)} it must be [{c}] or [{n}, {c}]"
            )
    if weight is not None and bias is not None and weight.shape != bias.shape:
        raise ValueError(f"weight is {list(weight.shape)} and bias is {list(bias.shape)}, they must agree")
    wanted = {"clamp": (c,), "softmax": (2, c)}.get(kind.family)
    if (None if mix is None else tuple(mix.shape)) != wanted:
        given = "None" if mix is None else list(mix.shape)
        raise ValueError(
            f"mix is {given}, a {kind.family} norm of {c} channels takes {wanted and list(wanted)}"
        )
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"residual is {list(residual.shape)} and x is {list(x.shape)}, they must agree")
    for name, other in (("weight", weight), ("bias", bias), ("mix", mix), ("residual", residual)):
        if other is not None and other.device != x.device:
            raise ValueError(f"{name} lies on {other.device} and x on {x.device}, they must be on one device")


def _check_kernel(x: Tensor, kind: Kind, residual: Tensor | None, impl: Impl) -> None:
    require_kernel_input(x, "x", impl)
    if residual is not None:
        require_kernel_input(residual, "residual", impl)
        if residual.dtype != x.dtype:
            raise TypeError(
                f"residual is {residual.dtype} and x is {x.dtype}, the {impl} kernels need one dtype"
            )
    if impl == "slab":
        if kind.family != "instance":
            raise ValueError(f"the slab kernel does the instance family, it was asked for {kind}")
        if x.shape[2] * x.shape[3] > SLAB_PIXELS:
            raise ValueError(
                f"the slab kernel holds maps of up to {SLAB_PIXELS} pixels, x is {list(x.shape)}"
            )
