"""Norms are recognised however they are written, and written anew they stay the same function: 1e-5, float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from i2i_export.graph import edit
from i2i_export.graph.norms import Norm, norms_of
from i2i_export.passes.nhwc_norms import write_norms_in_nhwc

if TYPE_CHECKING:
    from tests.export.conftest import Row

RANDOM = np.random.default_rng(3)
CHANNELS, HEIGHT, WIDTH = 6, 9, 11


COUNTS = {"channel": HEIGHT * WIDTH, "sample": CHANNELS * HEIGHT * WIDTH}
AXES = {"channel": np.asarray([2, 3]), "sample": np.asarray([1, 2, 3])}


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def found_in(model: ir.Model) -> list[Norm]:
    ShapeInferencePass(data_prop=True)(model)
    return norms_of(model)


def written(
    over: str, variance: str, root: str, weights: dict[str, Any], *, name: str = "", result: str = "y"
) -> list[Row]:
    """Rows that normalise `x`, in one of the ways that exporters write it."""

    def own(word: str) -> str:
        return f"{word}{name}"

    axes, count = own("axes"), COUNTS[over]
    weights |= {axes: AXES[over], "eps": np.float32(1e-3), "one": np.float32(1), "two": np.float32(2)}
    weights |= {own("free"): np.float32(count - 1), own("bessel"): np.float32(count / (count - 1))}
    rows: list[Row] = [
        ("ReduceMean", ["x", axes], own("m"), {}),
        ("Sub", ["x", own("m")], own("c"), {}),
    ]
    if variance == "power":
        rows += [
            ("Pow", ["x", "two"], own("xx"), {}),
            ("ReduceMean", [own("xx"), axes], own("p"), {}),
            ("Mul", [own("m"), own("m")], own("mm"), {}),
            ("Sub", [own("p"), own("mm")], own("v"), {}),
        ]
    elif variance == "sum of squares":
        rows += [
            ("ReduceSumSquare", [own("c"), axes], own("t"), {}),
            ("Div", [own("t"), own("free")], own("v"), {}),
        ]
    elif variance == "counted":
        rows += [
            ("Mul", [own("c"), own("c")], own("cc"), {}),
            ("ReduceSum", [own("cc"), axes], own("t"), {}),
            ("Shape", ["x"], own("shape"), {"start": 4 - len(AXES[over])}),
            ("ReduceProd", [own("shape")], own("n"), {"keepdims": 0}),
            ("Cast", [own("n")], own("nf"), {"to": 1}),
            ("Sub", [own("nf"), "one"], own("less"), {}),
            ("Div", [own("t"), own("less")], own("v"), {}),
        ]
    else:
        rows += [
            ("Mul", [own("c"), own("c")], own("cc"), {}),
            ("ReduceMean", [own("cc"), axes], own("b" if variance == "bessel" else "v"), {}),
        ]
        if variance == "bessel":
            rows.append(("Mul", [own("bessel"), own("b")], own("v"), {}))
    if root == "outside":
        rows += [
            ("Sqrt", [own("v")], own("s"), {}),
            ("Add", ["eps", own("s")], own("d"), {}),
            ("Div", [own("c"), own("d")], result, {}),
        ]
        return rows
    rows.append(("Add", [own("v"), "eps"], own("ve"), {}))
    if root == "power":
        weights["half"] = np.float32(-0.5)
        rows.append(("Pow", [own("ve"), "half"], own("i"), {}))
    elif root == "over":
        rows += [("Sqrt", [own("ve")], own("s"), {}), ("Div", ["one", own("s")], own("i"), {})]
    else:
        rows += [("Sqrt", [own("ve")], own("s"), {}), ("Reciprocal", [own("s")], own("i"), {})]
    rows.append(("Mul", [own("i"), own("c")], result, {}))
    return rows


@pytest.mark.parametrize("over", ["channel", "sample"])
@pytest.mark.parametrize("variance", ["mean", "bessel", "power", "sum of squares", "counted"])
@pytest.mark.parametrize("root", ["inside", "outside", "power", "over"])
def test_every_way_to_write_a_norm_is_found_and_stays_the_same_function(
    over: str, variance: str, root: str, network: Any, run: Any
) -> None:
    weights: dict[str, Any] = {}
    size: dict[str, Any] = {} if variance == "counted" else {"height": HEIGHT, "width": WIDTH}
    model = network(written(over, variance, root, weights), weights, CHANNELS, **size)
    x = normal(1, CHANNELS, HEIGHT, WIDTH) * 3 + 40
    before = run(model, x)
    (norm,) = found_in(model)
    assert (norm.is_instance, norm.is_layer) == (over == "channel", over == "sample")
    assert norm.unbiased == (variance in ("bessel", "sum of squares", "counted"))
    assert norm.eps == pytest.approx(1e-3)
    assert norm.eps_inside == (root != "outside")
    assert write_norms_in_nhwc(model) == 1
    edit.simplify(model)
    kinds = {node.op_type for node in model.graph}
    assert not {"ReduceSum", "ReduceSumSquare", "Pow"} & kinds
    np.testing.assert_allclose(run(model, x), before, atol=2e-4 if variance == "power" else 2e-5)


def mixed(weights: dict[str, Any], order: str) -> list[Row]:
    """U-GAT-IT's mix with a style that is known at run time, its factors in either order."""
    weights |= {"rho": np.float32(RANDOM.uniform(0, 1, (1, CHANNELS, 1, 1)))}
    weights |= {"rest": 1 - weights["rho"], "k": normal(CHANNELS, 1, 1), "pool": np.asarray([2, 3])}
    rows = written("channel", "bessel", "inside", weights, name="i", result="in")
    rows += written("sample", "bessel", "inside", weights, name="l", result="ln")

    def flip(pair: list[str]) -> list[str]:
        return pair[::-1] if order == "flipped" else pair

    return [
        *rows,
        ("Mul", flip(["rho", "in"]), "a", {}),
        ("Mul", flip(["rest", "ln"]), "b", {}),
        ("Add", flip(["a", "b"]), "ab", {}),
        ("ReduceMax", ["x", "pool"], "style", {}),
        ("ReduceMin", ["x", "pool"], "other", {}),
        ("Mul", flip(["ab", "style"]), "scaled", {}),
        ("Mul", flip(["scaled", "k"]), "more", {}),
        ("Add", flip(["more", "other"]), "shifted", {}),
        ("Mul", flip(["shifted", "k"]), "y", {}),
    ]


@pytest.mark.parametrize("order", ["straight", "flipped"])
def test_a_mix_with_a_style_is_one_norm(order: str, network: Any, run: Any) -> None:
    weights: dict[str, Any] = {}
    model = network(mixed(weights, order), weights, CHANNELS, height=HEIGHT, width=WIDTH)
    x = normal(1, CHANNELS, HEIGHT, WIDTH) * normal(1, CHANNELS, 1, 1) * 3
    before = run(model, x)
    (norm,) = found_in(model)
    assert norm.result.name == "y"
    squared = weights["k"].reshape(-1) ** 2
    np.testing.assert_allclose(norm.instance, weights["rho"].reshape(-1) * squared, rtol=1e-6)
    np.testing.assert_allclose(norm.drift_factor, weights["k"].reshape(-1), rtol=1e-6)
    assert norm.scale is not None
    assert norm.scale.name == "style"
    assert write_norms_in_nhwc(model) == 1
    np.testing.assert_allclose(run(model, x), before, atol=5e-5)


def test_a_flattened_layer_norm_is_found(network: Any, run: Any) -> None:
    """`x.view(-1).mean()` and `x.view(-1).std()`, as the first implementations of MUNIT have it."""
    count = COUNTS["sample"]
    weights = {
        "flat": np.asarray([-1]),
        "one_each": np.asarray([1, 1, 1, 1]),
        "free": np.float32(count - 1),
        "eps": np.float32(1e-5),
        "gamma": normal(1, CHANNELS, 1, 1),
        "none": np.asarray([0]),
    }
    rows: list[Row] = [
        ("Reshape", ["x", "flat"], "line", {}),
        ("ReduceMean", ["line", "none"], "m", {}),
        ("Reshape", ["m", "one_each"], "m4", {}),
        ("Sub", ["line", "m"], "lc", {}),
        ("Mul", ["lc", "lc"], "square", {}),
        ("ReduceSum", ["square", "none"], "total", {}),
        ("Div", ["total", "free"], "v", {}),
        ("Sqrt", ["v"], "s", {}),
        ("Reshape", ["s", "one_each"], "s4", {}),
        ("Sub", ["x", "m4"], "c", {}),
        ("Add", ["s4", "eps"], "d", {}),
        ("Div", ["c", "d"], "n", {}),
        ("Mul", ["n", "gamma"], "y", {}),
    ]
    model = network(rows, weights, CHANNELS, height=HEIGHT, width=WIDTH)
    x = normal(1, CHANNELS, HEIGHT, WIDTH) + 2
    before = run(model, x)
    (norm,) = found_in(model)
    assert norm.is_layer
    assert (norm.unbiased, norm.eps_inside) == (True, False)
    assert write_norms_in_nhwc(model) == 1
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize("how", ["operator", "flat"])
def test_group_norm_of_one_group_is_layer_norm(how: str, network: Any, run: Any) -> None:
    weights = {"gamma": normal(CHANNELS, 1, 1), "beta": normal(CHANNELS, 1, 1)}
    if how == "operator":
        rows: list[Row] = [("GroupNormalization", ["x", "s", "t"], "n", {"num_groups": 1, "epsilon": 1e-5})]
    else:
        weights |= {"line": np.asarray([0, 1, -1]), "back": np.asarray([1, CHANNELS, HEIGHT, WIDTH])}
        rows = [
            ("Reshape", ["x", "line"], "flat", {}),
            ("InstanceNormalization", ["flat", "s", "t"], "nf", {"epsilon": 1e-5}),
            ("Reshape", ["nf", "back"], "n", {}),
        ]
    rows += [("Mul", ["n", "gamma"], "g", {}), ("Add", ["g", "beta"], "y", {})]
    ones = CHANNELS if how == "operator" else 1
    weights |= {"s": np.ones(ones, np.float32), "t": np.zeros(ones, np.float32)}
    model = network(rows, weights, CHANNELS, height=HEIGHT, width=WIDTH, opset=21)
    x = normal(1, CHANNELS, HEIGHT, WIDTH) + normal(1, CHANNELS, 1, 1) * 5
    before = run(model, x)
    (norm,) = found_in(model)
    assert norm.is_layer
    assert not norm.unbiased
    assert write_norms_in_nhwc(model) == 1
    edit.simplify(model)
    assert not {"GroupNormalization", "InstanceNormalization"} & {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


def test_a_norm_of_a_norm_is_written_from_the_new_one(network: Any, run: Any) -> None:
    weights: dict[str, Any] = {}
    rows = written("channel", "mean", "inside", weights, result="n")
    rows.append(("InstanceNormalization", ["n", "scale", "shift"], "y", {}))
    weights |= {"scale": normal(CHANNELS), "shift": normal(CHANNELS)}
    model = network(rows, weights, CHANNELS, height=HEIGHT, width=WIDTH)
    x = normal(1, CHANNELS, HEIGHT, WIDTH)
    before = run(model, x)
    ShapeInferencePass(data_prop=True)(model)
    assert write_norms_in_nhwc(model) == 2
    edit.simplify(model)
    assert "InstanceNormalization" not in {node.op_type for node in model.graph}
    np.testing.assert_allclose(run(model, x), before, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"axes": np.asarray([2])},
        {"free": np.float32(COUNTS["channel"] - 2)},
        {"free": np.float32(1)},
    ],
)
def test_what_only_looks_like_a_norm_is_left_alone(change: dict[str, Any], network: Any) -> None:
    weights: dict[str, Any] = {}
    rows = written("channel", "sum of squares", "inside", weights)
    model = network(rows, weights | change, CHANNELS, height=HEIGHT, width=WIDTH)
    assert found_in(model) == []


def test_a_spread_of_another_image_makes_no_norm(network: Any) -> None:
    weights: dict[str, Any] = {}
    rows = written("channel", "mean", "inside", weights)
    rows = [("Sigmoid", ["x"], "z", {}), *rows]
    rows[1] = ("ReduceMean", ["z", "axes"], "m", {})
    model = network(rows, weights, CHANNELS, height=HEIGHT, width=WIDTH)
    assert found_in(model) == []


def test_a_scale_that_changes_from_pixel_to_pixel_stays_outside(network: Any, run: Any) -> None:
    weights: dict[str, Any] = {}
    rows = written("channel", "mean", "inside", weights, result="n")
    rows += [("Sigmoid", ["x"], "map", {}), ("Mul", ["n", "map"], "y", {})]
    model = network(rows, weights, CHANNELS, height=HEIGHT, width=WIDTH)
    (norm,) = found_in(model)
    assert norm.result.name == "n"
    assert norm.scale is None
