"""Does a plan fit the GPU at hand, and what happens if it does not: sidecars, reasons, the command that rebuilds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.engine import open_tensorrt
from i2i_runtime.engines.tensorrt.fit import rebuild_command, rebuilt, why_unfit
from i2i_runtime.engines.tensorrt.manifest import read_manifest, sidecar_path
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import EngineMetadata, SizePolicy

FACTS = DeviceFacts("Fake GPU", "sm_89", "13.0", 8 << 30, 4 << 30, shares_memory=False)


@pytest.fixture
def plan(write_tensorrt_plan: Callable[..., Path], tmp_path: Path) -> Path:
    """A plan file, its sidecar and its engine; the bytes mean nothing."""
    (tmp_path / "night.onnx").write_bytes(b"the engine")
    return write_tensorrt_plan(tmp_path / "night.plan")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ("sm_87", "sm_90")}, "built for sm_87 and sm_90 and this GPU, Fake GPU, is sm_89"),
        ({"gpu": "Smaller GPU"}, "it was built on Smaller GPU and this GPU is Fake GPU"),
        ({"tensorrt_version": "10.15.1.29"}, "built by TensorRT 10.15.1.29 and this machine has 10.16.1.11"),
        ({"plan_sha256": "0" * 64}, "damaged or of another build"),
        ({"onnx_sha256": "0" * 64}, "night.onnx beside it has changed since"),
    ],
)
def test_why_a_plan_does_not_fit(
    write_tensorrt_plan: Callable[..., Path], plan: Path, changes: dict[str, Any], reason: str
) -> None:
    write_tensorrt_plan(plan, **changes)
    found = why_unfit(plan, read_manifest(plan)[1], FACTS, "10.16.1.11")
    assert found is not None
    assert reason in found


def test_another_build_of_the_same_release_fits(plan: Path) -> None:
    assert why_unfit(plan, read_manifest(plan)[1], FACTS, "10.16.1.99") is None


def test_a_plan_of_tensorrt_for_rtx_fits_any_gpu_of_its_architecture(
    write_tensorrt_plan: Callable[..., Path], plan: Path
) -> None:
    write_tensorrt_plan(plan, gpu="Smaller GPU", flavour="tensorrt-rtx")
    assert why_unfit(plan, read_manifest(plan)[1], FACTS, "10.16.1.99") is None


def test_a_foreign_plan_is_rebuilt_from_the_engine_beside_it(
    write_tensorrt_plan: Callable[..., Path], plan: Path
) -> None:
    write_tensorrt_plan(plan, architectures=("sm_87",))
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        write_tensorrt_plan(plan)
        return subprocess.CompletedProcess(command, 0)

    _, manifest = rebuilt(plan, *read_manifest(plan), "it is foreign", run=run)
    assert manifest.architectures == ("sm_89",)
    engine = str(plan.with_name("night.onnx"))
    assert commands == [
        [
            *("i2i-export", engine, "-o", engine, "--plan", "--target", "tensorrt"),
            *("--plan-file", str(plan), "--size", "4x4"),
        ]
    ]


def test_where_export_is_not_installed_the_command_is_named(plan: Path) -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(command[0])

    with pytest.raises(
        EngineError, match=r"i2i-export is not installed here: run `pip install .* then `i2i-export"
    ):
        rebuilt(plan, *read_manifest(plan), "it is foreign", run=run)


def test_a_failed_rebuild_names_the_command(plan: Path) -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1)

    with pytest.raises(EngineError, match="could not be rebuilt: see what `i2i-export"):
        rebuilt(plan, *read_manifest(plan), "it is foreign", run=run)


def test_a_dynamic_plan_is_rebuilt_dynamic() -> None:
    policy = SizePolicy(stride=4, min_height=64, max_height=1088, min_width=64, max_width=1920)
    assert "--size" not in rebuild_command(
        Path("x.plan"),
        Path("x.onnx"),
        "tensorrt",
        EngineMetadata("night", "cyclegan", "day -> night", policy),
    )


def test_a_file_that_is_no_plan_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_bytes(b"GIF89a")
    with pytest.raises(EngineError, match="is not a TensorRT plan"):
        open_tensorrt(tmp_path / "x.plan")
    with pytest.raises(EngineError, match="cannot be read"):
        open_tensorrt(tmp_path / "absent.plan")


def test_a_plan_without_its_sidecar_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_bytes(b"ftrt and the rest")
    with pytest.raises(EngineError, match=r"no readable x.plan.json beside it"):
        open_tensorrt(tmp_path / "x.plan")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"plan": None}, "does not describe a plan"),
        ({"plan": {"schema_version": 99}}, "has plan schema 99"),
        ({"plan": {"schema_version": 1}}, "missing or wrong field: 'onnx_file'"),
    ],
)
def test_a_sidecar_that_describes_no_plan_is_refused(
    plan: Path, change: dict[str, Any], sentence: str
) -> None:
    raw = {**json.loads(sidecar_path(plan).read_text()), **change}
    sidecar_path(plan).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=sentence):
        read_manifest(plan)


@pytest.mark.parametrize("bad", [{"flavour": "trt"}, {"onnx_file": "../x.onnx"}])
def test_a_sidecar_with_a_wrong_word_is_refused(
    write_tensorrt_plan: Callable[..., Path], plan: Path, bad: dict[str, str]
) -> None:
    write_tensorrt_plan(plan, **bad)
    with pytest.raises(EngineError, match="does not describe a plan"):
        read_manifest(plan)


def test_the_sidecar_survives_the_round_trip_and_unknown_keys(plan: Path) -> None:
    before = read_manifest(plan)
    raw = json.loads(sidecar_path(plan).read_text())
    raw["plan"]["a_later_field"] = 1
    raw["plan"]["candidates"] = [{"form": "plain", "kept": True, "later": 2}]
    sidecar_path(plan).write_text(json.dumps(raw))
    engine, manifest = read_manifest(plan)
    assert engine == before[0]
    assert manifest.candidates[0].form == "plain"
    assert replace(manifest, candidates=()) == before[1]


@pytest.mark.parametrize("name", ["", ".", "..", "--plan-file=x.onnx", "-o", "../a.onnx", ".hidden.onnx"])
def test_the_engine_of_a_plan_is_a_plain_name(
    write_tensorrt_plan: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    """It becomes an argument of the command that builds the plan again."""
    plan = write_tensorrt_plan(tmp_path / "night.plan", onnx_file=name)
    with pytest.raises(EngineError, match="onnx_file must be a bare file name"):
        read_manifest(plan)
