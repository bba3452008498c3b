"""UNIT: published sizes of both networks, shared blocks, losses by hand, and who learns when."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log1p
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from i2i_trainer.errors import OptionError
from i2i_trainer.methods.unit import CURRENT, UNIT, GaussianDownsample, UNITConfig
from i2i_trainer.norms import LayerNormOverStd

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, Listener, MakeAnswer, MakeBatch, Record

TINY = UNITConfig(width=4, blocks=2, disc_width=4, disc_layers=3, disc_scales=2, image_size=64, load_size=64)
TINY_CURRENT = replace(TINY, **{key: value for key, value in CURRENT.items() if key != "load_size"})
GENERATORS = {"enc_a", "enc_b", "enc_shared", "dec_shared", "dec_a", "dec_b"}


def on_meta(**options: Any) -> UNIT:
    with torch.device("meta"):
        return UNIT(UNITConfig(**options))


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_the_papers_network_has_the_published_size(cost: Cost, direction: str) -> None:
    method = on_meta()
    parameters, macs = cost(method.inference(direction), (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (10.19, 44.12)
    both = sum(p.numel() for name in GENERATORS for p in getattr(method, name).parameters())
    assert round(both / 1e6, 2) == 18.02


def test_the_current_network_has_the_published_size(cost: Cost) -> None:
    method = on_meta(**CURRENT)
    parameters, macs = cost(method.inference(), (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (11.14, 71.03)
    assert round(cost(method.enc_a, (1, 3, 256, 256))[1] / 1e9, 2) == 24.24
    assert round(cost(method.dec_b, (1, 256, 64, 64))[1] / 1e9, 2) == 46.79
    parameters, macs = cost(method.disc_a, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 3), round(macs / 1e9, 2)) == (8.271, 2.18)
    maps = method.disc_a(torch.empty(1, 3, 256, 256, device="meta"))
    assert [x.shape[2:] for x in maps] == [(16, 16), (8, 8), (4, 4)]


def test_the_papers_discriminators_have_the_published_size(cost: Cost) -> None:
    single = on_meta(**UNITConfig.presets["released"]).disc_a
    parameters, macs = cost(single, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (25.15, 1.54)
    assert single(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 1, 4, 4)
    multi = on_meta(discriminator="multi").disc_a
    assert [x.shape[2:] for x in multi(torch.empty(1, 3, 480, 640, device="meta"))] == [
        (30, 40),
        (15, 20),
        (8, 10),
    ]
    shared = on_meta(discriminator="shared", **UNITConfig.presets["released"])
    private, trunk = (
        [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        for network in (shared.disc_a, shared.disc_shared)
    )
    assert private == [64, 128]
    assert trunk[:4] == [256, 512, 1024, 2048]


def test_the_papers_discriminator_has_five_layers() -> None:
    assert on_meta().disc_a(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 1, 8, 8)
    private_and_common = on_meta(discriminator="shared")
    layers = [
        layer
        for network in (private_and_common.disc_a, private_and_common.disc_shared)
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert len(layers) == 5 + 1  # and the one that makes the logits


@pytest.mark.parametrize("share", [0, 1, 2])
def test_shared_blocks_serve_both_directions_and_replace_private_ones(share: int) -> None:
    method = UNIT(replace(TINY, share_blocks=share))
    assert len(method.enc_shared) == len(method.dec_shared) == share
    there, back = method.inference("a2b"), method.inference("b2a")
    assert sum(p.numel() for p in there.parameters()) == sum(
        p.numel() for p in UNIT(TINY).inference().parameters()
    )
    first, second = (
        {repr(p) for part in ("parts.1", "parts.2") for p in network.get_submodule(part).parameters()}
        for network in (there, back)
    )
    assert first == second


@pytest.mark.parametrize("config", [TINY, TINY_CURRENT, replace(TINY, discriminator="shared")])
def test_discriminators_learn_first_and_alone(config: UNITConfig, record: Record, batch: MakeBatch) -> None:
    torch.manual_seed(0)
    method = UNIT(config)
    update = record(method)
    losses = method.step(batch(2, 64), update)
    assert update.order == ["disc", "gen"]
    discriminators = {name for name, _ in method.named_children() if "disc" in name}
    discriminators -= {name for name, network in method.named_children() if not list(network.parameters())}
    generators = {name for name in GENERATORS if list(getattr(method, name).parameters())}
    assert update.networks(update.learned) == [discriminators, generators]
    assert update.networks(update.moved) == [discriminators, generators]
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert not any(loss.requires_grad for loss in losses.values())


def softplus(x: float) -> float:
    return log1p(exp(x))


def by_hand(config: UNITConfig, answer: MakeAnswer) -> UNIT:
    """Encoders that double and treble, decoders that halve and quarter, discriminators that say the image."""
    method = UNIT(config).eval()
    for name, factor in {
        "enc_a": 2,
        "enc_b": 3,
        "dec_a": 0.5,
        "dec_b": 0.25,
        "disc_a": 1,
        "disc_b": 1,
    }.items():
        setattr(method, name, answer(lambda x, factor=factor: factor * x))
    method.enc_shared = method.dec_shared = nn.Sequential()
    return method


def test_both_passes_have_a_divergence_weight_of_their_own(
    answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener
) -> None:
    def generator_loss(**options: Any) -> float:
        by_hand(replace(TINY, **options), answer).step(flat_batch(0.4, 0.8), listen)
        return listen.losses[-1]

    both, first, second = (
        generator_loss(kl_weight=0.1),
        generator_loss(kl_weight=0.1, cycle_kl_weight=0.0),
        generator_loss(kl_weight=0.0, cycle_kl_weight=0.1),
    )
    assert both - first == pytest.approx(0.1 * (0.6**2 + 2.4**2), rel=1e-4)
    assert both - second == pytest.approx(0.1 * (0.8**2 + 2.4**2), rel=1e-4)


def test_losses_by_hand(answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener) -> None:
    # a 0.4 has the code 0.8, b 0.8 the code 2.4: a is rendered 0.4 and 0.2, b is rendered 1.2 and 0.6.
    # Back again: 0.2 has the code 0.6 and becomes 0.3; 1.2 has the code 2.4 and becomes 0.6.
    method = by_hand(TINY, answer)
    losses = method.step(flat_batch(0.4, 0.8), listen)
    expected = {
        "disc_a": softplus(-0.4) + softplus(1.2),
        "disc_b": softplus(-0.8) + softplus(0.2),
        "gen": softplus(-1.2) + softplus(-0.2),
        "reconstruction": 0.0 + 0.2,
        "cycle": 0.1 + 0.2,
        "kl": 0.8**2 + 2.4**2,
        "kl cycle": 0.6**2 + 2.4**2,
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected)
    assert listen.order == ["disc", "gen"]
    assert listen.losses[0] == pytest.approx(10 * (expected["disc_a"] + expected["disc_b"]))
    assert listen.losses[1] == pytest.approx(
        10 * expected["gen"] + 100 * 0.2 + 100 * 0.3 + 0.1 * (expected["kl"] + expected["kl cycle"])
    )


def test_losses_of_the_current_network_by_hand(
    answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener
) -> None:
    method = by_hand(TINY_CURRENT, answer)
    losses = method.step(flat_batch(0.4, 0.8), listen)
    disc = (0.4 - 1) ** 2 + 1.2**2 + (0.8 - 1) ** 2 + 0.2**2
    gen = (1.2 - 1) ** 2 + (0.2 - 1) ** 2
    kl = losses["kl"].item() + losses["kl cycle"].item()
    assert losses["gen"].item() == pytest.approx(gen)
    assert listen.losses == pytest.approx([disc, gen + 10 * 0.2 + 10 * 0.3 + 0.01 * kl])


def test_the_perceptual_distance_is_between_an_image_and_its_translation(
    answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener
) -> None:
    method = by_hand(TINY, answer)
    method.step(flat_batch(0.4, 0.8), listen)
    method.config = replace(TINY, perceptual_weight=2.0, perceptual_weights=Path("vgg16.safetensors"))
    method.perceptual = answer(lambda x, y: (x - y).abs().mean())
    method.step(flat_batch(0.4, 0.8), listen)
    _, without, _, with_it = listen.losses
    assert with_it - without == pytest.approx(2 * (abs(0.2 - 0.4) + abs(1.2 - 0.8)), rel=1e-4)


def test_cycle_and_kl_can_be_left_out(answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener) -> None:
    method = by_hand(replace(TINY, cycle_weight=0.0, kl_weight=0.0), answer)
    losses = method.step(flat_batch(0.4, 0.8), listen)
    assert "cycle" not in losses
    assert listen.losses[1] == pytest.approx(10 * losses["gen"].item() + 100 * 0.2)


def test_the_paper_measures_the_noised_code_and_the_current_network_the_features(
    answer: MakeAnswer, flat_batch: FlatBatch, listen: Listener
) -> None:
    """Features are 0: their noise alone has a mean square of about 1, in each of the two codes of a pass."""
    torch.manual_seed(0)
    for config, expected in ((TINY, 2.0), (TINY_CURRENT, 0.0)):
        method = by_hand(config, answer).train()
        for name in ("enc_a", "enc_b"):
            setattr(method, name, answer(lambda x: torch.zeros(1, 64, 32, 32)))
        for name in ("dec_a", "dec_b"):
            setattr(method, name, answer(lambda x: x[:, :3, :4, :4]))
        losses = method.step(flat_batch(0.0, 0.0), listen)
        assert losses["kl"].item() == pytest.approx(expected, abs=0.1)
        assert losses["kl cycle"].item() == pytest.approx(expected, abs=0.1)


def test_initialisation() -> None:
    torch.manual_seed(0)
    paper = UNIT(replace(TINY, width=16, disc_width=32))
    for network in (paper.enc_a, paper.enc_shared, paper.dec_b, paper.disc_a):
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.weight.numel() > 1000:
                assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
                assert layer.bias is not None
                assert layer.bias.abs().max() == 0
    current = UNIT(replace(TINY_CURRENT, width=16, disc_width=32))
    last = len(current.enc_a) - 1
    middle = current.enc_a.get_parameter(f"{last}.body.0.weight")  # 3 x 3 over 64 channels
    assert middle.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert current.disc_a.get_parameter("scales.0.1.0.weight").std().item() == pytest.approx(0.02, rel=0.05)
    scales = [m.weight for m in current.dec_a.modules() if isinstance(m, LayerNormOverStd)]
    assert scales[0].min() < 0.2 < 0.8 < scales[0].max()


@pytest.mark.parametrize("config", [TINY, TINY_CURRENT, replace(TINY, dropout=0.5)])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_inference_has_neither_noise_nor_dropout_and_takes_any_multiple_of_4(
    config: UNITConfig, direction: str
) -> None:
    torch.manual_seed(0)
    method = UNIT(config).train()
    network = method.inference(direction)
    image = torch.rand(2, 3, 36, 64) * 2 - 1
    translated = network(image)
    assert translated.shape == image.shape
    torch.testing.assert_close(network(image), translated, rtol=0, atol=0)
    encoder, decoder = {"a2b": ("enc_a", "dec_b"), "b2a": ("enc_b", "dec_a")}[direction]
    method.eval()
    expected = method.decode(getattr(method, decoder), method.encode(getattr(method, encoder), image))
    torch.testing.assert_close(translated, expected)


def test_gaussian_downsample_halves_both_axes() -> None:
    """Over a ramp the blur changes nothing, away from the border."""
    ramp = torch.arange(12.0).expand(1, 1, 6, 12)
    small = GaussianDownsample()(ramp)
    assert small.shape == (1, 1, 3, 6)
    assert small[0, 0, 1, 1:].tolist() == [2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"share_blocks": 5}, "--share-blocks 5"),
        ({"image_size": 66, "load_size": 66}, "--image-size 66"),
        ({"variant": "current", "dropout": 0.5}, "--dropout"),
        ({"variant": "current", "image_size": 32}, "--disc-scales"),
        ({"perceptual_weight": 1.0}, "--perceptual-weights"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], flag: str) -> None:
    with pytest.raises(OptionError, match=flag):
        UNITConfig(**options)
