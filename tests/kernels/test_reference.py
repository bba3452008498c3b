"""The plain torch versions against the formulas as written in the papers, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from i2i_kernels.colour import Coding, image_from_nv12, nv12_from_image
from i2i_kernels.kind import Kind
from i2i_kernels.norm import adain, iln, instance_norm, layer_norm, layer_norm_munit, lin, norm
from i2i_kernels.norm.reference import partials_reference
from i2i_kernels.pyramid import down, up


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 6, 5, 7, dtype=torch.float64) * 3 + 1


def moments(x: Tensor, dims: tuple[int, ...], less: int) -> tuple[Tensor, Tensor]:
    count = torch.tensor([x.shape[d] for d in dims]).prod()
    mean = x.sum(dims, keepdim=True) / count
    return mean, (x - mean).square().sum(dims, keepdim=True) / (count - less)


def test_instance_norm_is_biased_with_eps_inside(x: Tensor) -> None:
    mean, var = moments(x, (2, 3), 0)
    torch.testing.assert_close(instance_norm(x, eps=0.1), (x - mean) / torch.sqrt(var + 0.1))


def test_adain_multiplies_by_the_style_as_it_is(x: Tensor) -> None:
    w, b = torch.randn(2, 2, 6, dtype=torch.float64)
    want = instance_norm(x) * w[..., None, None] + b[..., None, None]
    torch.testing.assert_close(adain(x, w, b), want)


def test_layer_norms_differ_in_bias_and_place_of_eps(x: Tensor) -> None:
    mean, var = moments(x, (1, 2, 3), 0)
    torch.testing.assert_close(layer_norm(x, eps=0.1), (x - mean) / torch.sqrt(var + 0.1))
    mean, var = moments(x, (1, 2, 3), 1)
    torch.testing.assert_close(layer_norm_munit(x, eps=0.1), (x - mean) / (torch.sqrt(var) + 0.1))


def test_lin_and_iln_mix_both_norms_per_channel(x: Tensor) -> None:
    (mean, var), (l_mean, l_var) = moments(x, (2, 3), 1), moments(x, (1, 2, 3), 1)
    instance, layer = (x - mean) / torch.sqrt(var + 1e-5), (x - l_mean) / torch.sqrt(l_var + 1e-5)
    rho = torch.tensor([-0.5, 0.0, 0.3, 0.9, 1.0, 2.0], dtype=torch.float64)
    share = rho.clamp(0, 1).view(1, 6, 1, 1)
    torch.testing.assert_close(lin(x, rho), share * instance + (1 - share) * layer)
    logits = torch.randn(2, 6, dtype=torch.float64)
    share = logits.softmax(0)[0].view(1, 6, 1, 1)
    torch.testing.assert_close(iln(x, logits), share * instance + (1 - share) * layer)


def test_activation_comes_before_the_residual_and_padding_last(x: Tensor) -> None:
    residual = torch.randn_like(x)
    kind = Kind(activation="leaky", slope=0.1, residual_scale=0.5, pad=2)
    want = F.pad(F.leaky_relu(instance_norm(x), 0.1) + 0.5 * residual, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(norm(x, kind, residual=residual), want)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_instance_norm_gradient_in_every_layout(samples: int, layout: torch.memory_format) -> None:
    """The library's own CPU layer fails this for one sample with a channels-last gradient."""
    torch.manual_seed(0)
    x = torch.randn(samples, 6, 5, 7, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    plain = x.detach().clone().requires_grad_()
    dy = torch.randn(samples, 6, 5, 7, dtype=torch.float64).contiguous(memory_format=layout)
    mean, var = moments(plain, (2, 3), 0)
    want = torch.autograd.grad((plain - mean) / torch.sqrt(var + 1e-5), plain, dy)
    torch.testing.assert_close(torch.autograd.grad(instance_norm(x), x, dy), want)


def test_partials_of_more_splits_than_pixels_are_zero_past_the_end(x: Tensor) -> None:
    partials = partials_reference(x, 64)
    torch.testing.assert_close(partials[0, :35, 0], x[0].flatten(1).T.float())
    assert not partials[:, 35:].any()
    assert not partials[:, :, 1].any()


def binomial(x: Tensor) -> Tensor:
    row = torch.tensor([1, 4, 6, 4, 1], dtype=x.dtype) / 16
    return torch.outer(row, row).expand(x.shape[1], 1, 5, 5)


def test_pyramid_is_lptns(x: Tensor) -> None:
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    torch.testing.assert_close(down(x), F.conv2d(padded, binomial(x), groups=6)[:, :, ::2, ::2])
    zeros = x.new_zeros(2, 6, 10, 14)
    zeros[:, :, ::2, ::2] = x
    want = F.conv2d(F.pad(zeros, (2, 2, 2, 2), mode="reflect"), 4 * binomial(x), groups=6)
    torch.testing.assert_close(up(x), want)
    torch.testing.assert_close(up(x, add=zeros, scale=-2.0), zeros - 2 * want)


def test_band_and_low_give_the_image_back() -> None:
    image = torch.rand(1, 3, 8, 12, dtype=torch.float64)
    low = down(image)
    torch.testing.assert_close(up(low, add=up(low, add=image, scale=-1.0)), image)


@pytest.mark.parametrize(
    ("coding", "levels"),
    [
        (Coding("bt601"), (81, 90, 240)),
        (Coding("bt709"), (63, 102, 240)),
        (Coding("bt601", full_range=True), (76, 85, 255)),
    ],
)
def test_nv12_of_pure_red_is_the_standards(coding: Coding, levels: tuple[int, int, int]) -> None:
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    frame = nv12_from_image(red, pitch=4, coding=coding)
    assert frame[0].tolist() == [[levels[0]] * 2 + [0, 0]] * 2 + [[*levels[1:], 0, 0]]
    back = image_from_nv12(frame, 2, coding=coding, dtype=torch.float32)
    torch.testing.assert_close(back, red, atol=0.02, rtol=0)
