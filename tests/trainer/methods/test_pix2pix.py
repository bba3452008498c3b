"""pix2pix: published sizes, order of updates, losses by hand, initialisation, and the two batch-norm modes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from i2i_trainer.blocks import PatchDiscriminator
from i2i_trainer.errors import OptionError
from i2i_trainer.methods.pix2pix import Pix2Pix, Pix2PixConfig
from i2i_trainer.unet import UNet

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, FlatBatch, Listener, MakeAnswer, MakeBatch, Record

TINY: dict[str, Any] = {
    "width": 4,
    "downs": 6,
    "disc_width": 4,
    "disc_layers": 2,
    "image_size": 64,
    "load_size": 64,
}


def make(**options: Any) -> Pix2Pix:
    torch.manual_seed(0)
    return Pix2Pix(Pix2PixConfig(**{**TINY, **options}))


def test_networks_have_the_published_sizes(cost: Cost) -> None:
    with torch.device("meta"):
        unet = UNet(64, 8, norm=nn.BatchNorm2d, bias=False, dropout=True)
        discriminator = PatchDiscriminator(6, norm=nn.BatchNorm2d, bias=False)
    parameters, macs = cost(unet, (1, 3, 256, 256))
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 2)) == (54.41, 6.05)
    assert discriminator(torch.empty(1, 6, 256, 256, device="meta")).shape == (1, 1, 30, 30)


def test_unet_has_norms_and_dropout_where_the_paper_has_them() -> None:
    unet = UNet(2, 8, norm=nn.BatchNorm2d, bias=False, dropout=True)
    has = [[type(layer) for layer in level] for level in [*unet.downs, *unet.ups]]
    assert [nn.BatchNorm2d in kinds for kinds in has] == [False] + 6 * [True] + [False] + 7 * [True] + [False]
    assert [nn.Dropout in kinds for kinds in has] == 9 * [False] + 3 * [True] + 4 * [False]
    assert any(name.startswith("ups.7") and name.endswith("bias") for name, _ in unet.named_parameters())


def test_discriminator_learns_first_on_the_same_translation(record: Record, batch: MakeBatch) -> None:
    method = make()
    update = record(method)
    method.step(batch(2, 64), update)
    assert update.order == ["disc", "gen"]
    assert update.networks(update.learned) == [{"discriminator"}, {"generator"}]
    assert update.networks(update.moved) == [{"discriminator"}, {"generator"}]


def test_losses_by_hand(listen: Listener, answer: MakeAnswer, flat_batch: FlatBatch) -> None:
    # The generator halves a = 0.8, so |0.4 - b| = 0.6; the discriminator answers with the mean of what it sees.
    method = make()
    method.generator = answer(lambda a: 0.5 * a)
    method.discriminator = answer(lambda pair: pair.mean().reshape(1, 1))
    method.step(flat_batch(0.8, -0.2), listen)
    real, fake = (0.8 - 0.2) / 2, (0.8 + 0.4) / 2
    disc = 0.5 * (math.log1p(math.exp(-real)) + math.log1p(math.exp(fake)))
    gen = math.log1p(math.exp(-fake)) + 100 * 0.6
    assert listen.losses == pytest.approx([disc, gen])


def test_initialisation_is_normal() -> None:
    method = make(width=32)
    weights = method.generator.get_parameter("downs.4.1.weight")
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    gammas = torch.cat([m.weight for m in method.modules() if isinstance(m, nn.BatchNorm2d)])
    assert gammas.mean().item() == pytest.approx(1.0, abs=0.005)
    assert gammas.std().item() == pytest.approx(0.02, rel=0.15)


def test_instance_mode_is_the_training_mode_batch_norm_of_one_image(record: Record, batch: MakeBatch) -> None:
    method = make(batch_norm="instance")
    method.step(batch(2, 64), record(method))
    inference = method.inference()
    assert inference.notes == {"batch norm": "instance", "dropout": "off"}
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    for size in ((64, 64), (64, 128)):
        image = torch.rand(1, 3, *size) * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(inference(image), method.generator(image), atol=1e-5, rtol=0)


def test_running_mode_is_the_evaluation_mode(record: Record, batch: MakeBatch) -> None:
    method = make(batch_norm="running")
    method.step(batch(2, 64), record(method))
    inference = method.inference()
    assert inference.notes["batch norm"] == "running"
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(inference(image), method.eval().generator(image), atol=0, rtol=0)
        own = make().inference()(image)
    assert not torch.allclose(own, inference(image), atol=1e-3)


def test_inference_normalises_as_training_did() -> None:
    for batch, statistics in ((1, "instance"), (4, "running")):
        method = make(batch=batch)
        assert method.inference().notes["batch norm"] == statistics
        chosen = make(batch=batch, batch_norm="instance")
        assert chosen.inference().notes["batch norm"] == "instance"


def test_preview_leaves_the_running_statistics_alone(batch: MakeBatch) -> None:
    method = make()
    before = {name: value.clone() for name, value in method.named_buffers()}
    method.preview(batch(2, 64))
    assert all(torch.equal(value, before[name]) for name, value in method.named_buffers())


def test_a_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple of 256"):
        Pix2PixConfig(image_size=128, load_size=143)
    with pytest.raises(OptionError, match="--downs is 4"):
        Pix2PixConfig(downs=4)
