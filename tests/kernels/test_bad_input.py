"""What does not fit is refused with a sentence that names both sides."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from i2i_kernels.colour import (
    Coding,
    image_from_nv12,
    image_from_rgb,
    nv12_from_image,
    rgb_from_image,
)
from i2i_kernels.compile import PackError, build_pack, pack_entry
from i2i_kernels.conv_norm import conv_norm
from i2i_kernels.kind import Kind
from i2i_kernels.norm import instance_norm, lin, norm
from i2i_kernels.pack.recipes import Variant, recipe
from i2i_kernels.pyramid import down, up

X = torch.zeros(2, 4, 6, 6)
UNKNOWN: Any = "nothing"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: instance_norm(X[0]), ValueError, r"\[N, C, H, W\].*\[4, 6, 6\]"),
        (lambda: instance_norm(X.int()), TypeError, "floating-point.*int32"),
        (lambda: instance_norm(X[:, :, :1, :1]), ValueError, "two pixels.*1, 1"),
        (lambda: instance_norm(X, torch.ones(5)), ValueError, r"weight is \[5\].*\[4\] or \[2, 4\]"),
        (
            lambda: instance_norm(X, torch.ones(4), torch.ones(2, 4)),
            ValueError,
            r"\[4\] and bias is \[2, 4\]",
        ),
        (lambda: instance_norm(X, residual=X[:1]), ValueError, r"residual is \[1, 4, 6, 6\].*\[2, 4, 6, 6\]"),
        (lambda: instance_norm(X, pad=6), ValueError, "reflection by 6.*6, 6"),
        (
            lambda: instance_norm(X, torch.ones(4, device="meta")),
            ValueError,
            "weight lies on meta and x on cpu",
        ),
        (lambda: lin(X, torch.ones(3)), ValueError, r"mix is \[3\].*4 channels takes \[4\]"),
        (lambda: norm(X, Kind("softmax")), ValueError, r"mix is None.*\[2, 4\]"),
        (lambda: norm(X, Kind(), impl=UNKNOWN), ValueError, "'nothing'.*reference, split or slab"),
        (lambda: norm(X, Kind(), impl="split"), RuntimeError, "CUDA device, x lies on cpu.*impl='reference'"),
        (lambda: Kind(UNKNOWN), ValueError, "'nothing'.*instance, layer, clamp, softmax"),
        (lambda: Kind(activation=UNKNOWN), ValueError, "'nothing'.*none, relu, leaky"),
        (lambda: Kind(eps=-1), ValueError, "eps is -1"),
        (lambda: Kind(pad=-1), ValueError, "pad is -1"),
        (lambda: down(X[:, :, :2]), ValueError, "3 or more.*2, 6"),
        (lambda: up(X.int()), TypeError, "int32"),
        (lambda: up(X, add=X), ValueError, r"add is \[2, 4, 6, 6\].*\[2, 4, 12, 12\]"),
        (lambda: down(X, impl=UNKNOWN), ValueError, "'nothing'"),
        (lambda: down(X, impl="triton"), RuntimeError, "CUDA device"),
        (lambda: image_from_rgb(X), TypeError, "uint8.*float32"),
        (lambda: image_from_rgb(X.byte()), ValueError, r"\[N, H, W, 3\].*\[2, 4, 6, 6\]"),
        (
            lambda: image_from_rgb(torch.zeros(1, 2, 2, 6).byte()[..., ::2]),
            ValueError,
            "strides.*contiguous",
        ),
        (lambda: image_from_rgb(X.byte(), dtype=torch.int32), TypeError, "float16.*int32"),
        (lambda: rgb_from_image(X), ValueError, r"\[N, 3, H, W\].*\[2, 4, 6, 6\]"),
        (lambda: rgb_from_image(X[:, :3], impl="triton"), RuntimeError, "CUDA device"),
        (lambda: image_from_nv12(torch.zeros(1, 6, 8).byte(), 10), ValueError, "width is 10.*which is 8"),
        (lambda: image_from_nv12(torch.zeros(1, 5, 8).byte(), 8), ValueError, r"3H/2.*\[1, 5, 8\]"),
        (lambda: nv12_from_image(X[:, :3], pitch=4), ValueError, "pitch is 4.*which is 6"),
        (lambda: nv12_from_image(X[:, :3, 1:]), ValueError, "even sizes.*5, 6"),
        (lambda: Coding(UNKNOWN), ValueError, "'nothing'.*bt601, bt709"),
        (
            lambda: conv_norm(X, X, torch.ones(8, 5, 3, 3), Kind()),
            ValueError,
            r"weight is \[8, 5, 3, 3\].*4, 6, 6",
        ),
        (
            lambda: conv_norm(X, X, torch.ones(8, 4, 3, 3), Kind(pad=1)),
            ValueError,
            "plain instance norm.*pad=1",
        ),
        (lambda: conv_norm(X, X, torch.ones(8, 4, 3, 3), Kind()), ValueError, r"\[2, S, 2, 4\]"),
        (lambda: Variant(splits=48), ValueError, "splits is 48.*power of two"),
        (lambda: Variant(UNKNOWN), ValueError, "'nothing'.*float16, bfloat16, float32"),
        (lambda: recipe(UNKNOWN, Variant()), ValueError, "'nothing'.*norm_stats"),
        (lambda: recipe("norm_apply", Variant(kind=Kind("layer"))), ValueError, "norm_coefficients first"),
        (lambda: recipe("norm_slab", Variant(kind=Kind("layer"))), ValueError, "instance family"),
        (lambda: recipe("norm_stats", Variant(splits=0)), ValueError, "1 or more"),
        (lambda: build_pack(Path("unused"), [], [61]), PackError, "sm_61.*sm_75.*sm_120"),
    ],
)
def test_refusal_names_both_sides(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_pack_without_the_architecture_says_what_it_holds(pack: Path) -> None:
    with pytest.raises(PackError, match=r"no norm_stats for sm_61.*sm_100.*python -m i2i_kernels.compile"):
        pack_entry("norm_stats", Variant(), 61, pack)


@pytest.mark.parametrize(("text", "words"), [("older", "built from other sources"), ("", "cannot be read")])
def test_a_stale_or_broken_kernel_is_refused_and_built_again(
    pack: Path, tmp_path: Path, text: str, words: str
) -> None:
    stem = f"{Variant().file_stem('norm_stats')}"
    folder = tmp_path / "sm_75"
    folder.mkdir()
    for suffix in ("json", "ptx", "cubin"):
        shutil.copy(pack / "sm_75" / f"{stem}.{suffix}", folder)
    path = folder / f"{stem}.json"
    path.write_text(re.sub(r'"sources": "\w+"', f'"sources": "{text}"', path.read_text()) if text else "{")
    with pytest.raises(PackError, match=words):
        pack_entry("norm_stats", Variant(), 75, tmp_path)
    build_pack(tmp_path, [("norm_stats", Variant())], [75])
    assert pack_entry("norm_stats", Variant(), 75, tmp_path).name == "stats_kernel"
    assert sorted(p.suffix for p in folder.iterdir()) == [".cubin", ".json", ".ptx"]
