"""Real TensorRT for RTX plans, built without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from i2i_export.errors import ExportError
from i2i_export.parity import OnnxTranslator
from i2i_export.plan import candidates, selection
from i2i_export.plan.builder import (
    FrameProfile,
    pinned_to_size,
    profile_from_policy,
    supported_architectures,
)
from i2i_export.plan.candidates import plan_from_onnx, plan_summary
from i2i_export.plan.forms import portable
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import read_manifest, sha256_of, sidecar_path
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, SizePolicy

if TYPE_CHECKING:
    from tests.export.plan.conftest import NetworkWriter

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
DYNAMIC = SizePolicy(stride=4, min_height=64, max_height=2048, min_width=64, max_width=4096)


@pytest.fixture
def engine_file(network: Any, bodies: Any, write_engine_file: Callable[..., Path]) -> Path:
    """A norm-free student of 64x96 pixels."""
    return write_engine_file(network().engine(bodies["student"](1, 16), 64, 96), SizePolicy.fixed(64, 96))


def plan(path: Path, out: Path | None = None, **options: Any) -> Path:
    return plan_from_onnx(path, out, **{"target": "tensorrt-rtx", "arch": "sm_89", **options})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_plan_is_built_for_every_architecture(
    architecture: str, network: Any, bodies: Any, build: Callable[..., bytes]
) -> None:
    for body in (bodies["student"](2, 32), bodies["resnet"](1, 16)):
        assert build(network().engine(body, 64, 64), architecture)[1:4] == b"trt"


def test_the_flavour_names_its_own_architectures(rtx: Any) -> None:
    assert set(ARCHITECTURES) <= set(supported_architectures(rtx))


def test_one_plan_may_serve_several_architectures(engine_file: Path) -> None:
    built = plan(engine_file, engine_file.parent, arch=("sm_86", "sm_120", "sm_86"))
    assert built.name.endswith(".sm_86+sm_120.plan")
    assert read_manifest(built)[1].architectures == ("sm_86", "sm_120")


def test_a_dynamic_plan_allocates_nothing_by_itself(
    network: Any, bodies: Any, build: Callable[..., bytes]
) -> None:
    """What it would allocate while it runs would keep it out of a CUDA graph."""
    model = network().engine(bodies["student"](1, 16), "H", "W")
    built = build(model, "sm_89", FrameProfile((64, 64), (256, 256), (512, 512)))
    assert b"system_hmem_topdown" not in built


def test_the_plan_and_its_sidecar_say_what_they_are(engine_file: Path, rtx: Any) -> None:
    built = plan(engine_file)
    version = ".".join(rtx.__version__.split(".")[:3])
    assert built == engine_file.with_suffix(".plan")
    detailed = plan(engine_file, engine_file.parent)
    assert detailed == engine_file.with_name(f"night.96x64.fp16.rtx-{version}.sm_89.plan")
    assert detailed.read_bytes() == built.read_bytes()
    metadata, manifest = read_manifest(built)
    assert metadata.size == SizePolicy.fixed(64, 96)
    assert manifest.flavour == "tensorrt-rtx"
    assert manifest.tensorrt_version == rtx.__version__
    assert manifest.onnx_file == "night.onnx"
    assert manifest.onnx_sha256 == sha256_of(engine_file.read_bytes())
    assert manifest.plan_sha256 == sha256_of(built.read_bytes())
    assert manifest.builder_flags == ("STRONGLY_TYPED",)
    kept = [candidate for candidate in manifest.candidates if candidate.kept]
    assert len(kept) == 1
    assert kept[0].launches is not None
    assert "takes no ahead-of-time plugins" in plan_summary(built)


def test_on_its_gpu_a_counted_form_with_another_image_gives_way_to_the_plain_one(
    network: Any,
    bodies: Any,
    write_engine_file: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    rtx: Any,
) -> None:
    model = network().engine(bodies["resnet"](1, 16), 64, 64, float_end=True)
    path = write_engine_file(model, SizePolicy.fixed(64, 64))
    translator = OnnxTranslator(onnx.load(str(path)))
    answers = [np.full((64, 64, 3), 77, np.uint8)]

    def translate(target: str, plan: bytes, metadata: EngineMetadata, frames: Sequence[Image]) -> list[Image]:
        wrong = answers.pop() if answers else None
        return [translator.translate(frame, None).image if wrong is None else wrong for frame in frames]

    facts = DeviceFacts("Fake GPU", "sm_89", "13.0", 8 << 30, 4 << 30, shares_memory=False)
    monkeypatch.setattr(candidates, "find_device_facts", lambda: facts)
    monkeypatch.setattr(selection, "translate_in_child", translate)
    manifest = read_manifest(plan(path, arch=None))[1]
    first, second = manifest.candidates[:2]
    assert (first.form, first.kept) == ("rewritten", False)
    assert "differ too much on this GPU" in first.note
    assert (second.form, second.kept, second.psnr_db) == ("plain", True, 99.0)
    assert manifest.rewrites == ()


def test_two_builds_give_the_same_bytes(engine_file: Path, tmp_path: Path) -> None:
    first = plan(engine_file, out=tmp_path / "first.plan")
    second = plan(engine_file, out=tmp_path / "second.plan")
    assert first.read_bytes() == second.read_bytes()


def test_a_dynamic_engine_gets_a_profile_and_can_be_pinned(
    network: Any, bodies: Any, write_engine_file: Callable[..., Path]
) -> None:
    model = network().engine(bodies["resnet"](1, 16), "H", "W")
    path = write_engine_file(model, DYNAMIC)
    dynamic = plan(path, path.parent)
    assert ".upto-1920x1088." in dynamic.name
    size = read_manifest(dynamic)[0].size
    assert (size.stride, size.max_height, size.max_width) == (4, 1088, 1920)
    pinned = plan(path, path.parent, size=(64, 128))
    assert ".128x64." in pinned.name
    assert read_manifest(pinned)[0].size == SizePolicy.fixed(64, 128)
    with pytest.raises(ExportError, match="--size 130x64 is not a size of this engine"):
        plan(path, size=(64, 130))


def test_profiles_follow_the_policy() -> None:
    assert profile_from_policy(SizePolicy.fixed(32, 48)).is_fixed
    profile = profile_from_policy(DYNAMIC)
    assert profile == FrameProfile((64, 64), (720, 1280), (1088, 1920))
    assert profile.narrow(DYNAMIC) == replace(DYNAMIC, max_height=1088, max_width=1920)
    odd = profile_from_policy(
        SizePolicy(stride=32, min_height=64, max_height=4000, min_width=64, max_width=4000)
    )
    assert all(side % 32 == 0 for pair in (odd.smallest, odd.usual, odd.largest) for side in pair)


def test_a_pinned_model_has_fixed_sizes_throughout(network: Any, bodies: Any) -> None:
    pinned = pinned_to_size(network().engine(bodies["student"](1, 16), "H", "W"), 64, 128)
    inferred = onnx.shape_inference.infer_shapes(pinned, strict_mode=True)
    dims = [dim for info in inferred.graph.value_info for dim in info.type.tensor_type.shape.dim]
    assert dims
    assert all(dim.HasField("dim_value") for dim in dims)


def test_local_functions_are_inlined(network: Any, bodies: Any, build: Callable[..., bytes]) -> None:
    model = network().engine(bodies["student"](1, 16), 64, 64)
    body = onnx.helper.make_node("Relu", ["x"], ["y"])
    function = onnx.helper.make_function("i2i", "Ramp", ["x"], ["y"], [body], model.opset_import)
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("i2i", 1))
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Ramp", "i2i"
    inlined = portable(model, profile_from_policy(SizePolicy.fixed(64, 64)))
    assert not inlined.functions
    assert {node.domain for node in inlined.graph.node} == {""}
    assert build(inlined)


def test_an_unknown_operator_is_named_and_nothing_is_left_behind(
    network: Any, write_engine_file: Callable[..., Path], rtx: Any
) -> None:
    def body(net: NetworkWriter, x: str) -> str:
        return net("Unique", x, axis=0)

    path = write_engine_file(network().engine(body, 64, 64), SizePolicy.fixed(64, 64))
    with pytest.raises(ExportError, match=r"node Unique_\d+ \(Unique\)") as caught:
        plan(path)
    assert "\n" not in str(caught.value)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["night.onnx"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arch": "sm_90"}, "does not know sm_90: choose --arch out of sm_75"),
        ({"arch": None}, "No GPU was found to build for: name one with --arch"),
        ({"plugins": "on"}, "--plugins on is not possible .TensorRT for RTX takes no"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(
    engine_file: Path, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "find_device_facts", lambda: None)
    with pytest.raises(ExportError, match=sentence):
        plan(engine_file, **options)
    assert not list(engine_file.parent.glob("*.plan*"))


def test_full_tensorrt_says_how_to_install_it(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        EngineError, match=r"TensorRT is not installed here .* install it with `pip install tensorrt`"
    ):
        plan(engine_file, target="tensorrt")


def test_a_crash_while_writing_leaves_no_plan(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(ExportError, match="No space left"):
        plan(engine_file)
    assert not list(engine_file.parent.glob("*.plan"))


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "triton"):
            raise ImportError(f"{name} must not be imported")
sys.meta_path.insert(0, Blocked())
from i2i_export.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_the_command_builds_a_plan_without_torch_and_triton(engine_file: Path, rtx: Any) -> None:
    command = [
        str(engine_file),
        "-o",
        str(engine_file),
        "--plan",
        "--target",
        "tensorrt-rtx",
        "--arch",
        "sm_89",
    ]
    before = engine_file.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *command], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (built,) = engine_file.parent.glob("*.plan")
    assert json.loads(sidecar_path(built).read_text())["plan"]["architectures"] == ["sm_89"]
    assert "launches" in done.stderr
    assert engine_file.read_bytes() == before
