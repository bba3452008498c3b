"""MUNIT: published sizes, losses by hand, styles at inference, and who learns when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from i2i_trainer.errors import OptionError
from i2i_trainer.methods.munit import MUNIT, MUNITConfig
from i2i_trainer.norms import InstanceNorm

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, Listener, MakeAnswer, MakeBatch, Record

TINY = MUNITConfig(width=4, blocks=2, disc_width=4, disc_scales=2, image_size=64, load_size=64)


@pytest.fixture
def method() -> MUNIT:
    torch.manual_seed(0)
    return MUNIT(TINY)


def test_one_direction_has_the_published_size(cost: Cost) -> None:
    with torch.device("meta"):
        method = MUNIT(MUNITConfig())
    network = method.inference()
    parameters, macs = cost(network, (1, 3, 256, 256), (1, 8))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (12.26, 71.03)
    reference, reference_macs = cost(method.style_encoder(), (1, 3, 256, 256))
    assert (round(reference / 1e6, 3), round(reference_macs / 1e9, 2)) == (2.765, 6.25)
    assert round((parameters + reference) / 1e6, 2) == 15.03
    assert round((macs + reference_macs) / 1e9, 2) == 77.28
    assert method.domain_a.mlp.layers[-1].out_features == 4096
    parameters, macs = cost(method.disc_a, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 3), round(macs / 1e9, 2)) == (8.271, 2.18)


def test_the_shift_stands_before_the_scale_in_every_slice(method: MUNIT) -> None:
    mlp = method.domain_a.mlp
    last = mlp.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    last.bias.data = torch.arange(2.0 * 4 * 16)
    first_scale, first_shift = mlp(torch.zeros(1, 8))[0]
    assert first_shift[0].tolist() == list(range(16))
    assert first_scale[0].tolist() == list(range(16, 32))


def test_discriminators_learn_first_and_alone(method: MUNIT, record: Record, batch: MakeBatch) -> None:
    update = record(method)
    method.step(batch(2, 64), update)
    assert update.order == ["disc", "gen"]
    expected = [{"disc_a", "disc_b"}, {"domain_a", "domain_b"}]
    assert update.networks(update.learned) == expected
    assert update.networks(update.moved) == expected
    still = {name for name, _ in method.domain_a.named_parameters()} - {
        name.removeprefix("domain_a.") for name in update.moved[1]
    }
    # Biases of convolutions in front of an instance norm are cancelled by it; everything else moves.
    assert all("bias" in name for name in still)
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_losses_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    method: MUNIT,
    answer: MakeAnswer,
    flat_batch: FlatBatch,
    listen: Listener,
) -> None:
    """Styles are one number, added to the content; contents of a are doubled images, those of b halved ones."""
    for domain, factor in ((method.domain_a, 2.0), (method.domain_b, 0.5)):
        domain.content = answer(lambda x, factor=factor: factor * x)
        domain.style = answer(lambda x: x.mean((1, 2, 3))[:, None])
        domain.mlp = answer(lambda style: style)
        domain.decoder = answer(lambda content, style: content + style[..., None, None])
    method.disc_a = method.disc_b = answer(lambda x: [x, 2 * x])
    monkeypatch.setattr(method, "draw_style", lambda image: torch.full((1, 1), 0.1))
    losses = method.step(flat_batch(0.4, 0.8), listen)
    # Contents: a 0.8, b 0.4. Translations: a in b 0.9, b in a 0.5. Their contents: 0.45 and 1.0.
    disc = sum((x - 1) ** 2 for x in (0.4, 0.8, 0.8, 1.6)) + sum(x**2 for x in (0.5, 1.0, 0.9, 1.8))
    expected = {
        "gen": sum((x - 1) ** 2 for x in (0.5, 1.0, 0.9, 1.8)),
        "reconstruction": (0.8 + 0.4 - 0.4) + (0.4 + 0.8 - 0.8),
        "style": (0.5 - 0.1) + (0.9 - 0.1),
        "content": (0.8 - 0.45) + (1.0 - 0.4),
        "cycle": (0.45 + 0.4 - 0.4) + (1.0 + 0.8 - 0.8),
    }
    assert {name: losses[name].item() for name in expected} == pytest.approx(expected)
    weights = {"gen": 1, "reconstruction": 10, "style": 1, "content": 1, "cycle": 10}
    assert listen.losses == pytest.approx(
        [disc, sum(weights[name] * value for name, value in expected.items())]
    )


def test_styles_are_drawn_anew_for_each_update(
    monkeypatch: pytest.MonkeyPatch, method: MUNIT, batch: MakeBatch, listen: Listener
) -> None:
    torch.manual_seed(1)
    drawn: list[torch.Tensor] = []
    draw = method.draw_style

    def draw_and_note(image: torch.Tensor) -> torch.Tensor:
        drawn.append(draw(image))
        return drawn[-1]

    monkeypatch.setattr(method, "draw_style", draw_and_note)
    method.step(batch(2, 64), listen)
    assert len({tuple(style.flatten().tolist()) for style in drawn}) == 4


def test_initialisation() -> None:
    torch.manual_seed(0)
    domain = MUNIT(MUNITConfig(width=16, disc_width=32)).domain_a
    assert domain.decoder.get_parameter("blocks.0.conv1.weight").std().item() == pytest.approx(
        (2 / (9 * 64)) ** 0.5, rel=0.05
    )
    middle = domain.mlp.layers[2]
    assert isinstance(middle, nn.Linear)
    assert middle.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.05)
    assert middle.bias.abs().max() == 0
    assert not any(isinstance(layer, InstanceNorm) for layer in domain.style.modules())


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_inference_takes_drawn_named_and_borrowed_styles(method: MUNIT, direction: str) -> None:
    network = method.inference(direction)
    image = torch.rand(2, 3, 36, 64) * 2 - 1
    plain = network(image)
    assert plain.shape == image.shape
    assert network.style_size == 8
    torch.testing.assert_close(network(image, torch.zeros(2, 8)), plain)
    named = network(image, torch.tensor([network.presets["style-1"]]).expand(2, -1))
    assert (named - plain).abs().mean() > 1e-3
    source, target = {
        "a2b": (method.domain_a, method.domain_b),
        "b2a": (method.domain_b, method.domain_a),
    }[direction]
    borrowed = method.style_encoder(direction)(image)
    torch.testing.assert_close(borrowed, target.style(image))
    torch.testing.assert_close(network(image, borrowed), target.decode(source.content(image), borrowed))


def test_each_image_of_a_batch_has_its_own_style(method: MUNIT) -> None:
    network = method.inference()
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    styles = torch.randn(2, 8)
    together = network(image, styles)
    alone = torch.cat([network(image[i : i + 1], styles[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "options"), [(16, {"disc_layers": 2, "disc_scales": 1}), (32, {})])
def test_an_image_too_small_for_the_style_or_the_coarsest_scale_is_refused(
    size: int, options: dict[str, Any]
) -> None:
    with pytest.raises(OptionError, match=f"--image-size {size}"):
        MUNITConfig(image_size=size, **options)


def test_the_smallest_image_of_the_discriminators_is_served(method: MUNIT) -> None:
    smallest = method.disc_a.smallest_side(4, 2)
    maps = method.disc_a(torch.rand(1, 3, smallest, smallest))
    assert [x.shape[2:] for x in maps] == [(2, 2), (1, 1)]
    with pytest.raises(RuntimeError, match=r"[Pp]adding"):
        method.disc_a(torch.rand(1, 3, smallest // 2, smallest // 2))
