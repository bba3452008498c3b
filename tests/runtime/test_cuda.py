"""Our TensorRT engine through the true cuda-python and the true PyCUDA on a strict stand-in for NVIDIA's driver.

The driver (strict_driver/driver.c) keeps the rules of contexts, streams, capture and memory and writes down each
violation; the network under it is a fake TensorRT (strict_driver/fake). Neither shows anything about a GPU's speed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.engines.tensorrt import cuda, cuda_python
from i2i_runtime.engines.tensorrt.cuda import find_device_facts, open_device
from i2i_runtime.engines.tensorrt.device import DriverError, release_all
from i2i_runtime.engines.tensorrt.layout import available_host_bytes
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import SizePolicy

HERE = Path(__file__).parent / "strict_driver"
PYCUDA = Path(sys.prefix) / "pycuda_on_headers"
LIBRARIES = [
    pytest.param(
        "cuda-python",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("cuda") is None, reason="cuda-python is not installed"
        ),
    ),
    pytest.param(
        "PyCUDA",
        marks=pytest.mark.skipif(
            not PYCUDA.is_dir(), reason=f"needs the true PyCUDA: {HERE / 'build_pycuda.sh'} {sys.executable}"
        ),
    ),
]
NOTHING_LEFT = {
    "contexts": 0,
    "context stack": 0,
    "device memory": 0,
    "pinned memory": 0,
    "streams": 0,
    "events": 0,
    "recorded graphs": 0,
    "graphs": 0,
}


@dataclass(frozen=True)
class Done:
    """A process on the strict driver: what it printed, what it logged, and what the driver reports of it."""

    result: dict[str, Any]
    log: str
    report: dict[str, Any]


Drive = Callable[..., Done]


@pytest.fixture
def environment(strict_driver: Path, tmp_path: Path) -> dict[str, str]:
    """What a process needs to find the strict driver, the fake TensorRT and the true PyCUDA."""
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(strict_driver),
        "PYTHONPATH": os.pathsep.join((str(HERE / "fake"), str(PYCUDA))),
        "STRICT_CUDA_REPORT": str(tmp_path / "report.jsonl"),
    }


@pytest.fixture
def drive(environment: dict[str, str], tmp_path: Path) -> Drive:
    def run(scenario: str, library: str, plan: Path, **settings: str) -> Done:
        hidden = {"DRIVE_LIBRARY": "pycuda"} if library == "PyCUDA" else {}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(HERE / "drive.py"), scenario, str(plan)],
            env={**environment, **hidden, **settings},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / "report.jsonl").read_text().splitlines()[-1])
        return Done(json.loads(done.stdout), done.stderr, report)

    return run


@pytest.fixture
def write_plan(write_tensorrt_plan: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A plan for the fake TensorRT, with its sidecar."""

    def write(flavour: str = "tensorrt", *, fixed: bool = False) -> Path:
        return write_tensorrt_plan(
            tmp_path / f"{flavour}.plan",
            SizePolicy.fixed(32, 48) if fixed else SizePolicy(8, 8, 512, 8, 512),
            flavour=flavour,
            tensorrt_version="10.16.1.11" if flavour == "tensorrt" else "1.7.1.116",
        )

    return write


@pytest.mark.parametrize("memory", ["copied", "mapped"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_500_frames_of_three_sizes_in_two_threads(
    library: str, memory: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("frames", library, write_plan(), STRICT_CUDA_INTEGRATED="1" if memory == "mapped" else "0")
    assert done.result["wrong"] == []
    assert done.result["frames"] == done.report["launches"] == 504, "each frame is one launch of a graph"
    assert done.result["slots"] == 2
    assert f"Strict GPU (sm_89, through {library})" in done.result["reason"]
    assert done.result["flags"] == 4, "waiting for the GPU does not spin on a core"
    assert done.report["violations"] == []
    assert done.report["left"] == NOTHING_LEFT
    assert done.report["unordered_networks"] == 0, "the slots' networks run one behind the other"
    if memory == "copied":
        assert done.report["free_copies"] > 0, "but a copy waits for no other slot's network"


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_engine_is_opened_three_times_and_closed_by_another_thread(
    library: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("again", library, write_plan())
    assert done.result == {"good": [True, True, True], "left": 0}
    assert done.report["violations"] == []
    assert done.report["left"] == NOTHING_LEFT


@pytest.mark.parametrize("library", LIBRARIES)
def test_whatever_call_fails_is_one_sentence_and_leaves_nothing(
    library: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("failures", library, write_plan())
    assert done.result["left"] == []
    assert done.result["wrong"] == []
    assert done.report["violations"] == []
    assert set(done.result["said"]) >= {
        "cuStreamCreate",
        "cuMemcpyHtoDAsync",
        "cuGraphLaunch",
        "cuStreamSynchronize",
    }
    for sentence in (sentence for said in done.result["said"].values() for sentence in said):
        assert sentence.startswith("The GPU refused cu"), sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence


@pytest.mark.parametrize("library", LIBRARIES)
def test_python_runs_while_the_gpu_works(library: str, drive: Drive, write_plan: Callable[..., Path]) -> None:
    done = drive("waiting", library, write_plan())
    assert done.report["violations"] == [], "the thread that ends the wait had to run during it"
    assert done.result == {"left": 0}


@pytest.mark.parametrize("library", LIBRARIES)
def test_closing_gives_up_on_a_frame_that_never_ends(
    library: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("hanging", library, write_plan())
    assert done.result == {"closed_while_waiting": True, "left": 0}
    assert "the GPU did not finish its frame" in done.log
    assert done.report["violations"] == []


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_second_slot_that_does_not_fit_is_left_out(
    library: str, fixed: bool, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("memory", library, write_plan(fixed=fixed), FAKE_TENSORRT="needs=1200")
    assert done.result["found"] == [True, True]
    assert done.result["slots"] == 1
    assert done.result["left"] == 0
    assert done.report["violations"] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_fits_nowhere_is_one_sentence(
    library: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("memory", library, write_plan(fixed=True), FAKE_TENSORRT="needs=3000")
    assert done.result["said"].startswith("Strict GPU does not have 3000 MiB of memory free")
    assert done.result["left"] == 0
    assert done.report["violations"] == []
    assert done.report["left"] == NOTHING_LEFT


def test_scarce_shared_memory_is_a_warning(drive: Drive, write_plan: Callable[..., Path]) -> None:
    """There the driver's figure of free memory leaves out what the system would give back."""
    available = available_host_bytes()
    assert available is not None
    more = (available >> 20) + 4096
    done = drive(
        "memory",
        "cuda-python" if importlib.util.find_spec("cuda") else "PyCUDA",
        write_plan(fixed=True),
        FAKE_TENSORRT=f"needs={more}",
        STRICT_CUDA_INTEGRATED="1",
    )
    assert f"needs {more} MiB for this image size and the system has" in done.log
    assert available_host_bytes(Path("/nowhere")) is None


@pytest.mark.parametrize(
    ("flavour", "wish", "reason"),
    [
        ("tensorrt", "refuses-capture", "Error Code 1: a Loop allocates while it runs"),
        ("tensorrt-rtx", "not-capturable", "TensorRT says that this network cannot be captured"),
    ],
)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_network_that_cannot_be_captured_runs_without_a_graph(
    library: str, flavour: str, wish: str, reason: str, drive: Drive, write_plan: Callable[..., Path]
) -> None:
    done = drive("frames", library, write_plan(flavour), FAKE_TENSORRT=wish)
    assert done.result["wrong"] == []
    assert done.report["launches"] == 0
    assert done.log.count("runs without a CUDA graph") == 1, "it is said once"
    assert reason in done.log
    assert done.report["violations"] == []
    assert done.report["unordered_networks"] == 0
    assert done.report["left"] == NOTHING_LEFT


def test_a_fixed_engine_says_in_its_reason_that_it_has_no_graph(
    drive: Drive, write_plan: Callable[..., Path]
) -> None:
    plan = write_plan("tensorrt-rtx", fixed=True)
    done = drive("memory", "cuda-python", plan, FAKE_TENSORRT="not-capturable")
    assert done.result["reason"].endswith(", without a CUDA graph")


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_first_run_may_allocate(library: str, drive: Drive, write_plan: Callable[..., Path]) -> None:
    done = drive("frames", library, write_plan(), FAKE_TENSORRT="allocates")
    assert done.result["wrong"] == []
    assert done.report["launches"] == 504
    assert done.report["violations"] == []


@pytest.mark.parametrize("library", LIBRARIES)
def test_tensorrts_own_sentence_is_kept(library: str, drive: Drive, write_plan: Callable[..., Path]) -> None:
    done = drive("memory", library, write_plan(), FAKE_TENSORRT="fails")
    for sentence in done.result["found"]:
        assert (
            "failed at running the network (Error Code 1: the network does not run): build the plan"
            in sentence
        )
    assert done.report["violations"] == []


# ---- The whole command -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """i2i-stream with a plan, on the strict driver through one library."""

    environment: dict[str, str]
    report: Path

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        program = "import drive, sys; from i2i_runtime.cli.entry import stream; sys.argv[0] = 'i2i-stream'; stream()"
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments), "--quiet"],
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def clean(self) -> None:
        """Asserts that the driver saw nothing wrong and nothing left over."""
        report = json.loads(self.report.read_text().splitlines()[-1])
        assert report["violations"] == []
        assert report["left"] == NOTHING_LEFT


@pytest.fixture
def command(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Command:
    hidden = {"DRIVE_LIBRARY": "pycuda"} if request.param == "PyCUDA" else {}
    path = os.pathsep.join((environment["PYTHONPATH"], str(HERE)))
    return Command({**environment, **hidden, "PYTHONPATH": path}, tmp_path / "report.jsonl")


@pytest.mark.parametrize("command", LIBRARIES, indirect=True)
def test_a_clip_is_translated_and_everything_given_back(
    command: Command, write_plan: Callable[..., Path], make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip("gpu.mp4", pts=[512 * number for number in range(40)], audio_tracks=1)
    out, record = tmp_path / "out.mp4", tmp_path / "record.json"
    with command.start(
        "--engine", write_plan(), "--input", clip, "--output", out, "--report", record
    ) as running:
        _, said = running.communicate(timeout=120)
    assert running.returncode == 0, said
    described = json.loads(record.read_text())
    assert described["frames"]["out"] == 40
    assert described["engine"]["backend"] == "tensorrt 10.16.1.11 fp16"
    command.clean()


@pytest.mark.parametrize("command", LIBRARIES, indirect=True)
def test_ctrl_c_gives_everything_back(
    command: Command, write_plan: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.mp4"
    arguments = ("--engine", write_plan(), "--input", "test://street", "--output", out, "--size", "96x64")
    with command.start(*arguments) as running:
        deadline_s = time.monotonic() + 60
        while not list(tmp_path.glob(".out.mp4.unfinished/*")) and time.monotonic() < deadline_s:
            assert running.poll() is None
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    command.clean()


@pytest.mark.parametrize("command", LIBRARIES, indirect=True)
def test_an_input_that_breaks_off_gives_everything_back(
    command: Command, write_plan: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a clip")
    with command.start(
        "--engine", write_plan(), "--input", broken, "--output", tmp_path / "o.mp4"
    ) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 1, said
    command.clean()


# ---- Opening a device ----------------------------------------------------------------------------------------


OPEN = """
import os, sys
if os.environ.get("DRIVE_LIBRARY") == "pycuda":
    sys.modules["cuda.bindings.driver"] = None
from i2i_runtime.engines.tensorrt.cuda import open_device
from i2i_runtime.errors import EngineError
try:
    print(open_device().facts)
except EngineError as error:
    print(error)
"""


@pytest.mark.parametrize("hidden", [{}, {"DRIVE_LIBRARY": "pycuda"}], ids=["cuda-python", "PyCUDA"])
@pytest.mark.parametrize("driver", ["no device", "no library"])
def test_without_a_working_driver_it_says_so(
    hidden: dict[str, str], driver: str, environment: dict[str, str], tmp_path: Path
) -> None:
    if hidden and not PYCUDA.is_dir():
        pytest.skip("needs the true PyCUDA")
    absent = {"STRICT_CUDA_ABSENT": "1"} if driver == "no device" else {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN],
        env={**environment, **hidden, **absent},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("This machine does not have a working NVIDIA driver ("), done.stdout
    assert done.stdout.count("\n") == 1


def test_bindings_that_stop_python_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("cuda-python is not installed")
    monkeypatch.setattr(cuda_python, "version", lambda name: "12.9.0")
    with pytest.raises(ImportError, match=r"cuda-bindings 12.9.0 stops all other threads .* 12.9.1 does not"):
        cuda_python.open_cuda_python(0)


def test_without_any_library_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(index: int) -> Any:
        raise ImportError("No module named 'pycuda'")

    monkeypatch.setattr(cuda, "_open_pycuda", missing)
    monkeypatch.setattr(cuda, "_open_cuda_python", missing)
    with pytest.raises(EngineError, match=r"install it with `pip install 'cuda-bindings>=12.9.1'`"):
        open_device()
    assert find_device_facts() is None


def test_cuda_python_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def opener(name: str, failure: Exception | None) -> Callable[[int], Any]:
        def open_it(index: int) -> Any:
            asked.append(name)
            if failure is not None:
                raise failure
            return None

        return open_it

    monkeypatch.setattr(cuda, "_open_cuda_python", opener("cuda-python", None))
    monkeypatch.setattr(cuda, "_open_pycuda", opener("PyCUDA", None))
    open_device()
    monkeypatch.setattr(cuda, "_open_cuda_python", opener("cuda-python", ImportError("too old")))
    open_device()
    assert asked == ["cuda-python", "cuda-python", "PyCUDA"]


def test_giving_back_goes_on_after_a_refusal() -> None:
    done = []

    def refused() -> None:
        raise DriverError("cuMemFree", "CUDA_ERROR_ILLEGAL_ADDRESS")

    release_all(refused, lambda: done.append(1), refused, lambda: done.append(2))
    assert done == [1, 2]


def test_both_libraries_are_what_they_are_called() -> None:
    """The fakes are the driver and TensorRT; the libraries between them and us are the true ones."""
    if importlib.util.find_spec("cuda") is not None:
        assert importlib.metadata.version("cuda-bindings")
    if PYCUDA.is_dir():
        assert list(PYCUDA.glob("pycuda-*.dist-info"))
        assert list((PYCUDA / "pycuda").glob("_driver.*.so"))


# ---- The strict driver itself: does it see what is wrong? ------------------------------------------------------

MISUSE_BEGIN = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
p, size, handle = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p
context, stream, other, event, graph, host = p(), p(), p(), p(), p(), p()
memory = ctypes.c_ulonglong()
cuda.cuInit(0)
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
cuda.cuCtxPushCurrent_v2(context)
cuda.cuStreamCreate(ctypes.byref(stream), 1)
cuda.cuMemAlloc_v2(ctypes.byref(memory), size(64))
cuda.cuMemHostAlloc(ctypes.byref(host), size(128), 0)
def copy(bytes): return cuda.cuMemcpyHtoDAsync_v2(memory, host, size(bytes), stream)
"""
MISUSES = [
    ("copy(128)", "cuMemcpyHtoDAsync past the end of device memory"),
    ("cuda.cuMemFree_v2(memory); copy(64)", "cuMemcpyHtoDAsync past the end of device memory"),
    ("cuda.cuMemFree_v2(memory); cuda.cuMemFree_v2(memory)", "cuMemFree of memory that is not allocated"),
    (
        "copy(64); cuda.cuMemFreeHost(host); cuda.cuStreamSynchronize(stream)",
        "a copy ran on memory that is not there",
    ),
    ("host = (ctypes.c_char * 64)(); copy(64)", "with host memory that is not pinned"),
    ("cuda.cuStreamDestroy_v2(stream); copy(64)", "with one of the streams that was destroyed"),
    ("cuda.cuStreamSynchronize(event)", "with a handle that is none of the streams"),
    ("cuda.cuCtxPopCurrent_v2(None); copy(64)", "cuMemcpyHtoDAsync without a current context"),
    ("cuda.cuCtxPopCurrent_v2(None); cuda.cuCtxPopCurrent_v2(None)", "cuCtxPopCurrent of an empty stack"),
    ("cuda.cuDevicePrimaryCtxRelease_v2(0); copy(64)", "cuMemcpyHtoDAsync in a destroyed context"),
    ("cuda.cuDevicePrimaryCtxRelease_v2(0)", "the context was released with device memory in it"),
    (
        "cuda.cuStreamBeginCapture_v2(stream, 1); cuda.cuStreamSynchronize(stream)",
        "of a stream that captures",
    ),
    ("cuda.cuStreamBeginCapture_v2(stream, 1); cuda.cuStreamDestroy_v2(stream)", "of a stream that captures"),
    ("cuda.cuStreamEndCapture(stream, ctypes.byref(graph))", "cuStreamEndCapture without a capture"),
    (
        "import threading; cuda.cuStreamBeginCapture_v2(stream, 1); "
        "t = threading.Thread(target=lambda: (cuda.cuCtxPushCurrent_v2(context), "
        "cuda.cuStreamEndCapture(stream, ctypes.byref(graph)), cuda.cuCtxPopCurrent_v2(None))); t.start(); t.join()",
        "cuStreamEndCapture by another thread",
    ),
]


@pytest.mark.parametrize(("misuse", "violation"), MISUSES)
def test_the_strict_driver_sees_misuse(
    misuse: str, violation: str, environment: dict[str, str], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", MISUSE_BEGIN + misuse], env=environment, check=True, timeout=60)
    report = json.loads((tmp_path / "report.jsonl").read_text())
    assert any(violation in text for text in report["violations"]), report["violations"]


RULES = """
print(cuda.cuStreamBeginCapture_v2(stream, 1), end=" ")
print(cuda.cuMemAlloc_v2(ctypes.byref(memory), size(64)), end=" ")
print(copy(64), end=" ")
print(cuda.cuStreamEndCapture(stream, ctypes.byref(graph)), end=" ")
print(cuda.cuMemAlloc_v2(ctypes.byref(memory), size(4 << 30)), end=" ")
print(copy(64), cuda.cuStreamSynchronize(stream))
"""


def test_a_capture_that_allocates_is_invalid_as_a_whole(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MISUSE_BEGIN + RULES],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["0", "900", "901", "901", "2", "0", "0"]


@pytest.mark.parametrize(("mode", "own", "other"), [(0, 900, 900), (1, 900, 0), (2, 0, 0)])
def test_a_capture_forbids_what_its_mode_says(
    mode: int, own: int, other: int, environment: dict[str, str]
) -> None:
    """Modes: 0 global, 1 thread-local, 2 relaxed. Allocating is forbidden to everybody, to this thread, to nobody."""
    script = f"""
import threading
def allocate():
    return cuda.cuMemAlloc_v2(ctypes.byref(memory), size(64))
def elsewhere():
    cuda.cuCtxPushCurrent_v2(context)
    print(allocate())
    cuda.cuCtxPopCurrent_v2(None)
cuda.cuStreamBeginCapture_v2(stream, {mode})
thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
print(allocate())
"""
    done = subprocess.run(
        [sys.executable, "-c", MISUSE_BEGIN + script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [int(line) for line in done.stdout.split()] == [other, own]


def test_device_memory_cannot_be_read_by_the_host(environment: dict[str, str]) -> None:
    script = MISUSE_BEGIN + "print(ctypes.string_at(memory.value, 1))"
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False, timeout=60)
    assert done.returncode == -11
