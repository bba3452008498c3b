"""The questions that passes ask of a graph: convolutions, makers, readers, and constants per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from i2i_export.graph.match import (
    Convolution,
    ScaleOrShift,
    nodes_of,
    only_reader,
    producer,
    reflection_of,
)

WEIGHTS = {"w": np.ones((6, 4, 3, 3), np.float32), "b": np.arange(6, dtype=np.float32)}


def convolution(network: Any, inputs: list[str] | None = None, **attributes: Any) -> Convolution | None:
    model = network([("Conv", inputs or ["x", "w", "b"], "y", attributes)], WEIGHTS, 4)
    return Convolution.of(nodes_of(model, "Conv")[0])


def test_a_convolution_states_what_it_is(network: Any) -> None:
    found = convolution(network, pads=[1, 2, 3, 4])
    assert found is not None
    assert (found.kernel, found.pads, found.groups) == ((3, 3), (1, 2, 3, 4), 1)
    assert found.is_plain
    assert found.is_known
    assert found.bias is not None
    np.testing.assert_array_equal(found.bias, WEIGHTS["b"])
    without = convolution(network, ["x", "w"])
    assert without is not None
    assert (without.has_bias, without.is_known) == (False, True)


@pytest.mark.parametrize(
    ("attributes", "is_plain", "moves_by_one"),
    [({"strides": [2, 2]}, False, False), ({"dilations": [2, 2]}, False, False), ({}, True, True)],
)
def test_strides_and_dilations_are_not_plain(
    attributes: dict[str, Any], is_plain: bool, moves_by_one: bool, network: Any
) -> None:
    found = convolution(network, **attributes)
    assert found is not None
    assert (found.is_plain, found.moves_by_one) == (is_plain, moves_by_one)


def test_groups_are_not_plain(network: Any) -> None:
    weights = {"w": np.ones((6, 2, 3, 3), np.float32)}
    model = network([("Conv", ["x", "w"], "y", {"group": 2})], weights, 4)
    found = Convolution.of(nodes_of(model, "Conv")[0])
    assert found is not None
    assert (found.is_plain, found.moves_by_one) == (False, True)


def test_automatic_padding_and_other_operators_are_none(network: Any) -> None:
    assert convolution(network, auto_pad="SAME_UPPER") is None
    model = network([("Relu", ["x"], "y", {})], {}, 4)
    assert Convolution.of(nodes_of(model, "Relu")[0]) is None
    assert Convolution.of(None) is None


def test_weights_known_only_at_run_time_are_not_weights(network: Any) -> None:
    rows: list[Any] = [("Mul", ["w", "k"], "made", {}), ("Conv", ["x", "made"], "y", {})]
    model = network(rows, {**WEIGHTS, "k": np.ones(1, np.float32)}, 4)
    found = Convolution.of(nodes_of(model, "Conv")[0])
    assert found is not None
    assert (found.weight, found.kernel, found.is_known) == (None, (), False)


def test_makers_and_only_readers_are_standard_operators(network: Any) -> None:
    model = network([("Relu", ["x"], "r", {}), ("Abs", ["r"], "a", {}), ("Add", ["r", "a"], "y", {})], {}, 4)
    relu, absolute = nodes_of(model, "Relu")[0], nodes_of(model, "Abs")[0]
    assert producer(relu.outputs[0], "Relu") is relu
    assert producer(relu.outputs[0], "Abs") is None
    assert producer(model.graph.inputs[0]) is None
    assert only_reader(relu.outputs[0]) is None, "two read it"
    assert only_reader(absolute.outputs[0], "Add") is nodes_of(model, "Add")[0]
    assert only_reader(absolute.outputs[0], "Mul") is None
    relu.domain = "com.example"
    assert producer(relu.outputs[0], "Relu") is None
    assert nodes_of(model, "Relu") == []


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "shift"),
    [
        ("Mul", ["x", "k"], [2, 4], [20, 40]),
        ("Div", ["x", "k"], [0.5, 0.25], [5, 2.5]),
        ("Add", ["k", "x"], [1, 1], [12, 14]),
        ("Sub", ["x", "k"], [1, 1], [8, 6]),
    ],
)
def test_a_scale_or_shift_follows_what_was_before(
    op: str, inputs: list[str], scale: list[float], shift: list[float], network: Any
) -> None:
    model = network([(op, inputs, "y", {})], {"k": np.asarray([2, 4], np.float32).reshape(2, 1, 1)}, 2)
    found = ScaleOrShift.behind(model.graph.inputs[0])
    assert found is not None
    got = found.after(np.ones(1, np.float32), np.full(1, 10, np.float32))
    np.testing.assert_allclose(np.broadcast_to(got[0], 2), scale)
    np.testing.assert_allclose(got[1], shift)


def test_a_constant_less_the_image_is_none(network: Any) -> None:
    model = network([("Sub", ["k", "x"], "y", {})], {"k": np.ones((2, 1, 1), np.float32)}, 2)
    assert ScaleOrShift.behind(model.graph.inputs[0]) is None


@pytest.mark.parametrize(
    ("mode", "pads", "amount"),
    [
        ("reflect", [0, 0, 2, 2] * 2, 2),
        ("edge", [0, 0, 2, 2] * 2, 0),
        ("reflect", [0, 0, 2, 1] * 2, 0),
        ("reflect", [0, 1, 2, 2] * 2, 0),
        ("reflect", [0] * 8, 0),
    ],
)
def test_a_reflection_is_the_same_on_all_sides(mode: str, pads: list[int], amount: int, network: Any) -> None:
    model = network([("Pad", ["x", "p"], "y", {"mode": mode})], {"p": np.asarray(pads)}, 4)
    assert reflection_of(nodes_of(model, "Pad")[0]) == amount
    assert reflection_of(None) == 0


def test_an_image_of_the_graph_s_output_has_a_reader_outside(network: Any) -> None:
    model: ir.Model = network([("Relu", ["x"], "y", {})], {}, 4)
    assert only_reader(model.graph.outputs[0]) is None
