"""CUT and FastCUT: published sizes, what PatchNCE compares, losses by hand, blur filters, who learns when."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from i2i_trainer.blocks import BlurDownsample, BlurUpsample
from i2i_trainer.errors import OptionError
from i2i_trainer.methods.cut import CUT, CUTConfig, FastCUT, FastCUTConfig

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, Listener, MakeAnswer, MakeBatch, Record

TINY = CUTConfig(
    width=4, blocks=5, disc_width=4, disc_layers=2, feature_size=8, patches=16, image_size=32, load_size=32
)
TINY_FAST = FastCUTConfig(
    width=4, blocks=5, disc_width=4, disc_layers=2, feature_size=8, patches=16, image_size=32, load_size=32
)


@pytest.fixture
def method() -> CUT:
    torch.manual_seed(0)
    return CUT(TINY)


@pytest.fixture(scope="module")
def full() -> CUT:
    with torch.device("meta"):
        return CUT(CUTConfig())


def test_networks_have_the_published_size(cost: Cost, full: CUT) -> None:
    parameters, macs = cost(full.inference(), (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (11.38, 64.05)
    assert round(cost(full.disc, (1, 3, 256, 256))[0] / 1e6, 3) == 2.765
    assert full.disc(torch.empty(1, 3, 256, 256, device="meta")).shape == (1, 1, 30, 30)


def test_patch_nce_reads_the_stated_layers(full: CUT) -> None:
    maps = full.gen.stages(torch.empty(1, 3, 256, 256, device="meta"))
    assert [tuple(x.shape[1:]) for x in maps] == [
        (3, 262, 262),
        (128, 256, 256),
        (256, 128, 128),
        (256, 64, 64),
        (256, 64, 64),
    ]
    inputs = [full.projection.get_parameter(f"{level}.0.weight").shape[1] for level in range(5)]
    assert inputs == [3, 128, 256, 256, 256]


def test_the_projection_is_built_before_the_optimiser(method: CUT) -> None:
    learned = {id(p) for group in method.optimisers()["gen"].param_groups for p in group["params"]}
    assert {id(p) for p in method.projection.parameters()} <= learned


def test_the_discriminator_learns_first_and_alone(method: CUT, record: Record, batch: MakeBatch) -> None:
    update = record(method)
    method.step(batch(2, 32), update)
    assert update.order == ["disc", "gen"]
    assert update.networks(update.learned) == [{"disc"}, {"gen", "projection"}]
    assert update.networks(update.moved) == [{"disc"}, {"gen", "projection"}]
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_projected_features_are_unit_vectors_of_the_same_places(method: CUT) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    place = torch.tensor([0, 7, 35])
    features = method.projection[0](x[:, :, [0, 1, 5], [0, 1, 5]].transpose(1, 2))
    maps = [x, *(torch.randn(2, c, 6, 6) for c in (8, 16, 16, 16))]
    projected = method.projection(maps, [place] * 5)
    assert [tuple(p.shape) for p in projected] == [(2, 3, 8)] * 5
    torch.testing.assert_close(projected[0], features / features.norm(dim=2, keepdim=True))


def test_no_more_places_are_compared_than_there_are(method: CUT) -> None:
    """An image of 8 x 8 has 4 places in its smallest maps."""
    seen: list[int] = []
    method.projection.register_forward_pre_hook(lambda _, inputs: seen.extend(len(x) for x in inputs[1]))
    image = torch.rand(1, 3, 8, 8)
    method.nce(image, image, mirrored=False)
    assert seen[:5] == [16, 16, 16, 4, 4]


@pytest.mark.parametrize(("config", "total"), [(TINY, 1 + 0.5 * (3 + 3)), (TINY_FAST, 1 + 10 * 3)])
def test_losses_by_hand(
    monkeypatch: pytest.MonkeyPatch,
    answer: MakeAnswer,
    flat_batch: FlatBatch,
    config: CUTConfig,
    total: float,
    listen: Listener,
) -> None:
    """The discriminator says the image, the generator answers 0, and every NCE is 3."""
    method = (FastCUT if isinstance(config, FastCUTConfig) else CUT)(config)
    method.gen = answer(lambda x: 0 * x)
    method.disc = answer(lambda x: x)
    monkeypatch.setattr(method, "nce", lambda source, translated, mirrored: torch.tensor(3.0))
    method.step(flat_batch(0.4, 0.8), listen)
    assert listen.order == ["disc", "gen"]
    assert listen.losses == pytest.approx([0.5 * (0.2**2 + 0), total])


def test_features_of_a_mirrored_translation_are_mirrored_back(
    monkeypatch: pytest.MonkeyPatch, method: CUT
) -> None:
    stages = lambda x: [x[:, :1], *(x.repeat(1, c, 1, 1)[:, :c] for c in (8, 16, 16, 16))]  # noqa: E731
    monkeypatch.setattr(method.gen, "stages", stages)
    method.projection[0] = nn.Sequential(nn.Linear(1, 8))
    image = torch.rand(1, 3, 8, 8)

    def nce(translated: torch.Tensor, mirrored: bool) -> float:
        torch.manual_seed(0)
        return method.nce(image, translated, mirrored).item()

    assert nce(image.flip(3), True) == nce(image, False)
    assert nce(image.flip(3), False) != nce(image, False)


def test_fastcut_mirrors_half_of_the_images_and_cut_none(
    monkeypatch: pytest.MonkeyPatch, batch: MakeBatch, listen: Listener
) -> None:
    for kind, config in ((CUT, TINY), (FastCUT, TINY_FAST)):
        method = kind(config)
        seen: list[bool] = []

        def nce(_: object, __: object, mirrored: bool, seen: list[bool] = seen) -> torch.Tensor:
            seen.append(mirrored)
            return torch.zeros(())

        monkeypatch.setattr(method, "nce", nce)
        torch.manual_seed(0)
        for _ in range(12):
            method.step(batch(1, 32), listen)
        assert set(seen) == ({False} if kind is CUT else {True, False})


def test_blur_downsample_is_the_binomial_filter() -> None:
    x = torch.randn(2, 3, 10, 13)
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=3)
    torch.testing.assert_close(BlurDownsample()(x), expected)


def test_blur_upsample_is_the_transposed_filter_over_replicated_borders() -> None:
    x = torch.randn(2, 3, 5, 6)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = F.conv_transpose2d(padded, kernel, stride=2, padding=3, groups=3)
    torch.testing.assert_close(BlurUpsample()(x), expected)


def test_initialisation() -> None:
    torch.manual_seed(0)
    method = CUT(replace(TINY, width=16))
    weight = method.gen.get_parameter("blocks.0.body.0.weight")  # fan in and out 9 x 64
    assert weight.std().item() == pytest.approx(0.02 * (2 / (2 * 9 * 64)) ** 0.5, rel=0.05)
    assert all(p.abs().max() == 0 for name, p in method.named_parameters() if name.endswith("bias"))


def test_inference_is_one_direction_at_any_multiple_of_4(method: CUT) -> None:
    assert method.directions() == ("a2b",)
    image = torch.rand(2, 3, 36, 64) * 2 - 1
    torch.testing.assert_close(method.inference()(image), method.gen(image), rtol=0, atol=0)


def test_an_image_too_small_for_the_discriminator_is_refused() -> None:
    with pytest.raises(OptionError, match="--image-size 12"):
        replace(TINY, image_size=12)
    smallest = replace(TINY, image_size=16)
    assert CUT(smallest).disc(torch.rand(1, 3, 16, 16)).numel() > 0


def test_fewer_blocks_than_patch_nce_reads_are_refused() -> None:
    with pytest.raises(OptionError, match="--blocks 4"):
        CUTConfig(blocks=4)
