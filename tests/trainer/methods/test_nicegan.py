"""NICE-GAN: published sizes, decoupled training, losses by hand, and the folded network equal to the trained one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import pytest
import torch

from i2i_trainer.attention import raw_weight
from i2i_trainer.errors import OptionError
from i2i_trainer.methods.nicegan import NICEGAN, Discriminator, Generator, Logits, NICEGANConfig

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, MakeAnswer, MakeBatch, Record

TINY = NICEGANConfig(width=4, blocks=1, depth=6, image_size=64, load_size=64)


@pytest.fixture
def method() -> NICEGAN:
    torch.manual_seed(0)
    return NICEGAN(TINY)


@pytest.mark.parametrize(
    ("blocks", "side", "millions", "giga"),
    [(6, None, 8.105, 33.77), (4, None, 5.743, 24.10), (6, 64, 276.475, 34.04)],
)
def test_generator_has_the_published_size(
    cost: Cost, blocks: int, side: int | None, millions: float, giga: float
) -> None:
    with torch.device("meta"):
        generator = Generator(64, blocks, side)
    parameters, macs = cost(generator, (1, 128, 64, 64))
    assert (round(parameters / 1e6, 3), round(macs / 1e9, 2)) == (millions, giga)


def test_discriminator_has_the_published_size_and_heads(cost: Cost) -> None:
    with torch.device("meta"):
        discriminator = Discriminator(64, 7)
        verdict, code = discriminator(torch.empty(1, 3, 256, 256))
    parameters, macs = cost(discriminator, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (46.87, 6.00)
    assert verdict.local.shape[2:] == (30, 30)
    assert verdict.overall.shape[2:] == (6, 6)
    assert code.shape == (1, 128, 64, 64)
    encoder, macs = cost(discriminator.encoder.folded(), (1, 3, 256, 256))
    assert (round(encoder / 1e6, 3), round(macs / 1e9, 3)) == (0.151, 0.654)


def test_one_direction_has_the_published_size(cost: Cost) -> None:
    with torch.device("meta"):
        inference = NICEGAN(NICEGANConfig()).inference("a2b")
    parameters, macs = cost(inference, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (8.26, 34.42)


def test_encoders_learn_with_the_discriminators_alone(
    method: NICEGAN, record: Record, batch: MakeBatch
) -> None:
    update = record(method)
    for _ in range(2):  # the attention's strength starts at 0 and hides its mix in the first step
        method.step(batch(1, 64), update)
    assert update.order == ["discriminators", "generators"] * 2
    discriminators, generators = {"discriminator_a", "discriminator_b"}, {"generator_ab", "generator_ba"}
    assert update.networks(update.learned) == [discriminators, generators] * 2
    assert update.networks(update.moved) == [discriminators, generators] * 2
    encoder = {name for name, _ in method.named_parameters() if "discriminator_a.encoder" in name}
    assert encoder <= update.moved[2]
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_coupled_training_moves_the_encoders_twice(record: Record, batch: MakeBatch) -> None:
    method = NICEGAN(replace(TINY, training="coupled"))
    update = record(method)
    for _ in range(2):  # the attention starts switched off
        method.step(batch(1, 64), update)
    assert update.order == ["discriminators", "generators"] * 2
    by_generators = {name for name in update.moved[3] if "discriminator" in name}
    assert by_generators
    assert all(".encoder." in name and "classifier" not in name for name in by_generators)
    assert {"discriminator_a.encoder.mix.weight", "discriminator_b.encoder.strength"} <= by_generators
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_encoders_of_their_own_learn_with_the_generators_alone(record: Record, batch: MakeBatch) -> None:
    method = NICEGAN(replace(TINY, reuse=False))
    update = record(method)
    method.step(batch(1, 64), update)
    own = {"own_encoder_a", "own_encoder_b", "generator_ab", "generator_ba"}
    assert update.networks(update.moved) == [{"discriminator_a", "discriminator_b"}, own]
    method.eval()
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = method.generator_ab(method.own_encoder_a(image)[0])
    torch.testing.assert_close(method.inference()(image), expected, atol=2e-5, rtol=0)
    with pytest.raises(OptionError, match="--no-reuse"):
        replace(TINY, reuse=False, training="coupled")


def test_attention_can_be_left_off(record: Record, batch: MakeBatch) -> None:
    method = NICEGAN(replace(TINY, attention=False))
    update = record(method)
    for _ in range(2):
        method.step(batch(1, 64), update)
    assert method.discriminator_a.encoder.strength.item() == 0


@pytest.mark.parametrize(
    ("left_out", "loss"), [("attention", 2 * 1.125), ("local", 2 * 5.625), ("overall", 2 * 5.5)]
)
def test_a_classifier_can_be_left_out(
    answer: MakeAnswer, flat_batch: FlatBatch, left_out: Literal["attention", "local", "overall"], loss: float
) -> None:
    # Every discriminator says 0.5, 0.25 and 2: real to 1 and fake to 0 cost 0.5, 0.625 and 5.
    method = NICEGAN(replace(TINY, left_out=left_out))

    def discriminate(image: torch.Tensor) -> tuple[Logits, torch.Tensor]:
        half = image.mean() * 0
        return Logits(half + 0.5, half + 0.25, half + 2.0), image

    method.discriminator_a, method.discriminator_b = answer(discriminate), answer(discriminate)
    method.generator_ab = method.generator_ba = answer(lambda code: code)
    assert method.discriminator_loss(flat_batch(0.5, -0.25)).item() == pytest.approx(loss)


def test_gradients_reach_a_generator_through_the_frozen_encoder(method: NICEGAN, batch: MakeBatch) -> None:
    method.discriminator_b.requires_grad_(False)
    images = batch(1, 64)
    translated = method.generator_ab(method.discriminator_a.encoder(images.a)[0])
    again = method.generator_ba(method.discriminator_b.encoder(translated)[0])
    (again - images.a).abs().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in method.generator_ab.exit.parameters())


def test_losses_by_hand(method: NICEGAN, record: Record, answer: MakeAnswer, flat_batch: FlatBatch) -> None:
    # Codes are the images themselves; every discriminator says 0.5, 0.25 and 2; a = 0.5, b = -0.25.
    def discriminate(image: torch.Tensor) -> tuple[Logits, torch.Tensor]:
        half = image.mean() * 0
        return Logits(half + 0.5, half + 0.25, half + 2.0), image

    for name in ("discriminator_a", "discriminator_b"):
        setattr(method, name, answer(discriminate))
        getattr(method, name).encoder = answer(lambda image: (image, None))
    method.generator_ab = answer(lambda code: 2.0 * code)
    method.generator_ba = answer(lambda code: 0.25 * code)
    images = flat_batch(0.5, -0.25)
    # Real to 1: 0.25 + 0.5625 + 1; fake to 0: 0.25 + 0.0625 + 4; two domains.
    assert method.discriminator_loss(images).item() == pytest.approx(2 * (1.8125 + 4.3125))
    losses = method.generator_losses(images)
    assert losses["gan"].item() == pytest.approx(2 * 1.8125)
    # a to 1.0 to 0.25; b to -0.0625 to -0.125.
    assert losses["cycle"].item() == pytest.approx(0.25 + 0.125)
    # a decoded as a: 0.125; b decoded as b: -0.5.
    assert losses["reconstruction"].item() == pytest.approx(0.375 + 0.25)
    assert method.weights() == {"gan": 1.0, "cycle": 10.0, "reconstruction": 10.0}


def test_attention_starts_switched_off_and_uses_the_weight_before_spectral_norm(method: NICEGAN) -> None:
    encoder = method.discriminator_a.encoder
    assert encoder.strength.item() == 0
    average, largest = encoder.channel_weights()
    raw = encoder.get_parameter("classifier.parametrizations.weight.original")
    torch.testing.assert_close(torch.cat([average, largest], dim=1), raw, atol=0, rtol=0)
    normalised = encoder.classifier.weight
    assert isinstance(normalised, torch.Tensor)
    assert not torch.allclose(normalised, raw)
    entry = method.generator_ab.entry
    assert raw_weight(entry[0]) is entry.get_parameter("0.weight")


@pytest.mark.parametrize("size", [(64, 64), (72, 96)])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_folded_network_equals_the_trained_one(
    method: NICEGAN, record: Record, batch: MakeBatch, direction: str, size: tuple[int, int]
) -> None:
    method.step(batch(1, 64), record(method))
    torch.nn.init.constant_(method.discriminator_a.encoder.strength, 0.7)
    torch.nn.init.constant_(method.discriminator_b.encoder.strength, -0.4)
    folded = method.inference(direction)
    assert not any("parametrizations" in name for name, _ in folded.named_parameters())
    method.eval()
    source = {"a2b": method.discriminator_a, "b2a": method.discriminator_b}[direction]
    generator = {"a2b": method.generator_ab, "b2a": method.generator_ba}[direction]
    image = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(folded(image), generator(source.encoder(image)[0]), atol=2e-5, rtol=0)


def test_inference_keeps_what_it_was_made_of(method: NICEGAN, record: Record, batch: MakeBatch) -> None:
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    inference = method.inference("a2b")
    before = inference(image)
    method.step(batch(1, 64), record(method))
    torch.testing.assert_close(inference(image), before, atol=0, rtol=0)
    method.step(batch(1, 64), record(method))  # the trained networks still work after a fold


def test_full_variant_is_tied_to_its_size() -> None:
    full = NICEGAN(NICEGANConfig(width=4, blocks=1, depth=6, image_size=64, load_size=64, variant="full"))
    assert full.inference("a2b").fixed_size == (64, 64)
    assert NICEGAN(TINY).inference("a2b").fixed_size is None


def test_an_image_too_small_for_the_depth_is_refused() -> None:
    with pytest.raises(OptionError, match="too small for --depth 7"):
        NICEGANConfig(image_size=64, load_size=64)
    with pytest.raises(OptionError, match="--depth is 4"):
        NICEGANConfig(depth=4)
