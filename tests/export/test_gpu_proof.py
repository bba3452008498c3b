"""The proof on a GPU, rehearsed without one: every stage runs, every row is kept, nothing outlives its deadline."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROOF = ROOT / "export" / "benchmarks" / "gpu_proof.py"
FAKE = ROOT / "tests" / "runtime" / "strict_driver" / "fake"


def rehearsed(out: Path, *more: str, stages: str, **settings: str) -> tuple[int, list[dict[str, Any]], str]:
    """Exit status, rows and what was printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "tests" / "kernels"), settings.get("PYTHONPATH", "")]
    )
    command = [sys.executable, str(PROOF), "--rehearse", "--out", str(out), "--only", stages, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=560)
    rows = (out / "gpu_proof.jsonl").read_text().splitlines() if (out / "gpu_proof.jsonl").exists() else []
    return done.returncode, [json.loads(row) for row in rows], done.stdout + done.stderr


def statuses(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["stage"], set()).add(row["status"])
    return found


def test_kernels_are_proved_and_the_rest_is_left_out_with_a_reason(tmp_path: Path) -> None:
    status, rows, said = rehearsed(
        tmp_path, "--budget", "2000", stages="numerics,pack,ahead-of-time,sanitizer,plans"
    )
    assert status == 0, said
    assert statuses(rows) == {
        "numerics": {"passed"},
        "pack": {"passed"},
        "ahead-of-time": {"left out"},
        "sanitizer": {"left out"},
        "plans": {"left out"},
    }
    assert {row["what"] for row in rows if row["stage"] == "sanitizer"} == {"memcheck", "racecheck"}
    assert len([row for row in rows if row["stage"] == "numerics"]) == 4, "one case of each op"
    assert all(row["detail"] for row in rows)


def test_what_is_timed_has_its_time_and_its_machine(tmp_path: Path) -> None:
    status, rows, said = rehearsed(
        tmp_path, "--budget", "2000", stages="sweep,generators,training", I2I_COMMIT="abc1234"
    )
    assert status == 0, said
    timed = [row["measurement"] for row in rows if row["status"] == "measured"]
    assert {row["stage"] for row in rows if row["status"] == "measured"} == {
        "sweep",
        "generators",
        "training",
    }
    for measured in timed:
        assert 0 < measured["p20_ms"] <= measured["median_ms"] <= measured["p80_ms"]
        assert measured["commit"] == "abc1234"
        assert "torch" in measured["versions"]
    pairs = [m for m in timed if m["op"] == "norm"]
    assert all(m["gb_s_of_passes"] == pytest.approx(1.5 * m["gb_s"], rel=0.1, abs=0.01) for m in pairs)


def test_slots_are_proved_on_the_strict_driver(tmp_path: Path, strict_driver: Path) -> None:
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("cuda-python is not installed")
    found = {
        "LD_LIBRARY_PATH": str(strict_driver),
        "PYTHONPATH": os.pathsep.join(
            [str(FAKE), *(str(ROOT / r) for r in ("runtime", "export/benchmarks"))]
        ),
        "STRICT_CUDA_REPORT": str(tmp_path / "report.jsonl"),
    }
    status, rows, said = rehearsed(
        tmp_path, "--budget", "2000", "--slots-environment", json.dumps(found), stages="slots"
    )
    assert status == 0, said
    whats = {row["what"]: row["detail"] for row in rows}
    assert list(whats) == [
        "device",
        "fixed opened",
        "fixed opened again",
        "dynamic opened",
        "dynamic opened again",
    ]
    assert all(detail.startswith("0 wrong") for what, detail in whats.items() if what != "device")
    report = json.loads((tmp_path / "report.jsonl").read_text().splitlines()[-1])
    assert report["violations"] == []
    assert not any(report["left"].values())


STAGES_THAT_FAIL = """
import os, signal, time

def raises(proof):
    proof.row("before", "passed", "kept")
    raise KeyError("disc")

def dies(proof):
    os.kill(os.getpid(), signal.SIGSEGV)

def sleeps(proof):
    time.sleep(600)

RUN = {"pack": raises, "slots": dies, "training": sleeps, "plans": raises}
"""


def test_a_stage_that_raises_dies_or_is_too_slow_is_a_row(tmp_path: Path) -> None:
    folder = tmp_path / "export" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("gpu_proof.py", "proof_rows.py"):
        shutil.copy(PROOF.parent / name, folder)
    (folder / "gpu_stages.py").write_text(STAGES_THAT_FAIL)
    out = tmp_path / "out"
    command = [sys.executable, str(folder / "gpu_proof.py"), "--rehearse", "--out", str(out)]
    command += ["--only", "pack,slots,training,plans", "--budget", "15"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    rows = [json.loads(row) for row in (out / "gpu_proof.jsonl").read_text().splitlines()]
    assert done.returncode == 1
    details = {(row["stage"], row["what"]): (row["status"], row["detail"]) for row in rows}
    assert details["pack", "before"] == ("passed", "kept")
    assert details["pack", "stage"][1].startswith("KeyError: 'disc' (gpu_stages.py:")
    assert details["slots", "stage"] == ("failed", "its process died of SIGSEGV")
    assert details["training", "stage"][0] == "failed"
    assert "its rows so far are kept" in details["training", "stage"][1]
    assert ("plans", "stage") in details, "a stage that has no time left says so"


def test_without_a_gpu_it_says_so() -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has an NVIDIA GPU")
    done = subprocess.run([sys.executable, str(PROOF)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no NVIDIA GPU here" in done.stdout
    assert "--rehearse" in done.stdout
