"""Real plans from every method's engine: six architectures in one build, fixed and dynamic size, and budgets.

The networks are the methods' `small` presets, exported, halved and rewritten as `i2i-export --plan` does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from i2i_export.enginefile import EngineFile, write_engine
from i2i_export.frames import fit_all, read_frames
from i2i_export.plan.builder import BuildBar, PlanBuilder, profile_from_policy
from i2i_export.plan.candidates import plan_from_onnx
from i2i_export.plan.passes import rewritten
from i2i_export.precision.half import half_from_engine
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX, PlanManifest, read_manifest
from i2i_runtime.metadata import Provenance, SizePolicy
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS

ARCHITECTURES = ("sm_89", "sm_75", "sm_80", "sm_86", "sm_120", "sm_121")
"""The first is the one whose launches are counted."""

SIDE = 64

BUDGETS = {
    "unit": (56, 5.37),
    "unit-digits": (12, 1.45),
    "munit": (80, 8.73),
    "nicegan": (47, 1.86),
    "ugatit": (54, 2.63),
    "bicyclegan": (33, 5.12),
    "pix2pix": (33, 4.83),
    "tunit": (53, 3.17),
    "lptn": (65, 3.09),
    "drit": (67, 8.04),
    "cogan": (8, 0.16),
    "cut": (53, 8.74),
    "fastcut": (53, 8.74),
    "cyclegan": (42, 4.98),
    "realtime": (12, 0.41),
    "distill": (12, 0.41),
    "graded": (14, 0.41),
}
"""Launches and megabytes per frame at 64x64 (or the method's own size), half precision. Lower one that has become
too large; raise one only with the reason in the commit."""


@dataclass(frozen=True)
class Exported:
    """One method's engine, and its plan of fixed size as the command leaves it."""

    name: str
    engine: EngineFile
    plan: bytes
    manifest: PlanManifest
    size: SizePolicy


def half_engine(inference: Inference, name: str) -> tuple[EngineFile, tuple[int, int]]:
    """A half-precision engine, dynamic where the method allows it, and a small size of it."""
    fixed = inference.fixed_size
    policy = dynamic_size(inference.stride) if fixed is None else SizePolicy.fixed(*fixed)
    size = fixed or (SIDE, SIDE)
    engine = engine_from_inference(inference, policy, Origin(name, name, "day -> night", Provenance()))
    styled = engine.metadata.style
    style = None if styled is None else np.asarray([styled.default], np.float32)
    half, _ = half_from_engine(engine, fit_all(read_frames(None, 1), [size]), style)
    return half, size


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in METHODS]
)
def exported(
    request: pytest.FixtureRequest,
    inference_from_method: Callable[[str], Inference],
    rtx: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Exported:
    name = request.param
    engine, size = half_engine(inference_from_method(name), name)
    path = tmp_path_factory.mktemp("plans") / f"{name}.onnx"
    write_engine(engine, path)
    plan = plan_from_onnx(path, target=TENSORRT_RTX, arch=ARCHITECTURES, size=size)
    metadata, manifest = read_manifest(plan)
    return Exported(name, engine, plan.read_bytes(), manifest, metadata.size)


def check_ends(plan: bytes) -> None:
    """The plan's own words on its images: bytes in, bytes out (CoGAN's generator reads no frame)."""
    text = plan.decode("latin1")
    ends = re.findall(
        r'^  tensor=\{ [^\n]*? name="(frame|translated)[.\d]*"[^\n]*? type=(\w+)', text, re.MULTILINE
    )
    assert {name for name, _ in ends} | {"frame"} == {"frame", "translated"}
    assert {kind for _, kind in ends} == {"uint8"}


def test_one_plan_serves_six_architectures_within_its_budget(exported: Exported) -> None:
    assert exported.plan[1:4] == b"trt"
    assert set(exported.manifest.architectures) == set(ARCHITECTURES)
    assert exported.size.is_fixed
    check_ends(exported.plan)
    kept = next(form for form in exported.manifest.candidates if form.kept)
    assert kept.launches is not None
    assert kept.megabytes is not None
    launches, megabytes = BUDGETS[exported.name]
    found = f"{exported.name}: {kept.launches} launches, {kept.megabytes} MB ({exported.manifest.rewrites})"
    assert kept.launches <= launches, found
    assert kept.megabytes <= megabytes * 1.005, found


def test_the_same_engine_becomes_a_dynamic_plan(exported: Exported, rtx: Any) -> None:
    policy = exported.engine.metadata.size
    if policy.is_fixed:
        pytest.skip(f"{exported.name} takes images of one size")
    profile = profile_from_policy(policy)
    assert not profile.is_fixed
    model = exported.engine.to_proto()
    names = exported.manifest.rewrites
    builder = PlanBuilder(rtx, TENSORRT_RTX, ARCHITECTURES, timing_cache=None, bar=BuildBar(None))
    plan = builder.build((names and rewritten(model, names)) or model, profile, origin=exported.name)
    assert plan[1:4] == b"trt"
    check_ends(plan)
