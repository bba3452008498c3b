"""The order of calls on the GPU path, on a recording fake device under a fake TensorRT, and plans that do not fit.

Nothing here is TensorRT: the fakes keep memory, record every call and replay captured ones, so that an image
really passes through slots, graphs and buffers. The driver's rules are held in test_cuda.py, on a strict driver; what
only hardware can show is listed in export/PLANS.md.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from i2i_runtime.engines.tensorrt import engine as engine_module
from i2i_runtime.engines.tensorrt import loaded as loaded_module
from i2i_runtime.engines.tensorrt.device import DeviceFacts, PinnedBuffer
from i2i_runtime.engines.tensorrt.engine import TensorRTEngine, open_tensorrt
from i2i_runtime.engines.tensorrt.fit import rebuilt
from i2i_runtime.engines.tensorrt.loaded import LoadedPlan
from i2i_runtime.engines.tensorrt.slot import ComputeOrder, FrameSlot
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
        self.depth = self.events = 0

    def submit(self, name: str, operation: Operation) -> None:
        assert self.depth, f"{name} without a current context"
        self.calls.append(name if self.recording is None else f"captured {name}")
        if self.recording is None:
            operation()
        else:
            self.recording.append(operation)

    def address(self, array: np.ndarray) -> int:
        self.next += 0x1000
        self.memory[self.next] = array
        return self.next

    @contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

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

    def create_event(self) -> int:
        self.events += 1
        return self.events

    def destroy_event(self, event: int) -> None:
        self.calls.append(f"destroy_event {event}")

    def record(self, event: int, stream: int) -> None:
        self.calls.append(f"record {event}")

    def wait(self, stream: int, event: int) -> None:
        self.calls.append(f"wait {event}")

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
        if self.engine.cannot_shape:
            raise RuntimeError("a shape depends on data")
        return [] if "frame" in self.shapes else ["frame"]

    def update_device_memory_size_for_shapes(self) -> int:
        return 64

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self.device.memory[memory].nbytes == size

    def is_stream_capturable(self, stream: int) -> bool:
        return True

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
    strategy: str = ""
    dynamic_shapes_kernel_specialization_strategy: str = "lazy"

    def create_runtime_cache(self) -> FakeCache:
        return self.cache

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.set_before_context = True
        return True


class FakeEngine:
    def __init__(self, device: FakeDevice, names: Sequence[str]) -> None:
        self.device, self.names = device, tuple(names)
        self.num_io_tensors = len(names)
        self.fails = self.refuses_contexts = self.cannot_shape = False
        self.config = FakeConfig()

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_runtime_config(self) -> FakeConfig:
        return self.config

    def create_execution_context(self, strategy: FakeConfig | str) -> FakeContext | None:
        if isinstance(strategy, FakeConfig):
            assert strategy.set_before_context
            assert strategy.dynamic_shapes_kernel_specialization_strategy == "eager"
            strategy = strategy.strategy
        assert strategy == "user managed"
        self.device.calls.append("create_context")
        return None if self.refuses_contexts else FakeContext(self.device, self)


class FakeLogger:
    class Severity:
        INTERNAL_ERROR, ERROR, WARNING = 0, 1, 2


class FakeTensorRT:
    """As much of the module `tensorrt` as the runtime touches."""

    __version__ = "10.16.1.11"
    ILogger = FakeLogger
    ExecutionContextAllocationStrategy = SimpleNamespace(__members__={"USER_MANAGED": "user managed"})
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, device: FakeDevice, names: Sequence[str] = ("frame", "translated")) -> None:
        self.engine: FakeEngine | None = FakeEngine(device, names)

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
        *("create_stream", "create_context"),
        *("copy_in", "execute", "synchronize"),
        *("begin_capture", "captured execute", "end_capture"),
    ]
    device.calls.clear()
    frame = image(4, 6)
    assert np.array_equal(slot.translate(frame, {}), 255 - frame)
    assert device.calls == ["copy_in", "launch", "copy_out", "synchronize"]


def test_networks_of_two_slots_wait_for_each_other_and_copies_do_not(device: FakeDevice) -> None:
    plan, order = loaded(FakeTensorRT(device), device), ComputeOrder(device)
    first, second = FrameSlot(plan, {}, order), FrameSlot(plan, {}, order)
    for slot in (first, second):
        slot.prepare(4, 4)
    device.calls.clear()
    for slot in (first, second, second):
        slot.translate(image(4, 4), {})
    assert device.calls == [
        *("copy_in", "wait 2", "launch", "record 1", "copy_out", "synchronize"),
        *("copy_in", "wait 1", "launch", "record 2", "copy_out", "synchronize"),
        *("copy_in", "launch", "record 2", "copy_out", "synchronize"),
    ]
    second.close()
    device.calls.clear()
    first.translate(image(4, 4), {})
    assert "wait 2" not in device.calls, "an event that was destroyed is forgotten"


def test_the_last_two_sizes_stay_ready(device: FakeDevice) -> None:
    slot = FrameSlot(loaded(FakeTensorRT(device), device), {})
    prepared = []
    for height, width in ((4, 6), (8, 8), (4, 6), (2, 2), (4, 6), (8, 8)):
        frame = image(height, width, seed=height)
        device.calls.clear()
        assert np.array_equal(slot.translate(frame, {}), 255 - frame)
        prepared.append("begin_capture" in device.calls)
    assert prepared == [True, True, False, True, False, True]
    assert len(device.graphs) == 2
    slot.close()
    assert not device.memory
    assert not device.graphs
    assert device.pinned_count == 0
    assert device.calls[-1] == "destroy_stream"


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


def test_other_tensors_than_the_sidecars_are_one_sentence(device: FakeDevice) -> None:
    trt = FakeTensorRT(device, ("frame", "style", "translated"))
    with pytest.raises(EngineError, match="has the tensors frame, style, translated, but") as caught:
        FrameSlot(loaded(trt, device), {}).prepare(4, 4)
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
    trt.engine.cannot_shape = True
    with pytest.raises(EngineError, match=r"working out the shapes \(a shape depends on data\)"):
        FrameSlot(plan, {}).prepare(4, 4)
    assert not device.memory
    assert device.pinned_count == 0


# ---- Opening ------------------------------------------------------------------------------------------------


@pytest.fixture
def plan(write_tensorrt_plan: Callable[..., Path], tmp_path: Path) -> Path:
    """A plan file, its sidecar and its engine; the bytes mean nothing."""
    (tmp_path / "night.onnx").write_bytes(b"the engine")
    return write_tensorrt_plan(tmp_path / "night.plan")


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


def test_opening_a_foreign_plan_rebuilds_it_first(
    write_tensorrt_plan: Callable[..., Path], plan: Path, fakes: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensorrt_plan(plan, architectures=("sm_87",))

    def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        write_tensorrt_plan(plan)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(engine_module, "rebuilt", lambda *given: rebuilt(*given, run=run))
    open_tensorrt(plan).close()

    write_tensorrt_plan(plan, architectures=("sm_87",))
    monkeypatch.setattr(engine_module, "rebuilt", lambda *given: given[1:3])
    with pytest.raises(EngineError, match="was rebuilt and still does not fit"):
        open_tensorrt(plan)
    assert fakes.calls[-1] == "close"


def test_without_the_engine_a_foreign_plan_is_refused_in_one_sentence(
    write_tensorrt_plan: Callable[..., Path], plan: Path, fakes: FakeDevice
) -> None:
    write_tensorrt_plan(plan, architectures=("sm_87",))
    plan.with_name("night.onnx").unlink()
    with pytest.raises(
        EngineError, match=r"is sm_89\): put night.onnx, from which it was built, beside it"
    ) as error:
        open_tensorrt(plan)
    assert "\n" not in str(error.value)
    assert fakes.calls[-1] == "close"


def test_an_unwritable_cache_is_no_failure(
    device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    plan = loaded(FakeTensorRT(device), device, flavour="tensorrt-rtx", cache=tmp_path / "x.cache")
    monkeypatch.setattr(loaded_module, "write_whole", refuse)
    plan.save_cache()
    assert not list(tmp_path.iterdir())
