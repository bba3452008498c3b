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

    x is `[N, C, H, W]`. A run past the end of the image is empty and holds zeros.
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


def norm_gradient_reference(
    dy: Tensor, x: Tensor, kind: Kind, weight: Tensor | None, bias: Tensor | None, mix: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradient of x, `[N, C, H, W] float32`, and of weight, bias and mix before their sum over samples, `[N, 3, C]`.

    dy is the gradient before padding. It is what the kernels compute, for where autograd is not at hand.
    """
    x, dy = x.float(), dy.float()
    share = _share(kind, mix, x.shape[1], x.device)
    dims = ((2, 3), (1, 2, 3))
    centred = [x - x.mean(d, keepdim=True) for d in dims]
    seconds = [t.square().sum(d, keepdim=True) for t, d in zip(centred, dims, strict=True)]
    counts = [x[0, 0].numel(), x[0].numel()]
    divisors = [count - int(kind.unbiased) for count in counts]
    stds = [(second / divisor).sqrt() for second, divisor in zip(seconds, divisors, strict=True)]
    if kind.eps_inside:
        inverse = [(std.square() + kind.eps).rsqrt() for std in stds]
        bends = [r**3 / divisor for r, divisor in zip(inverse, divisors, strict=True)]
    else:
        inverse = [1 / (std + kind.eps) for std in stds]
        bends = [r**2 / (d * s).clamp_min(1e-30) for r, d, s in zip(inverse, divisors, stds, strict=True)]
    scale = torch.ones(1, device=x.device) if weight is None else _broadcast(weight).float()
    offset = torch.zeros(1, device=x.device) if bias is None else _broadcast(bias).float()
    normal = [gap * r for gap, r in zip(centred, inverse, strict=True)]
    mixed = share * normal[0] + (1 - share) * normal[1]
    if kind.activation != "none":
        slope = kind.slope if kind.activation == "leaky" else 0.0
        dy = torch.where(scale * mixed + offset > 0, dy, dy * slope)
    dx = torch.zeros_like(x)
    for d, part, gap, r, bend, count in zip(
        dims, (share, 1 - share), centred, inverse, bends, counts, strict=True
    ):
        h = dy * scale * part
        dx += r * (h - h.sum(d, keepdim=True) / count) - bend * gap * (h * gap).sum(d, keepdim=True)
    d_mix = (dy * scale * (normal[0] - normal[1])).sum((2, 3))
    if kind.family == "clamp" and mix is not None:
        d_mix = d_mix * ((mix >= 0) & (mix <= 1))
    elif kind.family == "softmax":
        d_mix = d_mix * (share * (1 - share)).flatten()
    return dx, torch.stack([(dy * mixed).sum((2, 3)), dy.sum((2, 3)), d_mix], 1)


def _share(kind: Kind, mix: Tensor | None, channels: int, device: torch.device) -> Tensor:
    """Share of instance norm, `[1, C, 1, 1]`."""
    if mix is None:
        share = torch.full((channels,), float(kind.family == "instance"), device=device)
    else:
        share = mix.clamp(0.0, 1.0) if kind.family == "clamp" else mix.softmax(0)[0]
    return share.view(1, -1, 1, 1)


def _normalised(x: Tensor, kind: Kind, mix: Tensor | None) -> Tensor:
    if kind.family == "instance":
        return _centred(x, (2, 3), kind)
    if kind.family == "layer":
        return _centred(x, (1, 2, 3), kind)
    share = _share(kind, mix, x.shape[1], x.device)
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
