"""What the benchmarks time is the same function with and without our kernels, and a red gate is not timed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from i2i_kernels import numerics
from i2i_trainer import blocks, norms
from i2i_trainer.methods.unit import UNITConfig

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "benchmarks"
NETWORKS = Path(__file__).parents[2] / "trainer" / "benchmarks"


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(NETWORKS))
    return importlib.import_module("networks")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("harness")


@pytest.mark.parametrize("method", ["cyclegan", "munit", "realtime"])
def test_network_with_our_kernels_is_the_same_function(networks: ModuleType, method: str) -> None:
    network = networks.generator(method)
    kinds = {type(module) for module in network.modules()}
    assert not kinds & set(networks.PLAIN), "what ours is compared with would call our kernels too"
    fused = networks.fused(network)
    plain_norms = (nn.InstanceNorm2d, norms.InstanceNorm, norms.LayerNormOverStd, blocks.AdaptiveResBlock)
    assert not [m for m in fused.modules() if isinstance(m, plain_norms)]
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(fused(image), network(image), atol=1e-4, rtol=1e-3)


def test_training_step_with_our_kernels_has_the_same_losses(networks: ModuleType) -> None:
    cpu = torch.device("cpu")
    config = UNITConfig(image_size=64, width=4, blocks=2, disc_width=4, disc_layers=3)
    steps = [networks.training_step("unit", config, cpu, ours=ours, autocast=False) for ours in (False, True)]
    losses = []
    for step in steps:
        torch.manual_seed(1)
        losses.append(step())
    assert losses[0].keys() == losses[1].keys()
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, atol=1e-3, rtol=1e-2)


def test_a_row_says_what_was_timed_where_and_when(harness: ModuleType, tmp_path: Path) -> None:
    benches = [
        harness.Bench(
            "add", "eager", "1M", "float32", lambda: lambda: torch.ones(1 << 20) + 1, moved=1 << 23
        ),
        harness.Bench("add", "broken", "8", "float32", lambda: lambda: torch.ones(8) + torch.ones(7)),
    ]
    rows = harness.run_ungated(benches, torch.device("cpu"), tmp_path / "rows.jsonl")
    assert [row.impl for row in rows] == ["eager"]
    (stored,) = map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())
    assert 0 < stored["p20_ms"] <= stored["median_ms"] <= stored["p80_ms"]
    assert stored["gb_s"] > 0
    assert stored["copy_share"] > 0
    assert "CPU" in stored["device"]
    assert torch.__version__ in stored["versions"]
    assert not stored["graphed"]


def test_a_red_gate_is_not_timed(
    harness: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for the cases' program, first on the child's path, whose bound is broken.
    package = tmp_path / "i2i_kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "numerics.py").write_text(
        "import sys\nsys.exit('x is off by 1.0e+00, the bound is 2.0e-06')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench = harness.Bench("norm", "eager", "1M", "float32", lambda: pytest.fail("it was timed"))
    with pytest.raises(harness.RedGateError, match=r"norm is not timed.*off by 1"):
        harness.run([bench], torch.device("cpu"), tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


def test_every_op_that_is_timed_has_cases() -> None:
    assert {case.op for case in numerics.cases()} == {"norm", "pyramid", "colour", "conv_norm"}
