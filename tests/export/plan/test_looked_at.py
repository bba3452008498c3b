"""The true command builds, runs, compares and times each form in its own processes, on a TensorRT and a driver that are
fakes: what is kept when one form dies, another gives garbage, and a third cannot be captured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from i2i_runtime.engines.tensorrt.manifest import read_manifest

COMMAND = "import sys; from i2i_export.cli import main; sys.exit(main(sys.argv[1:]))"

pytest.importorskip("triton", reason="our kernels are compiled by triton")


@pytest.fixture
def export(fake_gpu: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(engine: Path, wishes: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
        environment = {**fake_gpu, "FAKE_FORMS": json.dumps(wishes)}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, str(engine), "--plan", *flags],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_a_dead_a_wrong_and_an_uncapturable_form_cost_themselves_alone(
    negative: Path, export: Callable[..., subprocess.CompletedProcess[str]], fake_gpu: dict[str, str]
) -> None:
    wishes = {
        "plain": "refuses-capture",
        "rewritten": "garbage",
        "plugins": "crash-in-build",
        "convolution plugins": "allocates",
    }
    done = export(negative, wishes)
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(negative.with_suffix(".plan"))[1]
    found = {candidate.form: candidate for candidate in manifest.candidates}
    assert set(found) == set(wishes)
    assert "differ too much on this GPU" in found["rewritten"].note
    assert (found["rewritten"].psnr_db or 99) < 20
    assert "ended by SIGSEGV" in found["plugins"].note
    for form in ("plain", "convolution plugins"):
        assert (found[form].psnr_db or 0) >= 45, form
        assert found[form].latency_ms, form
    kept = next(candidate for candidate in manifest.candidates if candidate.kept)
    assert kept.latency_ms == min(one.latency_ms for one in manifest.candidates if one.latency_ms)
    assert (kept.form == "convolution plugins") == bool(manifest.plugins)
    caches = list(Path(fake_gpu["XDG_CACHE_HOME"]).rglob("*.cache"))
    assert [cache.read_bytes() for cache in caches] == [b"timings"]
    reports = [json.loads(line) for line in Path(fake_gpu["STRICT_CUDA_REPORT"]).read_text().splitlines()]
    assert reports
    assert not any(report["violations"] for report in reports), reports


def test_a_network_of_which_no_form_runs_gives_no_plan(
    negative: Path, export: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = export(negative, {"plain": "crash-in-run", "rewritten": "unbuilt"}, "--plugins", "off")
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "gives no TensorRT plan (plain: its process ended by SIGSEGV" in said
    assert "rewritten:" in said
    assert "no tactic was found" in said
    assert not list(negative.parent.glob("*.plan*"))
