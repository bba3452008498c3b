"""The kernels' self-test: each against plain torch in float64, with the bounds that the errors are held to.

    python -m i2i_kernels.numerics --device cuda
    TRITON_INTERPRET=1 python -m i2i_kernels.numerics

prints a row per case and exits 1 if a bound is broken. On a CPU the kernels run in Triton's interpreter, which does
not check races, alignment, shared memory or registers. Memory that a kernel should write starts as NaN.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from i2i_kernels.colour import (
    Coding,
    image_from_nv12,
    image_from_rgb,
    nv12_from_image,
    rgb_from_image,
)
from i2i_kernels.conv_norm import conv_norm
from i2i_kernels.kind import Kind
from i2i_kernels.norm import Impl, norm
from i2i_kernels.norm.reference import partials_reference
from i2i_kernels.pyramid import down, up

Errors = dict[str, float]
"""Per output, the largest error over the largest magnitude of that output."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

ROUNDING = {"float32": 2e-6, "float16": 6e-4, "bfloat16": 8e-3}
"""Bound of an output stored in that dtype. float16: half a unit in the last place of the largest value, 4.9e-4, and
a bit for what came before. bfloat16: a whole unit, 7.8e-3, since the interpreter truncates. float32: about thirty
roundings of 6e-8, the depth of the sums."""

ACCUMULATED = 6e-6
"""Bound of a parameter's gradient: float32 sums over every pixel and sample of terms that cancel, in any dtype of x."""

FAR_MEAN = 2e-4
"""Bound with a mean a thousand times the spread: float32 holds the mean itself to 6e-5 of the spread, three times."""


@dataclass(frozen=True)
class Case:
    """One call of one op with random inputs, and the bounds per output."""

    op: str
    name: str
    run: Callable[[torch.device], Errors]
    bounds: Errors


def _made(shape: tuple[int, ...], dtype: str, device: torch.device, mean: float = 0.0) -> Tensor:
    values = (torch.randn(shape) + mean).to(device, DTYPES[dtype])
    return values.contiguous(memory_format=torch.channels_last)


def _exact(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().double().requires_grad_()


def _error(got: Tensor, want: Tensor) -> float:
    gap = (got.detach().double() - want.detach().double()).abs().max() / want.detach().abs().max().clamp_min(
        1e-30
    )
    return float(gap.nan_to_num(float("inf")))


def _gradient_errors(names: list[str], leaves: list[Tensor], wanted: list[Tensor]) -> Errors:
    pairs = zip(names, leaves, wanted, strict=True)
    return {f"d{name}": _error(_grad(leaf), _grad(want)) for name, leaf, want in pairs}


def _grad(leaf: Tensor) -> Tensor:
    return torch.full_like(leaf, float("nan")) if leaf.grad is None else leaf.grad


def norm_case(
    name: str,
    shape: tuple[int, int, int, int],
    kind: Kind,
    *,
    dtype: str = "float32",
    affine: Literal["none", "channel", "sample"] = "none",
    residual: bool = False,
    impl: Impl = "split",
    mean: float = 0.0,
    splits: int | None = None,
) -> Case:
    """Forward and the gradient of every input; with `splits`, statistics in as many runs of pixels."""

    def run(device: torch.device) -> Errors:
        torch.manual_seed(0)
        n, c = shape[:2]
        rows = (n, c) if affine == "sample" else (c,)
        given: dict[str, Tensor] = {"x": _made(shape, dtype, device, mean)}
        if affine != "none":
            # Every second number of a longer tensor: rows of a style are slices and as little contiguous.
            weight, bias = (torch.randn(*rows, 2).to(device)[..., 0] for _ in range(2))
            given |= {"weight": weight, "bias": bias}
        if kind.family == "clamp":
            # Shares below 0 and above 1 too: their gradient is cut off.
            given["mix"] = torch.rand(c).to(device) * 1.6 - 0.3
        elif kind.family == "softmax":
            given["mix"] = torch.randn(2, c).to(device)
        if residual:
            given["residual"] = _made(shape, dtype, device)
        exact: Any = {key: _exact(value) for key, value in given.items()}
        leaves: Any = {key: value.requires_grad_() for key, value in given.items()}
        y = _norm(leaves, kind, impl, splits)
        want = norm(exact["x"], kind, **{k: v for k, v in exact.items() if k != "x"}, impl="reference")
        dy = _made((*y.shape,), dtype, device)
        torch.autograd.backward(y, dy)
        torch.autograd.backward(want, dy.double())
        return {"y": _error(y, want)} | _gradient_errors(list(leaves), [*leaves.values()], [*exact.values()])

    stored = FAR_MEAN if mean else ROUNDING[dtype]
    bounds = {"y": stored, "dx": stored, "dresidual": ROUNDING[dtype]}
    return Case("norm", name, run, bounds | dict.fromkeys(("dweight", "dbias", "dmix"), ACCUMULATED))


def _norm(leaves: dict[str, Tensor], kind: Kind, impl: Impl, splits: int | None) -> Tensor:
    if splits is None:
        return norm(leaves["x"], kind, **{k: v for k, v in leaves.items() if k != "x"}, impl=impl)
    from i2i_kernels.norm.op import kind_fields, norm_op

    weight, bias = (None if leaves.get(k) is None else leaves[k].contiguous() for k in ("weight", "bias"))
    given = leaves["x"], weight, bias, leaves.get("mix"), leaves.get("residual")
    y: Tensor = norm_op(*given, *kind_fields(kind), splits)[0]
    return y


def pyramid_case(
    name: str, shape: tuple[int, int, int, int], op: Literal["down", "up", "band"], dtype: str
) -> Case:
    """Forward and gradients of the filters; `band` adds and scales, as LPTN takes a band."""

    def run(device: torch.device) -> Errors:
        torch.manual_seed(0)
        n, c, h, w = shape
        given = [_made(shape, dtype, device)] + (
            [_made((n, c, 2 * h, 2 * w), dtype, device)] if op == "band" else []
        )
        exact: Any = [_exact(g) for g in given]
        leaves = [g.requires_grad_() for g in given]
        if op == "down":
            y, want = down(leaves[0], impl="triton"), down(exact[0], impl="reference")
        elif op == "up":
            y, want = up(leaves[0], impl="triton"), up(exact[0], impl="reference")
        else:
            y = up(leaves[0], add=leaves[1], scale=-1.0, impl="triton")
            want = up(exact[0], add=exact[1], scale=-1.0, impl="reference")
        dy = _made((*y.shape,), dtype, device)
        torch.autograd.backward(y, dy)
        torch.autograd.backward(want, dy.double())
        return {"y": _error(y, want)} | _gradient_errors(["x", "add"][: len(leaves)], leaves, exact)

    return Case("pyramid", name, run, dict.fromkeys(("y", "dx", "dadd"), ROUNDING[dtype]))


def rgb_case(name: str, shape: tuple[int, int, int], dtype: str) -> Case:
    """Bytes to an image and back; the way back is exact."""

    def run(device: torch.device) -> Errors:
        torch.manual_seed(0)
        frame = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8).to(device)
        image = image_from_rgb(frame, dtype=DTYPES[dtype], impl="triton")
        want = frame.double().permute(0, 3, 1, 2) / 127.5 - 1
        back = rgb_from_image(image * 1.5, impl="triton")
        clamped = (
            ((image.float() * 1.5).to(image.dtype).double() + 1).mul(127.5).clamp(0, 255).permute(0, 2, 3, 1)
        )
        return {"image": _error(image, want), "bytes": float((back.double() - clamped).abs().max())}

    # Half a byte is the rounding itself; what stands past it are a few float32 steps at 255.
    return Case("colour", name, run, {"image": ROUNDING[dtype], "bytes": 0.5 + 1e-4})


def nv12_case(name: str, size: tuple[int, int, int, int], coding: Coding, dtype: str) -> Case:
    """NV12 of N, H, W and pitch to an image and back, against the plain version in float32."""

    def run(device: torch.device) -> Errors:
        torch.manual_seed(0)
        n, h, w, pitch = size
        frame = torch.randint(0, 256, (n, h * 3 // 2, pitch), dtype=torch.uint8).to(device)
        options: Any = {"coding": coding, "dtype": DTYPES[dtype]}
        image = image_from_nv12(frame, w, **options, impl="triton")
        want = image_from_nv12(frame, w, coding=coding, dtype=torch.float32, impl="reference")
        back = nv12_from_image(image, pitch=pitch, coding=coding, impl="triton")
        plain = nv12_from_image(image, pitch=pitch, coding=coding, impl="reference")
        return {"image": _error(image, want), "bytes": float((back.int() - plain.int()).abs().max())}

    # A value that lies on a rounding boundary may fall either way: one byte.
    return Case("colour", name, run, {"image": ROUNDING[dtype], "bytes": 1.0})


def conv_case(name: str, shape: tuple[int, int, int, int], out: int, kind: Kind, dtype: str) -> Case:
    """Forward and statistics of the experimental convolution."""

    def run(device: torch.device) -> Errors:
        torch.manual_seed(0)
        x = _made(shape, dtype, device)
        weight = _made((out, shape[1], 3, 3), dtype, device)
        y, partials = conv_norm(x, partials_reference(x, 4), weight, kind, impl="triton")
        want, _ = conv_norm(x.double(), partials_reference(x, 4), weight.double(), kind, impl="reference")
        made = partials_reference(y, partials.shape[1])
        return {"y": _error(y, want), "partials": _error(partials, made)}

    # The normalised input is rounded to the dtype before the product: many small roundings on top of the store.
    return Case("conv_norm", name, run, {"y": 3 * ROUNDING[dtype], "partials": ACCUMULATED})


def frame_cases() -> list[Case]:
    """Maps of video frames, for a device: every split, tile and program that the policy gives them."""
    relu, pad = Kind(activation="relu"), Kind(residual_scale=0.5, pad=1)
    return [
        norm_case("frame 180x320x256", (1, 256, 180, 320), relu, dtype="float16"),
        norm_case("frame 256x256x64", (1, 64, 256, 256), pad, affine="sample", residual=True),
        norm_case("frame 720x1280x64", (1, 64, 720, 1280), relu, dtype="float16"),
        norm_case("frame 1080x1920x32", (1, 32, 1080, 1920), pad, dtype="bfloat16", residual=True),
        norm_case("frame layer 256x256x64", (1, 64, 256, 256), Kind("layer"), affine="channel"),
    ]


def cases() -> list[Case]:
    """Odd sizes, channel counts that fill no tile, batches, every family, option and dtype."""
    munit = Kind("layer", unbiased=True, eps_inside=False, activation="relu", pad=2)
    lin = Kind("clamp", unbiased=True, activation="relu")
    iln = Kind("softmax", unbiased=True, activation="leaky", residual_scale=0.5, pad=1)
    relu = Kind(activation="relu")
    tail = Kind(residual_scale=0.1, pad=1)
    outside = Kind(unbiased=True, eps=1e-3, eps_inside=False, activation="leaky", slope=0.01)
    return [
        norm_case("instance 13x17x48", (2, 48, 13, 17), Kind()),
        norm_case("instance relu 1x7x5", (1, 5, 1, 7), relu, affine="channel"),
        norm_case("instance relu 80 channels", (1, 80, 9, 8), relu, affine="channel", residual=True),
        norm_case("instance eps outside unbiased", (2, 20, 7, 9), outside, affine="channel"),
        norm_case("instance far mean", (1, 16, 16, 16), Kind(), mean=1000.0),
        norm_case("adain residual pad", (3, 24, 6, 5), tail, affine="sample", residual=True),
        norm_case("instance pad 3 on 4x4", (1, 16, 4, 4), Kind(pad=3), affine="channel", residual=True),
        norm_case("layer", (2, 20, 8, 8), Kind("layer")),
        norm_case("layer munit pad", (2, 70, 5, 6), munit, affine="channel"),
        norm_case("layer far mean", (1, 16, 8, 8), Kind("layer"), affine="channel", mean=1000.0),
        norm_case("lin", (2, 40, 8, 9), lin, affine="channel"),
        norm_case("lin biased", (2, 40, 8, 9), Kind("clamp"), affine="channel"),
        norm_case("adalin residual", (2, 40, 8, 9), lin, affine="sample", residual=True),
        norm_case("iln residual pad", (2, 70, 8, 9), iln, affine="channel", residual=True),
        norm_case("ada-iln residual pad", (2, 24, 5, 7), iln, affine="sample", residual=True),
        norm_case("lin without affine", (1, 16, 5, 7), lin),
        *[
            norm_case(f"{title} {dtype}", shape, kind, dtype=dtype, affine="sample", residual=True)
            for dtype in ("float16", "bfloat16")
            for title, shape, kind in (
                ("instance residual pad", (2, 24, 9, 7), tail),
                ("iln residual pad", (1, 40, 6, 7), iln),
            )
        ],
        norm_case("9 tiles a run", (1, 48, 41, 50), tail, affine="sample", residual=True, splits=8),
        norm_case("9 tiles a run far mean", (1, 16, 64, 70), Kind(), mean=1000.0, splits=8),
        norm_case("2 tiles a program", (1, 16, 184, 184), relu, dtype="float16", splits=32),
        norm_case("512 runs, some empty", (1, 16, 31, 30), relu, affine="channel", splits=512),
        norm_case("layer of 128 runs", (1, 20, 24, 25), munit, affine="channel", splits=128),
        norm_case("slab 9x7x20", (2, 20, 9, 7), relu, affine="sample", residual=True, impl="slab"),
        norm_case("slab residual pad", (2, 20, 7, 9), tail, affine="sample", residual=True, impl="slab"),
        norm_case("slab pad 3 on 4x4", (1, 16, 4, 4), Kind(activation="relu", pad=3), impl="slab"),
        norm_case("slab float16", (1, 16, 8, 8), Kind(), dtype="float16", impl="slab"),
        norm_case("slab far mean", (1, 16, 16, 16), Kind(), mean=1000.0, impl="slab"),
        pyramid_case("down 9x13x3", (2, 3, 9, 13), "down", "float32"),
        pyramid_case("down 8x6x5 float16", (1, 5, 8, 6), "down", "float16"),
        pyramid_case("down 3x4", (1, 3, 3, 4), "down", "float32"),
        pyramid_case("up 5x7x3", (2, 3, 5, 7), "up", "float32"),
        pyramid_case("up 2x2", (1, 4, 2, 2), "up", "float32"),
        pyramid_case("band 4x6x3", (2, 3, 4, 6), "band", "float32"),
        pyramid_case("band bfloat16", (1, 3, 6, 3), "band", "bfloat16"),
        rgb_case("rgb 7x9 float32", (2, 7, 9), "float32"),
        rgb_case("rgb 7x9 float16", (1, 7, 9), "float16"),
        nv12_case("nv12 bt709 limited pitch", (2, 6, 10, 16), Coding(), "float32"),
        nv12_case("nv12 bt601 full", (1, 4, 8, 8), Coding("bt601", True), "float16"),
        nv12_case("nv12 bt601 limited", (1, 8, 6, 6), Coding("bt601"), "bfloat16"),
        conv_case("conv 8x8x32", (1, 32, 8, 8), 24, relu, "float16"),
        conv_case("conv 9x15x40", (2, 40, 9, 15), 16, Kind(activation="leaky"), "float16"),
    ]


def broken(case: Case, errors: Errors) -> list[str]:
    """A sentence per bound that does not hold."""
    return [
        f"{case.name}: {output} is off by {error:.2e}, the bound is {case.bounds[output]:.1e}"
        for output, error in errors.items()
        if not error <= case.bounds[output]
    ]


def serve(device: torch.device) -> None:
    """Answers case names on stdin with their errors as JSON, one per line: one interpreter for many tests."""
    known = {case.name: case for case in cases()}
    for line in sys.stdin:
        print(json.dumps(known[line.rstrip("\n")].run(device)), flush=True)


@dataclass(frozen=True)
class NumericsCommand:
    """The kernels' self-test: runs each on a device and compares it with float64."""

    device: str = "cpu"
    """`cuda`, or `cpu` under Triton's interpreter."""
    op: str | None = None
    """Only the cases of this op: norm, pyramid, colour or conv_norm."""
    frames: bool = False
    """Also maps of video frames, which are for a device."""
    serve: bool = False
    """Answer case names from stdin instead."""


def main() -> int:
    # Not needed to import this module: a machine that only uses it may lack it.
    import tyro

    options = tyro.cli(NumericsCommand, prog="python -m i2i_kernels.numerics")
    # Deterministic mode fills what torch.empty returns with NaN, so an output that nobody wrote cannot pass.
    torch.use_deterministic_algorithms(True, warn_only=True)
    device = torch.device(options.device)
    if options.serve:
        serve(device)
        return 0
    complaints: list[str] = []
    print("| case | errors |\n|---|---|")
    every = cases() + (frame_cases() if options.frames else [])
    for case in [case for case in every if options.op in (None, case.op)]:
        errors = case.run(device)
        complaints += broken(case, errors)
        print(f"| {case.name} | {', '.join(f'{k} {v:.1e}' for k, v in errors.items())} |", flush=True)
    if complaints:
        print("\n".join(complaints), file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
