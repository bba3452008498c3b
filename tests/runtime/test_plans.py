"""Plans in the user's cache: built once, found again, built anew if they do not fit; and what goes wrong."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from i2i_runtime import engines as engines_module
from i2i_runtime.engines.fake import FakeEngine
from i2i_runtime.engines.tensorrt import engine as engine_module
from i2i_runtime.engines.tensorrt import plans
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import sidecar_path
from i2i_runtime.engines.tensorrt.plans import PlanWanted, build_plan, cached_plan, plan_wanted, why_no_plans
from i2i_runtime.errors import EngineError

FACTS = DeviceFacts("Fake GPU", "sm_89", "13.0", 8 << 30, 4 << 30, shares_memory=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of plans in an empty user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "i2i-stream" / "plans"


@pytest.fixture
def wanted(tmp_path: Path) -> PlanWanted:
    engine = tmp_path / "night.onnx"
    engine.write_bytes(b"the engine")
    return PlanWanted(engine, FACTS, "tensorrt", "10.16.1.11")


@dataclass
class Exporter:
    """In place of `i2i-export`: writes the plan that the command names, or fails."""

    write: Callable[..., Path]
    code: int = 0
    began: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    commands: list[Sequence[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.go_on.set()

    def __call__(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.began.set()
        assert self.go_on.wait(30)
        plan = Path(command[command.index("--plan-file") + 1])
        if self.code == 0:
            self.write(plan)
        else:
            plan.write_bytes(b"half of a pl")
        return subprocess.CompletedProcess(command, self.code)


@pytest.fixture
def exporter(write_tensorrt_plan: Callable[..., Path]) -> Exporter:
    return Exporter(write_tensorrt_plan)


def test_a_plan_is_built_once_and_found_again(wanted: PlanWanted, exporter: Exporter, cache: Path) -> None:
    first = cached_plan(wanted, build=True, run=exporter)
    assert (
        first
        == cached_plan(wanted, build=True, run=exporter)
        == cached_plan(wanted, build=False, run=exporter)
    )
    assert first.is_relative_to(cache)
    assert len(exporter.commands) == 1
    assert "--size" not in exporter.commands[0]
    assert [path.suffix for path in cache.iterdir() if path.name.startswith(".building")] == []


def test_another_engine_gpu_version_or_size_is_another_plan(wanted: PlanWanted, exporter: Exporter) -> None:
    other = wanted.engine.with_name("other.onnx")
    other.write_bytes(b"another engine")
    wishes = [
        wanted,
        replace(wanted, engine=other),
        replace(wanted, facts=replace(FACTS, name="Other GPU")),
        replace(wanted, version="10.9.0"),
        replace(wanted, flavour="tensorrt-rtx"),
        replace(wanted, size=(720, 1280)),
    ]
    assert len({wish.folder() for wish in wishes}) == len(wishes)
    cached_plan(wishes[-1], build=True, run=exporter)
    assert exporter.commands[-1][-2:] == ["--size", "1280x720"]


def test_a_damaged_plan_is_built_again(wanted: PlanWanted, exporter: Exporter) -> None:
    plan = cached_plan(wanted, build=True, run=exporter)
    plan.write_bytes(b"cut off")
    assert cached_plan(wanted, build=True, run=exporter) == plan
    sidecar_path(plan).write_text("{")
    cached_plan(wanted, build=True, run=exporter)
    assert len(exporter.commands) == 3
    assert plan.read_bytes().startswith(b"vtrt")


def test_no_build_refuses(wanted: PlanWanted, exporter: Exporter, cache: Path) -> None:
    with pytest.raises(EngineError, match=r"no TensorRT plan of night.onnx for this GPU yet \(--no-build\)"):
        cached_plan(wanted, build=False, run=exporter)
    assert not exporter.commands
    assert not cache.exists()


def test_a_build_that_fails_leaves_nothing(wanted: PlanWanted, exporter: Exporter, cache: Path) -> None:
    exporter.code = 1
    with pytest.raises(EngineError, match="could not be built, see what `i2i-export"):
        cached_plan(wanted, build=True, run=exporter)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_without_export_it_says_so(wanted: PlanWanted) -> None:
    def missing(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(command[0])

    with pytest.raises(EngineError, match="built by i2i-export, which is not installed: `pip install"):
        cached_plan(wanted, build=True, run=missing)


def test_a_cache_that_takes_nothing_is_one_sentence(
    wanted: PlanWanted, exporter: Exporter, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(EngineError, match=r"the plan cannot be kept in .*plans \(Not a directory\)"):
        cached_plan(wanted, build=True, run=exporter)
    cache.parent.unlink()

    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(EngineError, match=r"cannot be kept in .* \(No space left on device\)"):
        cached_plan(wanted, build=True, run=exporter)


def test_two_that_want_the_same_plan_build_it_once(
    wanted: PlanWanted, exporter: Exporter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()
    monkeypatch.setattr(
        plans.logger, "warning", lambda text, *_: waits.set() if "another process builds" in text else None
    )
    exporter.go_on.clear()
    found: list[Path] = []

    def want() -> None:
        found.append(cached_plan(wanted, build=True, run=exporter))

    first, second = threading.Thread(target=want), threading.Thread(target=want)
    first.start()
    assert exporter.began.wait(30)
    second.start()
    assert waits.wait(30), "the second waits for the first"
    exporter.go_on.set()
    first.join()
    second.join()
    assert len(exporter.commands) == 1
    assert found[0] == found[1]


def test_a_missing_plan_is_built_beside_its_engine_or_from_a_shipped_one(
    wanted: PlanWanted, exporter: Exporter, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    side_by_side: list[int] = []

    def open_fake(path: Path, slots: int) -> FakeEngine:
        opened.append(path)
        side_by_side.append(slots)
        return FakeEngine()

    monkeypatch.setattr(engine_module, "open_tensorrt", open_fake)
    monkeypatch.setattr(plans, "plan_wanted", lambda engine, size: replace(wanted, engine=engine, size=size))
    monkeypatch.setattr(plans, "run_here", exporter)
    monkeypatch.setattr("i2i_runtime.engines.parity.require_parity", lambda *given: None)
    beside = tmp_path / "night.plan"
    engines_module.open_engine(beside)
    assert opened == [beside]
    assert beside.is_file()
    engines_module.open_engine(tmp_path / "elsewhere" / "day2night.plan", slots=2)
    assert side_by_side == [1, 2], "a live source has one frame on the GPU"
    assert opened[1].is_relative_to(cache)
    assert opened[1].name == "day2night.plan"
    beside.unlink()
    with pytest.raises(EngineError, match=r"night.plan does not exist and cannot be built .* \(--no-build\)"):
        engines_module.open_engine(beside, build=False)
    assert len(exporter.commands) == 2


def test_a_plan_of_the_users_is_written_under_its_name(
    wanted: PlanWanted, exporter: Exporter, tmp_path: Path
) -> None:
    assert build_plan(tmp_path / "mine.plan", wanted, exporter) == tmp_path / "mine.plan"
    assert exporter.commands[0][exporter.commands[0].index("--plan-file") + 1] == str(tmp_path / "mine.plan")


@pytest.mark.parametrize(
    ("installed", "driver", "reason"),
    [
        ((), True, "TensorRT is not installed"),
        (("tensorrt",), True, "no Python library that reaches the GPU is installed"),
        (("tensorrt", "cuda"), False, "there is no NVIDIA driver"),
        (("tensorrt_rtx_bindings", "pycuda"), True, ""),
    ],
)
def test_why_no_plan_can_run(
    installed: tuple[str, ...], driver: bool, reason: str, wanted: PlanWanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(plans, "has_nvidia_driver", lambda: driver)
    assert why_no_plans().startswith(reason)
    assert bool(why_no_plans()) == bool(reason)
    if reason:
        with pytest.raises(EngineError, match=reason):
            plan_wanted(wanted.engine)
