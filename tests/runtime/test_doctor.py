"""i2i-doctor: findings that are true, say why, and never crash."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from i2i_runtime import doctor
from i2i_runtime.doctor import ENCODERS, Finding, examine
from i2i_runtime.sinks.encoder import refusal_of_encoder


@pytest.fixture(scope="module")
def findings() -> list[Finding]:
    return examine()


def test_every_topic_is_there_and_every_no_has_a_reason(findings: list[Finding]) -> None:
    topics = {finding.topic for finding in findings}
    assert topics >= {
        "processor",
        "OpenCV",
        "back end",
        "GPU",
        "camera",
        "encoder",
        "screen",
        "extra",
        "virtual camera",
        "engine",
    }
    assert all(finding.detail for finding in findings)
    assert all("\n" not in finding.fix for finding in findings)


def test_back_ends_are_named_by_what_is_installed(findings: list[Finding]) -> None:
    found = {finding.name: finding for finding in findings if finding.topic == "back end"}
    assert found["onnxruntime"].works
    assert found["tensorrt"].works == (Path("/proc/driver/nvidia/version").exists() and "tensorrt" in found)


def test_what_computes_besides_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("i2i_runtime.engines.openvino.openvino_devices", lambda: ["CPU", "GPU", "NPU"])
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    found = {finding.name: finding.detail for finding in doctor._back_ends()}
    assert found["openvino"].endswith("; also on GPU, NPU")
    assert found["onnxruntime"].endswith("; also on CUDA")


def test_an_encoder_counts_only_after_a_frame(findings: list[Finding]) -> None:
    found = {finding.name: finding.works for finding in findings if finding.topic == "encoder"}
    assert set(found) == set(ENCODERS)
    assert found["libx264"]
    assert refusal_of_encoder("libx264") is None
    assert "not part of this build" in str(refusal_of_encoder("no_such_encoder"))
    if "h264_nvenc" in av.codecs_available and not Path("/dev/nvidia0").exists():
        assert "cannot be opened" in str(refusal_of_encoder("h264_nvenc")), "its name alone is no proof"


def test_a_part_that_breaks_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("driver exploded")

    monkeypatch.setattr(doctor, "_cameras", broken)
    found = examine()
    assert any(finding.topic == "camera" and "driver exploded" in finding.detail for finding in found)
    assert any(finding.topic == "engine" for finding in found)


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_the_command(arguments: list[str]) -> None:
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import doctor; doctor()", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert done.stderr == "", "encoder libraries keep their chatter to themselves"
    if arguments:
        assert {finding["topic"] for finding in json.loads(done.stdout)["findings"]} >= {
            "back end",
            "encoder",
        }
    else:
        assert "libx264" in done.stdout
        assert "fix:" in done.stdout


def test_a_wrong_option_is_usage() -> None:
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import doctor; doctor()", "--nonsense"]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 2
