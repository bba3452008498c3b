"""Which form of a network full TensorRT keeps, on a fake builder and a fake clock: the choice, not
TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from i2i_export.errors import ExportError
from i2i_export.parity import ParityError
from i2i_export.plan import candidates
from i2i_export.plan.candidates import plan_from_onnx, plan_summary
from i2i_export.plugins.lowering import PluginNetwork, network_with_plugins
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import read_manifest
from i2i_runtime.metadata import SizePolicy

FACTS = DeviceFacts("Fake GPU", "sm_87", "13.0", 8 << 30, 4 << 30, shares_memory=True)


class FakeBase:
    """Stands for the bindings' base classes."""

    class Severity:
        INTERNAL_ERROR, ERROR = 0, 1


class FakeBuilderTensorRT:
    """As much of the module `tensorrt` as a build touches; a plan is the kinds of nodes that it was built
    from.
    """

    __version__ = "10.16.1.11"
    ILogger = IProgressMonitor = FakeBase
    NetworkDefinitionCreationFlag = SimpleNamespace(__members__={"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1})
    TensorFormat = DataType = SimpleNamespace(__members__={})

    def __init__(self) -> None:
        self.built: list[list[str]] = []
        self.flags: list[int] = []
        self.profiles: list[tuple[Any, ...]] = []
        self.caches: list[bytes] = []
        self.fails = False

    def Builder(self, logger: Any) -> Any:
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=lambda: SimpleNamespace(
                create_timing_cache=self._cache,
                set_timing_cache=lambda cache, ignore_mismatch: True,
                add_optimization_profile=self.profiles.append,
            ),
            create_optimization_profile=lambda: SimpleNamespace(
                set_shape=lambda *shapes: self.profiles.append(shapes)
            ),
            build_serialized_network=self._build,
        )

    def _network(self, flags: int) -> Any:
        self.flags.append(flags)
        return SimpleNamespace(num_inputs=1, get_input=lambda index: SimpleNamespace(shape=self.frame))

    def _cache(self, known: bytes) -> Any:
        self.caches.append(known)
        return SimpleNamespace(serialize=lambda: b"timings")

    def _build(self, network: Any, config: Any) -> bytes | None:
        config.progress_monitor.phase_start("Building engine", None, 2)
        config.progress_monitor.phase_start("Timing", "Building engine", 3)
        assert config.progress_monitor.step_complete("Timing", 0)
        config.progress_monitor.phase_finish("Timing")
        return None if self.fails else b"ftrt " + " ".join(self.built[-1]).encode()

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(content: bytes) -> bool:
            model = onnx.load_from_string(content)
            self.built.append(sorted({node.op_type for node in model.graph.node}))
            dims = model.graph.input[0].type.tensor_type.shape.dim
            self.frame = tuple(dim.dim_value or -1 for dim in dims)
            return True

        return SimpleNamespace(parse=parse, num_errors=0)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeBuilderTensorRT:
    """A full TensorRT on an Orin, both fake."""
    fake = FakeBuilderTensorRT()
    monkeypatch.setattr(candidates, "load_tensorrt", lambda target: fake)
    monkeypatch.setattr(candidates, "find_device_facts", lambda: FACTS)
    monkeypatch.setattr(candidates, "compile_kernels", lambda network, arch, pack: {})
    monkeypatch.setattr(candidates, "register_plugins", lambda network, kernels: None)
    return fake


@pytest.fixture
def engine_file(network: Any, bodies: Any, write_engine_file: Callable[..., Path]) -> Path:
    model = network().engine(bodies["resnet"](1, 16), 96, 96, float_end=True)
    return write_engine_file(model, SizePolicy.fixed(96, 96))


def form_of(plan: bytes) -> str:
    if b"conv_norm" in plan:
        return "convolution plugins"
    if b"norm_apply" in plan:
        return "plugins"
    return "plain" if b"InstanceNormalization" in plan else "rewritten"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the milliseconds of each form."""

    def set_times(**times: float) -> None:
        def time_plan_ms(trt: Any, target: str, plan: bytes, *_: Any) -> float:
            return times[form_of(plan).replace(" ", "_")]

        monkeypatch.setattr(candidates, "time_plan_ms", time_plan_ms)

    return set_times


@pytest.mark.parametrize("fastest", ["plain", "rewritten", "plugins", "convolution plugins"])
def test_the_fastest_form_is_kept_and_all_are_recorded(
    fastest: str, engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    times = {"plain": 4.0, "rewritten": 3.0, "plugins": 2.5, "convolution_plugins": 2.0}
    clock(**{**times, fastest.replace(" ", "_"): 1.0})
    built = plan_from_onnx(engine_file)
    assert built.name == "night.96x96.fp16.trt-10.16.1.sm_87.plan"
    assert form_of(built.read_bytes()) == fastest
    manifest = read_manifest(built)[1]
    assert [candidate.form for candidate in manifest.candidates] == [
        *("plain", "rewritten", "plugins", "convolution plugins")
    ]
    assert [candidate.form for candidate in manifest.candidates if candidate.kept] == [fastest]
    assert all(candidate.latency_ms for candidate in manifest.candidates)
    assert (manifest.gpu, manifest.driver) == ("Fake GPU", "13.0")
    assert f"{fastest} (1.00 ms, kept)" in plan_summary(built)
    assert set(fake.flags) == {2}, "strongly typed, by the flag's own number"


def test_plugins_on_and_off_build_what_they_say(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    clock(plain=2, rewritten=3, plugins=4, convolution_plugins=5)
    assert form_of(plan_from_onnx(engine_file, plugins="on").read_bytes()) == "plugins"
    assert form_of(plan_from_onnx(engine_file, plugins="off").read_bytes()) == "plain"
    assert [form_of(" ".join(kinds).encode()) for kinds in fake.built] == [
        *("plugins", "convolution plugins", "plain", "rewritten")
    ]


def test_auto_notes_why_plugins_were_left_out(
    engine_file: Path,
    fake: FakeBuilderTensorRT,
    clock: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(network: Any, architecture: str, pack: Any) -> Any:
        raise ExportError("the kernel pack has no norm_apply")

    clock(plain=2, rewritten=1)
    monkeypatch.setattr(candidates, "compile_kernels", refuse)
    notes = [candidate.note for candidate in read_manifest(plan_from_onnx(engine_file))[1].candidates]
    assert notes == ["", "", "the kernel pack has no norm_apply", "the kernel pack has no norm_apply"]
    with pytest.raises(ExportError, match="kernel pack has no"):
        plan_from_onnx(engine_file, plugins="on")
    fake.__version__ = "10.3.0"
    built = read_manifest(plan_from_onnx(engine_file))[1].candidates
    assert [candidate.form for candidate in built] == ["plain", "rewritten", "plugins"]
    assert "JetPack 6" in built[-1].note
    with pytest.raises(ExportError, match="--plugins on is not possible"):
        plan_from_onnx(engine_file, plugins="on")


def test_a_plugin_form_with_another_image_is_refused_with_the_table(
    engine_file: Path,
    fake: FakeBuilderTensorRT,
    clock: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(model: onnx.ModelProto, *, convolutions: bool = False) -> PluginNetwork | None:
        found = network_with_plugins(model, convolutions=convolutions)
        assert found is not None
        weight = next(one for one in found.model.graph.initializer if len(one.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
        return found

    clock(plain=2, rewritten=1)
    monkeypatch.setattr(candidates, "network_with_plugins", damaged)
    built = read_manifest(plan_from_onnx(engine_file))[1].candidates
    notes = [candidate.note for candidate in built if "plugins" in candidate.form]
    assert len(notes) == 2
    assert all("differs too much" in note and "PSNR >= 45 dB" in note for note in notes)
    assert not any(kind.startswith("norm_") for kinds in fake.built for kind in kinds)
    with pytest.raises(
        ParityError, match=r"the form with plugins differs too much .*--plugins off"
    ) as caught:
        plan_from_onnx(engine_file, out=engine_file.with_name("on.plan"), plugins="on")
    assert "BROKEN" in str(caught.value.report.to_table().title)
    assert not engine_file.with_name("on.plan").exists()


def test_a_network_without_norms_has_one_form(
    network: Any, bodies: Any, write_engine_file: Callable[..., Path], fake: FakeBuilderTensorRT
) -> None:
    body = bodies["resnet"](1, 16, pad="zero", norms=False)
    path = write_engine_file(network().engine(body, 64, 64), SizePolicy.fixed(64, 64))
    (only,) = read_manifest(plan_from_onnx(path))[1].candidates
    assert (only.form, only.kept, only.latency_ms) == ("plain", True, None)
    with pytest.raises(ExportError, match="no norm that our kernels do"):
        plan_from_onnx(path, plugins="on")


def test_the_timing_cache_is_read_and_kept(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None], tmp_path: Path
) -> None:
    clock(plain=2, rewritten=1)
    cache = tmp_path / "timings.cache"
    plan_from_onnx(engine_file, plugins="off", timing_cache=cache)
    assert cache.read_bytes() == b"timings"
    assert fake.caches == [b"", b"timings"]


def test_a_dynamic_engine_gets_one_profile(
    network: Any,
    bodies: Any,
    write_engine_file: Callable[..., Path],
    fake: FakeBuilderTensorRT,
    clock: Callable[..., None],
) -> None:
    clock(plain=1, rewritten=2)
    policy = SizePolicy(stride=4, min_height=64, max_height=512, min_width=64, max_width=512)
    path = write_engine_file(network(np.float16).engine(bodies["resnet"](1, 16), "H", "W"), policy)
    plan_from_onnx(path, plugins="off")
    assert fake.profiles[0] == ("frame", (1, 64, 64, 3), (1, 512, 512, 3), (1, 512, 512, 3))


@pytest.mark.parametrize(
    ("facts", "arch", "sentence"),
    [
        (None, None, "only on the GPU that will run them and there is none here"),
        (FACTS, "sm_89", "only for the GPU at hand, which is sm_87, not sm_89"),
    ],
)
def test_full_tensorrt_builds_for_the_gpu_at_hand(
    facts: DeviceFacts | None,
    arch: str | None,
    sentence: str,
    engine_file: Path,
    fake: FakeBuilderTensorRT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(candidates, "find_device_facts", lambda: facts)
    with pytest.raises(ExportError, match=sentence):
        plan_from_onnx(engine_file, arch=arch)


def test_a_failed_build_leaves_nothing(engine_file: Path, fake: FakeBuilderTensorRT) -> None:
    fake.fails = True
    with pytest.raises(ExportError, match="was parsed, but TensorRT could not build a plan"):
        plan_from_onnx(engine_file, plugins="off")
    assert [entry.name for entry in engine_file.parent.iterdir()] == ["night.onnx"]
