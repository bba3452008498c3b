"""BicycleGAN: published sizes, who learns when, losses by hand, both halves of it alone, and where the code enters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from i2i_trainer.errors import OptionError
from i2i_trainer.method import Batch
from i2i_trainer.methods.bicyclegan import BicycleGAN, BicycleGANConfig, Discriminator, Encoder

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, Listener, MakeAnswer, MakeBatch, Record

TINY: dict[str, Any] = {
    "width": 4,
    "downs": 6,
    "encoder_width": 4,
    "disc_width": 4,
    "disc_layers": 2,
    "image_size": 64,
    "load_size": 64,
}


def make(**options: Any) -> BicycleGAN:
    torch.manual_seed(0)
    return BicycleGAN(BicycleGANConfig(**{**TINY, **options}))


def test_networks_have_the_published_sizes(cost: Cost) -> None:
    image = (1, 3, 256, 256)
    with torch.device("meta"):
        method = BicycleGAN(BicycleGANConfig())
    sizes = [
        cost(method.generator, image, (1, 8)),
        cost(method.encoder, image),
        cost(method.disc_random, image),
    ]
    assert [round(p / 1e6, 2) for p, _ in sizes] == [54.79, 2.59, 3.46]
    assert [round(m / 1e9, 2) for _, m in sizes] == [6.31, 4.54, 3.34]
    assert sizes[2][0] == 3_458_978
    maps = method.disc_encoded(torch.empty(image, device="meta"))
    assert [tuple(logits.shape[2:]) for logits in maps] == [(30, 30), (14, 14)]


@pytest.mark.parametrize("style_size", [2, 8, 256])
@pytest.mark.parametrize("place", ["all", "input"])
def test_the_code_enters_the_layers_it_should(style_size: int, place: str) -> None:
    generator = make(style_size=style_size, style_place=place).generator
    inputs = [
        next(layer.in_channels for layer in level.modules() if isinstance(layer, nn.Conv2d))
        for level in generator.downs
    ]
    widths = [3, 4, 8, 16, 32, 32]
    extra = [style_size] * 6 if place == "all" else [style_size] + [0] * 5
    assert inputs == [width + more for width, more in zip(widths, extra, strict=True)]


@pytest.mark.parametrize("place", ["all", "input"])
@pytest.mark.parametrize("upsampling", ["transposed", "bilinear"])
def test_style_changes_the_image_and_dropout_does_not(place: str, upsampling: str) -> None:
    inference = make(style_place=place, upsampling=upsampling).inference()
    assert inference.stride == 64
    assert inference.style_size == len(inference.default_style) == 8
    for height, width in ((64, 64), (64, 128)):
        image = torch.rand(1, 3, height, width) * 2 - 1
        first, second = torch.randn(2, 1, 8).unbind()
        with torch.no_grad():
            assert torch.equal(inference(image, first), inference(image, first))
            assert not torch.equal(inference(image, first), inference(image, second))
            assert torch.equal(inference(image), inference(image, torch.zeros(1, 8)))


def test_reference_style_is_the_mean(batch: MakeBatch) -> None:
    method = make()
    images = batch(2, 64).b
    encoder = method.style_encoder()
    with torch.no_grad():
        assert encoder is not None
        torch.testing.assert_close(encoder(images), method.encoder(images)[0], atol=0, rtol=0)


def test_encoder_is_frozen_in_the_latent_step(record: Record, batch: MakeBatch) -> None:
    method = make()
    update = record(method)
    method.step(batch(2, 64), update)
    method.step(batch(2, 64), update)  # Adam now has momentum that could move a frozen encoder
    assert update.order == ["gen", "gen", "disc_encoded", "disc_random"] * 2
    expected = [{"generator", "encoder"}, {"generator"}, {"disc_encoded"}, {"disc_random"}] * 2
    assert update.networks(update.learned) == expected
    assert update.networks(update.moved) == expected


def test_each_half_alone(record: Record, batch: MakeBatch) -> None:
    for objective, order in (("cvae", ["gen", "disc_encoded"]), ("clr", ["gen", "disc_random"])):
        method = make(objective=objective, batch=1)
        update = record(method)
        losses = method.step(batch(1, 64), update)
        assert update.order == order
        assert update.networks(update.learned) == [{"generator", "encoder"}, {order[1]}]
        assert ("kl" in losses, "latent" in losses) == (objective == "cvae", objective == "clr")


def test_the_baseline_draws_codes_that_no_loss_reads(record: Record, batch: MakeBatch) -> None:
    method = make(objective="noise", batch=1)
    update = record(method)
    images = batch(1, 64)
    losses = method.step(images, update)
    assert update.networks(update.moved) == [{"generator"}, {"disc_random"}]
    assert set(losses) == {"gan random", "l1", "disc random"}
    expected = losses["gan random"] + 10 * losses["l1"]
    assert update.losses[0] == pytest.approx(expected.item(), rel=1e-5)
    assert method.style_encoder() is None
    assert "a in b's style" not in method.preview(images)


def test_the_plain_encoder_learns_as_the_residual_one(cost: Cost, record: Record, batch: MakeBatch) -> None:
    encoder = Encoder(64, 4, 8, "cnn")
    layers = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [64, 128, 256, 256, 256]
    assert {layer.stride for layer in layers} == {(2, 2)}
    features = encoder.body[:-2](torch.zeros(1, 3, 256, 256))
    assert features.shape == (1, 256, 8, 8)
    method = make(encoder="cnn")
    update = record(method)
    method.step(batch(2, 64), update)
    assert update.networks(update.moved)[0] == {"generator", "encoder"}


def test_losses_by_hand(monkeypatch: pytest.MonkeyPatch, listen: Listener, answer: MakeAnswer) -> None:
    # Drawn numbers are 1. mean 0.5, log variance 0: z = 1.5, encoded B = 0.2 + 0.15; drawn z = 1: random B = 0.3.
    method = make(style_size=2)
    seen: dict[str, list[float]] = {"encoded": [], "random": []}

    def discriminator(name: str) -> Callable[[Tensor], list[Tensor]]:
        def logits(image: Tensor) -> list[Tensor]:
            seen[name].append(round(image.mean().item(), 4))
            return [image.mean(), image.mean() + 1]

        return logits

    monkeypatch.setattr(torch, "randn", lambda *size, **_: torch.ones(size))
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    method.generator = answer(lambda a, z: a + 0.1 * z.mean())
    method.encoder = answer(lambda b: (torch.full((1, 2), 0.5), torch.zeros(1, 2)))
    method.disc_encoded, method.disc_random = (
        answer(discriminator("encoded")),
        answer(discriminator("random")),
    )
    a = torch.tensor([0.2, 0.9])[:, None, None, None].expand(2, 3, 4, 4)
    b = torch.tensor([0.6, -0.4])[:, None, None, None].expand(2, 3, 4, 4)
    method.step(Batch(a, b), listen)

    def squares(value: float, target: float) -> float:
        return (value - target) ** 2 + (value + 1 - target) ** 2

    kl = 0.5 * 2 * 0.5**2  # summed over the two dimensions; log variance 0 adds nothing
    both = squares(0.35, 1) + squares(0.3, 1) + 10 * 0.25 + 0.01 * kl
    latent = 0.5 * 0.5
    # The encoded branch meets its own B, the random branch the other half's.
    assert seen == {"encoded": [0.35, 0.6, 0.35], "random": [0.3, -0.4, 0.3]}
    expected = [both, latent, squares(0.6, 1) + squares(0.35, 0), squares(-0.4, 1) + squares(0.3, 0)]
    assert listen.losses == pytest.approx(expected, rel=1e-5)


def test_initialisation_is_xavier_with_a_small_gain() -> None:
    weight = make(width=32).generator.get_parameter("downs.4.1.weight")
    fan = 16 * (weight.shape[0] + weight.shape[1])
    assert weight.std().item() == pytest.approx(0.02 * math.sqrt(2 / fan), rel=0.02)


def test_conditional_discriminators_see_the_source(batch: MakeBatch) -> None:
    method = make(conditional=True)
    assert isinstance(method.disc_random, Discriminator)
    assert method.disc_random.get_parameter("fine.0.weight").shape[1] == 6
    images = batch(1, 64)
    assert len(method.logits(method.disc_random, images.a, images.b)) == 2


def test_encoder_for_smaller_images_has_fewer_blocks() -> None:
    widths = [module.out_features for module in (Encoder(64, 4, 8).mean, Encoder(64, 3, 8).mean)]
    assert widths == [8, 8]
    assert Encoder(64, 4, 8).mean.in_features == Encoder(64, 3, 8).mean.in_features == 256
    assert Encoder(64, 2, 8).mean.in_features == 192


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="--batch is 3"):
        BicycleGANConfig(batch=3)
    with pytest.raises(OptionError, match="multiple of 256"):
        BicycleGANConfig(image_size=200)
    assert BicycleGANConfig(batch=3, objective="cvae").batch == 3
