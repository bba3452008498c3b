"""What the pack's command builds: the norms of the methods in half precision, cut for maps of usual sizes."""

from __future__ import annotations

from i2i_kernels.kind import Kind
from i2i_kernels.pack.recipes import Op, Variant


def default_entries() -> list[tuple[Op, Variant]]:
    """Kernels with their variants. Statistics of 32 splits are merged by apply, of more by the coefficients."""
    plain, relu, pad = Kind(), Kind(activation="relu"), Kind(activation="relu", pad=1)
    munit = Kind("layer", unbiased=True, eps_inside=False)
    entries: list[tuple[Op, Variant]] = [("norm_stats", Variant(splits=s)) for s in (32, 256, 1024)]
    entries.append(("norm_stats", Variant(splits=128, block_c=32)))
    entries.append(("norm_stats", Variant("bfloat16")))
    entries.append(("norm_stats", Variant("float32")))
    for kind in (plain, relu, pad, Kind(activation="leaky")):
        entries.append(("norm_apply", Variant(kind=kind)))
        entries.append(("norm_apply", Variant(kind=kind, splits=0, tiles=4)))
    entries.append(("norm_apply", Variant(kind=pad, splits=0, block_c=32)))
    for kind in (plain, Kind(pad=1)):
        entries.append(("norm_apply", Variant(kind=kind, residual=True)))
        entries.append(("norm_apply", Variant(kind=kind, affine="sample", residual=True)))
    entries.append(("norm_apply", Variant(kind=relu, affine="sample")))
    entries.append(("norm_apply", Variant("float32", relu)))
    entries.append(("norm_apply", Variant(kind=plain, residual=True, splits=0, tiles=4)))
    mixes = (Kind("clamp", unbiased=True), Kind("softmax", unbiased=True))
    entries += [("norm_coefficients", Variant(kind=kind, affine="channel")) for kind in (munit, *mixes)]
    entries += [("norm_coefficients", Variant(kind=kind, affine="sample")) for kind in mixes]
    entries += [("norm_coefficients", Variant(kind=plain, splits=s)) for s in (128, 1024)]
    entries += [("norm_slab", Variant(kind=kind)) for kind in (relu, pad)]
    entries += [("norm_slab", Variant(kind=plain, residual=True))]
    entries += [("norm_slab", Variant(kind=relu, slab_tile=1024))]
    entries.append(("norm_slab", Variant(kind=Kind(pad=1), residual=True, residual_pad=1)))
    entries += [("conv_norm", Variant(kind=relu)), ("pyramid_down", Variant()), ("pyramid_up", Variant())]
    entries += [("pyramid_up", Variant(residual=True)), ("image_from_nv12", Variant())]
    entries.append(("nv12_from_image", Variant()))
    return entries
