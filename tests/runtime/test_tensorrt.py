"""The order of calls on the GPU path, on a recording fake device under a fake TensorRT.

Nothing here is TensorRT: the fakes keep memory, record every call and replay captured ones, so that an image
really passes through slots, graphs and buffers. What only hardware can show is listed in export/PLANS.md.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2i_runtime.engines.tensorrt import engine as engine_module
from i2i_runtime.engines.tensorrt import slot
from i2i_runtime.engines.tensorrt.cuda import DeviceFacts, PinnedBuffer
from i2i_runtime.engines.tensorrt.engine import TensorRTEngine, open_tensorrt
from i2i_runtime.engines.tensorrt.fit import rebuild_command, rebuilt, why_unfit
from i2i_runtime.engines.tensorrt.manifest import PlanManifest, read_manifest, sha256_of, sidecar_path
from i2i_runtime.engines.tensorrt.slot import FrameSlot, LoadedPlan
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import EngineMetadata, SizePolicy, StyleSpec

FACTS = DeviceFacts("Fake GPU", "sm_89", "13.0", 8 << 30, 4 << 30, shares_memory=False)
Operation = Callable[[], None]


class FakeDevice:
    """Memory by address, one list of calls, and graphs that are lists of operations."""

    library = "a fake"

    def __init__(self, facts: DeviceFacts = FACTS) -> None:
        self.facts = facts
        self.calls: list[str] = []
        self.memory: dict[int, np.ndarray] = {}
        self.graphs: dict[int, list[Operation]] = {}
        self.recording: list[Operation] | None = None
        self.next = 0x1000
        self.pinned_count = 0

    def submit(self, name: str, operation: Operation) -> None:
        self.calls.append(name if self.recording is None else f"captured {name}")
        if self.recording is None:
            operation()
        else:
            self.recording.append(operation)

    def address(self, array: np.ndarray) -> int:
        self.next += 0x1000
        self.memory[self.next] = array
        return self.next

    def make_current(self) -> None:
        self.calls.append("make_current")

    def allocate(self, nbytes: int) -> int:
        self.calls.append("allocate")
        return self.address(np.zeros(nbytes, np.uint8))

    def free(self, address: int) -> None:
        self.calls.append("free")
        del self.memory[address]

    def pinned(self, nbytes: int, *, mapped: bool) -> PinnedBuffer:
        self.calls.append("pinned mapped" if mapped else "pinned")
        self.pinned_count += 1
        array = np.zeros(nbytes, np.uint8)
        return PinnedBuffer(array, self.address(array) if mapped else 0, None)

    def release(self, buffer: PinnedBuffer) -> None:
        self.pinned_count -= 1
        self.memory.pop(buffer.address, None)

    def create_stream(self) -> int:
        self.calls.append("create_stream")
        return 7

    def destroy_stream(self, stream: int) -> None:
        self.calls.append("destroy_stream")

    def copy_in(self, address: int, source: PinnedBuffer, stream: int) -> None:
        def copy() -> None:
            self.memory[address][:] = source.array

        self.submit("copy_in", copy)

    def copy_out(self, target: PinnedBuffer, address: int, stream: int) -> None:
        def copy() -> None:
            target.array[:] = self.memory[address]

        self.submit("copy_out", copy)

    def synchronize(self, stream: int) -> None:
        self.calls.append("synchronize")

    def begin_capture(self, stream: int) -> None:
        self.calls.append("begin_capture")
        self.recording = []

    def end_capture(self, stream: int) -> int:
        self.calls.append("end_capture")
        assert self.recording is not None
        graph = len(self.graphs) + 1
        self.graphs[graph], self.recording = self.recording, None
        return graph

    def launch(self, graph: int, stream: int) -> None:
        self.calls.append("launch")
        for operation in self.graphs[graph]:
            operation()

    def destroy_graph(self, graph: int) -> None:
        self.calls.append("destroy_graph")
        del self.graphs[graph]

    def close(self) -> None:
        self.calls.append("close")


class FakeContext:
    """A network that gives the negative, brightened by its style where it has one."""

    def __init__(self, device: FakeDevice, engine: FakeEngine) -> None:
        self.device, self.engine = device, engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [] if "frame" in self.shapes else ["frame"]

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert set(self.addresses) == set(self.engine.names)
        if self.engine.fails:
            return False

        def run() -> None:
            memory = self.device.memory
            shift = memory[self.addresses["style"]].view(np.float32)[0] if "style" in self.addresses else 0
            negative = 255 - memory[self.addresses["frame"]].astype(int) + int(shift)
            memory[self.addresses["translated"]][:] = negative.clip(0, 255).astype(np.uint8)

        self.device.submit("execute", run)
        return True


@dataclass
class FakeCache:
    content: bytes = b""

    def serialize(self) -> bytes:
        return b"compiled kernels"

    def deserialize(self, blob: bytes) -> bool:
        self.content = bytes(blob)
        return True


@dataclass
class FakeConfig:
    cache: FakeCache = field(default_factory=FakeCache)
    set_before_context: bool = False

    def create_runtime_cache(self) -> FakeCache:
        return self.cache

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.set_before_context = True
        return True


class FakeEngine:
    def __init__(self, device: FakeDevice, names: Sequence[str], memory: int) -> None:
        self.device, self.names = device, tuple(names)
        self.num_io_tensors, self.device_memory_size_v2 = len(names), memory
        self.fails = self.refuses_contexts = False
        self.config = FakeConfig()

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_runtime_config(self) -> FakeConfig:
        return self.config

    def create_execution_context(self, runtime_config: FakeConfig | None = None) -> FakeContext | None:
        if runtime_config is not None:
            assert runtime_config.set_before_context
        self.device.calls.append("create_context")
        return None if self.refuses_contexts else FakeContext(self.device, self)


class FakeLogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class FakeTensorRT:
    """As much of the module `tensorrt` as the runtime touches."""

    __version__ = "10.16.1.11"
    ILogger = FakeLogger

    def __init__(
        self, device: FakeDevice, names: Sequence[str] = ("frame", "translated"), memory: int = 1 << 20
    ):
        self.engine: FakeEngine | None = FakeEngine(device, names, memory)

    def Runtime(self, logger: Any) -> Any:
        engine = self.engine

        class FakeRuntime:
            def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
                if engine is None:
                    logger.log(FakeLogger.Severity.ERROR, "Error Code 6: the versions differ.")
                return engine

        return FakeRuntime()


@pytest.fixture
def device() -> FakeDevice:
    return FakeDevice()


def metadata(size: SizePolicy, style: StyleSpec | None = None) -> EngineMetadata:
    return EngineMetadata("night", "cyclegan", "day -> night", size, precision="fp16", style=style)


def loaded(trt: FakeTensorRT, device: FakeDevice, **options: Any) -> LoadedPlan:
    api: Any = trt  # a fake has the calls of TensorRT, not its type
    return LoadedPlan(api, options.pop("flavour", "tensorrt"), b"vtrt", device, origin="x.plan", **options)


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_slot_warms_up_captures_and_then_only_launches(device: FakeDevice) -> None:
    slot = FrameSlot(loaded(FakeTensorRT(device), device), {})
    slot.prepare(4, 6)
    prepared = [call for call in device.calls if call not in ("pinned", "allocate")]
    assert prepared == [
        "create_context",
        "create_stream",
        *("copy_in", "execute", "copy_out", "synchronize"),
        "begin_capture",
        *("captured copy_in", "captured execute", "captured copy_out"),
        "end_capture",
    ]
    device.calls.clear()
    frame = image(4, 6)
    assert np.array_equal(slot.translate(frame, {}), 255 - frame)
    assert device.calls == ["make_current", "launch", "synchronize"]


def test_a_new_size_is_laid_out_anew_and_the_old_buffers_go(device: FakeDevice) -> None:
    slot = FrameSlot(loaded(FakeTensorRT(device), device), {})
    for height, width in ((4, 6), (8, 8), (4, 6)):
        frame = image(height, width, seed=height)
        assert np.array_equal(slot.translate(frame, {}), 255 - frame)
        assert len(device.graphs) == 1
        assert len(device.memory) == 2
        assert device.pinned_count == 2
    slot.close()
    assert not device.memory
    assert not device.graphs
    assert device.pinned_count == 0
    assert device.calls[-1] == "destroy_stream"


def test_shared_memory_is_mapped_and_nothing_is_copied() -> None:
    jetson = FakeDevice(replace(FACTS, architecture="sm_87", shares_memory=True))
    slot = FrameSlot(loaded(FakeTensorRT(jetson), jetson), {})
    frame = image(4, 4)
    assert np.array_equal(slot.translate(frame, {}), 255 - frame)
    assert jetson.calls.count("pinned mapped") == 2
    assert not any("copy" in call or call == "allocate" for call in jetson.calls)


def test_the_style_is_fed_and_falls_back_to_its_default(device: FakeDevice) -> None:
    style = StyleSpec(size=2, default=(10.0, 0.0))
    trt = FakeTensorRT(device, ("frame", "style", "translated"))
    engine = TensorRTEngine(
        loaded(trt, device), metadata(SizePolicy.fixed(4, 4), style), backend="fake", reason="test", slots=1
    )
    dark = np.full((4, 4, 3), 200, np.uint8)
    assert engine.infer(dark)[0, 0, 0] == 65
    assert engine.infer(dark, np.array([[30.0, 0.0]], np.float32))[0, 0, 0] == 85
    assert engine.infer(dark)[0, 0, 0] == 65
    with pytest.raises(EngineError, match="takes a style of 2 numbers"):
        engine.infer(dark, np.zeros((1, 3), np.float32))
    engine.close()


def test_images_are_padded_to_the_stride_and_cropped_back(device: FakeDevice) -> None:
    policy = SizePolicy(stride=8, min_height=8, max_height=64, min_width=8, max_width=64)
    engine = TensorRTEngine(
        loaded(FakeTensorRT(device), device), metadata(policy), backend="fake", reason="test", slots=2
    )
    frame = image(13, 21)
    translated = engine.infer(frame)
    assert np.array_equal(translated, 255 - frame)
    engine.infer(image(13, 21, seed=1))
    engine.infer(image(13, 21, seed=2))
    assert np.array_equal(translated, 255 - frame), "the caller owns its image"
    with pytest.raises(EngineError, match="8x8 to 64x64"):
        engine.infer(image(100, 21))


def test_as_many_threads_as_slots_translate_without_mixing_frames(device: FakeDevice) -> None:
    engine = TensorRTEngine(
        loaded(FakeTensorRT(device), device),
        metadata(SizePolicy.fixed(16, 16)),
        backend="fake",
        reason="test",
        slots=3,
    )
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(20):
            frame = image(16, 16, seed=seed * 100 + step)
            if not np.array_equal(engine.infer(frame), 255 - frame):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    engine.close()
    assert not device.memory
    assert device.calls[-1] == "close"


def test_compiled_kernels_are_kept_beside_an_rtx_plan(device: FakeDevice, tmp_path: Path) -> None:
    trt, cache = FakeTensorRT(device), tmp_path / "x.plan.cache"
    for start in ("cold", "warm"):
        plan = loaded(trt, device, flavour="tensorrt-rtx", cache=cache)
        assert trt.engine is not None
        given = trt.engine.config.cache.content
        assert given == (b"" if start == "cold" else b"compiled kernels")
        FrameSlot(plan, {}).prepare(4, 4)
        plan.save_cache()
        assert cache.read_bytes() == b"compiled kernels"
        assert list(tmp_path.iterdir()) == [cache]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"memory": 5 << 30}, "needs 5120 MiB of device memory per slot and Fake GPU has 4096 MiB free"),
        ({"names": ("frame", "style", "translated")}, "has the tensors frame, style, translated"),
    ],
)
def test_what_does_not_fit_is_one_sentence(device: FakeDevice, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EngineError, match=sentence) as caught:
        FrameSlot(loaded(FakeTensorRT(device, **change), device), {}).prepare(4, 4)
    assert "\n" not in str(caught.value)


def test_tensorrts_own_last_error_becomes_the_reason(device: FakeDevice) -> None:
    trt = FakeTensorRT(device)
    trt.engine = None
    with pytest.raises(EngineError, match=r"cannot be loaded by TensorRT 10.16.1.11 .*the versions differ\)"):
        loaded(trt, device)


def test_no_context_and_a_failing_network_are_reported(device: FakeDevice) -> None:
    trt = FakeTensorRT(device)
    assert trt.engine is not None
    plan = loaded(trt, device)
    trt.engine.refuses_contexts = True
    with pytest.raises(EngineError, match="gets no execution context"):
        plan.create_context()
    trt.engine.refuses_contexts, trt.engine.fails = False, True
    with pytest.raises(EngineError, match="failed at running the network"):
        FrameSlot(plan, {}).prepare(4, 4)


# ---- Does a plan fit? ----------------------------------------------------------------------------------------


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan file, its sidecar and its engine; the bytes mean nothing."""
    write_plan(tmp_path / "night.plan")
    (tmp_path / "night.onnx").write_bytes(b"the engine")
    return tmp_path / "night.plan"


def write_plan(path: Path, **changes: Any) -> None:
    content = changes.pop("content", b"vtrt and the rest")
    path.write_bytes(content)
    manifest = PlanManifest(
        flavour="tensorrt",
        tensorrt_version="10.16.1.11",
        architectures=("sm_89",),
        onnx_file="night.onnx",
        onnx_sha256=sha256_of(b"the engine"),
        plan_sha256=sha256_of(content),
    )
    text = replace(manifest, **changes).to_json(metadata(SizePolicy.fixed(4, 4)))
    sidecar_path(path).write_text(text, encoding="utf-8")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    monkeypatch.setattr(engine_module, "open_device", lambda: device)
    monkeypatch.setattr(engine_module, "load_tensorrt", lambda flavour: FakeTensorRT(device))
    return device


def test_a_fitting_plan_opens_and_names_its_back_end(plan: Path, fakes: FakeDevice) -> None:
    engine = open_tensorrt(plan)
    frame = image(4, 4)
    assert np.array_equal(engine.infer(frame), 255 - frame)
    assert engine.backend == "tensorrt 10.16.1.11 fp16"
    assert "Fake GPU (sm_89" in engine.reason
    engine.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ("sm_87", "sm_90")}, "built for sm_87 and sm_90 and this GPU, Fake GPU, is sm_89"),
        ({"tensorrt_version": "10.15.1.29"}, "built by TensorRT 10.15.1.29 and this machine has 10.16.1.11"),
        ({"plan_sha256": "0" * 64}, "damaged or of another build"),
        ({"onnx_sha256": "0" * 64}, "night.onnx beside it has changed since"),
    ],
)
def test_why_a_plan_does_not_fit(plan: Path, changes: dict[str, Any], reason: str) -> None:
    write_plan(plan, **changes)
    found = why_unfit(plan, read_manifest(plan)[1], FACTS, "10.16.1.11")
    assert found is not None
    assert reason in found


def test_another_build_of_the_same_release_fits(plan: Path) -> None:
    assert why_unfit(plan, read_manifest(plan)[1], FACTS, "10.16.1.99") is None


def test_a_foreign_plan_is_rebuilt_from_the_engine_beside_it(plan: Path, fakes: FakeDevice) -> None:
    write_plan(plan, architectures=("sm_87",))
    commands: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        write_plan(plan)
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


def test_opening_a_foreign_plan_rebuilds_it_first(
    plan: Path, fakes: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plan(plan, architectures=("sm_87",))

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        write_plan(plan)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(engine_module, "rebuilt", lambda *given: rebuilt(*given, run=run))
    open_tensorrt(plan).close()

    write_plan(plan, architectures=("sm_87",))
    monkeypatch.setattr(engine_module, "rebuilt", lambda *given: given[1:3])
    with pytest.raises(EngineError, match="was rebuilt and still does not fit"):
        open_tensorrt(plan)
    assert fakes.calls[-1] == "close"


def test_without_the_engine_a_foreign_plan_is_refused_in_one_sentence(plan: Path, fakes: FakeDevice) -> None:
    write_plan(plan, architectures=("sm_87",))
    plan.with_name("night.onnx").unlink()
    with pytest.raises(
        EngineError, match=r"is sm_89\): put night.onnx, from which it was built, beside it"
    ) as error:
        open_tensorrt(plan)
    assert "\n" not in str(error.value)
    assert fakes.calls[-1] == "close"


def test_where_export_is_not_installed_the_command_is_named(plan: Path) -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(command[0])

    with pytest.raises(
        EngineError, match=r"i2i-export is not installed here: `pip install .* then run `i2i-export"
    ):
        rebuilt(plan, *read_manifest(plan), "it is foreign", run=run)


def test_a_failed_rebuild_names_the_command(plan: Path) -> None:
    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1)

    with pytest.raises(EngineError, match="could not be rebuilt: see what `i2i-export"):
        rebuilt(plan, *read_manifest(plan), "it is foreign", run=run)


def test_a_dynamic_plan_is_rebuilt_dynamic() -> None:
    policy = SizePolicy(stride=4, min_height=64, max_height=1088, min_width=64, max_width=1920)
    assert "--size" not in rebuild_command(Path("x.plan"), Path("x.onnx"), "tensorrt", metadata(policy))


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
    import json

    raw = {**json.loads(sidecar_path(plan).read_text()), **change}
    sidecar_path(plan).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=sentence):
        read_manifest(plan)


@pytest.mark.parametrize("bad", [{"flavour": "trt"}, {"onnx_file": "../x.onnx"}])
def test_a_sidecar_with_a_wrong_word_is_refused(plan: Path, bad: dict[str, str]) -> None:
    write_plan(plan, **bad)
    with pytest.raises(EngineError, match="does not describe a plan"):
        read_manifest(plan)


def test_the_sidecar_survives_the_round_trip_and_unknown_keys(plan: Path) -> None:
    import json

    before = read_manifest(plan)
    raw = json.loads(sidecar_path(plan).read_text())
    raw["plan"]["a_later_field"] = 1
    raw["plan"]["candidates"] = [{"form": "plain", "kept": True, "later": 2}]
    sidecar_path(plan).write_text(json.dumps(raw))
    engine, manifest = read_manifest(plan)
    assert engine == before[0]
    assert manifest.candidates[0].form == "plain"
    assert replace(manifest, candidates=()) == before[1]


def test_a_slot_that_was_not_prepared_cannot_run(device: FakeDevice) -> None:
    with pytest.raises(RuntimeError, match="prepared"):
        FrameSlot(loaded(FakeTensorRT(device), device), {}).run()


def test_an_unwritable_cache_is_no_failure(
    device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    plan = loaded(FakeTensorRT(device), device, flavour="tensorrt-rtx", cache=tmp_path / "x.cache")
    monkeypatch.setattr(slot, "write_whole", refuse)
    plan.save_cache()
    assert not list(tmp_path.iterdir())
