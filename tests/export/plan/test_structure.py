"""What plans cost: launches and megabytes per frame, read from real plans, with budgets that must not be
exceeded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from i2i_export.parity import OnnxTranslator
from i2i_export.plan.passes import PASSES, rewritten, smallest_rewrite
from i2i_export.plan.plugin_cost import cut_at_plugins, structure_with_plugins
from i2i_export.plan.structure import Launch, PlanStructure, structure_from_plan
from i2i_export.plugins.lowering import network_with_plugins

if TYPE_CHECKING:
    from tests.export.plan.conftest import NetworkWriter

Count = Callable[[onnx.ModelProto], PlanStructure | None]
NORMS, REFLECTIONS, DOUBLINGS = (
    "norms in NHWC",
    "reflection as gather",
    "upsampled convolutions as transposed ones",
)


def structure(launches: int, megabytes: float) -> PlanStructure:
    return PlanStructure(tuple(Launch("function", "f", megabytes / launches) for _ in range(launches)))


def test_the_student_stays_in_its_budget(network: Any, bodies: Any, count: Count) -> None:
    found = smallest_rewrite(network().engine(bodies["student"](), 256, 256), count)
    assert found.before is not None
    assert found.after is not None
    assert found.before.launch_count == 17
    assert found.after.launch_count <= 16
    assert found.after.megabytes <= 19.8


def test_the_order_between_streams_is_no_launch() -> None:
    text = b"""header {
descriptors {
  tensor={ dims={ 1 8 } name="a" type=half }
main {
  function={ name=f input_args={ "a" } output_args={ "a" } }
  signal={ name="s" stream=0 event=1 layers="" }
  wait={ name="w" stream=1 event=1 layers="" }
}
"""
    found = structure_from_plan(text)
    assert found is not None
    assert [(launch.name, launch.megabytes) for launch in found.launches] == [("f", 32e-6)]


def test_the_residual_generator_stays_in_its_budget(network: Any, bodies: Any, count: Count) -> None:
    model = network().engine(bodies["resnet"](), 256, 256)
    found = smallest_rewrite(model, count)
    assert found.before is not None
    assert found.after is not None
    assert found.before.launch_count == 96
    assert round(found.before.megabytes) == 554
    assert found.kept == (NORMS, REFLECTIONS)
    assert found.after.launch_count <= 72
    assert found.after.megabytes <= 394
    assert found.after.convolution_megabytes == pytest.approx(157, abs=1)


def test_a_mix_of_norms_costs_three_launches(network: Any, bodies: Any, count: Count) -> None:
    """Statistics of the channels, what follows from them for the whole sample, and everything else in one."""
    found = smallest_rewrite(network().engine(bodies["mixing"](), 64, 64), count)
    assert found.before is not None
    assert found.after is not None
    assert NORMS in found.kept
    assert (found.before.launch_count, found.after.launch_count) == (20, 11)
    assert found.after.megabytes <= 0.4 * found.before.megabytes


def test_bytes_are_counted_per_launch_with_weights(network: Any, count: Count) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        x = net.convolution(x, 3, 64, 3, pad=1)
        return net("Tanh", net.convolution(x, 64, 3, 1))

    found = count(network().engine(body, 128, 128))
    assert found is not None
    convolutions = [launch for launch in found.launches if launch.is_convolution]
    assert len(convolutions) == 2
    image, wide = 128 * 128 * 3 * 2, 128 * 128 * 64 * 2
    assert convolutions[0].megabytes * 1e6 == pytest.approx(image + wide, rel=0.25)
    assert found.megabytes > found.convolution_megabytes


def test_a_dynamic_plan_has_no_structure(network: Any, bodies: Any, build: Callable[..., bytes]) -> None:
    from i2i_export.plan.builder import FrameProfile

    profile = FrameProfile((64, 64), (64, 64), (128, 128))
    model = network().engine(bodies["student"](1, 16), "H", "W")
    assert structure_from_plan(build(model, profile=profile)) is None


@pytest.mark.parametrize(
    "content", [b"", b"vtrt\0\0\0\0", b"header {\ndescriptors {\n", b"descriptors {\n\nmain {\n}"]
)
def test_a_plan_without_the_text_has_no_structure(content: bytes) -> None:
    assert structure_from_plan(content) is None


def test_smaller_means_nothing_grew() -> None:
    base = structure(10, 100)
    assert structure(9, 100).is_smaller_than(base)
    assert structure(10, 90).is_smaller_than(base)
    assert not structure(9, 110).is_smaller_than(base)
    assert not structure(11, 50).is_smaller_than(base)
    assert not structure(10, 99.8).is_smaller_than(base)


def test_a_rewrite_that_does_not_pay_is_not_kept(network: Any, bodies: Any) -> None:
    model = network().engine(bodies["resnet"](1, 16), 64, 64)
    counts = iter([structure(10, 100), structure(10, 101), structure(9, 90), structure(9, 90)])
    found = smallest_rewrite(model, lambda _: next(counts))
    assert found.kept == (REFLECTIONS,)
    blind = smallest_rewrite(model, lambda _: None)
    assert blind.kept == ()
    assert blind.model is model


def translate(model: onnx.ModelProto, frame: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (translated,) = session.run(None, {"frame": frame})
    return np.asarray(translated, int)


LIVE = (
    "repeated border as gather",
    "equal convolutions as one",
    "crops before convolutions",
    "pixel unshuffle first",
    "pixel shuffle last",
)


def test_the_real_time_network_stays_in_its_budget(network: Any, bodies: Any, count: Count) -> None:
    found = smallest_rewrite(network().engine(bodies["live"](), 256, 256), count)
    assert found.kept == LIVE
    assert found.before is not None
    assert found.after is not None
    assert (found.before.launch_count, found.after.launch_count) == (12, 6)
    assert found.after.megabytes <= 4.36


def test_rewrites_of_the_real_time_network_change_no_number(network: Any, bodies: Any) -> None:
    model = network(np.float32).engine(bodies["live"](), 64, 48)
    # Behind the last pass the image is rounded before it is shuffled, and nothing unrounded can be compared.
    leaner = rewritten(model, LIVE[:-1])
    assert leaner is not None
    operators = [node.op_type for node in leaner.graph.node]
    assert operators.count("Conv") == 4
    assert not {"Pad", "SpaceToDepth"} & set(operators)
    frame = np.random.default_rng(2).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    wanted, got = (OnnxTranslator(one).translate(frame, None).unrounded for one in (model, leaner))
    assert np.abs(wanted).max() > 0.5
    assert np.abs(wanted - got).max() <= 1e-5


@pytest.mark.parametrize(
    ("start", "stop", "padding", "moves"),
    [(2, -1, 1, True), (1, -1, 1, True), (0, -1, 1, False), (2, 30, 1, False), (0, 2**63 - 1, 0, True)],
)
def test_a_crop_moves_only_where_no_padding_was_seen(
    start: int, stop: int, padding: int, moves: bool, network: Any
) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        x = net.convolution(net("Relu", net.convolution(x, 3, 8, 3, pad=1)), 8, 3, 3, pad=padding)
        x = net.cut(x, 2, start, stop)
        full = 30 + 2 * padding
        rows = len(range(full)[start:stop])
        border = net.weight(np.array([0, 0, 0, 0, 0, 0, 32 - rows, 32 - full], np.int64))
        return net("Tanh", net("Pad", x, border))

    model = network(np.float32).engine(body, 32, 32)
    leaner = rewritten(model, ("crops before convolutions",))
    assert (leaner is not None) == moves
    if leaner is not None:
        frame = np.random.default_rng(4).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
        assert np.abs(translate(leaner, frame) - translate(model, frame)).max() <= 1


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("size", [(64, 48), (160, 160)])
def test_every_rewrite_gives_the_same_image(
    name: str, size: tuple[int, int], network: Any, bodies: Any
) -> None:
    bodies = [
        bodies["resnet"](1, 8),
        bodies["student"](1, 8),
        bodies["upsampler"](reflected=False),
        bodies["upsampler"](reflected=True),
        bodies["mixing"](),
        bodies["sloped"](),
        bodies["live"](),
    ]
    frame = np.random.default_rng(0).integers(0, 256, (1, *size, 3), dtype=np.uint8)
    changed = 0
    for body in bodies:
        model = network(np.float32).engine(body, *size)
        leaner = rewritten(model, (name,))
        if leaner is None:
            continue
        changed += 1
        gap = np.abs(translate(leaner, frame) - translate(model, frame))
        assert gap.max() <= 1
        assert (gap > 0).mean() < 0.002
    assert changed >= 1


def test_norms_with_weights_and_open_sizes_are_rewritten_too(network: Any) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        return net("Tanh", net.norm(net.convolution(x, 3, 16, 3, pad=1), 16, affine=True))

    def image(net: NetworkWriter, x: str) -> str:
        return net.convolution(body(net, x), 16, 3, 3, pad=1)

    frame = np.random.default_rng(1).integers(0, 256, (1, 40, 24, 3), dtype=np.uint8)
    model = network(np.float32).engine(image, "H", "W")
    leaner = rewritten(model, (NORMS,))
    assert leaner is not None
    assert "InstanceNormalization" not in {node.op_type for node in leaner.graph.node}
    assert np.abs(translate(leaner, frame) - translate(model, frame)).max() <= 1


def test_statistics_hold_where_the_mean_is_far_from_zero(network: Any) -> None:
    def body(net: NetworkWriter, x: str, offset: float = 100) -> str:
        shifted = net("Add", net.convolution(x, 3, 16, 3, pad=1), net.weight(np.float32(offset)))
        return net("Tanh", net.convolution(net.norm(shifted, 16), 16, 3, 3, pad=1))

    frame = np.random.default_rng(2).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    model = network(np.float32).engine(body, 64, 64)
    leaner = rewritten(model, (NORMS,))
    assert leaner is not None
    centred = network(np.float32).engine(lambda net, x: body(net, x, 0), 64, 64)
    assert np.abs(translate(leaner, frame) - translate(centred, frame)).max() <= 1


@pytest.mark.parametrize("reflected", [False, True])
def test_doubled_images_are_never_written(reflected: bool, network: Any, bodies: Any, count: Count) -> None:
    model = network().engine(bodies["upsampler"](reflected=reflected), 128, 128)
    before, leaner = count(model), rewritten(model, (DOUBLINGS,))
    assert leaner is not None
    after = count(leaner)
    assert before is not None
    assert after is not None
    assert after.is_smaller_than(before)
    assert after.megabytes < 0.75 * before.megabytes


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_one_slope_fuses_into_the_convolution_and_many_stay(
    spread: float, network: Any, bodies: Any, count: Count
) -> None:
    model = network().engine(bodies["sloped"](spread), 64, 64)
    leaner = rewritten(model, ("equal slopes as leaky ReLU",))
    assert (leaner is None) == (spread > 0)
    if leaner is not None:
        before, after = count(model), count(leaner)
        assert before is not None
        assert after is not None
        assert after.launch_count == before.launch_count - 1


def test_a_network_without_the_pattern_is_left_alone(network: Any, bodies: Any) -> None:
    model = network().engine(bodies["resnet"](1, 16, pad="zero", norms=False), 64, 64)
    assert rewritten(model, tuple(PASSES)) is None


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_pixels_are_shuffled_last_in_either_order(mode: str, network: Any) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        x = net.convolution(net("SpaceToDepth", x, blocksize=2), 12, 12, 3, pad=1)
        return net("Tanh", net("DepthToSpace", x, blocksize=2, mode=mode))

    frame = np.random.default_rng(3).integers(0, 256, (1, 40, 24, 3), dtype=np.uint8)
    model = network(np.float32).engine(body, 40, 24)
    leaner = rewritten(model, ("pixel shuffle last",))
    assert leaner is not None
    assert "DepthToSpace" not in {node.op_type for node in leaner.graph.node}
    assert np.array_equal(translate(leaner, frame), translate(model, frame))


@pytest.mark.parametrize(
    ("ways", "launches", "megabytes"),
    [({}, 54, 337), ({"wide": True}, 96, 391), ({"convolutions": True}, 54, 296)],
    ids=["plugins", "wide plugins", "convolution plugins"],
)
def test_the_plugin_forms_stay_in_their_budgets(
    ways: dict[str, bool],
    launches: int,
    megabytes: int,
    network: Any,
    bodies: Any,
    build: Callable[..., bytes],
) -> None:
    found = network_with_plugins(network().engine(bodies["resnet"](), 256, 256), **ways)
    assert found is not None
    counted = structure_with_plugins(
        found, lambda model: structure_from_plan(build(model, channels_last=True))
    )
    assert counted is not None
    assert counted.launch_count <= launches
    assert round(counted.megabytes) <= megabytes
    kinds = counted.kinds()
    assert kinds["convolution"] == (6 if ways.get("convolutions") else 24)
    assert not any("Inor" in name or name == "__myl_Tran" for name in kinds), (
        "no norm and no transpose is left"
    )


def test_a_network_cut_at_its_plugins_is_whole_in_itself(network: Any, bodies: Any) -> None:
    found = network_with_plugins(network().engine(bodies["resnet"](1, 16), 64, 64))
    assert found is not None
    cut = cut_at_plugins(found)
    onnx.checker.check_model(cut, full_check=True)
    assert {node.domain for node in cut.graph.node} == {""}
    assert len(cut.graph.input) > 1
    assert structure_with_plugins(found, lambda _: None) is None
