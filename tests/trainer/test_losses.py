"""Every shared loss against a number worked out by hand."""

from __future__ import annotations

from math import e, exp, log
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from i2i_trainer.errors import OptionError
from i2i_trainer.losses import (
    VGG16_WIDTHS,
    PerceptualLoss,
    gradient_penalty,
    hinge_discriminator,
    hinge_generator,
    iic,
    info_nce,
    kl_normal,
    kl_unit_variance,
    lsgan,
    mode_seeking,
    nsgan,
    patch_nce,
    r1_penalty,
    softmax_gan,
    sum_of_squares,
    wasserstein_discriminator,
)


def number(loss: Tensor) -> float:
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    return loss.item()


def test_lsgan_averages_a_map_and_sums_the_maps() -> None:
    maps = [torch.tensor([[3.0, 1.0]]), torch.tensor([0.5])]
    assert number(lsgan(maps, 1.0)) == pytest.approx((4 + 0) / 2 + 0.25)
    assert number(lsgan(maps, 0.0)) == pytest.approx((9 + 1) / 2 + 0.25)


def test_nsgan_is_sigmoid_cross_entropy() -> None:
    maps = [torch.tensor([log(3.0)]), torch.tensor([0.0, 0.0])]
    assert number(nsgan(maps, 1.0)) == pytest.approx(log(4 / 3) + log(2))
    assert number(nsgan(maps, 0.0)) == pytest.approx(log(4) + log(2))
    assert number(nsgan(maps, 0.5)) == pytest.approx((log(4 / 3) + log(4)) / 2 + log(2))


def test_softmax_gan_calls_class_1_real() -> None:
    logits = torch.tensor([[0.0, log(3.0)], [0.0, 0.0]])
    assert number(softmax_gan(logits, real=True)) == pytest.approx((log(4 / 3) + log(2)) / 2)
    assert number(softmax_gan(logits, real=False)) == pytest.approx((log(4) + log(2)) / 2)


def test_hinge() -> None:
    logits = torch.tensor([2.0, -0.5])
    assert number(hinge_discriminator(logits, real=True)) == pytest.approx((0 + 1.5) / 2)
    assert number(hinge_discriminator(logits, real=False)) == pytest.approx((3 + 0.5) / 2)
    assert number(hinge_generator(logits)) == pytest.approx(-0.75)


def test_wasserstein() -> None:
    assert number(wasserstein_discriminator(torch.tensor([3.0, 1.0]), torch.tensor([-1.0]))) == -3.0


def test_gradient_penalty_of_a_linear_critic_is_known_everywhere() -> None:
    slope = torch.tensor([3.0, 4.0]).view(1, 1, 1, 2)
    real, fake = torch.randn(5, 1, 1, 2), torch.randn(5, 1, 1, 2)
    assert number(gradient_penalty(lambda x: (x * slope).sum((1, 2, 3)), real, fake)) == pytest.approx(16.0)


def test_gradient_penalty_looks_between_real_and_fake_and_trains_the_critic() -> None:
    """The critic w x^2 / 2 has the slope w x: at a mixture of 0 and 1 it lies between 0 and w."""
    weight = nn.Parameter(torch.tensor(1.0))
    torch.manual_seed(0)
    penalty = gradient_penalty(
        lambda x: weight * x.square().sum((1, 2, 3)) / 2, torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    )
    torch.manual_seed(0)
    share = torch.rand(1, 1, 1, 1).item()
    assert number(penalty.detach()) == pytest.approx((share - 1) ** 2)
    torch.autograd.backward(penalty)
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(2 * (share - 1) * share)


def test_r1_sums_an_images_gradient_and_averages_the_images() -> None:
    real = torch.tensor([[1.0, 2.0], [0.0, 3.0]]).view(2, 1, 1, 2).requires_grad_()
    logits = real.square().sum((1, 2, 3)) / 2
    assert number(r1_penalty(logits, real).detach()) == pytest.approx((1 + 4 + 0 + 9) / 2)


def test_kl_of_a_code_with_unit_variance_is_its_mean_square() -> None:
    assert number(kl_unit_variance(torch.tensor([[1.0, 3.0]]))) == 5.0


def test_kl_of_a_normal_is_summed() -> None:
    mean, log_variance = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert number(kl_normal(mean, log_variance)) == pytest.approx(0.5 + 0.5 * (e - 2) + 2.0)


def test_sum_of_squares_is_averaged_over_the_batch_alone() -> None:
    u, v = torch.zeros(2, 1, 1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 1, 1, 2)
    assert number(sum_of_squares(u, v)) == pytest.approx((5 + 25) / 2)


def test_mode_seeking_is_the_inverse_ratio_of_distances() -> None:
    x1, x2 = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 0.0])
    z1, z2 = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])
    assert number(mode_seeking(x1, x2, z1, z2)) == pytest.approx(1 / (0.25 + 1e-5))
    assert number(mode_seeking(x1, x1, z1, z2)) == pytest.approx(1e5)


def test_info_nce_compares_unnormalised_features() -> None:
    query, positive = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 5.0]])
    negatives = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    right, wrong = 2 / 0.5, (0.0, -2 / 0.5)
    expected = -right + log(exp(right) + sum(exp(x) for x in wrong))
    assert number(info_nce(query, positive, negatives, temperature=0.5)) == pytest.approx(expected, rel=1e-5)


def test_patch_nce_takes_negatives_from_the_same_image_and_holds_the_keys() -> None:
    key = torch.eye(2)[None].repeat(2, 1, 1).requires_grad_()
    query = torch.stack([torch.eye(2), torch.eye(2).flip(0)]).requires_grad_()
    loss = patch_nce(query, key, temperature=0.5)
    right, swapped = -2 + log(exp(2) + 1), log(exp(2) + 1)
    assert number(loss.detach()) == pytest.approx((right + swapped) / 2)
    torch.autograd.backward(loss)
    assert key.grad is None
    assert query.grad is not None


def test_iic_is_minus_the_mutual_information() -> None:
    certain = torch.eye(2)
    assert number(iic(certain, certain)) == pytest.approx(-log(2), abs=1e-6)
    blind = torch.full((4, 2), 0.5)
    assert number(iic(blind, blind)) == pytest.approx(0, abs=1e-6)
    first, second = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    joint = [[0.25, 0.125], [0.125, 0.5]]  # symmetric mean of [[1/4, 1/4], [0, 1/2]]
    margins = [0.375, 0.625]
    information = sum(
        joint[i][j] * log(joint[i][j] / (margins[i] * margins[j])) for i in range(2) for j in range(2)
    )
    assert number(iic(first, second)) == pytest.approx(-information)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in torchvision's names: every convolution takes the mean over its inputs at the middle tap."""
    weights, channels, index = {}, 3, 0
    for width in VGG16_WIDTHS:
        if width == 0:
            index += 1
            continue
        kernel = torch.zeros(width, channels, 3, 3)
        kernel[:, :, 1, 1] = 1 / channels
        weights[f"features.{index}.weight"] = kernel
        weights[f"features.{index}.bias"] = torch.zeros(width)
        channels, index = width, index + 2
    weights["classifier.0.weight"] = torch.zeros(1)
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(weights, path)
    return path


def test_perceptual_loss_compares_normalised_relu5_3(vgg16: Path) -> None:
    """With averaging weights, relu5_3 is the max over 16 x 16 blocks of the normalised image's positive mean.

    Blocks of 1 and -1 then become, instance-normalised, plus and minus 1 where half of them are bright; swapping
    bright and dark turns every sign, so the mean square is 4.
    """
    loss = PerceptualLoss(vgg16)
    assert not any(p.requires_grad for p in loss.parameters())
    blocks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    image = blocks.repeat_interleave(16, 0).repeat_interleave(16, 1).expand(1, 3, 32, 32)
    assert number(loss(image, image)) == 0
    assert number(loss(image, -image)) == pytest.approx(4.0, rel=1e-3)


def test_a_file_without_vgg16_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(OptionError, match=r"--perceptual-weights holds no VGG16"):
        PerceptualLoss(path)
    with pytest.raises(OptionError, match=r"missing\.safetensors"):
        PerceptualLoss(tmp_path / "missing.safetensors")


def test_half_precision_logits_give_float32_losses() -> None:
    logits = torch.tensor([300.0]).half()
    assert number(lsgan([logits], 0.0)) == 90_000  # beyond float16
    assert number(sum_of_squares(logits[None], -logits[None])) == 360_000


def test_contrastive_losses_are_as_exact_under_autocast() -> None:
    torch.manual_seed(0)
    query, key, negatives = torch.randn(6, 8), torch.randn(6, 8), torch.randn(20, 8)
    exact = info_nce(query, key, negatives)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(info_nce(query, key, negatives), exact)
