"""LPTN: published sizes, the pyramid against zero insertion, both variants and the losses by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_trainer.errors import OptionError
from i2i_trainer.method import Batch
from i2i_trainer.methods.lptn import LPTN, Critic, Generator, HighBranch, LPTNConfig, Pyramid, Variant

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Listener, MakeAnswer, MakeBatch, Record

TINY: dict[str, Any] = {"width": 4, "critic_size": 32, "critic_width": 4, "image_size": 32, "load_size": 32}


def make(**options: Any) -> LPTN:
    torch.manual_seed(0)
    return LPTN(LPTNConfig(**{**TINY, **options}))


def learned_macs(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of the learned convolutions: the pyramid's filters are not counted in the table."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d)
        total += output[0, 0].numel() * layer.weight.numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return total


@pytest.mark.parametrize(
    ("variant", "levels", "size", "millions", "giga", "digits"),
    [
        ("improved", 3, (256, 256), 0.618, 1.34, 2),
        ("improved", 4, (256, 256), 0.618, 0.341, 3),
        ("improved", 5, (256, 256), 0.618, 0.092, 3),
        ("improved", 3, (1080, 1920), 0.618, 42.4, 1),
        ("improved", 3, (2160, 3840), 0.618, 169.6, 1),
        ("improved", 5, (1056, 1920), 0.618, 2.83, 2),
        ("improved", 5, (2144, 3840), 0.618, 11.5, 1),
        ("paper", 3, (256, 256), 0.616, 1.33, 2),
    ],
)
def test_generator_has_the_published_size(
    variant: Variant, levels: int, size: tuple[int, int], millions: float, giga: float, digits: int
) -> None:
    with torch.device("meta"):
        generator = Generator(64, levels, variant)
    assert round(sum(p.numel() for p in generator.parameters()) / 1e6, 3) == millions
    assert round(learned_macs(generator, (1, 3, *size)) / 1e9, digits) == giga


def binomial(x: Tensor, gain: float) -> Tensor:
    """The 5x5 filter over reflected borders, written down directly."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype)
    kernel = gain * torch.outer(taps, taps) / 256
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])


def test_pyramid_is_the_filter_with_decimation_and_zero_insertion() -> None:
    torch.manual_seed(0)
    pyramid = Pyramid()
    x = torch.rand(2, 3, 8, 12, dtype=torch.float64)
    torch.testing.assert_close(pyramid.shrink(x), binomial(x, 1.0)[:, :, ::2, ::2], atol=1e-12, rtol=0)
    inserted = torch.zeros(2, 3, 16, 24, dtype=torch.float64)
    inserted[:, :, ::2, ::2] = x
    torch.testing.assert_close(pyramid.grow(x), binomial(inserted, 4.0), atol=1e-12, rtol=0)


def test_pyramid_joins_what_it_split() -> None:
    image = torch.rand(1, 3, 32, 64)
    pyramid = Pyramid()
    bands, low = pyramid.split(image, 3)
    assert [tuple(band.shape[2:]) for band in bands] == [(32, 64), (16, 32), (8, 16)]
    assert low.shape == (1, 3, 4, 8)
    torch.testing.assert_close(pyramid.join(bands, low), image, atol=1e-6, rtol=0)


class Add(nn.Module):
    """Adds a number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return x + self.number


@pytest.mark.parametrize(
    ("variant", "expected"),
    # The mask is 2 at the coarsest band; the little networks add 10.
    # improved: band + 2 band + 10, the mask as it is. paper: the mask grows by 10 at every level.
    [("improved", [3 + 10.0, 6 + 10.0, 9 + 10.0]), ("paper", [1 * 32.0, 2 * 22.0, 3 * 12.0])],
)
def test_bands_are_refined_as_the_variant_says(
    answer: MakeAnswer, variant: Variant, expected: list[float]
) -> None:
    branch = HighBranch(4, 3, variant)
    channels = 3 if variant == "improved" else 1
    branch.mask = answer(lambda x: torch.full((1, channels, *x.shape[2:]), 2.0))
    branch.refine = nn.ModuleList(Add(10.0) for _ in range(3))
    bands = [torch.full((1, 3, 16 // 2**level, 16 // 2**level), level + 1.0) for level in range(3)]
    refined = branch(bands, torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    assert [band.unique().item() for band in refined] == expected
    assert [band.shape for band in refined] == [band.shape for band in bands]


def test_low_branch_is_tanh_of_the_sum(answer: MakeAnswer) -> None:
    generator = make().generator
    generator.low.body = answer(lambda x: x + 1)
    low = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(generator.low(low), torch.tanh(2 * low + 1))


def test_generator_learns_first_then_the_critic(record: Record, batch: MakeBatch) -> None:
    method = make()
    update = record(method)
    method.step(batch(2, 32), update)
    assert update.order == ["gen", "critic"]
    assert update.networks(update.learned) == [{"generator"}, {"critic"}]
    assert update.networks(update.moved) == [{"generator"}, {"critic"}]


def test_losses_by_hand(listen: Listener, answer: MakeAnswer) -> None:
    # In [0, 1]: a = 0.5 is darkened to 0.3, b = 0.75. The critic is 3 times the sum of the 3 * 2 * 2 numbers.
    method = make(turn=False)
    method.generator = answer(lambda a: a - 0.2)
    method.critic = answer(lambda x: 3 * x.sum(dim=(1, 2, 3), keepdim=True))
    method.step(Batch(torch.full((1, 3, 2, 2), 0.0), torch.full((1, 3, 2, 2), 0.5)), listen)
    fake, real = 3 * 12 * 0.3, 3 * 12 * 0.75
    penalty = (3 * 12**0.5 - 1) ** 2  # the gradient is 3 everywhere
    expected = [1000 * 0.2**2 - fake, fake - real + 100 * penalty]
    assert listen.losses == pytest.approx(expected, rel=1e-5)


def test_inference_goes_from_signed_to_signed_range(answer: MakeAnswer) -> None:
    method = make()
    inference = method.inference()
    assert inference.stride == 8
    for size in ((32, 32), (24, 48)):
        image = torch.rand(2, 3, *size) * 2 - 1
        expected = (method.generator(image / 2 + 0.5) * 2 - 1).clamp(-1, 1)
        torch.testing.assert_close(inference(image), expected.detach(), atol=1e-6, rtol=0)
    inference.generator = answer(lambda x: x * 3)
    assert inference(torch.ones(1, 3, 8, 8)).max() == 1


def test_critic_gives_one_value_of_any_size() -> None:
    critic = Critic(4, 64)
    assert critic(torch.rand(2, 3, 40, 72)).shape == (2, 1, 1, 1)
    assert [type(layer).__name__ for layer in critic.body][:3] == [
        "Conv2d",
        "LeakyReLU",
        "AffineInstanceNorm",
    ]
    assert [m.kernel_size for m in Critic(16, 256).body if isinstance(m, nn.Conv2d)][-1] == (8, 8)


def test_turning_keeps_every_pixel(batch: MakeBatch) -> None:
    images = batch(1, 32).a
    method = make()
    torch.manual_seed(3)
    turned = [method.turned(images) for _ in range(20)]
    assert len({tuple(image.flatten().tolist()) for image in turned}) == 4
    assert torch.equal(turned[0].flatten().sort().values, images.flatten().sort().values)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="--levels is 2"):
        LPTNConfig(levels=2)
    with pytest.raises(OptionError, match="multiple of 32"):
        LPTNConfig(levels=5, image_size=80, load_size=80)
