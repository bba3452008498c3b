"""Pixel shuffles that sink behind what works on each pixel by itself: the same function, of wider convolutions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from i2i_export import parity
from i2i_export.enginefile import EngineFile
from i2i_export.frames import fit_all
from i2i_export.graph.edit import simplify
from i2i_export.passes.order import optimise
from i2i_export.passes.shuffles import sink_shuffles
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.frame import Image
from i2i_trainer.methods.lptn import LPTN, LPTNConfig

DOUBLE = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def weights(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def band(mode: str) -> tuple[list[tuple[str, list[str], str, dict[str, Any]]], dict[str, Any]]:
    """A band of a pyramid: image minus what its half grows to, masked by a doubled value, refined, added back."""
    rows: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("MaxPool", ["x"], "half", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Conv", ["half", "grow"], "phases", {"pads": [1, 1, 1, 1], "group": 3}),
        ("DepthToSpace", ["phases"], "grown", {"blocksize": 2, "mode": mode}),
        ("Sub", ["x", "grown"], "band", {}),
        ("Resize", ["half", "", "scales"], "doubled", DOUBLE),
        ("Mul", ["band", "doubled"], "masked", {}),
        ("Conv", ["masked", "one", "bias"], "wide", {}),
        ("LeakyRelu", ["wide"], "bent", {"alpha": 0.1}),
        ("Conv", ["bent", "two"], "refined", {}),
        ("Add", ["refined", "grown"], "joined", {}),
        ("Mul", ["joined", "scale"], "y", {}),
    ]
    constants = {
        "grow": weights(12, 1, 3, 3),
        "one": weights(5, 3, 1, 1),
        "bias": weights(5),
        "two": weights(3, 5, 1, 1),
        "scales": np.asarray([1, 1, 2, 2], np.float32),
        "scale": np.float32(2),
    }
    return rows, constants


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_a_band_computes_the_same_on_blocks(mode: str, network: Any, run: Any) -> None:
    rows, constants = band(mode)
    model = network(rows, constants, 3)
    x = weights(1, 3, 8, 12)
    wanted = run(model, x)
    assert sink_shuffles(model) == 6
    simplify(model)
    np.testing.assert_allclose(run(model, x), wanted, atol=1e-4)
    counts = Counter(node.op_type for node in model.graph)
    assert (counts["DepthToSpace"], counts["Resize"], counts["Conv"]) == (1, 0, 3)
    last = next(node for node in reversed(model.graph) if node.op_type == "Mul")
    assert last.inputs[0] is not None
    assert last.inputs[0].producer().op_type == "DepthToSpace", "the scaling that ends a network stays behind"


def test_a_shuffle_that_only_scalings_follow_stays_where_it_is(network: Any) -> None:
    rows: list[Any] = [
        ("Conv", ["x", "grow"], "phases", {"pads": [1, 1, 1, 1]}),
        ("DepthToSpace", ["phases"], "grown", {"blocksize": 2, "mode": "CRD"}),
        ("LeakyRelu", ["grown"], "y", {"alpha": 0.1}),
    ]
    model = network(rows, {"grow": weights(12, 3, 3, 3)}, 3)
    assert sink_shuffles(model) == 0
    assert [node.op_type for node in model.graph] == ["Conv", "DepthToSpace", "LeakyRelu"]


def test_a_whole_image_is_shuffled_once_for_all_that_need_it(network: Any, run: Any) -> None:
    rows, constants = band("CRD")
    rows = [*rows[:-1], ("MaxPool", ["joined"], "a", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})]
    rows += [("AveragePool", ["joined"], "b", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})]
    rows += [("Add", ["a", "b"], "y", {})]
    model = network(rows, constants, 3)
    x = weights(1, 3, 8, 12)
    wanted = run(model, x)
    assert sink_shuffles(model)
    simplify(model)
    np.testing.assert_allclose(run(model, x), wanted, atol=1e-4)
    assert Counter(node.op_type for node in model.graph)["DepthToSpace"] == 1


def test_the_pyramid_of_lptn_gives_the_same_image(
    tmp_path: Path, origin: Origin, street: list[Image]
) -> None:
    torch.manual_seed(1)
    config = LPTNConfig(data=tmp_path, out=tmp_path / "run", width=8)
    inference = LPTN(config).inference()
    size = dynamic_size(inference.stride)
    plain = engine_from_inference(inference, size, origin)
    model = ir.from_proto(plain.to_proto())
    assert "pixel shuffles behind 1x1 convolutions" in optimise(model, for_cpu=True)
    report = parity.compare(
        "blocks against pixels",
        parity.OnnxTranslator(plain.to_proto()),
        parity.OnnxTranslator(EngineFile(model, plain.metadata).to_proto()),
        fit_all(street[:1], [(64, 96)]),
        parity.Bound(max_abs=1e-5),
    )
    assert report.passed, report.max_abs
    # One per level that is put back, and the coarsest band, which the mask's network reads whole.
    assert (shuffles_in(plain.model), shuffles_in(model)) == (6, 4)


def shuffles_in(model: ir.Model) -> int:
    return sum(node.op_type == "DepthToSpace" for node in model.graph)
