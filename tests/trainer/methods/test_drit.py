"""DRIT: published sizes, the rhythm of its updates, losses by hand, attributes at inference."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from i2i_trainer.errors import OptionError
from i2i_trainer.losses import kl_normal
from i2i_trainer.method import Batch
from i2i_trainer.methods.drit import DRIT, Attribute, DRITConfig, attribute_kl

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, Listener, MakeAnswer, MakeBatch, Record

TINY = DRITConfig(
    width=4, disc_width=4, disc_scales=2, content_halvings=1, attribute_size=2, image_size=64, load_size=64
)
GENERATORS = {"domain_a", "domain_b", "enc_shared", "dec_shared"}


@pytest.fixture
def method() -> DRIT:
    torch.manual_seed(0)
    return DRIT(TINY)


@pytest.mark.parametrize(
    ("concat", "encoders", "generators", "giga"), [(True, 9.02, 9.56, 45.52), (False, 9.02, 17.15, 57.00)]
)
def test_networks_have_the_published_size(
    cost: Cost, concat: bool, encoders: float, generators: float, giga: float
) -> None:
    with torch.device("meta"):
        method = DRIT(DRITConfig(concat=concat))

    def millions(*networks: nn.Module) -> float:
        return round(sum(p.numel() for network in networks for p in network.parameters()) / 1e6, 2)

    assert millions(method.domain_a.content, method.domain_b.content, method.enc_shared) == encoders
    assert millions(method.domain_a.decoder, method.domain_b.decoder, method.dec_shared) == generators
    assert round(cost(method.inference(), (1, 3, 256, 256), (1, 8))[1] / 1e9, 2) == giga
    parameters, macs = cost(method.discs["drawn_a"], (1, 3, 256, 256))
    assert (round(parameters / 1e6, 3), round(macs / 1e9, 2)) == (8.271, 2.18)
    code = method.enc_shared(method.domain_a.content(torch.empty(1, 3, 216, 216, device="meta")))
    assert code.shape == (1, 256, 54, 54)
    assert method.content_disc(code).shape == (1, 1, 1, 1)


@pytest.mark.parametrize("concat", [True, False])
def test_two_steps_of_three_move_the_content_discriminator_alone(
    record: Record, batch: MakeBatch, concat: bool
) -> None:
    torch.manual_seed(0)
    method = DRIT(replace(TINY, concat=concat))
    update = record(method)
    for update.step in range(6):
        method.step(batch(2, 64), update)
    third = ["content_disc", "disc", "gen", "gen"]
    assert update.order == ["content_disc", "content_disc", *third] * 2
    generators = GENERATORS if concat else GENERATORS - {"dec_shared"}
    expected = [{"content_disc"}, {"content_disc"}, {"content_disc"}, {"discs"}, generators, generators] * 2
    assert update.networks(update.learned) == expected
    assert update.networks(update.moved) == expected
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_drawn_attributes_leave_the_attribute_encoders_alone(
    method: DRIT, record: Record, batch: MakeBatch
) -> None:
    update = record(method)
    for update.step in range(3):
        method.step(batch(2, 64), update)
    encoded, drawn = update.moved[-2:]
    assert any(".attribute." in name for name in encoded)
    assert not any(".attribute." in name for name in drawn)
    assert any(".content." in name for name in drawn)
    assert any(".decoder." in name for name in drawn)


def test_the_content_discriminator_is_slower_and_clipped(
    method: DRIT, record: Record, batch: MakeBatch
) -> None:
    update = record(method)
    assert update.optimisers["content_disc"].param_groups[0]["lr"] == pytest.approx(1e-4 / 2.5)
    assert update.optimisers["disc"].param_groups[0]["lr"] == 1e-4
    update.step = 2
    method.step(batch(2, 64), update)
    assert dict(zip(update.order, update.clip_norms, strict=True)) == {
        "content_disc": 5.0,
        "disc": 0.0,
        "gen": 0.0,
    }


def test_losses_by_hand(
    monkeypatch: pytest.MonkeyPatch, method: DRIT, answer: MakeAnswer, listen: Listener
) -> None:
    """Contents are doubled and halved images; attributes are means, added when decoding; all logits are 0."""

    class Encoder(nn.Module):
        def encode(self, image: torch.Tensor) -> Attribute:
            return Attribute(image.mean((1, 2, 3))[:, None], None)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.encode(image).mean

    for domain, factor in ((method.domain_a, 2.0), (method.domain_b, 0.5)):
        domain.content = answer(lambda x, factor=factor: factor * x)
        monkeypatch.setattr(domain, "attribute", Encoder())
        domain.decoder = answer(lambda content, attribute: content + attribute[..., None, None])
    method.enc_shared = method.dec_shared = answer(lambda x: x)
    for name in method.discs:
        method.discs[name] = answer(lambda x: [0 * x, 0 * x])
    method.content_disc = answer(lambda x: 0 * x)
    attributes = iter((0.1, 0.3))
    monkeypatch.setattr(method, "draw_attribute", lambda image: torch.full((1, 1), next(attributes)))
    method.eval()  # no noise
    listen.step = 2
    a, b = torch.full((2, 3, 4, 4), 0.4), torch.full((2, 3, 4, 4), 0.8)
    losses = method.step(Batch(a, b), listen)
    # Contents: a 0.8, b 0.4. With the images' own attributes: b in a is 0.8, a in b is 1.6; their contents 1.6
    # and 0.8, so back again a is 0.8 + 0.8 (attribute of b in a) and b is 1.6 + 1.6.
    half = log(2)
    expected = {
        "content_disc": 2 * half,
        "disc": 4 * 2 * 2 * half,
        "gen": 2 * 2 * half,
        "content_gen": 2 * half,
        "cycle": abs(0.8 + 0.8 - 0.4) + abs(1.6 + 1.6 - 0.8),
        "reconstruction": (0.8 + 0.4 - 0.4) + (0.4 + 0.8 - 0.8),
        "kl": 0.4**2 + 0.8**2 + 0.8**2 + 0.4**2,
        # With 0.1 drawn: b in a is 0.5, a in b is 0.9; with 0.3 both are 0.2 brighter, as are the attributes.
        "drawn_gen": 2 * 2 * half,
        "attribute": (0.5 - 0.1) + (0.9 - 0.1),
        "mode_seeking": 2 / (1 + 1e-5),
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
    weights = {"cycle": 10, "reconstruction": 10, "kl": 0.01, "attribute": 10}
    totals = [
        sum(weights.get(name, 1) * expected[name] for name in names.split())
        for names in (
            "content_disc",
            "disc",
            "gen content_gen cycle reconstruction kl",
            "drawn_gen attribute mode_seeking",
        )
    ]
    assert listen.order == ["content_disc", "disc", "gen", "gen"]
    assert listen.losses == pytest.approx(totals, rel=1e-5)


def test_attributes_with_a_variance_are_drawn_and_their_divergence_summed() -> None:
    mean, log_variance = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.5]])
    attribute = Attribute(mean, log_variance)
    assert attribute_kl(attribute) == kl_normal(mean, log_variance)
    torch.manual_seed(0)
    noise = torch.randn(1, 2)
    torch.manual_seed(0)
    expected = attribute.mean + torch.tensor([[1.0, 0.25]]).exp() ** torch.tensor([[0.0, 1.0]]) * noise
    torch.testing.assert_close(attribute.draw(), expected)


@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_inference_takes_drawn_named_and_borrowed_attributes(concat: bool, direction: str) -> None:
    torch.manual_seed(0)
    method = DRIT(replace(TINY, concat=concat)).train()
    if not concat:
        nn.init.normal_([*method.domain_a.decoder.get_submodule("mlp").parameters()][-2])
    network = method.inference(direction)
    image = torch.rand(2, 3, 36, 64) * 2 - 1
    plain = network(image)
    assert plain.shape == image.shape
    torch.testing.assert_close(network(image, torch.zeros(2, 2)), plain, rtol=0, atol=0)
    assert not torch.equal(network(image, torch.full((2, 2), 5.0)), plain)
    source, target = {
        "a2b": (method.domain_a, method.domain_b),
        "b2a": (method.domain_b, method.domain_a),
    }[direction]
    method.eval()
    borrowed = method.style_encoder(direction)(image)
    torch.testing.assert_close(borrowed, target.attribute.encode(image).mean)
    expected = method.decode(target, method.content(source, image), borrowed)
    torch.testing.assert_close(network(image, borrowed), expected)
    assert len(network.presets["style-1"]) == network.style_size == 2


@pytest.mark.parametrize(
    ("options", "flag"),
    [({"batch": 3}, "--batch 3"), ({"image_size": 64}, "--content-halvings"), ({"image_size": 218}, "218")],
)
def test_contradictions_are_refused(options: dict[str, Any], flag: str) -> None:
    with pytest.raises(OptionError, match=flag):
        DRITConfig(**options)
