"""Every rewrite gives the same function with less work: 1e-5 on outputs of magnitude 1 to 10, float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.graph import edit, match
from i2i_export.graph.macs import node_macs
from i2i_export.passes import fold, norms, upsampling
from i2i_export.passes.order import optimise

if TYPE_CHECKING:
    from tests.export.conftest import Row

RANDOM = np.random.default_rng(7)
PADS_1 = np.asarray([0, 0, 1, 1] * 2)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def count(model: ir.Model, op_type: str) -> int:
    return len(match.nodes_of(model, op_type))


def macs(model: ir.Model) -> int:
    ShapeInferencePass(data_prop=True)(model)
    proto = ir.to_proto(model)
    known = {value.name: value for node in model.graph for value in (*node.inputs, *node.outputs) if value}
    shapes = {
        name: tuple(value.shape.numpy())
        for name, value in known.items()
        if name and value.shape and value.shape.is_static()
    }
    return sum(int(node_macs(node, shapes)) for node in proto.graph.node)


def test_a_bias_before_instance_norm_cancels(network: Any, run: Any) -> None:
    model = network(
        [
            ("Conv", ["x", "w", "b"], "c", {}),
            ("InstanceNormalization", ["c", "s", "t"], "y", {"epsilon": 1e-5}),
        ],
        {"w": normal(6, 4, 3, 3), "b": normal(6) * 10, "s": normal(6), "t": normal(6)},
        4,
    )
    x = normal(1, 4, 9, 11)
    before = run(model, x)
    assert norms.remove_bias_before_norm(model) == 1
    assert len(match.nodes_of(model, "Conv")[0].inputs) == 2
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_a_bias_that_something_else_reads_stays(network: Any) -> None:
    model = network(
        [
            ("Conv", ["x", "w", "b"], "c", {}),
            ("InstanceNormalization", ["c", "s", "t"], "n", {}),
            ("Add", ["c", "n"], "y", {}),
        ],
        {"w": normal(6, 4, 3, 3), "b": normal(6), "s": normal(6), "t": normal(6)},
        4,
    )
    assert norms.remove_bias_before_norm(model) == 0


@pytest.mark.parametrize("chain", [("Mul", "Add"), ("Add", "Mul"), ("Sub", "Div"), ("Mul",)])
def test_constant_adain_moves_into_the_norm(network: Any, run: Any, chain: tuple[str, ...]) -> None:
    names = ["n", *(f"step{index}" for index in range(len(chain) - 1)), "y"]
    rows: list[Row] = [("InstanceNormalization", ["x", "s", "t"], "n", {})]
    rows += [(op, [names[index], f"k{index}"], names[index + 1], {}) for index, op in enumerate(chain)]
    constants = {f"k{index}": normal(1, 5, 1, 1) + 3 for index in range(len(chain))}
    model = network(rows, {"s": normal(5), "t": normal(5), **constants}, 5)
    x = normal(1, 5, 8, 8)
    before = run(model, x)
    assert norms.fold_adain(model) == len(chain)
    assert model.graph.num_nodes() == 1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_and_scales_become_weights(network: Any, run: Any, op: str, groups: int) -> None:
    shape = (6, 4 // groups, 3, 3) if op == "Conv" else (4, 6 // groups, 3, 3)
    weights = {"w": normal(*shape), "g": normal(6), "h": normal(6), "m": normal(6), "v": normal(6) ** 2 + 0.1}
    model = network(
        [
            (op, ["x", "w"], "c", {"group": groups}),
            ("BatchNormalization", ["c", "g", "h", "m", "v"], "n", {"epsilon": 1e-3}),
            ("Mul", ["n", "k"], "y", {}),
        ],
        {**weights, "k": normal(6, 1, 1)},
        4,
    )
    x = normal(1, 4, 9, 7)
    before = run(model, x)
    assert fold.fold_into_convolution(model) == 2
    assert model.graph.num_nodes() == 1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_attention_maps_fold_into_their_convolution(network: Any, run: Any) -> None:
    model = network(
        [
            ("Mul", ["x", "a"], "xa", {}),
            ("Mul", ["b", "x"], "xb", {}),
            ("Concat", ["xa", "xb"], "both", {"axis": 1}),
            ("Conv", ["both", "w", "c"], "y", {}),
        ],
        {"a": normal(1, 5, 1, 1), "b": normal(1, 5, 1, 1), "w": normal(5, 10, 1, 1), "c": normal(5)},
        5,
        height=6,
        width=6,
    )
    x = normal(1, 5, 6, 6)
    before, work = run(model, x), macs(model)
    assert fold.fold_attention_maps(model) == 1
    edit.simplify(model)
    assert model.graph.num_nodes() == 1
    assert macs(model) * 2 == work
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize(("channels", "scales", "groups"), [(4, 1, 2), (1, 4, 1)])
def test_attention_maps_that_group_or_widen_stay(
    network: Any, run: Any, channels: int, scales: int, groups: int
) -> None:
    wide = 4
    model = network(
        [
            ("Mul", ["x", "a"], "xa", {}),
            ("Mul", ["b", "x"], "xb", {}),
            ("Concat", ["xa", "xb"], "both", {"axis": 1}),
            ("Conv", ["both", "w"], "y", {"group": groups}),
        ],
        {"a": normal(scales, 1, 1), "b": normal(scales, 1, 1), "w": normal(6, 2 * wide // groups, 1, 1)},
        channels,
        height=6,
        width=6,
    )
    x = normal(1, channels, 6, 6)
    before = run(model, x)
    optimise(model)
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_a_convolution_of_rows_keeps_its_scale_or_takes_it_exactly(network: Any, run: Any) -> None:
    model = network(
        [
            ("Reshape", ["x", "row"], "r", {}),
            ("Conv", ["r", "w"], "c", {"pads": [1, 1]}),
            ("Mul", ["c", "two"], "m", {}),
            ("Reshape", ["m", "back"], "y", {}),
        ],
        {
            "row": np.asarray([1, 1, 8]),
            "w": normal(1, 1, 3),
            "two": np.asarray([2.0], np.float32),
            "back": np.asarray([1, 8, 1, 1]),
        },
        8,
        height=1,
        width=1,
    )
    x = normal(1, 8, 1, 1)
    before = run(model, x)
    optimise(model)
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_a_channel_order_becomes_an_order_of_weights(network: Any, run: Any) -> None:
    model = network(
        [("Gather", ["x", "order"], "z", {"axis": 1}), ("Conv", ["z", "w"], "y", {"pads": [1] * 4})],
        {"order": RANDOM.permutation(7), "w": normal(5, 7, 3, 3)},
        7,
    )
    x = normal(1, 7, 6, 5)
    before = run(model, x)
    assert fold.fold_channel_order(model) == 1
    assert model.graph.num_nodes() == 1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize("square", ["Mul", "Pow"])
def test_written_out_norms_become_one_operator(network: Any, run: Any, square: str) -> None:
    other = "centred" if square == "Mul" else "two"
    model = network(
        [
            ("Reshape", ["x", "flat"], "rows", {}),
            ("ReduceMean", ["rows", "last"], "mean", {}),
            ("Sub", ["x", "mean"], "centred", {}),
            (square, ["centred", other], "square", {}),
            ("ReduceMean", ["square", "both"], "variance", {}),
            ("Add", ["variance", "eps"], "safe", {}),
            ("Sqrt", ["safe"], "root", {}),
            ("Div", ["centred", "root"], "y", {}),
        ],
        {
            "flat": np.asarray([1, 5, 1, -1]),
            "last": np.asarray([3]),
            "both": np.asarray([2, 3]),
            "two": np.array([2], np.float32),
            "eps": np.array([1e-5], np.float32),
        },
        5,
    )
    x = normal(1, 5, 12, 9) * 4 + 2
    before = run(model, x)
    assert norms.collapse_written_norms(model) == 1
    edit.simplify(model)
    assert [node.op_type for node in model.graph] == ["InstanceNormalization"]
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_two_written_out_norms_in_a_row_become_two_operators(network: Any, run: Any) -> None:
    rows: list[Row] = []
    name = "x"
    for norm in ("p", "q"):
        rows += [
            ("ReduceMean", [name, "both"], f"{norm}mean", {}),
            ("Sub", [name, f"{norm}mean"], f"{norm}centred", {}),
            ("Mul", [f"{norm}centred", f"{norm}centred"], f"{norm}square", {}),
            ("ReduceMean", [f"{norm}square", "both"], f"{norm}variance", {}),
            ("Add", [f"{norm}variance", "eps"], f"{norm}safe", {}),
            ("Sqrt", [f"{norm}safe"], f"{norm}root", {}),
            ("Div", [f"{norm}centred", f"{norm}root"], "y" if norm == "q" else norm, {}),
        ]
        name = norm
    weights = {"both": np.asarray([2, 3]), "eps": np.asarray([1e-5], np.float32)}
    model = network(rows, weights, 4, height=7, width=6)
    x = normal(1, 4, 7, 6)
    before = run(model, x)
    assert norms.collapse_written_norms(model) == 2
    edit.simplify(model)
    assert count(model, "InstanceNormalization") == 2
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_what_follows_from_weights_is_computed_once(network: Any, run: Any) -> None:
    model = network(
        [
            ("Shape", ["x"], "shape", {}),
            ("Gather", ["shape", "one"], "channels", {"axis": 0}),
            ("Cast", ["channels"], "wide", {"to": 1}),
            ("MatMul", ["m", "v"], "product", {}),
            ("Add", ["product", "wide"], "sum", {}),
            ("Mul", ["x", "sum"], "y", {}),
        ],
        {"one": np.asarray(1), "m": normal(4, 4), "v": normal(4, 1)},
        3,
        height=4,
        width=2,
    )
    x = normal(1, 3, 4, 2)
    before = run(model, x)
    edit.fold_constants(model)
    assert [node.op_type for node in model.graph] == ["Mul"]
    np.testing.assert_allclose(run(model, x), before, atol=1e-6)


PHASES: dict[int, Callable[[ir.Model], int]] = {
    3: upsampling.write_upsampling_as_phases,
    5: upsampling.write_wide_upsampling_as_phases,
}


def doubled(network: Any, kernel: int, border: str, **size: int) -> ir.Model:
    reach = kernel // 2
    rows: list[Row] = [
        ("Resize", ["x", "", "scales"], "big", {"mode": "nearest", "nearest_mode": "floor", **ASYMMETRIC})
    ]
    source, pads = "big", [reach] * 4
    if border == "reflect":
        rows.append(("Pad", ["big", "pads"], "padded", {"mode": "reflect"}))
        source, pads = "padded", [0] * 4
    rows.append(("Conv", [source, "w", "b"], "y", {"pads": pads}))
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w": normal(6, 4, kernel, kernel),
        "b": normal(6),
    }
    if border == "reflect":
        weights["pads"] = PADS_1 * reach
    model: ir.Model = network(rows, weights, 4, **size)
    return model


ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("border", ["zero", "reflect"])
def test_phases_equal_the_doubled_convolution_to_the_last_row(
    network: Any, run: Any, kernel: int, border: str
) -> None:
    model = doubled(network, kernel, border)
    images = [normal(1, 4, 7, 10), normal(1, 4, 5, 4)]
    before = [run(model, x) for x in images]
    assert PHASES[kernel](model) == 1
    for x, wanted in zip(images, before, strict=True):
        np.testing.assert_allclose(run(model, x), wanted, atol=1e-5)


@pytest.mark.parametrize(("kernel", "taps"), [(3, 16), (5, 36)])
def test_phases_do_the_work_that_the_literature_counts(network: Any, kernel: int, taps: int) -> None:
    model = doubled(network, kernel, "zero", height=16, width=16)
    assert macs(model) == 16 * 16 * 4 * 4 * 6 * kernel**2
    PHASES[kernel](model)
    assert macs(model) == 16 * 16 * 4 * 6 * taps


def test_smooth_upsampling_is_left_alone(network: Any) -> None:
    model = doubled(network, 5, "zero")
    match.nodes_of(model, "Resize")[0].attributes["mode"] = ir.AttrString("mode", "linear")
    assert upsampling.write_wide_upsampling_as_phases(model) == 0


def test_optimise_says_what_it_did_and_leaves_no_shapes_behind(network: Any, run: Any) -> None:
    model = network(
        [
            ("Identity", ["x"], "same", {}),
            ("Conv", ["same", "w", "b"], "c", {}),
            ("InstanceNormalization", ["c", "s", "t"], "n", {}),
            ("Mul", ["n", "k"], "y", {}),
        ],
        {"w": normal(6, 4, 3, 3), "b": normal(6), "s": normal(6), "t": normal(6), "k": normal(1, 6, 1, 1)},
        4,
    )
    x = normal(1, 4, 9, 9)
    before = run(model, x)
    assert optimise(model) == {"constant AdaIN folded": 1, "biases before norms removed": 1}
    assert count(model, "Identity") == 0
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)
