"""CycleGAN against the paper's figures and sums worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from i2i_trainer.blocks import PatchDiscriminator
from i2i_trainer.errors import OptionError
from i2i_trainer.method import Batch
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig, Generator, ImagePool
from i2i_trainer.norms import InstanceNorm
from i2i_trainer.summary import macs_of, parameters_of, summarise


def small(**options: Any) -> CycleGAN:
    values: dict[str, Any] = {
        "width": 4,
        "blocks": 1,
        "disc_width": 4,
        "image_size": 32,
        "load_size": 32,
        **options,
    }
    return CycleGAN(CycleGANConfig(**values))


def images(seed: int, count: int = 1) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Recorder:
    """In place of the loop's update: backward, and who has a gradient afterwards."""

    step = 0
    last_micro_batch = True

    def __init__(self, method: CycleGAN) -> None:
        self.method = method
        self.calls: list[tuple[str, float, set[str]]] = []

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        self.method.zero_grad(set_to_none=True)
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]
        networks = {
            name for name, net in self.method.named_children() for p in net.parameters() if p.grad is not None
        }
        self.calls.append((optimiser, loss.item(), networks))


def test_size_of_the_networks() -> None:
    summary = summarise("cyclegan", CycleGANConfig())
    assert round(summary.inference.parameters / 1e6, 2) == 11.38
    assert summary.inference.macs is not None
    assert round(summary.inference.macs / 1e9, 2) == 49.55
    disc = summary.networks["disc_a"]
    assert round(disc.parameters / 1e6, 3) == 2.765
    assert disc.macs is not None
    assert round(disc.macs / 1e9, 2) == 3.15
    with torch.device("meta"):
        resnet6 = CycleGAN(replace(CycleGANConfig(), **CycleGANConfig.presets["resnet6"])).inference()
    assert round(parameters_of(resnet6) / 1e6, 2) == 7.84
    assert round(macs_of(resnet6, (128, 128)) / 1e9, 2) == 8.76


def test_a_score_of_the_discriminator_sees_70_pixels() -> None:
    torch.manual_seed(0)
    # Instance norm sees the whole map, so the field of view is that of the convolutions alone.
    disc = nn.Sequential(
        *(layer for layer in PatchDiscriminator(width=4) if not isinstance(layer, InstanceNorm))
    )
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    scores = disc(image)
    assert scores.shape == (1, 1, 30, 30)
    scores[0, 0, 15, 15].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(0) > 0
    assert (int(seen.any(1).sum()), int(seen.any(0).sum())) == (70, 70)


def test_weights_start_from_a_normal_of_002() -> None:
    torch.manual_seed(0)
    method = CycleGAN(CycleGANConfig(blocks=2))
    for network in method.children():
        weights = torch.cat(
            [p.detach().flatten() for name, p in network.named_parameters() if name.endswith("weight")]
        )
        assert float(weights.std(correction=0)) == pytest.approx(0.02, rel=0.01)
        assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))


def test_losses_by_hand() -> None:
    """Generators that give grey (tanh 0) and discriminators that say 0.25: every term is plain arithmetic."""
    method = small()
    for name, parameter in method.named_parameters():
        nn.init.zeros_(parameter)
        if name.startswith("disc") and parameter.shape == (1,):
            nn.init.constant_(parameter, 0.25)
    a, b = torch.full((1, 3, 32, 32), 0.5), torch.full((1, 3, 32, 32), -0.75)
    update = Recorder(method)
    losses = {name: value.item() for name, value in method.step(Batch(a, b), update).items()}
    assert losses == pytest.approx(
        {
            "gen": 2 * 0.75**2,
            "cycle": 0.5 + 0.75,
            "identity": 0.5 + 0.75,
            "disc_a": 0.5 * (0.75**2 + 0.25**2),
            "disc_b": 0.5 * (0.75**2 + 0.25**2),
        }
    )
    (gen, gen_loss, _), (disc, disc_loss, _) = update.calls
    assert (gen, disc) == ("gen", "disc")
    assert gen_loss == pytest.approx(2 * 0.75**2 + 10 * 1.25 + 5 * 1.25)
    assert disc_loss == pytest.approx(0.75**2 + 0.25**2)


def test_each_update_reaches_its_own_networks() -> None:
    method = small()
    update = Recorder(method)
    method.step(Batch(images(0), images(1)), update)
    assert [networks for _, _, networks in update.calls] == [{"a2b", "b2a"}, {"disc_a", "disc_b"}]
    owned = {
        name: {id(p) for g in o.param_groups for p in g["params"]} for name, o in method.optimisers().items()
    }
    assert owned["gen"] == {id(p) for net in (method.a2b, method.b2a) for p in net.parameters()}
    assert owned["disc"] == {id(p) for net in (method.disc_a, method.disc_b) for p in net.parameters()}


def test_identity_can_be_left_out() -> None:
    method = small(identity_weight=0.0)
    assert "identity" not in method.step(Batch(images(0), images(1)), Recorder(method))


def test_pool_keeps_fifty_and_exchanges_half() -> None:
    torch.manual_seed(0)
    pool = ImagePool(50)
    first = torch.arange(50.0).view(50, 1, 1, 1)
    assert torch.equal(pool.query(first), first)
    later = torch.arange(50.0, 1050.0).view(1000, 1, 1, 1)
    out = pool.query(later)
    old = int((out != later).sum())
    assert 450 < old < 550
    assert len(pool.images) == 50
    assert ImagePool(0).query(first) is not first
    assert torch.equal(ImagePool(0).query(first), first)


def test_both_directions_at_other_sizes() -> None:
    method = small()
    image = torch.zeros(2, 3, 36, 44)
    for direction, network in (("a2b", method.a2b), ("b2a", method.b2a)):
        inference = method.inference(direction)
        assert torch.equal(inference(image), network(image))
        assert inference.stride == 4
        # Training on must not change what was taken out.
        before = inference(image)
        nn.init.zeros_(next(network.parameters()))
        assert torch.equal(inference(image), before)


def test_generator_keeps_the_range() -> None:
    out = Generator(4, 1)(images(3) * 5)
    assert float(out.detach().abs().max()) <= 1


@pytest.mark.parametrize(
    ("options", "named"),
    [({"image_size": 30, "load_size": 30}, "--image-size 30"), ({"image_size": 16}, "at least 32")],
)
def test_sizes_that_do_not_fit(options: dict[str, int], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        CycleGANConfig(**options)  # type: ignore[arg-type]
