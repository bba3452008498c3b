"""How a command ends: signals, closed terminals, pauses, and threads that are left behind in a library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from i2i_runtime.engines import open_engine
from i2i_runtime.engines.openvino import OpenVinoEngine
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata, SizePolicy
from i2i_runtime.watchdog import Watchdog

COMMAND = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()"]


@pytest.fixture
def endless(engines: Any, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a job without an end and returns once it writes."""
    jobs: list[subprocess.Popen[str]] = []

    def start(before: Callable[[], Any] | None = None) -> subprocess.Popen[str]:
        output = tmp_path / "o.mkv"
        job = subprocess.Popen(
            [
                *COMMAND,
                "-m",
                str(engines.identity),
                "-i",
                "test://bars",
                "-o",
                str(output),
                "--size",
                "96x64",
            ],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=before,
        )
        jobs.append(job)
        until_s = time.monotonic() + 60
        while not list(tmp_path.glob(".o.mkv.unfinished/*.*")):
            assert time.monotonic() < until_s
            assert job.poll() is None
            time.sleep(0.05)
        return job

    yield start
    for job in jobs:
        job.kill()
        job.communicate()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_a_closed_terminal_ends_a_job_as_ctrl_c_does(
    endless: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    job = endless()
    job.send_signal(number)
    said = job.communicate(timeout=60)[1]
    assert (job.returncode, said.splitlines()[-1]) == (130, "i2i-stream: interrupted")


def test_a_signal_that_the_parent_ignores_stays_ignored(
    endless: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    job = endless(lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    status = Path(f"/proc/{job.pid}/status").read_text()
    ignored = next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn"))
    assert int(ignored, 16) >> (signal.SIGHUP - 1) & 1
    job.send_signal(signal.SIGHUP)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=60)
    assert job.returncode == 130


def run_into_nowhere(*arguments: str) -> int:
    """The exit code of the command if nobody reads what it says."""
    reader, writer = os.pipe()
    os.close(reader)
    job = subprocess.run([*COMMAND, *arguments], stdout=writer, stderr=writer, timeout=120, check=False)
    os.close(writer)
    return job.returncode


def test_a_job_does_not_need_a_reader(engines: Any, make_clip: Callable[..., Path], tmp_path: Path) -> None:
    clip, output = make_clip("unread.mp4", pts=[512 * n for n in range(12)]), tmp_path / "o.mp4"
    assert run_into_nowhere("-m", str(engines.identity), "-i", str(clip), "-o", str(output)) == 0
    with av.open(output) as container:
        assert len(list(container.decode(video=0))) == 12
    assert run_into_nowhere("-m", str(engines.identity), "-i", str(clip), "-o", "null:", "--json") == 0
    assert run_into_nowhere("--help") == 0
    assert run_into_nowhere("--version") == 0
    assert run_into_nowhere("-m", "nothing", "-i", str(clip)) == 1
    assert run_into_nowhere("verify", str(clip), str(output)) == 0


def test_messages_do_not_land_in_an_output_if_standard_error_is_closed(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip, output = make_clip("closed.mp4", pts=[512 * n for n in range(12)]), tmp_path / "o.mp4"
    arguments = ["-m", str(engines.identity), "-i", str(clip), "-o", str(output)]
    line = ["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash", *COMMAND, *arguments]
    assert subprocess.run(line, timeout=120, check=False).returncode == 0
    with av.open(output) as container:
        assert len(list(container.decode(video=0))) == 12


def test_a_thread_left_behind_in_a_library_does_not_change_the_exit_code(tmp_path: Path) -> None:
    engine = _network_without_an_end(tmp_path / "loop.onnx")
    job = [
        "-m",
        str(engine),
        "--backend",
        "onnxruntime",
        "-i",
        "test://bars",
        "--size",
        "16x16",
        "-o",
        "null:",
    ]
    ended = subprocess.run(
        [*COMMAND, *job, "--stall", "0.3", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert ended.stderr.startswith("i2i-stream: The engine did not respond for 2 s, so the job was stopped")


def _network_without_an_end(path: Path) -> Path:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Cast", ["frame"], ["start"], to=TensorProto.FLOAT),
        helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body),
        helper.make_node("Cast", ["end"], ["translated"], to=TensorProto.UINT8),
    ]
    turns = numpy_helper.from_array(np.array(2**62, np.int64), "turns")
    return _save_engine(path, nodes, [turns, numpy_helper.from_array(np.array(True), "yes")])


def _save_engine(path: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> Path:
    shape: list[str | int | None] = [1, "H", "W", 3]
    frame, translated = (
        helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name in ("frame", "translated")
    )
    graph = helper.make_graph(nodes, path.stem, [frame], [translated], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    described = EngineMetadata(path.stem, "none", "day -> night", SizePolicy())
    helper.set_model_props(model, {METADATA_KEY: described.to_json()})
    onnx.save(model, path)
    return path


def test_a_pause_of_the_process_is_not_a_stall() -> None:
    now_s = [100.0]
    dog = Watchdog(3.0, lambda: now_s[0])
    with dog.watching("the engine"):
        for step_s in (0.2, 0.2, 70.0, 0.2, 3600.0):
            now_s[0] += step_s
            assert dog.stalled() is None
        # The pauses count as a second each.
        now_s[0] += 0.6
        assert dog.stalled() == ("the engine", 3.0)


def test_a_call_may_be_given_more_time() -> None:
    now_s = [0.0]
    dog = Watchdog(3.0, lambda: now_s[0])
    with dog.watching("the engine", times=5.0):
        for _ in range(74):
            now_s[0] += 0.2
            assert dog.stalled() is None
        for _ in range(3):
            now_s[0] += 0.2
        assert dog.stalled() == ("the engine", 15.0)


def test_a_job_that_was_stopped_and_continued_goes_on() -> None:
    script = (
        "import time\n"
        "from i2i_runtime import FakeEngine, NullSink, Pipeline, open_source\n"
        "from i2i_runtime.sources import SourceOptions\n"
        "source = open_source('test://bars', SourceOptions(size=(32, 32)))\n"
        "engine = FakeEngine(1, lambda turn: time.sleep(0.5))\n"
        "Pipeline(source, engine, [NullSink()], stall_s=1.0, limit=8).run(\n"
        "    lambda standing: print(standing.frames_out, flush=True))\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    for line in job.stdout:
        if int(line) >= 2:
            break
    job.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    job.send_signal(signal.SIGCONT)
    said, complaint = job.communicate(timeout=60)
    assert (job.returncode, complaint) == (0, "")
    assert int(said.split()[-1]) == 8


def test_an_interrupt_of_the_first_import_is_no_traceback() -> None:
    script = (
        "import os, sys\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "class Slow:\n"
        "    def find_spec(self, module, path, target=None):\n"
        "        if module == 'signal':\n"
        "            os.kill(os.getpid(), 2)\n"
        "import __future__\n"
        "before = set(sys.modules)\n"
        "import i2i_runtime.cli.entry\n"
        "assert set(sys.modules) - before == {'i2i_runtime', 'i2i_runtime.cli', 'i2i_runtime.cli.entry'}\n"
        "sys.modules.pop('signal', None)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "sys.argv[0] = '/usr/bin/i2i-stream'\n"
        "i2i_runtime.cli.entry.stream()\n"
    )
    line = [sys.executable, "-I", "-S", "-c", script]
    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "i2i-stream: interrupted\n")


def test_a_network_of_nested_conditions_is_refused_at_once(tmp_path: Path) -> None:
    engine = _nested_network(tmp_path / "nested.onnx", 20)
    with pytest.raises(EngineError, match=r"20 conditions or loops inside .* --backend onnxruntime\.$"):
        OpenVinoEngine(engine)
    few = OpenVinoEngine(_nested_network(tmp_path / "few.onnx", 3))
    image = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(few.infer(image), image)


def _nested_network(path: Path, depth: int) -> Path:
    def value(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, None)

    def branch(level: int, way: str) -> onnx.GraphProto:
        out = f"y{level}{way}"
        inner = helper.make_node("Identity", ["x"], [out])
        if level < depth and way == "then":
            branches = {f"{way}_branch": branch(level + 1, way) for way in ("then", "else")}
            inner = helper.make_node("If", ["yes"], [out], **branches)
        return helper.make_graph([inner], f"{way}{level}", [], [value(out, TensorProto.FLOAT)])

    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=branch(1, "then"), else_branch=branch(1, "else")),
        helper.make_node("Cast", ["y"], ["translated"], to=TensorProto.UINT8),
    ]
    return _save_engine(path, nodes, [numpy_helper.from_array(np.array(0, np.float32), "zero")])


def test_a_network_that_never_loads_ends_in_a_sentence(engines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr("i2i_runtime.engines.onnxruntime._open_session", lambda *given: never.wait(60))
    monkeypatch.setattr("i2i_runtime.engines.loading.LIMIT_S", 0.2)
    with pytest.raises(
        EngineError, match=r"identity\.onnx was not loaded within 0\.2 s: .* try another --backend\.$"
    ):
        open_engine(engines.identity, "onnxruntime")
    never.set()


def test_what_loading_raises_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(bytes(range(200)))
    with pytest.raises(EngineError, match="cannot be loaded by ONNX Runtime"):
        open_engine(tmp_path / "broken.onnx", "onnxruntime")
