"""The true command builds, runs, compares and times each form in its own processes, on a TensorRT and a driver that are
fakes: what is kept when one form dies, another gives garbage, and a third cannot be captured."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from i2i_export.plan.forms import plugin_networks
from i2i_kernels.compile import sources_digest
from i2i_runtime.engines.tensorrt.manifest import read_manifest

COMMAND = "import sys; from i2i_export.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def export(fake_gpu: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(engine: Path, wishes: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
        environment = {**fake_gpu, "FAKE_FORMS": json.dumps(wishes)}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, str(engine), "--plan", *flags],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def kernel_pack(negative: Path, tmp_path: Path) -> Path:
    """A pack of every kernel that the engine's forms want, with a text that is not PTX: no fake reads it."""
    pack = tmp_path / "pack"
    for network in plugin_networks(onnx.load(str(negative))).values():
        for kernel in network.kernels.values():
            entry = pack / "sm_89" / f"{kernel.variant.file_stem(kernel.op)}.json"
            entry.parent.mkdir(parents=True, exist_ok=True)
            record = {"name": kernel.name, "block": 128, "shared": 0, "ptx_version": 80, "resources": {}}
            entry.write_text(json.dumps({**record, "sources": sources_digest()}))
            entry.with_suffix(".ptx").write_text("// not PTX")
            entry.with_suffix(".cubin").write_bytes(b"")
    return pack


def test_a_dead_a_wrong_and_an_uncapturable_form_cost_themselves_alone(
    negative: Path,
    export: Callable[..., subprocess.CompletedProcess[str]],
    fake_gpu: dict[str, str],
    kernel_pack: Path,
) -> None:
    wishes = {
        "plain": "refuses-capture",
        "rewritten": "garbage",
        "plugins": "crash-in-build",
        "wide plugins": "unbuilt",
        "convolution plugins": "allocates",
    }
    done = export(negative, wishes, "--kernel-pack", str(kernel_pack))
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(negative.with_suffix(".plan"))[1]
    found = {candidate.form: candidate for candidate in manifest.candidates}
    assert set(found) == set(wishes)
    assert "differ too much on this GPU" in found["rewritten"].note
    assert (found["rewritten"].psnr_db or 99) < 20
    assert "ended by SIGSEGV" in found["plugins"].note
    assert "no tactic was found" in found["wide plugins"].note
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
