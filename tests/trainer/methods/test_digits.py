"""CoGAN and UNIT's digits networks: published sizes, losses by hand, labels of the target never read."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from i2i_trainer.checkpoint import read_config, write_config
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.images import ImageFile
from i2i_trainer.layouts import Domains
from i2i_trainer.method import Batch
from i2i_trainer.methods.cogan import CoGAN, CoGANConfig, grey, shown
from i2i_trainer.methods.unit_digits import (
    Code,
    UNITDigits,
    UNITDigitsConfig,
    code_divergence,
    with_coordinates,
)

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, Listener, MakeAnswer, Record

TINY_COGAN = CoGANConfig(width=16, noise_size=5, disc_width=4)
TINY_UNIT = UNITDigitsConfig(width=4, disc_width=4)


def digits(size: int, count: int = 4, label: int = 3) -> Batch:
    torch.manual_seed(3)
    a, b = (torch.rand(count, 3, size, size) * 2 - 1 for _ in "ab")
    return Batch(a, b, labels_a=torch.full((count,), label))


def tiny_cogan() -> tuple[CoGAN, Batch]:
    torch.manual_seed(0)
    return CoGAN(TINY_COGAN), digits(28)


def tiny_unit() -> tuple[UNITDigits, Batch]:
    torch.manual_seed(0)
    return UNITDigits(TINY_UNIT), digits(32)


def tiny(kind: str) -> tuple[CoGAN | UNITDigits, Batch]:
    return tiny_cogan() if kind == "cogan" else tiny_unit()


def test_cogan_has_the_published_size(cost: Cost) -> None:
    with torch.device("meta"):
        method = CoGAN(CoGANConfig())
    assert round(sum(p.numel() for p in method.gen.parameters()) / 1e6, 2) == 7.84
    assert round(cost(method.inference(), (1, 3, 28, 28), (1, 100))[1] / 1e9, 3) == 0.188
    classifier = nn.Sequential(method.disc.start_b, method.disc.shared.features, method.disc.shared.classes)
    parameters, macs = cost(classifier, (1, 1, 28, 28))
    assert (round(parameters / 1e6, 2), round(macs / 1e6, 1)) == (0.43, 2.3)


@pytest.mark.parametrize(
    ("width", "millions", "giga"), [(96, 22.61, 0.274), (64, 10.05, 0.123), (32, 2.52, 0.031)]
)
def test_unit_digits_has_the_published_size(cost: Cost, width: int, millions: float, giga: float) -> None:
    with torch.device("meta"):
        method = UNITDigits(UNITDigitsConfig(width=width))
    assert round(sum(p.numel() for p in method.gen.parameters()) / 1e6, 2) == millions
    assert round(cost(method.inference(), (1, 3, 32, 32))[1] / 1e9, 3) == giga
    assert round(sum(p.numel() for p in method.disc.parameters()) / 1e6, 2) == 4.33
    classifier = nn.Sequential(method.disc.start_b, *method.disc.stages, method.disc.classes)
    assert round(cost(classifier, (1, 1, 32, 32))[1] / 1e9, 3) == 0.159


@pytest.mark.parametrize("kind", ["cogan", "unit"])
def test_the_discriminator_learns_first_and_alone(record: Record, kind: str) -> None:
    method, batch = tiny(kind)
    update = record(method)
    method.step(batch, update)
    assert update.order == ["disc", "gen"]
    assert update.networks(update.learned) == [{"disc"}, {"gen"}]
    assert update.networks(update.moved) == [{"disc"}, {"gen"}]
    assert all(parameter.requires_grad for parameter in method.parameters())


@pytest.mark.parametrize("kind", ["cogan", "unit"])
def test_labels_of_the_target_are_never_read(record: Record, kind: str) -> None:
    results = []
    for labels_b in (None, torch.tensor([1, 2, 3, 4])):
        method, batch = tiny(kind)
        torch.manual_seed(1)
        method.step(replace(batch, labels_b=labels_b), record(method))
        results.append(torch.cat([p.detach().flatten() for p in method.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["cogan", "unit"])
def test_images_without_classes_are_refused(record: Record, kind: str) -> None:
    method, batch = tiny(kind)
    with pytest.raises(DataError, match="--layout digits"):
        method.step(replace(batch, labels_a=None), record(method))


@pytest.mark.parametrize("kind", ["cogan", "unit"])
def test_the_classifier_learns_the_source(record: Record, kind: str) -> None:
    """Images of two classes, bright and dark: a few steps are enough to tell them apart."""
    method, batch = tiny(kind)
    method.config = replace(method.config, lr=2e-3)
    labels = torch.tensor([0, 1, 0, 1])
    images = (1 - 2 * labels.float()).view(4, 1, 1, 1).expand(-1, 3, *batch.a.shape[2:]).clone()
    update = record(method)
    for _ in range(20):
        method.step(Batch(images, batch.b, labels_a=labels), update)
    method.eval()
    assert method.classify(images, "a").argmax(dim=1).tolist() == labels.tolist()
    assert method.classify(batch.b).shape == (4, 10)


class Silent(nn.Module):
    """A discriminator of logits 0: every cross entropy is known. Features are the images'."""

    def __init__(self) -> None:
        super().__init__()
        self.start_a = self.start_b = nn.Sequential()

    def discriminate(self, *images: Tensor) -> Tensor:
        return torch.zeros(sum(len(x) for x in images), 2)

    def classify(self, images: Tensor, start: object = None) -> Tensor:
        return torch.zeros(len(images), 10)

    def features(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        return a if b is None else torch.cat([a, b])


def test_cogan_losses_by_hand(monkeypatch: pytest.MonkeyPatch, answer: MakeAnswer, listen: Listener) -> None:
    method, batch = tiny_cogan()
    monkeypatch.setattr(method, "disc", Silent())
    drawn = torch.zeros(4, 1, 28, 28)
    method.gen = answer(lambda noise: (drawn, drawn + 0.5))
    losses = method.step(batch, listen)
    feature = 28 * 28 * 0.25
    assert losses["feature"].item() == pytest.approx(feature)
    disc = 2 * log(2) + 0.01 * feature + 10 * log(10)
    assert listen.order == ["disc", "gen"]
    assert listen.losses == pytest.approx([disc, log(2)])


@pytest.mark.parametrize(("distance", "apart"), [("l1", 0.5), ("squared", 0.25)])
def test_unit_digits_losses_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    answer: MakeAnswer,
    listen: Listener,
    distance: Literal["l1", "squared"],
    apart: float,
) -> None:
    """Both decoders add 0.5 in the target's rendering; the code is 1 with a deviation of 2."""
    config = replace(TINY_UNIT, channels=(1, 1), invert_target=False, feature_distance=distance)
    method = UNITDigits(config)
    monkeypatch.setattr(method, "disc", Silent())
    batch = digits(32)
    a, b = (x.mean(dim=1, keepdim=True) for x in (batch.a, batch.b))
    code = Code(torch.ones(8, 16, 1, 1), torch.full((8, 16, 1, 1), 2.0))

    class Generator(nn.Module):
        def enc_a(self, x: Tensor) -> Tensor:
            return x[:, :1]

        enc_b = enc_a

        def code(self, features: Tensor) -> Code:
            self.features = features
            return code

        def sample(self, _: Code) -> Tensor:
            return self.features

        def dec_shared(self, x: Tensor) -> Tensor:
            return x

        dec_a = dec_shared

        def dec_b(self, x: Tensor) -> Tensor:
            return x + 0.5

    monkeypatch.setattr(method, "gen", Generator())
    losses = method.step(batch, listen)
    pixels = 32 * 32
    divergence = 2 * 16 * (1 + 4 - log(4))
    expected = {
        "disc": log(2) + 0.5 * 2 * log(2),
        "class": log(10),
        "feature": 2 * apart * pixels,
        "gen": 2 * log(2),
        "kl": divergence,
        "reconstruction": 0.25 * pixels,
    }
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)
    disc = 2 * log(2) + 10 * log(10) + 1e-4 * expected["feature"]
    gen = 2 * log(2) + 1e-4 * divergence + 1e-3 * 0.25 * pixels
    assert listen.order == ["disc", "gen"]
    assert listen.losses == pytest.approx([disc, gen], rel=1e-5)
    assert a.shape == b.shape


def test_a_run_from_before_the_option_goes_on_with_squared_differences(tmp_path: Path) -> None:
    write_config(tmp_path, "unit-digits", TINY_UNIT)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["config"].pop("feature_distance") == "l1"
    (tmp_path / "config.json").write_text(json.dumps(written))
    _, config = read_config(tmp_path)
    assert isinstance(config, UNITDigitsConfig)
    assert config.feature_distance == "squared"


def test_grey_digits_with_three_channels_are_told(tmp_path: Path) -> None:
    for name, colour in (("a", (200, 40, 40)), ("b", (90, 90, 90))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), colour).save(tmp_path / name / "0.png")
    red, grey = ([ImageFile(tmp_path / name / "0.png")] for name in "ab")
    domains = Domains("digits", ("red", "grey"), red, grey, False, (), None, None)

    def told(channels: tuple[int, int]) -> list[str]:
        return UNITDigits(replace(TINY_UNIT, channels=channels)).check_data(domains)

    assert told((3, 1)) == []
    (sentence,) = told((3, 3))
    assert sentence.startswith("The digits of grey are grey")


def test_divergence_of_the_code_counts_both_domains_and_twice() -> None:
    code = Code(torch.tensor([[3.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
    assert code_divergence(code).item() == pytest.approx(2 * (9 + 1 - 0 + 1 + 4 - log(4)) / 2)


def test_coordinates_run_from_minus_1_by_sixteenths() -> None:
    coordinates = with_coordinates(torch.zeros(2, 1, 32, 32))[:, 1:]
    assert coordinates.shape == (2, 2, 32, 32)
    assert coordinates[1, 0, :, 5].tolist() == [(row - 16) / 16 for row in range(32)]
    assert coordinates[1, 1, 5, :].tolist() == [(column - 16) / 16 for column in range(32)]


def test_half_of_the_target_digits_are_shown_in_negative(answer: MakeAnswer, listen: Listener) -> None:
    method, batch = tiny_unit()
    seen: list[Tensor] = []
    method.gen.enc_b.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, :1]))
    method.step(Batch(batch.a, torch.ones(4, 3, 32, 32), batch.labels_a), listen)
    signs = [set(image.flatten().tolist()) for image in seen[0]]
    assert all(sign in ({1.0}, {-1.0}) for sign in signs)
    for _ in range(4):
        method.step(Batch(batch.a, torch.ones(4, 3, 32, 32), batch.labels_a), listen)
    share = torch.cat(seen[::2]).mean(dim=(1, 2, 3))
    assert set(share.tolist()) == {-1.0, 1.0}


def test_dropout_spares_the_features() -> None:
    method, batch = tiny_unit()
    disc = method.disc.train()
    start = disc.start_a(batch.a)
    torch.testing.assert_close(disc.features(start), disc.features(start), rtol=0, atol=0)
    assert not torch.equal(disc.classify(start), disc.classify(start))


def test_initialisation() -> None:
    torch.manual_seed(0)
    cogan = CoGAN(replace(TINY_COGAN, disc_width=20))
    bound = 2**0.5 * (6 / (25 * 20 + 25 * 50)) ** 0.5
    weight = cogan.disc.get_parameter("shared.features.0.weight")
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert all(torch.all(p == 0.1) for name, p in cogan.named_parameters() if name.endswith("bias"))
    unit = UNITDigits(replace(TINY_UNIT, width=16))
    assert unit.gen.mean.bias is not None
    assert unit.gen.mean.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert 0.001 < unit.gen.mean.bias.std().item() < 0.003
    assert unit.disc.adversary.bias is not None
    assert unit.disc.adversary.bias.tolist() == pytest.approx([0.1] * len(unit.disc.adversary.bias))


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_inference_of_cogan_draws_the_same_pair_from_the_same_noise(direction: str) -> None:
    method, batch = tiny_cogan()
    method.eval()
    network = method.inference(direction)
    assert network.fixed_size == (28, 28)
    noise = torch.randn(4, network.style_size)
    drawn = method.gen(noise)[{"a2b": 1, "b2a": 0}[direction]]
    torch.testing.assert_close(network(batch.a, noise), shown(drawn))
    assert network(batch.a).shape == batch.a.shape
    torch.testing.assert_close(grey(shown(drawn)), drawn)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_inference_of_unit_digits_decodes_the_mean(direction: str) -> None:
    method, batch = tiny_unit()
    network = method.inference(direction)
    assert network.fixed_size == (32, 32)
    method.eval()
    made = method.translate(batch.a, batch.b.mean(dim=1, keepdim=True))
    image, expected = {"a2b": (batch.a, made.ab), "b2a": (batch.b, made.ba)}[direction]
    torch.testing.assert_close(network(image), expected.expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match="--image-size"):
        CoGANConfig(image_size=32, load_size=32)
    with pytest.raises(OptionError, match="--image-size"):
        UNITDigitsConfig(image_size=28, load_size=28)
