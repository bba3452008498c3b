"""The device layer: cuda-python's and ctypes' true calls into a fake driver library, and a fake PyCUDA.

The fake driver (fake_cuda/fake_driver.c) plays the device in host memory. It shows that our calls exist, take
these arguments and come in this order; it shows nothing about a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from i2i_runtime.engines.tensorrt import cuda
from i2i_runtime.engines.tensorrt.cuda import DriverGraphs, PyCudaDevice, find_device_facts, open_device
from i2i_runtime.errors import EngineError

SOURCE = Path(__file__).parent / "fake_cuda" / "fake_driver.c"


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake driver, compiled under the true one's name."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake driver with")
    library = tmp_path_factory.mktemp("fake_cuda") / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", "-w", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def run_on(driver: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python process that finds the fake driver where the true one would be."""
    return subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver.parent), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


SCRIPT = """
import json
from i2i_runtime.engines.tensorrt.cuda import CudaPythonDevice
from i2i_runtime.errors import EngineError
import importlib
device = CudaPythonDevice(importlib.import_module("cuda.bindings.driver"), 0)
device.make_current()
address, stream = device.allocate(16), device.create_stream()
source, target = device.pinned(16, mapped=False), device.pinned(16, mapped=True)
seen = []
source.array[:] = 7
device.copy_in(address, source, stream)
device.copy_out(target, address, stream)
device.synchronize(stream)
seen.append(int(target.array.sum()))
device.begin_capture(stream)
device.copy_in(address, source, stream)
device.copy_out(target, address, stream)
graph = device.end_capture(stream)
source.array[:] = 9
seen.append(int(target.array.sum()))
device.launch(graph, stream)
device.synchronize(stream)
seen.append(int(target.array.sum()))
try:
    device.allocate(5 << 30)
except EngineError as error:
    refusal = str(error)
device.destroy_graph(graph)
device.free(address)
device.release(source)
device.release(target)
device.destroy_stream(stream)
device.close()
facts = vars(device.facts)
print(json.dumps({"seen": seen, "facts": facts, "refusal": refusal, "mapped": target.address != 0,
                  "plain": source.address}))
"""


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_cuda_python_drives_buffers_and_graphs(fake_driver: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    done = run_on(fake_driver, SCRIPT, FAKE_CUDA_LOG=str(log))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["seen"] == [16 * 7, 16 * 7, 16 * 9], "captured copies run when launched, not when recorded"
    assert result["facts"] == {
        "name": "Fake GPU",
        "architecture": "sm_89",
        "driver": "13.2",
        "memory_bytes": 1 << 31,
        "free_bytes": 1 << 30,
        "shares_memory": False,
    }
    assert "no 5120 MiB of memory free" in result["refusal"]
    assert result["mapped"]
    assert result["plain"] == 0
    assert log.read_text().split("\n") == [
        *("retain", "allocate", "create_stream", "pin", "pin mapped", "copy_in", "copy_out", "synchronize"),
        *("begin_capture", "captured copy_in", "captured copy_out", "end_capture", "instantiate"),
        *("destroy_recorded", "launch", "synchronize", "destroy_graph", "free", "unpin", "unpin"),
        *("destroy_stream", "release", ""),
    ]


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed")
def test_a_driver_without_a_device_is_one_sentence(fake_driver: Path) -> None:
    script = "from i2i_runtime.engines.tensorrt.cuda import open_device\nopen_device()"
    done = run_on(fake_driver, script, FAKE_CUDA_ABSENT="1")
    assert done.returncode != 0
    assert "no working NVIDIA driver (CUDA_ERROR_NO_DEVICE)" in done.stderr


def test_graphs_by_ctypes_record_and_replay(fake_driver: Path) -> None:
    library = ctypes.CDLL(str(fake_driver))
    library.cuCtxSetCurrent(ctypes.c_void_p(0x77))
    graphs = DriverGraphs(library)
    source, target = np.full(4, 3, np.uint8), np.zeros(4, np.uint8)
    graphs.begin_capture(5)
    library.cuMemcpyHtoDAsync_v2(
        ctypes.c_ulonglong(target.ctypes.data),
        ctypes.c_void_p(source.ctypes.data),
        ctypes.c_size_t(4),
        ctypes.c_void_p(5),
    )
    graph = graphs.end_capture(5)
    assert target.sum() == 0
    graphs.launch(graph, 5)
    assert target.tolist() == [3, 3, 3, 3]
    graphs.destroy(graph)
    with pytest.raises(EngineError, match="refused cuStreamEndCapture"):
        graphs.end_capture(5)


class FakePyCuda:
    """As much of `pycuda.driver` as the device layer touches; contexts form a stack per thread, as
    PyCUDA's do.
    """

    Error = type("Error", (Exception,), {})
    MemoryError = type("MemoryError", (Error,), {})
    host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    stream_flags = SimpleNamespace(NON_BLOCKING=1)
    device_attribute = SimpleNamespace(INTEGRATED=18)

    def __init__(self, *, has_device: bool = True) -> None:
        self.has_device = has_device
        self.stacks: dict[int, int] = {}
        self.memory: dict[int, np.ndarray] = {}
        self.freed = 0
        self.detached = False
        self.Device = type(
            "Device", (), {"count": staticmethod(lambda: 1), "__new__": lambda _, index: self._device()}
        )
        self.Stream = lambda flags: SimpleNamespace(handle=5, synchronize=lambda: None)

    def init(self) -> None:
        if not self.has_device:
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def _device(self) -> Any:
        context = SimpleNamespace(push=self._push, pop=self._pop, detach=self._detach)
        return SimpleNamespace(
            retain_primary_context=lambda: context,
            compute_capability=lambda: (8, 7),
            get_attribute=lambda name: 1,
            name=lambda: "Fake Orin",
        )

    def _push(self) -> None:
        thread = threading.get_ident()
        self.stacks[thread] = self.stacks.get(thread, 0) + 1

    def _pop(self) -> None:
        self.stacks[threading.get_ident()] -= 1

    def _detach(self) -> None:
        self.detached = True

    def mem_get_info(self) -> tuple[int, int]:
        return 1 << 30, 1 << 33

    def get_driver_version(self) -> int:
        return 12060

    def mem_alloc(self, nbytes: int) -> Any:
        if nbytes > 1 << 30:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        fake = self

        class FakeAllocation:
            def __int__(self) -> int:
                return 0x4000

            def free(self) -> None:
                fake.freed += 1

        self.memory[0x4000] = np.zeros(nbytes, np.uint8)
        return FakeAllocation()

    def pagelocked_empty(self, nbytes: int, dtype: type, mem_flags: int) -> np.ndarray:
        class FakePinned(np.ndarray):
            @property
            def base(self) -> Any:
                return SimpleNamespace(get_device_pointer=lambda: 0x8000, free=lambda: None)

        return np.zeros(nbytes, dtype).view(FakePinned)

    def memcpy_htod_async(self, address: int, source: np.ndarray, stream: Any) -> None:
        self.memory[address][:] = source

    def memcpy_dtoh_async(self, target: np.ndarray, address: int, stream: Any) -> None:
        target[:] = self.memory[address]


def test_pycuda_moves_images_and_keeps_one_context_per_thread(
    fake_driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_graph_calls", lambda: DriverGraphs(ctypes.CDLL(str(fake_driver))))
    fake = FakePyCuda()
    device = PyCudaDevice(fake, 0)
    assert device.facts.architecture == "sm_87"
    assert device.facts.driver == "12.6"
    assert device.facts.shares_memory
    address, stream = device.allocate(4), device.create_stream()
    source, target = device.pinned(4, mapped=False), device.pinned(4, mapped=True)
    assert (source.address, target.address) == (0, 0x8000)
    source.array[:] = 5
    device.copy_in(address, source, stream)
    device.copy_out(target, address, stream)
    device.synchronize(stream)
    assert target.array.tolist() == [5, 5, 5, 5]
    device.begin_capture(stream)
    graph = device.end_capture(stream)
    device.launch(graph, stream)
    device.destroy_graph(graph)

    def work() -> None:
        for _ in range(3):
            device.make_current()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    device.make_current()
    assert sorted(fake.stacks.values()) == [1, 1]
    with pytest.raises(EngineError, match="no 2048 MiB of memory free"):
        device.allocate(2 << 30)
    device.free(address)
    device.release(source)
    device.destroy_stream(stream)
    device.close()
    assert fake.freed == 1
    assert fake.detached


def test_pycuda_without_a_device_is_one_sentence() -> None:
    with pytest.raises(EngineError, match=r"no working NVIDIA driver \(cuInit failed"):
        PyCudaDevice(FakePyCuda(has_device=False), 0)


def test_without_any_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(index: int) -> Any:
        raise ImportError("No module named 'pycuda'")

    monkeypatch.setattr(cuda, "_open_pycuda", missing)
    monkeypatch.setattr(cuda, "_open_cuda_python", missing)
    with pytest.raises(EngineError, match=r"install it with `pip install cuda-python`"):
        open_device()
    assert find_device_facts() is None
