"""TUNIT: published sizes, its stages, who learns in which, losses by hand, queue, slow copy and average styles."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.layouts import Domains
from i2i_trainer.method import Batch
from i2i_trainer.methods.tunit import (
    TUNIT,
    Decoder,
    Discriminator,
    DiscriminatorBlock,
    Generator,
    GuidingNetwork,
    Images,
    TUNITConfig,
    class_loss,
)
from i2i_trainer.steps import JointOptimiser

if TYPE_CHECKING:
    from tests.trainer.methods.conftest import Cost, Listener, MakeAnswer, MakeBatch, Record

TINY: dict[str, Any] = {
    "width": 4,
    "guide_width": 8,
    "disc_width": 4,
    "classes": 3,
    "style_size": 6,
    "image_size": 32,
    "load_size": 32,
    "batch": 2,
    "separated_steps": 1,
}


def make(**options: Any) -> TUNIT:
    torch.manual_seed(0)
    return TUNIT(TUNITConfig(**{**TINY, **options}))


@pytest.mark.parametrize(
    ("size", "width", "generator", "guide", "disc"),
    [
        (128, 64, (27.33, 16.82), (9.30, 2.44), (70.94, 11.00)),
        (256, 32, (27.42, 21.02), (9.30, 9.78), (70.98, 13.28)),
    ],
)
def test_networks_have_the_published_sizes(
    cost: Cost,
    size: int,
    width: int,
    generator: tuple[float, float],
    guide: tuple[float, float],
    disc: tuple[float, float],
) -> None:
    config = TUNITConfig(image_size=size, load_size=size)
    assert config.generator_width == width
    image = (1, 3, size, size)
    with torch.device("meta"):
        networks = Generator(width, config.downs, 128), GuidingNetwork(64, 128, 10)
        discriminator = Discriminator(size, width, 10).body
    sizes = [
        cost(networks[0], image, (1, 128)),
        cost(networks[1], image),
        cost(discriminator, image),
    ]
    assert [(round(p / 1e6, 2), round(m / 1e9, 2)) for p, m in sizes] == [generator, guide, disc]
    assert len(networks[0].get_parameter("decoder.mlp.layers.4.bias")) == {128: 4992, 256: 5056}[size]


def test_residual_blocks_of_the_generator_are_scaled_by_a_tenth() -> None:
    generator = make().generator
    scales = [m.residual_scale for m in generator.modules() if hasattr(m, "residual_scale")]
    assert scales == [0.1] * 4


def test_initialisation() -> None:
    method = make(width=32, guide_width=64)
    guide = method.guide
    convs = [layer for layer in guide.modules() if isinstance(layer, nn.Conv2d)]
    assert convs[5].weight.std().item() == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.02)
    assert guide.style.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert guide.style.bias.abs().sum() == 0
    weight = method.generator.decoder.get_parameter("ups.0.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 25)), rel=0.02)


def test_stage_is_a_function_of_the_step() -> None:
    method = make(separated_steps=3)
    assert [method.stage(step).name for step in range(5)] == ["guide"] * 3 + ["joint"] * 2
    method = make(separated_steps=1, training="separate")
    assert [method.stage(step).name for step in range(3)] == ["guide"] + ["separate"] * 2


def test_guide_learns_alone_then_all_learn_together(record: Record, batch: MakeBatch) -> None:
    method = make()
    update = record(method)
    for update.step in range(2):
        method.step(batch(2, 32), update)
    assert update.order == ["gen", "gen", "disc", "gen"]
    expected = [{"guide"}, {"guide"}, {"disc"}, {"generator", "guide"}]
    assert update.networks(update.learned) == expected
    assert update.networks(update.moved) == expected


def test_separate_training_keeps_the_guide_as_it_is(record: Record, batch: MakeBatch) -> None:
    method = make(training="separate")
    update = record(method)
    method.step(batch(2, 32), update)
    before = {name: value.clone() for name, value in method.guide.state_dict().items()}
    update.step = 1
    method.step(batch(2, 32), update)
    assert update.order == ["gen", "disc", "gen"]
    assert update.networks(update.learned) == [{"guide"}, {"disc"}, {"generator"}]
    assert all(torch.equal(value, before[name]) for name, value in method.guide.state_dict().items())
    assert method.guide.training


def test_own_losses_count_a_tenth_once_all_learn_together(listen: Listener, batch: MakeBatch) -> None:
    method = make()
    torch.manual_seed(0)
    first = method.step(batch(2, 32), listen)
    listen.step = 1
    second = method.step(batch(2, 32), listen)
    for factor, losses, told in ((1.0, first, listen.losses[0]), (0.1, second, listen.losses[1])):
        assert told == pytest.approx(
            factor * (losses["contrast"] + 5 * losses["clustering"]).item(), rel=1e-5
        )


def test_half_precision_keeps_the_mutual_information(listen: Listener, batch: MakeBatch) -> None:
    nearly_even = []
    for enabled in (False, True):
        method = make(clustering_weight=1.0)
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            nearly_even.append(method.step(batch(2, 32), listen)["clustering"].item())
    assert nearly_even == pytest.approx([0.0, 0.0], abs=1e-4)


def test_generator_losses_by_hand(answer: MakeAnswer) -> None:
    # Two images, 0.5 and -0.5, each the other's reference; the style is the mean, twice; content is the image.
    method = make(style_size=2, queue=1)
    method.guide = answer(lambda x: (x.mean(dim=(1, 2, 3))[:, None].repeat(1, 2), None))
    method.slow_guide = method.guide
    method.generator.content = answer(lambda x: x)
    method.generator.decoder = answer(lambda c, s: c * 0.5 + s.mean(dim=1)[:, None, None, None])
    method.disc = answer(lambda x, y: x.mean(dim=(1, 2, 3)) + y)
    method.queue = torch.tensor([[0.1, 0.1]])
    x = torch.tensor([0.5, -0.5])[:, None, None, None].expand(2, 3, 4, 4)
    losses = method.generator_losses(
        Images(x, torch.tensor([1, 0]), torch.tensor([-1, -1])), torch.tensor([0, 2])
    )
    # Translations: 0.25 - 0.5 = -0.25 as class 2, and 0.25 as class 0; themselves: 0.75 and -0.75.
    assert losses["gan"].item() == pytest.approx(
        -((-0.25 + 2) + (0.25 + 0)) / 2 - ((0.75 + 0) + (-0.75 + 2)) / 2
    )
    assert losses["image"].item() == pytest.approx(0.25)
    # Styles -0.25 against the reference's -0.5, and 0.25 against 0.5: right 0.25; wrong -0.05 and 0.05.
    right = 2 * 0.125 / 0.07
    wrong = [2 * -0.025 / 0.07, 2 * 0.025 / 0.07]
    style = sum(math.log1p(math.exp(w - right)) for w in wrong) / 2
    assert losses["style"].item() == pytest.approx(style, rel=1e-4)
    assert method.weights() == {"gan": 1.0, "image": 0.1, "style": 0.01}


def test_discriminator_loss_by_hand(listen: Listener, answer: MakeAnswer) -> None:
    # One image per folder, 0.5 twice. The chosen logit is 0.02 times the sum of 48 numbers, plus the class, 1.
    method = make(style_size=2, separated_steps=0, training="separate")
    method.guide = answer(lambda x: (torch.zeros(len(x), 2), torch.tensor([[0.0, 1.0, 0.0]] * len(x))))
    method.slow_guide = method.guide
    method.generator = answer(lambda x, _: x - 0.25)
    method.generator.content = answer(lambda x: x)
    method.generator.decoder = answer(lambda c, _: c)
    method.disc = answer(lambda x, y: 0.02 * x.sum(dim=(1, 2, 3)) + y)
    image = torch.full((1, 3, 4, 4), 0.5)
    method.step(Batch(image, image), listen)
    real, fake = 0.02 * 48 * 0.5 + 1, 0.02 * 48 * 0.25 + 1
    hinge = max(0.0, 1 - real) + max(0.0, 1 + fake)
    assert listen.losses[0] == pytest.approx(hinge + 10 * 48 * 0.02**2, rel=1e-5)


def test_discriminator_picks_the_logit_of_the_class() -> None:
    discriminator = Discriminator(32, 4, 3)
    image = torch.rand(2, 3, 32, 32)
    every = discriminator.body(image).flatten(1)
    chosen = discriminator(image, torch.tensor([2, 0]))
    assert torch.equal(chosen, torch.stack([every[0, 2], every[1, 0]]))


def test_discriminator_block_is_a_halved_sum() -> None:
    block = DiscriminatorBlock(2, 4, halve=True)
    for layer in (block.conv1, block.conv2):
        nn.init.zeros_(layer.weight)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 3.0)
    assert isinstance(block.shortcut, nn.Conv2d)
    nn.init.ones_(block.shortcut.weight)
    assert block.shortcut.bias is None
    x = torch.full((1, 2, 4, 4), 2.0)
    torch.testing.assert_close(block(x), torch.full((1, 4, 2, 2), (4.0 + 3.0) / math.sqrt(2)))


def test_slow_copy_follows_by_a_thousandth(record: Record, batch: MakeBatch) -> None:
    method = make()
    slow = {name: value.clone() for name, value in method.slow_guide.named_parameters()}
    method.step(batch(2, 32), record(method))
    fast = dict(method.guide.named_parameters())
    for name, value in method.slow_guide.named_parameters():
        torch.testing.assert_close(value, 0.999 * slow[name] + 0.001 * fast[name])
    # Its batch norms know its own activations, not those of the weights that run ahead.
    own, ahead = (guide.get_buffer("features.1.running_mean") for guide in (method.slow_guide, method.guide))
    assert own.abs().sum() > 0
    assert not torch.equal(own, ahead)


def test_the_slow_copy_follows_at_the_end_of_a_joint_step(record: Record, batch: MakeBatch) -> None:
    method = make(separated_steps=0, lr=0.1)
    slow = {name: value.clone() for name, value in method.slow_guide.named_parameters()}
    method.step(batch(2, 32), record(method))
    fast = dict(method.guide.named_parameters())
    for name, value in method.slow_guide.named_parameters():
        torch.testing.assert_close(value, 0.999 * slow[name] + 0.001 * fast[name])


def test_styles_of_a_step_are_no_negatives_of_its_translations(
    record: Record, batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make(separated_steps=0)
    update = record(method)
    seen: list[int] = []
    whole = method.generator_losses

    def watched(images: Images, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(len(method.queue))
        return whole(images, labels)

    monkeypatch.setattr(method, "generator_losses", watched)
    for _ in range(3):
        method.step(batch(2, 32), update)
    assert seen == [0, 4, 8]
    assert len(method.queue) == 12


def test_queue_keeps_the_newest_and_survives_a_restart(record: Record, batch: MakeBatch) -> None:
    method = make(queue=6, separated_steps=9)
    update = record(method)
    assert len(method.queue) == 0
    method.step(batch(2, 32), update)
    first = method.queue.clone()
    assert len(first) == 4
    method.step(batch(2, 32), update)
    assert torch.equal(method.queue[4:], first[:2])
    again = make(queue=6, separated_steps=9)
    again.load_extra_state(method.extra_state())
    assert torch.equal(again.queue, method.queue)


def test_labels_teach_the_classes_where_they_are_known(record: Record, batch: MakeBatch) -> None:
    images = batch(2, 32)
    labelled = Batch(images.a, images.b, torch.tensor([0, -1]), torch.tensor([-1, 2]))
    method = make(semi_supervised=True)
    assert method.pooled(labelled).labels.tolist() == [0, -1, -1, 2]
    assert "classes" in method.step(labelled, record(method))
    assert make().pooled(labelled).labels.tolist() == [-1] * 4
    logits = torch.tensor([[math.log(3.0), 0.0, 0.0], [9.0, 9.0, 9.0]])
    assert class_loss(logits, torch.tensor([0, -1])).item() == pytest.approx(-math.log(3 / 5))
    assert class_loss(logits, torch.tensor([-1, -1])).item() == 0


def test_average_styles_become_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    method = make(style_size=2)
    means = lambda x: (x.mean(dim=(2, 3))[:, :2], x.mean(dim=(2, 3)))  # noqa: E731
    monkeypatch.setattr(method.slow_guide, "forward", means)
    # Class = brightest channel. Folder a: red (0) twice, folder b: green (1) twice.
    red = torch.tensor([[0.8, 0.0, 0.0], [0.4, 0.0, 0.0]])[..., None, None].expand(2, 3, 4, 4)
    green = torch.tensor([[0.0, 0.2, 0.0], [0.0, 0.6, 0.0]])[..., None, None].expand(2, 3, 4, 4)
    method._average_styles(method.pooled(Batch(red, green)))
    forth, back = method.inference("a2b"), method.inference("b2a")
    assert set(forth.presets) == {"cluster-0", "cluster-1"}
    assert forth.presets["cluster-0"] == pytest.approx((0.6, 0.0))
    assert forth.presets["cluster-1"] == forth.default_style == pytest.approx((0.0, 0.4))
    assert back.default_style == pytest.approx((0.6, 0.0))
    assert method.cluster(torch.cat([green, red])).tolist() == [1, 1, 0, 0]
    assert not forth.random_styles


def test_inference_takes_a_reference(batch: MakeBatch) -> None:
    method = make(image_size=64, load_size=64)
    inference = method.inference("a2b")
    assert inference.stride == 4
    images = batch(2, 64)
    encoder = method.style_encoder()
    style = encoder(images.b)
    method.slow_guide.eval()
    with torch.no_grad():
        torch.testing.assert_close(style, method.slow_guide(images.b)[0], atol=0, rtol=0)
        for size in ((64, 64), (48, 96)):
            image = torch.rand(2, 3, *size) * 2 - 1
            expected = method.generator(image, style)
            torch.testing.assert_close(inference(image, style), expected, atol=1e-6, rtol=0)


def test_content_has_sixteen_positions_a_side() -> None:
    for size in (64, 128, 256):
        assert size // 2 ** TUNITConfig(image_size=size, load_size=size).downs == 16
    assert len(Decoder(4, 3, 6).ups) == 3


def test_optimisers_side_by_side_step_and_load_as_alone() -> None:
    def pair() -> tuple[list[nn.Parameter], list[torch.optim.Optimizer]]:
        weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))]
        return weights, [torch.optim.RMSprop(weights[:1], lr=0.01), torch.optim.Adam(weights[1:], lr=0.02)]

    def step(weights: list[nn.Parameter], optimiser: torch.optim.Optimizer) -> None:
        for weight in weights:
            weight.grad = weight.detach() * 2
        optimiser.step()

    alone, members = pair()
    together, others = pair()
    joined = JointOptimiser(*others)
    for _ in range(2):
        for weight, member in zip(alone, members, strict=True):
            step([weight], member)
        step(together, joined)
    resumed, fresh = pair()
    for weight, trained in zip(resumed, together, strict=True):
        weight.data.copy_(trained.data)
    rejoined = JointOptimiser(*fresh)
    rejoined.load_state_dict(deepcopy(joined.state_dict()))
    step(resumed, rejoined)
    step(together, joined)
    for weight, member in zip(alone, members, strict=True):
        step([weight], member)
    for one, other, third in zip(alone, together, resumed, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_labels_that_cannot_teach_are_told_before_the_first_step() -> None:
    def domains(labels: list[int] | None, classes: int) -> Domains:
        names = tuple(f"class-{i}" for i in range(classes))
        return Domains("class-folders", ("A", "B"), [], [], False, names, labels, labels)

    make().check_data(domains(None, 0))
    make(semi_supervised=True).check_data(domains([0, 1, 2, -1], 3))
    with pytest.raises(OptionError, match="--classes 3 is fewer than the 4 class folders"):
        make(semi_supervised=True).check_data(domains([0, 1, 2, 3], 4))
    for labels in (None, [-1, -1]):
        with pytest.raises(DataError, match="--semi-supervised learns from labels"):
            make(semi_supervised=True).check_data(domains(labels, 0))


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(OptionError, match="power of two"):
        TUNITConfig(image_size=96, load_size=96)
    with pytest.raises(OptionError, match="--classes is 1"):
        TUNITConfig(classes=1)
