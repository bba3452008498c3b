"""Every norm against its formula in float64, on maps so small that n and n - 1 differ by much."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from i2i_trainer import norms
from i2i_trainer.methods import METHODS
from i2i_trainer.norms import (
    AdaptiveInstanceNorm,
    AffineInstanceNorm,
    BatchNormBias,
    ClampedMix,
    FilterResponseNorm,
    InstanceNorm,
    LayerNorm,
    LayerNormOverStd,
    ada_iln,
    ada_lin,
    iln,
    lin,
)

Array = NDArray[np.float64]
CHANNEL, SAMPLE, BATCH = (2, 3), (1, 2, 3), (0, 2, 3)
N, C, H, W = 2, 3, 4, 5


@pytest.fixture
def x() -> Tensor:
    """Channels of very different mean and spread."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64).view(1, C, 1, 1)
    noise = torch.randn(N, C, H, W, generator=generator, dtype=torch.float64)
    return noise * spread + torch.tensor([3.0, -1.0, 20.0], dtype=torch.float64).view(1, C, 1, 1)


def normal(x: Array, axes: tuple[int, ...], ddof: int, eps: float) -> Array:
    """Mean 0 and variance 1 over the axes, epsilon inside the root."""
    result: Array = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, ddof=ddof, keepdims=True) + eps)
    return result


def rows(*values: float) -> Array:
    return np.array(values).reshape(1, -1, 1, 1)


def assert_same(result: Tensor, expected: Array) -> None:
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=1e-9, atol=1e-9)


def test_instance_norm_is_biased_and_the_same_in_training_and_evaluation(x: Tensor) -> None:
    norm = InstanceNorm(C)
    expected = normal(x.numpy(), CHANNEL, 0, 1e-5)
    assert_same(norm.train()(x), expected)
    assert_same(norm.eval()(x), expected)


def test_adaptive_instance_norm_takes_each_samples_own_scale_and_shift(x: Tensor) -> None:
    scale = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.5]], dtype=torch.float64)
    shift = torch.tensor([[0.1, 0.2, 0.3], [-1.0, -2.0, -3.0]], dtype=torch.float64)
    expected = normal(x.numpy(), CHANNEL, 0, 1e-5) * scale.numpy()[..., None, None]
    assert_same(AdaptiveInstanceNorm(C)(x, scale, shift), expected + shift.numpy()[..., None, None])


@pytest.mark.parametrize("size", [1.0, 1e-4])
def test_layer_norm_over_std_adds_epsilon_to_the_unbiased_std(x: Tensor, size: float) -> None:
    norm = LayerNormOverStd(C).double()
    norm.bias.data = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64)
    small = x * size
    values = small.numpy()
    std = values.std(SAMPLE, ddof=1, keepdims=True)
    expected = (values - values.mean(SAMPLE, keepdims=True)) / (std + 1e-5)
    weight = rows(*norm.weight.tolist())
    assert_same(norm(small), expected * weight + rows(0, 1, -1))


def test_layer_norm_over_std_starts_with_scales_between_0_and_1() -> None:
    torch.manual_seed(0)
    norm = LayerNormOverStd(1000)
    assert 0 <= norm.weight.min() < 0.05
    assert 0.95 < norm.weight.max() <= 1
    assert norm.bias.abs().max() == 0


def test_layer_norm_is_biased(x: Tensor) -> None:
    norm = LayerNorm(C).double()
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert_same(norm(x), normal(x.numpy(), SAMPLE, 0, 1e-5) * rows(1, 2, 3))


def mixed(x: Array, share: float) -> Array:
    """Instance and layer norm with unbiased variances, mixed."""
    result: Array = share * normal(x, CHANNEL, 1, 1e-5) + (1 - share) * normal(x, SAMPLE, 1, 1e-5)
    return result


SOFTMAX_SHARE = 1 / (1 + np.exp(3.2 - 1.0))


@pytest.mark.parametrize(("make", "share"), [(lin, 0.0), (iln, SOFTMAX_SHARE)])
def test_the_mix_with_its_own_affine(x: Tensor, make: Callable[[int], torch.nn.Module], share: float) -> None:
    norm = make(C).double()
    norm.weight.data = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    norm.bias.data = torch.tensor([0.5, 0.0, -0.5], dtype=torch.float64)
    expected = mixed(x.numpy(), share) * rows(1, 2, 3) + rows(0.5, 0, -0.5)
    # The shares start as float32 numbers.
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("make", "share"), [(ada_lin, 0.9), (ada_iln, 1 - SOFTMAX_SHARE)])
def test_the_mix_with_an_affine_from_outside(
    x: Tensor, make: Callable[[int], torch.nn.Module], share: float
) -> None:
    scale = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.5]], dtype=torch.float64)
    shift = scale + 1
    expected = mixed(x.numpy(), share) * scale.numpy()[..., None, None] + shift.numpy()[..., None, None]
    result = make(C).double()(x, scale, shift)
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=0, atol=1e-6)


def test_the_share_of_lin_is_held_between_0_and_1_and_that_of_iln_is_free() -> None:
    mix = lin(3).mix
    assert isinstance(mix, ClampedMix)
    mix.rho.data = torch.tensor([-0.2, 0.5, 1.3])
    mix.clamp_()
    assert mix.rho.tolist() == [0.0, 0.5, 1.0]
    assert not hasattr(iln(3).mix, "clamp_")


def test_filter_response_norm_removes_no_mean_and_has_a_threshold(x: Tensor) -> None:
    norm = FilterResponseNorm(C).double()
    norm.weight.data = torch.tensor([1.0, -1.0, 2.0], dtype=torch.float64)
    norm.bias.data = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    norm.threshold.data = torch.tensor([0.9, -0.5, 2.0], dtype=torch.float64)
    values = x.numpy()
    power = (values**2).mean(CHANNEL, keepdims=True)
    expected = values / np.sqrt(power + 1e-6) * rows(1, -1, 2) + rows(0.1, 0.2, 0.3)
    assert_same(norm(x), np.maximum(expected, rows(0.9, -0.5, 2.0)))


def test_batch_norm_bias_is_biased_in_training_and_unbiased_in_its_running_variance(x: Tensor) -> None:
    torch.manual_seed(0)
    norm = BatchNormBias(C).double()
    bias = rows(*norm.bias.tolist())
    assert 0 < np.abs(bias).max() < 0.02
    values = x.numpy()
    assert_same(norm.train()(x), normal(values, BATCH, 0, 1e-5) + bias)
    mean = 0.1 * values.mean(BATCH, keepdims=True)
    variance = 0.9 + 0.1 * values.var(BATCH, ddof=1, keepdims=True)
    assert_same(norm.eval()(x), (values - mean) / np.sqrt(variance + 1e-5) + bias)


@pytest.mark.parametrize("make", [LayerNormOverStd, LayerNorm, lin, iln])
def test_half_precision_is_normalised_with_float32_statistics(make: Callable[[int], torch.nn.Module]) -> None:
    """Sums of squares of these values overflow float16 by far."""
    torch.manual_seed(0)
    norm = make(4)
    x = (torch.randn(1, 4, 32, 32) * 100 + 500).half()
    wide = norm(x.float())
    half = norm.half()(x)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), wide, rtol=0, atol=2e-2)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("gradient_layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", [InstanceNorm, AffineInstanceNorm, AdaptiveInstanceNorm])
def test_gradients_hold_in_every_layout_and_at_batch_1(
    make: Callable[[int], torch.nn.Module],
    layout: torch.memory_format,
    gradient_layout: torch.memory_format,
    batch: int,
) -> None:
    """A norm right before an addition gets its gradient in the layout of the next convolution, not in its own."""
    torch.manual_seed(0)
    norm = make(4)
    style = (torch.randn(batch, 4), torch.randn(batch, 4)) if make is AdaptiveInstanceNorm else ()
    x, dy = torch.randn(batch, 4, 6, 5), torch.randn(batch, 4, 6, 5)
    wide = x.double().requires_grad_()
    variance, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
    expected = (wide - mean) / (variance + 1e-5).sqrt()
    if style:
        expected = expected * style[0][..., None, None].double()
    (due,) = torch.autograd.grad(expected, wide, dy.double())
    given = x.contiguous(memory_format=layout).requires_grad_()
    (found,) = torch.autograd.grad(norm(given, *style), given, dy.contiguous(memory_format=gradient_layout))
    torch.testing.assert_close(found.double(), due, rtol=1e-4, atol=1e-5, check_stride=False)


@pytest.mark.parametrize("make", [LayerNormOverStd, LayerNorm, lin, iln, ada_lin, ada_iln])
def test_the_branch_for_a_gpu_is_the_same_function(
    make: Callable[[int], torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and every gradient of the call that takes a kernel on a GPU, through its CPU implementation."""
    torch.manual_seed(0)
    norm = make(4).double()
    for parameter in norm.parameters():
        parameter.data = torch.rand_like(parameter)
    adaptive = make in (ada_lin, ada_iln)
    arguments = [torch.randn(2, 4, 3, 5, dtype=torch.float64) * 1e-2]
    arguments += [torch.randn(2, 4, dtype=torch.float64) for _ in range(2 * adaptive)]
    leaves = [*(argument.requires_grad_() for argument in arguments), *norm.parameters()]

    def run() -> list[Tensor]:
        y = norm(*arguments)
        weights = torch.arange(y.numel(), dtype=torch.float64).cos().reshape(y.shape)
        return [y, *torch.autograd.grad((y * weights).sum(), leaves)]

    plain = run()
    monkeypatch.setattr(norms, "kernels_fit", lambda _: True)
    for ours, theirs in zip(run(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("method", "network"), [("lptn", "critic"), ("tunit", "disc")])
def test_what_a_gradient_penalty_reaches_holds_no_norm_with_a_kernel(method: str, network: str) -> None:
    config = METHODS[method].config
    judge = getattr(METHODS[method].method(config(**config.presets["small"])), network)
    twice = (AffineInstanceNorm, norms.FilterResponseNorm)
    own = [module for module in judge.modules() if type(module).__module__ == norms.__name__]
    assert own
    assert all(isinstance(module, twice) for module in own)


def test_the_norm_of_critics_differentiates_twice() -> None:
    torch.manual_seed(0)
    norm = AffineInstanceNorm(2).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert torch.autograd.gradgradcheck(norm, x.requires_grad_())
