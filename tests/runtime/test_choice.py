"""Which back end runs an engine: the order, what is passed over and why, and one frame of parity.

Machines with CUDA, CoreML, a GPU or an NPU are made up: their back ends are fakes by name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2i_runtime.engines import Engine, choice, open_engine, parity
from i2i_runtime.engines.choice import Wish, choose
from i2i_runtime.engines.fake import FakeEngine
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.engines.parity import frame_size, psnr_db, require_parity, sample_frame
from i2i_runtime.errors import EngineError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import SizePolicy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "i2i-stream"


@dataclass
class Machine:
    """What a made-up machine has, and which of it fails when it is opened."""

    tensorrt: bool = False
    providers: tuple[str, ...] = ()
    openvino: tuple[str, ...] = ()
    fails: tuple[str, ...] = ()
    opened: list[str] = field(default_factory=list)


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], Machine]:
    """Puts a made-up machine in place of this one; its back ends are fakes that pass parity."""

    def put(machine: Machine) -> Machine:
        def missing(provider: str) -> str:
            there = provider == "CPUExecutionProvider" or provider in machine.providers
            return "" if there else f"no {provider}"

        def open_fake(title: str, reason: str) -> Engine:
            machine.opened.append(title)
            if title in machine.fails:
                raise EngineError(f"{title} broke (its driver is old): update it.")
            engine = FakeEngine()
            engine.reason = reason
            return engine

        def all_fakes(wish: Wish) -> Iterator[choice.Candidate]:
            for each in real(wish):
                yield choice.Candidate(
                    each.backend,
                    each.title,
                    each.processor,
                    each.reason,
                    lambda reason, title=each.title: open_fake(title, reason),  # type: ignore[misc]
                    each.missing,
                )

        real = choice._all
        monkeypatch.setattr(choice, "_all", all_fakes)
        monkeypatch.setattr(choice, "_no_tensorrt", lambda: "" if machine.tensorrt else "no TensorRT")
        monkeypatch.setattr(choice, "_no_provider", missing)
        monkeypatch.setattr(
            choice, "_no_openvino", lambda: "" if machine.openvino else "openvino is not installed"
        )
        monkeypatch.setattr("i2i_runtime.engines.openvino.openvino_devices", lambda: list(machine.openvino))
        monkeypatch.setattr(choice, "require_parity", lambda *given: None)
        return machine

    return put


CUDA, COREML = "CUDAExecutionProvider", "CoreMLExecutionProvider"


@pytest.mark.parametrize(
    ("machine", "wish", "chosen"),
    [
        (Machine(tensorrt=True, providers=(CUDA,), openvino=("CPU", "GPU")), {}, "TensorRT"),
        (Machine(providers=(CUDA,), openvino=("CPU", "GPU")), {}, "ONNX Runtime on CUDA"),
        (Machine(openvino=("CPU", "GPU", "NPU")), {}, "OpenVINO"),
        (Machine(openvino=("CPU", "GPU.0", "GPU.1")), {"processor": "gpu"}, "OpenVINO on the GPU"),
        (Machine(openvino=("CPU", "NPU")), {"processor": "npu"}, "OpenVINO on the NPU"),
        (Machine(tensorrt=True, openvino=("CPU",)), {"processor": "cpu"}, "OpenVINO"),
        (Machine(tensorrt=True, openvino=("CPU",)), {"backend": "openvino"}, "OpenVINO"),
        (
            Machine(openvino=("CPU", "NPU")),
            {"backend": "openvino", "processor": "npu"},
            "OpenVINO on the NPU",
        ),
        (Machine(providers=(COREML,)), {}, "CoreML"),
        (Machine(providers=(COREML,)), {"processor": "cpu"}, "ONNX Runtime"),
        (Machine(), {}, "ONNX Runtime"),
        (Machine(tensorrt=True, fails=("TensorRT",), openvino=("CPU",)), {}, "OpenVINO"),
    ],
)
def test_the_first_that_the_machine_has_is_chosen(
    machine: Machine, wish: dict[str, Any], chosen: str, build: Callable[[Machine], Machine]
) -> None:
    build(machine)
    choose(Wish(Path("x.onnx"), **wish))
    assert machine.opened[-1] == chosen


def test_what_does_not_work_is_part_of_the_reason(
    build: Callable[[Machine], Machine], caplog: pytest.LogCaptureFixture
) -> None:
    build(Machine(tensorrt=True, openvino=("CPU",), fails=("TensorRT",)))
    engine = choose(Wish(Path("x.onnx")))
    assert engine.reason == (
        "the fastest back end on x86 processors (TensorRT does not work: TensorRT broke (its driver is old))"
    )
    assert caplog.messages == ["TensorRT is not used: TensorRT broke (its driver is old)"]


def test_what_nothing_can_do_is_one_sentence(build: Callable[[Machine], Machine]) -> None:
    build(Machine(openvino=("CPU",)))
    with pytest.raises(EngineError, match=r"runs x.onnx with --device npu \(OpenVINO on the NPU: it finds"):
        choose(Wish(Path("x.onnx"), processor="npu"))


def test_if_everything_fails_the_portable_back_end_says_why(
    build: Callable[[Machine], Machine], caplog: pytest.LogCaptureFixture
) -> None:
    build(Machine(openvino=("CPU",), fails=("OpenVINO", "ONNX Runtime")))
    with pytest.raises(EngineError, match="ONNX Runtime broke"):
        choose(Wish(Path("x.onnx")))
    assert not caplog.messages, "one error is one sentence"


def test_onnxruntime_names_its_provider_and_refuses_a_silent_fall_back(
    engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    real = onnxruntime.InferenceSession
    started: list[list[str]] = []

    class Session:
        """A session that believes to be on CUDA."""

        def __init__(self, path: Path, options: Any, providers: list[str]) -> None:
            started.append(providers)
            self._real = real(path, options, providers=["CPUExecutionProvider"])

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def get_providers(self) -> list[str]:
            return [CUDA, "CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    engine = OnnxRuntimeEngine(engines.invert, "test", slots=2, provider=CUDA)
    assert engine.backend == "onnxruntime cuda fp32"
    assert engine.slots == 1
    assert started == [[CUDA]]
    monkeypatch.setattr(Session, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="ONNX Runtime could not start its CUDAExecutionProvider"):
        OnnxRuntimeEngine(engines.invert, "test", provider=CUDA)


# ---- Parity -----------------------------------------------------------------------------------------------------


class Lying(FakeEngine):
    """The image upside down."""

    def infer(self, image: Image, style: Any = None) -> Image:
        return np.ascontiguousarray(image[::-1])


def test_a_back_end_with_another_image_is_refused(engines: Any, cache: Path) -> None:
    with pytest.raises(EngineError, match=r"gives another image than ONNX Runtime \(\d+ dB, at least 30"):
        require_parity(Lying(), engines.identity, "test")
    assert not (cache / "parity").exists()


def test_what_passed_is_not_compared_again(
    engines: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    class Counted(OnnxRuntimeEngine):
        def infer(self, image: Image, style: Any = None) -> Image:
            compared.append(1)
            return super().infer(image, style)

    monkeypatch.setattr(parity, "OnnxRuntimeEngine", Counted)
    for engine, hardware in (
        (engines.invert, "x"),
        (engines.invert, "x"),
        (engines.invert, "y"),
        (engines.identity, "x"),
    ):
        opened = OnnxRuntimeEngine(engine)
        require_parity(opened, engine, hardware)
        opened.close()
    assert len(compared) == 3, "once for each engine and what computes it"
    assert len(list((cache / "parity").iterdir())) == 3


def test_a_cache_that_cannot_be_written_costs_time_alone(engines: Any, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    engine = open_engine(engines.invert)
    frame = sample_frame(8, 8)
    assert np.array_equal(engine.infer(frame), 255 - frame)


def test_openvino_that_lies_is_replaced_by_onnxruntime(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A true choice on this machine: only OpenVINO's image is spoilt."""
    pytest.importorskip("openvino")
    from i2i_runtime.engines.openvino import OpenVinoEngine

    monkeypatch.setattr(OpenVinoEngine, "infer", lambda self, image, style=None: np.zeros_like(image))
    engine = open_engine(engines.identity)
    assert engine.backend == "onnxruntime fp32"
    assert "OpenVINO does not work: openvino" in engine.reason
    assert "gives another image than ONNX Runtime" in engine.reason


@pytest.mark.parametrize(
    ("policy", "size"),
    [
        (SizePolicy.fixed(720, 1280), (720, 1280)),
        (SizePolicy(8, 64, 2048, 64, 4096), (96, 128)),
        (SizePolicy(32, 256, 2048, 256, 4096), (256, 256)),
        (SizePolicy(4, 8, 64, 8, 64), (64, 64)),
    ],
)
def test_the_frame_has_a_size_that_the_engine_takes(policy: SizePolicy, size: tuple[int, int]) -> None:
    assert frame_size(policy) == size
    frame = sample_frame(*size)
    assert frame.shape == (*size, 3)
    assert all(
        psnr_db(frame, other) < 25 for other in (frame[::-1], frame[:, ::-1], frame[..., ::-1], 255 - frame)
    )


# ---- The command ------------------------------------------------------------------------------------------------


def stream(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    program = "import sys; from i2i_runtime.cli.entry import stream; sys.argv[0] = 'i2i-stream'; stream()"
    job = ("--input", "test://bars", "--output", "null:", "--limit", "2", "--size", "96x64")
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments), *job],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="says what a machine without a GPU does")
def test_a_plan_that_is_missing_says_what_runs_here(engines: Any, tmp_path: Path) -> None:
    shipped = stream("--engine", tmp_path / "day2night.plan")
    assert shipped.returncode == 1
    assert shipped.stderr.startswith(
        f"i2i-stream: {tmp_path}/day2night.plan does not exist and cannot be built from"
    )
    assert "(there is no NVIDIA driver): `--engine day2night` runs the same engine on" in shipped.stderr
    assert shipped.stderr.count("\n") == 1
    beside = stream("--engine", engines.conv.with_suffix(".plan"))
    assert f"`--engine {engines.conv}` runs the same engine on" in beside.stderr
    nothing = stream("--engine", tmp_path / "absent.plan")
    assert "absent.plan does not exist: give an engine file" in nothing.stderr


def test_a_device_that_is_not_there_is_one_sentence(engines: Any) -> None:
    done = stream("--engine", engines.conv, "--device", "npu", "--backend", "openvino")
    assert done.returncode == 1
    assert "Nothing here runs conv.onnx with --device npu (OpenVINO on the NPU:" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_processor_can_be_asked_for(engines: Any) -> None:
    done = stream("--engine", engines.conv, "--device", "cpu", "--no-build")
    assert done.returncode == 0, done.stderr
