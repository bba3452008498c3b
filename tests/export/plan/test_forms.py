"""Which form of a network full TensorRT keeps, on a fake builder and a fake GPU: the choice, not TensorRT."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from i2i_export import parity
from i2i_export.enginefile import read_engine
from i2i_export.errors import ExportError
from i2i_export.parity import OnnxTranslator, ParityError
from i2i_export.plan import candidates, child, examine, forms, selection
from i2i_export.plan.builder import BuildBar, FrameProfile, PlanBuilder
from i2i_export.plan.candidates import plan_from_onnx, plan_summary
from i2i_export.plan.child import PluginBuild
from i2i_export.plan.timing_cache import default_timing_cache
from i2i_export.plugins.lowering import PluginNetwork, network_with_plugins
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import PluginRecord, read_manifest
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, SizePolicy

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
        self.refused_cache: bytes | None = None

    def Builder(self, logger: Any) -> Any:
        return SimpleNamespace(
            create_network=self._network,
            create_builder_config=lambda: SimpleNamespace(
                create_timing_cache=self._cache,
                set_timing_cache=lambda cache, ignore_mismatch: cache.known != self.refused_cache,
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
        kept = known if known == self.refused_cache else b"timings"
        return SimpleNamespace(known=known, serialize=lambda: kept)

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


@dataclass
class FakeGPU:
    """Runs each form as the engine itself would, unless told otherwise, and says how long it took."""

    engine: Path | None = None
    garbage: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    unbuilt: tuple[str, ...] = ()
    times: dict[str, float] = field(default_factory=dict)
    looked_at: list[tuple[str, list[tuple[int, ...]]]] = field(default_factory=list)
    timed: list[str] = field(default_factory=list)

    def translate(self, target: str, plan: bytes, metadata: EngineMetadata, frames: Any) -> list[Image]:
        name = form_of(plan)
        self.looked_at.append((name, [frame.shape for frame in frames]))
        if name in self.broken:
            raise ExportError("its process ended by SIGSEGV (it said nothing)")
        assert self.engine is not None
        translator = OnnxTranslator(onnx.load(str(self.engine)))
        images = [translator.translate(frame, None).image for frame in frames]
        return [np.flip(image, 1).copy() for image in images] if name in self.garbage else images

    def latencies(self, openers: Any, frame: Image) -> list[float | None]:
        names = [form_of(opener.args[0]) for opener in openers]
        self.timed += names
        return [self.times.get(name) for name in names]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGPU:
    gpu = FakeGPU()
    monkeypatch.setattr(selection, "translate_in_child", gpu.translate)
    monkeypatch.setattr(selection, "latencies_ms", gpu.latencies)
    return gpu


@pytest.fixture
def fake(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, gpu: FakeGPU
) -> FakeBuilderTensorRT:
    """A full TensorRT on an Orin, both fake; plugin forms are built in this process."""
    fake = FakeBuilderTensorRT()

    def build_here(model: onnx.ModelProto, job: PluginBuild) -> tuple[bytes, tuple[PluginRecord, ...]]:
        if job.kind in gpu.unbuilt:
            raise ExportError("TensorRT could not build a plan")
        network = forms.plugin_networks(model)[job.kind]
        profile = FrameProfile(job.smallest, job.usual, job.largest)
        cache = None if job.timing_cache is None else Path(job.timing_cache)
        with BuildBar(None) as bar:
            builder = PlanBuilder(fake, job.target, (job.architecture,), timing_cache=cache, bar=bar)  # type: ignore[arg-type]
            plan = builder.build(network.model, profile, origin=job.origin)
        return plan, tuple(PluginRecord(f"i2i::{name}", "0" * 64) for name in network.kernels)

    monkeypatch.setattr(candidates, "load_tensorrt", lambda target: fake)
    monkeypatch.setattr(candidates, "find_device_facts", lambda: FACTS)
    monkeypatch.setattr(selection, "build_in_child", build_here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return fake


@pytest.fixture
def engine_file(network: Any, bodies: Any, write_engine_file: Callable[..., Path], gpu: FakeGPU) -> Path:
    model = network().engine(bodies["resnet"](1, 16), 96, 96, float_end=True)
    gpu.engine = write_engine_file(model, SizePolicy.fixed(96, 96))
    return gpu.engine


def form_of(plan: bytes) -> str:
    if b"conv_norm" in plan:
        return "convolution plugins"
    if b"norm_apply" in plan:
        return "plugins" if b"norm_slab" in plan else "wide plugins"
    return "plain" if b"InstanceNormalization" in plan else "rewritten"


@pytest.fixture
def clock(gpu: FakeGPU) -> Callable[..., None]:
    """Sets the milliseconds of each form."""

    def set_times(**times: float) -> None:
        gpu.times = {name.replace("_", " "): time for name, time in times.items()}

    return set_times


@pytest.mark.parametrize("fastest", ["plain", "rewritten", "plugins", "wide plugins", "convolution plugins"])
def test_the_fastest_form_is_kept_and_all_are_recorded(
    fastest: str, engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    times = {"plain": 4.0, "rewritten": 3.0, "plugins": 2.5, "wide_plugins": 2.2, "convolution_plugins": 2.0}
    clock(**{**times, fastest.replace(" ", "_"): 1.0})
    built = plan_from_onnx(engine_file)
    assert built == engine_file.with_suffix(".plan")
    folder = engine_file.parent / "plans"
    assert plan_from_onnx(engine_file, folder).name == "night.96x96.fp16.trt-10.16.1.sm_87.plan"
    assert form_of(built.read_bytes()) == fastest
    manifest = read_manifest(built)[1]
    assert [candidate.form for candidate in manifest.candidates] == [
        *("plain", "rewritten", "plugins", "wide plugins", "convolution plugins")
    ]
    assert [candidate.form for candidate in manifest.candidates if candidate.kept] == [fastest]
    assert all(candidate.latency_ms for candidate in manifest.candidates)
    assert (manifest.gpu, manifest.driver) == ("Fake GPU", "13.0")
    assert all(candidate.psnr_db == 99.0 for candidate in manifest.candidates)
    assert f"{fastest} (PSNR 99.0 dB, 1.00 ms, kept)" in plan_summary(built)
    assert set(fake.flags) == {2}, "strongly typed, by the flag's own number"


def test_plugins_on_and_off_build_what_they_say(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    clock(plain=2, rewritten=3, plugins=4, wide_plugins=5, convolution_plugins=5)
    assert form_of(plan_from_onnx(engine_file, plugins="on").read_bytes()) == "plugins"
    assert form_of(plan_from_onnx(engine_file, plugins="off").read_bytes()) == "plain"
    assert [form_of(" ".join(kinds).encode()) for kinds in fake.built] == [
        *("plugins", "wide plugins", "convolution plugins", "plain", "rewritten")
    ]


def test_a_form_with_another_image_is_dropped_however_fast_it_is(
    engine_file: Path, fake: FakeBuilderTensorRT, gpu: FakeGPU, clock: Callable[..., None]
) -> None:
    clock(plain=4, rewritten=0.1, plugins=3, wide_plugins=5, convolution_plugins=0.1)
    gpu.garbage = ("rewritten", "convolution plugins")
    built = plan_from_onnx(engine_file)
    assert form_of(built.read_bytes()) == "plugins"
    found = {candidate.form: candidate for candidate in read_manifest(built)[1].candidates}
    for name in gpu.garbage:
        assert found[name].latency_ms is None
        assert (found[name].psnr_db or 99) < 45
        assert "differ too much on this GPU" in found[name].note
        assert "PSNR >= 45 dB" in found[name].note
    assert gpu.timed == ["plain", "plugins", "wide plugins"]
    assert {tuple(shapes) for _, shapes in gpu.looked_at} == {((96, 96, 3), (96, 96, 3))}


def test_a_form_that_cannot_be_built_or_run_is_a_note(
    engine_file: Path, fake: FakeBuilderTensorRT, gpu: FakeGPU, clock: Callable[..., None]
) -> None:
    clock(plain=4, rewritten=2)
    gpu.unbuilt, gpu.broken = ("plugins", "wide plugins"), ("convolution plugins",)
    built = plan_from_onnx(engine_file)
    assert form_of(built.read_bytes()) == "rewritten"
    notes = {candidate.form: candidate.note for candidate in read_manifest(built)[1].candidates}
    assert notes == {
        "plain": "",
        "rewritten": "",
        "plugins": "TensorRT could not build a plan",
        "wide plugins": "TensorRT could not build a plan",
        "convolution plugins": "its process ended by SIGSEGV (it said nothing)",
    }


def test_without_a_form_that_gives_the_image_there_is_no_plan(
    engine_file: Path, fake: FakeBuilderTensorRT, gpu: FakeGPU
) -> None:
    gpu.garbage, gpu.broken = ("plain",), ("rewritten",)
    with pytest.raises(
        ExportError, match=r"gives no TensorRT plan \(plain: its images .*; rewritten: its process"
    ):
        plan_from_onnx(engine_file, plugins="off")
    assert not list(engine_file.parent.glob("*.plan*"))


def test_an_engine_that_onnx_runtime_does_not_run_gets_its_plain_form_alone(
    network: Any, bodies: Any, write_engine_file: Callable[..., Path], fake: FakeBuilderTensorRT, gpu: FakeGPU
) -> None:
    model = network().engine(bodies["resnet"](1, 16), 64, 64)
    path = write_engine_file(model, SizePolicy.fixed(64, 64))
    gpu.engine = write_engine_file(
        network().engine(bodies["resnet"](1, 16), 64, 64, float_end=True), SizePolicy.fixed(64, 64), "runs"
    )
    built = plan_from_onnx(path, plugins="off")
    assert form_of(built.read_bytes()) == "plain"
    notes = [candidate.note for candidate in read_manifest(built)[1].candidates]
    assert "was not compared with the engine: ONNX Runtime refuses" in notes[0]
    assert "cannot be compared" in notes[1]


def test_a_form_without_memory_beside_the_others_is_the_last_choice(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    clock(plain=9)
    manifest = read_manifest(plan_from_onnx(engine_file, plugins="off"))[1]
    assert [(one.form, one.kept, one.latency_ms) for one in manifest.candidates] == [
        ("plain", True, 9),
        ("rewritten", False, None),
    ]
    assert "was not timed" in manifest.candidates[1].note


def test_a_float32_engine_is_also_tried_in_half_precision(
    network: Any,
    bodies: Any,
    write_engine_file: Callable[..., Path],
    fake: FakeBuilderTensorRT,
    gpu: FakeGPU,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network(np.float32).engine(bodies["resnet"](1, 16), 96, 96)
    gpu.engine = write_engine_file(model, SizePolicy.fixed(96, 96), precision="fp32")
    fastest_last = dict(zip(("plain", "rewritten", "plugins"), (3.0, 2.0, 1.0), strict=True))
    gpu.times = {**fastest_last, "wide plugins": 9.0, "convolution plugins": 9.0}
    metadata, manifest = read_manifest(plan_from_onnx(gpu.engine))
    assert [candidate.form for candidate in manifest.candidates] == [
        *(
            "plain",
            "rewritten",
            "half plain",
            "half rewritten",
            "plugins",
            "wide plugins",
            "convolution plugins",
        )
    ]
    assert metadata.precision == "fp16", "plugins are made of the half one"
    metadata, manifest = read_manifest(plan_from_onnx(gpu.engine, half=False, plugins="off"))
    assert [candidate.form for candidate in manifest.candidates] == ["plain", "rewritten"]
    assert metadata.precision == "fp32"
    monkeypatch.setattr(parity, "HALF_PRECISION", parity.Bound(psnr_db=99))
    manifest = read_manifest(plan_from_onnx(gpu.engine, plugins="off", half=True))[1]
    assert "differs too much" in manifest.candidates[-1].note
    assert manifest.candidates[-1].form == "half plain"


def test_auto_notes_why_plugins_were_left_out(
    engine_file: Path, fake: FakeBuilderTensorRT, gpu: FakeGPU, clock: Callable[..., None]
) -> None:
    clock(plain=2, rewritten=1)
    gpu.unbuilt = ("plugins", "wide plugins", "convolution plugins")
    with pytest.raises(ExportError, match=r"plugins: TensorRT could not build"):
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
    def damaged(
        model: onnx.ModelProto, *, convolutions: bool = False, wide: bool = False
    ) -> PluginNetwork | None:
        found = network_with_plugins(model, convolutions=convolutions, wide=wide)
        assert found is not None
        weight = next(one for one in found.model.graph.initializer if len(one.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
        return found

    clock(plain=2, rewritten=1)
    monkeypatch.setattr(forms, "network_with_plugins", damaged)
    built = read_manifest(plan_from_onnx(engine_file))[1].candidates
    notes = [candidate.note for candidate in built if "plugins" in candidate.form]
    assert len(notes) == 3
    assert all("differs too much" in note and "PSNR >= 45 dB" in note for note in notes)
    assert not any(kind.startswith("norm_") for kinds in fake.built for kind in kinds)
    with pytest.raises(
        ParityError, match=r"the form with plugins differs too much .*--plugins off"
    ) as caught:
        plan_from_onnx(engine_file, out=engine_file.with_name("on.plan"), plugins="on")
    assert "FAILED" in str(caught.value.report.to_table().title)
    assert not engine_file.with_name("on.plan").exists()


def test_a_network_without_norms_has_one_form(
    network: Any,
    bodies: Any,
    write_engine_file: Callable[..., Path],
    fake: FakeBuilderTensorRT,
    gpu: FakeGPU,
) -> None:
    body = bodies["resnet"](1, 16, pad="zero", norms=False)
    gpu.engine = path = write_engine_file(
        network().engine(body, 64, 64, float_end=True), SizePolicy.fixed(64, 64)
    )
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


def test_timings_of_another_device_are_started_anew_and_kept(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None], tmp_path: Path
) -> None:
    clock(plain=2, rewritten=1)
    cache = tmp_path / "timings.cache"
    cache.write_bytes(b"of another GPU")
    fake.refused_cache = b"of another GPU"
    plan_from_onnx(engine_file, plugins="off", timing_cache=cache)
    assert cache.read_bytes() == b"timings", "the old bytes are not written again"
    assert fake.caches == [b"of another GPU", b"", b"timings"]


def test_every_build_of_a_gpu_and_version_shares_a_timing_cache(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None]
) -> None:
    clock(plain=2, rewritten=1, plugins=3, wide_plugins=3, convolution_plugins=3)
    plan_from_onnx(engine_file)
    cache = default_timing_cache("Fake GPU", "10.16.1.11")
    assert cache == Path(os.environ["XDG_CACHE_HOME"], "i2i-stream/timing/fake-gpu.trt-10.16.1.11.cache")
    assert cache.read_bytes() == b"timings"
    assert fake.caches == [b"", *[b"timings"] * 4], "also the forms that are built in another process"


def test_a_cache_that_cannot_be_written_costs_no_plan(
    engine_file: Path, fake: FakeBuilderTensorRT, clock: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    clock(plain=2, rewritten=1)
    blocked = engine_file.parent / "file"
    blocked.write_bytes(b"")
    assert plan_from_onnx(engine_file, plugins="off", timing_cache=blocked / "timings.cache").exists()
    assert "is not kept" in caplog.text


def test_a_dynamic_engine_gets_one_profile(
    network: Any,
    bodies: Any,
    write_engine_file: Callable[..., Path],
    fake: FakeBuilderTensorRT,
    gpu: FakeGPU,
    clock: Callable[..., None],
) -> None:
    clock(plain=1, rewritten=2)
    policy = SizePolicy(stride=4, min_height=64, max_height=512, min_width=64, max_width=512)
    model = network(np.float16).engine(bodies["resnet"](1, 16), "H", "W", float_end=True)
    gpu.engine = path = write_engine_file(model, policy)
    plan_from_onnx(path, plugins="off")
    assert fake.profiles[0] == ("frame", (1, 64, 64, 3), (1, 512, 512, 3), (1, 512, 512, 3))


@pytest.mark.parametrize(
    ("facts", "arch", "sentence"),
    [
        (None, None, "only on the GPU that will run them, and no GPU was found here"),
        (FACTS, "sm_89", "only for this machine's GPU, which is sm_87, not sm_89"),
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


def test_a_plan_that_never_answers_is_given_up(engine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_SILENCE_S", 1e-3)
    metadata = read_engine(engine_file).metadata
    with pytest.raises(ExportError, match="its process did not respond for"):
        child.translate_in_child("tensorrt", b"vtrt", metadata, [np.zeros((96, 96, 3), np.uint8)])


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_what_a_child_process_says_is_the_reason(engine_file: Path) -> None:
    metadata = read_engine(engine_file).metadata
    with pytest.raises(ExportError, match="TensorRT is not installed here"):
        child.translate_in_child("tensorrt", b"vtrt", metadata, [np.zeros((96, 96, 3), np.uint8)])


class Stopwatch:
    """A plan that is open; says when it is run and when it is closed."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.name, self.events = name, events

    def infer(self, image: Image, style: Any = None) -> Image:
        self.events.append(self.name)
        return image

    def close(self) -> None:
        self.events.append(f"{self.name} closed")


def test_plans_are_timed_in_turn_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "_WARM_UP_S", 0.0)
    monkeypatch.setattr(examine, "_ROUNDS", 2)
    events: list[str] = []

    def without_memory() -> Any:
        raise EngineError("there is too little device memory")

    openers = [lambda: Stopwatch("a", events), without_memory, lambda: Stopwatch("b", events)]
    times = examine.latencies_ms(openers, np.zeros((4, 4, 3), np.uint8))
    assert [time is not None for time in times] == [True, False, True]
    # Each is run before anything is timed; each timed run follows one that warms the caches up again.
    assert events == [*"ab", *"aabbaabb", "a closed", "b closed"]
