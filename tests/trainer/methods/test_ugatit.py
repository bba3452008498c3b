"""U-GAT-IT: published sizes, losses by hand, shares of the norms in [0, 1], and its attention as one convolution."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch

from i2i_trainer.attention import folded_attention, raw_weight
from i2i_trainer.errors import OptionError
from i2i_trainer.methods.ugatit import UGATIT, DiscriminatorPair, Generator, UGATITConfig, UGATITInference
from i2i_trainer.norms import ClampedMix

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, MakeAnswer, MakeBatch, Record

TINY = UGATITConfig(width=4, blocks=1, global_depth=6, local_depth=4, image_size=64, load_size=64)


@pytest.fixture
def method() -> UGATIT:
    torch.manual_seed(0)
    return UGATIT(TINY)


@pytest.mark.parametrize(("side", "millions", "giga"), [(None, 10.59, 52.50), (64, 278.96, 52.77)])
def test_generator_has_the_published_size(cost: Cost, side: int | None, millions: float, giga: float) -> None:
    with torch.device("meta"):
        generator = Generator(64, 4, side)
    parameters, macs = cost(generator, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (millions, giga)


def test_discriminators_have_the_published_sizes_and_maps(cost: Cost) -> None:
    image = (1, 3, 256, 256)
    with torch.device("meta"):
        pair = DiscriminatorPair(UGATITConfig())
        overall, local = pair.overall(torch.empty(image)), pair.local(torch.empty(image))
    assert overall.patches.shape[2:] == (6, 6)
    assert local.patches.shape[2:] == (30, 30)
    sizes = [cost(network, image) for network in (pair.overall, pair.local)]
    assert [(round(p / 1e6, 2), round(m / 1e9, 2)) for p, m in sizes] == [(53.13, 4.25), (3.29, 3.65)]


def test_discriminators_learn_first_then_generators(method: UGATIT, record: Record, batch: MakeBatch) -> None:
    update = record(method)
    method.step(batch(1, 64), update)
    assert update.order == ["discriminators", "generators"]
    expected = [{"discriminator_a", "discriminator_b"}, {"generator_ab", "generator_ba"}]
    assert update.networks(update.learned) == expected
    assert update.networks(update.moved) == expected


def test_shares_are_back_in_range_after_the_generators_step(
    method: UGATIT, record: Record, batch: MakeBatch
) -> None:
    mixes = [m for m in method.modules() if isinstance(m, ClampedMix)]
    assert {round(m.rho[0].item(), 3) for m in mixes} == {0.0, 0.9}
    torch.nn.init.constant_(mixes[0].rho, 2.0)
    torch.nn.init.constant_(mixes[1].rho, -1.0)
    method.step(batch(1, 64), record(method))
    assert mixes[0].rho.tolist() == [1.0] * 16
    assert mixes[1].rho.tolist() == [0.0] * 16


def test_losses_by_hand(method: UGATIT, answer: MakeAnswer, flat_batch: FlatBatch) -> None:
    # Every discriminator says 0.5, 0.25, 2 and 1; attention logits are 1 in one generator, 3 in the other.
    for name in ("discriminator_a", "discriminator_b"):
        setattr(method, name, answer(lambda _: tuple(torch.tensor(x) for x in (0.5, 0.25, 2.0, 1.0))))
    method.generator_ab = answer(lambda x: (2.0 * x, torch.tensor([[1.0, 1.0]])))
    method.generator_ba = answer(lambda x: (0.25 * x, torch.tensor([[3.0, 3.0]])))
    images = flat_batch(0.5, -0.25)
    real = 0.25 + 0.5625 + 1.0 + 0.0
    fake = 0.25 + 0.0625 + 4.0 + 1.0
    assert method.discriminator_loss(images).item() == pytest.approx(2 * (real + fake))
    losses = method.generator_losses(images)
    assert losses["gan"].item() == pytest.approx(2 * real)
    assert losses["cycle"].item() == pytest.approx(0.25 + 0.125)
    assert losses["identity"].item() == pytest.approx(0.375 + 0.25)
    # To translate, towards 1: log(1 + e^-x); to keep, towards 0: log(1 + e^x); both generators do both.
    attention = sum(math.log1p(math.exp(-x)) + math.log1p(math.exp(x)) for x in (1.0, 3.0))
    assert losses["attention"].item() == pytest.approx(attention)
    assert method.weights() == {"gan": 1.0, "cycle": 10.0, "identity": 10.0, "attention": 1000.0}


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_one_direction_is_its_generator(method: UGATIT, direction: str, size: tuple[int, int]) -> None:
    trained = {"a2b": method.generator_ab, "b2a": method.generator_ba}[direction]
    image = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(method.inference(direction)(image), trained(image)[0], atol=1e-5, rtol=0)


def test_attention_can_be_folded_into_one_convolution(method: UGATIT) -> None:
    attention = method.generator_ab.attention
    average, largest = raw_weight(attention.average), raw_weight(attention.largest)
    features = torch.randn(2, 16, 5, 7)
    with torch.no_grad():
        folded = folded_attention(attention.mix, average, largest)
        torch.testing.assert_close(folded(features), attention(features)[0], atol=1e-5, rtol=0)


def test_one_direction_has_the_published_size(cost: Cost) -> None:
    with torch.device("meta"):
        inference = UGATITInference(Generator(64, 4, None), None)
    parameters, macs = cost(inference, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (10.59, 52.50)


def test_full_variant_is_tied_to_its_size() -> None:
    full = UGATIT(UGATITConfig(**{**UGATITConfig.presets["small"], "width": 4, "variant": "full"}))
    assert full.inference("a2b").fixed_size == (64, 64)
    with pytest.raises(RuntimeError):
        full.inference("a2b")(torch.zeros(1, 3, 32, 32))


def test_contradicting_depths_are_refused() -> None:
    with pytest.raises(OptionError, match="too small for --global-depth 7"):
        UGATITConfig(image_size=64, load_size=64)
    with pytest.raises(OptionError, match="--local-depth 8"):
        UGATITConfig(local_depth=8)
