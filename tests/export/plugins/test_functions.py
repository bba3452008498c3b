"""The fused graph, its operators' bodies executed by ONNX Runtime, against the master it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest

from i2i_export.plugins.functions import model_with_functions
from i2i_export.plugins.lowering import PluginNetwork, network_with_plugins

RANDOM = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.standard_normal(shape).astype(np.float32)


def residual_block(network: Any, side: int, dtype: type = np.float32) -> ir.Model:
    """pad, conv, norm, ReLU, pad, conv, norm, + x, pad, conv: what nine of the methods are made of."""
    one = {"pads": np.asarray([0, 0, 1, 1] * 2)}
    rows = [
        ("Cast", ["x"], "x0", {"to": onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}),
        ("Conv", ["x0", "w0"], "c0", {"pads": [1] * 4}),
        ("InstanceNormalization", ["c0", "s", "t"], "n0", {"epsilon": 1e-3}),
        ("LeakyRelu", ["n0"], "h", {"alpha": 0.2}),
        ("Pad", ["h", "pads"], "p1", {"mode": "reflect"}),
        ("Conv", ["p1", "w1"], "c1", {}),
        ("InstanceNormalization", ["c1", "s", "t"], "n1", {}),
        ("Relu", ["n1"], "r1", {}),
        ("Pad", ["r1", "pads"], "p2", {"mode": "reflect"}),
        ("Conv", ["p2", "w2"], "c2", {}),
        ("InstanceNormalization", ["c2", "u", "z"], "n2", {}),
        ("Add", ["n2", "c0"], "sum", {}),
        ("Pad", ["sum", "pads"], "p3", {"mode": "reflect"}),
        ("Conv", ["p3", "w3"], "c3", {}),
        ("Cast", ["c3"], "y", {"to": onnx.TensorProto.FLOAT}),
    ]
    weights = {f"w{index}": normal(32, 3 if index == 0 else 32, 3, 3) / 12 for index in range(4)}
    affine = {"s": normal(32), "t": normal(32), "u": np.ones(32, np.float32), "z": np.zeros(32, np.float32)}
    typed = {name: array.astype(dtype) for name, array in (weights | affine).items()}
    return network(rows, typed | one, 3, height=side, width=side)  # type: ignore[no-any-return]


def written_norm(x: str, name: str, over: str) -> list[Any]:
    """Unbiased, epsilon outside the root, as rows."""
    return [
        ("ReduceMean", [x, over], f"m{name}", {}),
        ("Sub", [x, f"m{name}"], f"c{name}", {}),
        ("ReduceSumSquare", [f"c{name}", over], f"t{name}", {}),
        ("Div", [f"t{name}", f"free_{over}"], f"v{name}", {}),
        ("Sqrt", [f"v{name}"], f"s{name}", {}),
        ("Add", [f"s{name}", "eps"], f"d{name}", {}),
        ("Div", [f"c{name}", f"d{name}"], f"n{name}", {}),
    ]


def styled_blocks(network: Any, side: int) -> ir.Model:
    """A layer norm, and two residual blocks: a mix scaled at run time, and an instance norm scaled at run time."""
    rows = [
        ("Conv", ["x", "w0"], "c0", {"pads": [1] * 4}),
        *written_norm("c0", "l", "sample"),
        ("Mul", ["nl", "k"], "scaled", {}),
        ("Relu", ["scaled"], "h", {}),
        ("GlobalAveragePool", ["c0"], "style", {}),
        ("Pad", ["h", "pads"], "p0", {"mode": "reflect"}),
        ("Conv", ["p0", "w1"], "c1", {}),
        *written_norm("c1", "i", "channel"),
        *written_norm("c1", "j", "sample"),
        ("Mul", ["ni", "rho"], "share_i", {}),
        ("Mul", ["nj", "rest"], "share_j", {}),
        ("Add", ["share_i", "share_j"], "mix", {}),
        ("Mul", ["mix", "style"], "styled", {}),
        ("Add", ["h", "styled"], "h1", {}),
        ("Pad", ["h1", "pads"], "p1", {"mode": "reflect"}),
        ("Conv", ["p1", "w2"], "c2", {}),
        ("InstanceNormalization", ["c2", "one", "zero"], "n2", {}),
        ("Mul", ["n2", "style"], "a2", {}),
        ("Add", ["a2", "style"], "b2", {}),
        ("Mul", ["b2", "tenth"], "e2", {}),
        ("Add", ["e2", "h1"], "h2", {}),
        ("Pad", ["h2", "pads"], "p2", {"mode": "reflect"}),
        ("Conv", ["p2", "w3"], "y", {}),
    ]
    weights: dict[str, Any] = {
        f"w{index}": normal(32, 3 if index == 0 else 32, 3, 3) / 12 for index in range(4)
    }
    rho = RANDOM.uniform(0, 1, (32, 1, 1)).astype(np.float32)
    weights |= {"k": normal(32, 1, 1), "rho": rho, "rest": 1 - rho, "tenth": np.float32(0.1)}
    weights |= {"one": np.ones(32, np.float32), "zero": np.zeros(32, np.float32), "eps": np.float32(1e-3)}
    weights |= {"free_channel": np.float32(side**2 - 1), "free_sample": np.float32(32 * side**2 - 1)}
    weights |= {"channel": np.asarray([2, 3]), "sample": np.asarray([1, 2, 3])}
    weights |= {"pads": np.asarray([0, 0, 1, 1] * 2)}
    return network(rows, weights, 3, height=side, width=side)  # type: ignore[no-any-return]


@pytest.mark.parametrize("side", [24, 72])
def test_layer_norms_mixes_and_styles_give_the_master_s_image(network: Any, run: Any, side: int) -> None:
    master = styled_blocks(network, side)
    x = normal(1, 3, side, side)
    wanted = run(master, x)
    fused = network_with_plugins(ir.to_proto(master))
    assert fused is not None
    families = {kernel.variant.kind.family for kernel in fused.kernels.values()}
    assert families == {"layer", "clamp", "instance"}
    left = {node.op_type for node in fused.model.graph.node if node.domain == ""}
    assert not {"ReduceMean", "InstanceNormalization", "Pad", "Relu"} & left
    padded = [kernel.variant for kernel in fused.kernels.values() if kernel.variant.residual_pad]
    assert len(padded) == 2, "both residuals are taken from the inside of a padded image"
    # The master sums up to 165,888 numbers in a row.
    np.testing.assert_allclose(run(ir.from_proto(model_with_functions(fused)), x), wanted, atol=1e-4)


def test_the_parts_of_one_style_are_widened_together(network: Any, run: Any) -> None:
    half = np.float16
    rows = [
        ("Cast", ["x"], "x0", {"to": onnx.TensorProto.FLOAT16}),
        ("Conv", ["x0", "w0"], "c0", {}),
        ("GlobalAveragePool", ["x0"], "pool", {}),
        ("Flatten", ["pool"], "line", {}),
        ("Gemm", ["line", "w"], "style", {}),
        ("Split", ["style"], "s0 s1 s2 s3", {"axis": 1, "num_outputs": 4}),
        *((("Unsqueeze", [f"s{index}", "pool_axes"], f"u{index}", {})) for index in range(4)),
        ("InstanceNormalization", ["c0", "one", "zero"], "n0", {}),
        ("Mul", ["n0", "u1"], "m0", {}),
        ("Add", ["m0", "u0"], "a0", {}),
        ("Conv", ["a0", "w1"], "c1", {}),
        ("InstanceNormalization", ["c1", "one", "zero"], "n1", {}),
        ("Mul", ["n1", "u3"], "m1", {}),
        ("Add", ["m1", "u2"], "a1", {}),
        ("Cast", ["a1"], "y", {"to": onnx.TensorProto.FLOAT}),
    ]
    weights = {"w0": normal(16, 3, 1, 1).astype(half), "w1": (normal(16, 16, 1, 1) / 4).astype(half)}
    weights |= {"w": normal(3, 64).astype(half), "pool_axes": np.asarray([2, 3])}
    weights |= {"one": np.ones(16, half), "zero": np.zeros(16, half)}
    model = network(rows, weights, 3, height=20, width=20)
    x = normal(1, 3, 20, 20) + 1
    wanted = run(model, x)
    fused = network_with_plugins(ir.to_proto(model))
    assert fused is not None
    left = [node.op_type for node in fused.model.graph.node if node.domain == ""]
    assert left.count("Split") == 1
    assert left.count("Cast") == 3, "the image's two, and one for the whole style"
    np.testing.assert_allclose(run(ir.from_proto(model_with_functions(fused)), x), wanted, atol=2e-2)


def checked(
    network: Any, run: Any, rows: list[Any], weights: dict[str, Any], side: int = 20
) -> PluginNetwork:
    """The fused network of these rows, whose bodies give the master's image; `one` and `zero` have 16 channels."""
    ones = {"one": np.ones(16, np.float32), "zero": np.zeros(16, np.float32)}
    master = network(rows, weights | ones, 3, height=side, width=side)
    x = normal(1, 3, side, side)
    wanted = run(master, x)
    fused = network_with_plugins(ir.to_proto(master))
    assert fused is not None
    np.testing.assert_allclose(run(ir.from_proto(model_with_functions(fused)), x), wanted, atol=2e-5)
    return fused


def test_a_written_norm_that_is_not_ours_is_written_leaner(network: Any, run: Any) -> None:
    side = 20
    rows = [
        ("Conv", ["x", "w0"], "c0", {}),
        ("InstanceNormalization", ["c0", "one", "zero"], "n0", {}),
        ("Conv", ["n0", "w1"], "c1", {}),
        *written_norm("c1", "l", "sample"),
        ("Relu", ["nl"], "y", {}),
    ]
    weights: dict[str, Any] = {"w0": normal(16, 3, 1, 1), "w1": normal(24, 16, 1, 1) / 4}
    weights |= {"sample": np.asarray([1, 2, 3]), "free_sample": np.float32(24 * side**2 - 1)}
    fused = checked(network, run, rows, weights | {"eps": np.float32(1e-3)}, side)
    assert {kernel.op for kernel in fused.kernels.values()} == {"norm_slab"}, (
        "24 channels are not a multiple of 16"
    )
    assert "ReduceSumSquare" not in {node.op_type for node in fused.model.graph.node}


def test_a_sum_of_two_norms_is_the_residual_of_one(network: Any, run: Any) -> None:
    rows = [
        ("Conv", ["x", "w0"], "c0", {}),
        ("Conv", ["x", "w1"], "c1", {}),
        ("InstanceNormalization", ["c0", "one", "zero"], "n0", {}),
        ("InstanceNormalization", ["c1", "one", "zero"], "n1", {}),
        ("Add", ["n0", "n1"], "sum", {}),
        ("Pad", ["sum", "pads"], "y", {"mode": "reflect"}),
    ]
    weights = {"w0": normal(16, 3, 1, 1), "w1": normal(16, 3, 1, 1), "pads": np.asarray([0, 0, 1, 1] * 2)}
    fused = checked(network, run, rows, weights)
    assert [node.op_type for node in fused.model.graph.node if node.domain == ""] == ["Conv", "Conv"]


def test_an_image_that_others_read_too_is_kept_without_its_border(network: Any, run: Any) -> None:
    rows = [
        ("Conv", ["x", "w0"], "c0", {"pads": [1] * 4}),
        ("InstanceNormalization", ["c0", "one", "zero"], "h", {}),
        ("Pad", ["h", "pads"], "p", {"mode": "reflect"}),
        ("Conv", ["p", "w1"], "c1", {}),
        ("InstanceNormalization", ["c1", "one", "zero"], "n1", {}),
        ("Add", ["h", "n1"], "h1", {}),
        ("GlobalMaxPool", ["h"], "pool", {}),
        ("Mul", ["h1", "pool"], "y", {}),
    ]
    weights = {"w0": normal(16, 3, 3, 3), "w1": normal(16, 16, 3, 3), "pads": np.asarray([0, 0, 1, 1] * 2)}
    fused = checked(network, run, rows, weights)
    assert "Pad" in {node.op_type for node in fused.model.graph.node}
    assert not any(kernel.variant.residual_pad for kernel in fused.kernels.values())


@pytest.mark.parametrize("side", [24, 72])
def test_fused_norms_give_the_master_s_image(network: Any, run: Any, side: int) -> None:
    master = residual_block(network, side)
    x = normal(1, 3, side, side)
    wanted = run(master, x)
    fused = network_with_plugins(ir.to_proto(master))
    assert fused is not None
    model = model_with_functions(fused)
    onnx.checker.check_model(model)
    calls = [node for node in model.graph.node if node.domain == "i2i"]
    assert {node.op_type for node in calls} == {function.name for function in model.functions}
    assert all(any(entry.name == "plugin_namespace" for entry in node.attribute) for node in calls)
    assert "InstanceNormalization" not in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(run(ir.from_proto(model), x), wanted, atol=2e-5)
    inlined = onnx.inliner.inline_local_functions(model)
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    np.testing.assert_allclose(run(ir.from_proto(inlined), x), wanted, atol=2e-5)


def test_convolutions_that_normalise_what_they_load_give_the_master_s_image(network: Any, run: Any) -> None:
    master = residual_block(network, 24, np.float16)
    x = normal(1, 3, 24, 24)
    wanted = run(master, x)
    fused = network_with_plugins(ir.to_proto(master), convolutions=True)
    assert fused is not None
    assert {kernel.op for kernel in fused.kernels.values()} >= {"conv_norm", "norm_coefficients"}
    got = run(ir.from_proto(model_with_functions(fused)), x)
    # Half precision keeps 11 bits of values up to about 4.
    np.testing.assert_allclose(got, wanted, atol=2e-2)
