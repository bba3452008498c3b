"""The normalisation family in plain torch: what the kernels are measured against, and what a CPU runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_kernels.kind import Kind


def norm_reference(
    x: Tensor,
    kind: Kind,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    mix: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`pad(act(weight * normalised(x) + bias) + residual_scale * residual)`, any floating dtype, any layout.

    Takes `[N, C, H, W]` and returns `[N, C, H + 2 pad, W + 2 pad]` of x's dtype. Any order of gradient.
    """
    y = _normalised(x, kind, mix)
    if weight is not None:
        y = y * _broadcast(weight)
    if bias is not None:
        y = y + _broadcast(bias)
    if kind.activation == "relu":
        y = F.relu(y)
    elif kind.activation == "leaky":
        y = F.leaky_relu(y, kind.slope)
    if residual is not None:
        y = torch.add(y, residual, alpha=kind.residual_scale)
    if kind.pad:
        y = F.pad(y, (kind.pad,) * 4, mode="reflect")
    return y.to(x.dtype)


def partials_reference(x: Tensor, splits: int) -> Tensor:
    """Mean and centred second moment of each of `splits` runs of pixels, `[N, splits, 2, C] float32`.

    x is `[N, C, H, W]`. A run past the end of the picture is empty and holds zeros.
    """
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()
    count = pixels.shape[1]
    rows = -(-count // splits)
    partials = torch.zeros(x.shape[0], splits, 2, x.shape[1], device=x.device)
    for split in range(-(-count // rows)):
        part = pixels[:, split * rows : (split + 1) * rows]
        mean = part.mean(1)
        partials[:, split, 0] = mean
        partials[:, split, 1] = (part - mean[:, None]).square().sum(1)
    return partials


def _normalised(x: Tensor, kind: Kind, mix: Tensor | None) -> Tensor:
    if kind.family == "instance":
        return _centred(x, (2, 3), kind)
    if kind.family == "layer":
        return _centred(x, (1, 2, 3), kind)
    if mix is None:
        raise ValueError(
            f"a {kind.family} mix of instance and layer norm needs its mixing parameters, mix is None"
        )
    share = mix.clamp(0.0, 1.0) if kind.family == "clamp" else mix.softmax(0)[0]
    share = share.view(1, -1, 1, 1)
    return share * _centred(x, (2, 3), kind) + (1 - share) * _centred(x, (1, 2, 3), kind)


def _centred(x: Tensor, dims: tuple[int, ...], kind: Kind) -> Tensor:
    if kind.eps_inside and not kind.unbiased:
        # The library's own layers are the fastest plain torch has, on every device.
        return _instance_norm(x, kind.eps) if len(dims) == 2 else F.layer_norm(x, x.shape[1:], eps=kind.eps)
    var, mean = torch.var_mean(x, dims, correction=int(kind.unbiased), keepdim=True)
    scale = torch.rsqrt(var + kind.eps) if kind.eps_inside else 1 / (var.sqrt() + kind.eps)
    return (x - mean) * scale


def _instance_norm(x: Tensor, eps: float) -> Tensor:
    # With one sample and a channels-last gradient the CPU's instance_norm returns a wrong gradient (torch 2.13), and
    # it always copies to NCHW. Batch norm over one sample is the same function without either. A graph that is being
    # exported keeps the layer, which every engine knows.
    if x.shape[0] == 1 and not torch.compiler.is_compiling():
        return F.batch_norm(x, None, None, training=True, eps=eps)
    return F.instance_norm(x, eps=eps)


def _broadcast(parameter: Tensor) -> Tensor:
    return parameter[..., None, None] if parameter.dim() == 2 else parameter.view(1, -1, 1, 1)
