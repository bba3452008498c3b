"""What i2i-doctor says about NVIDIA's GPU and TensorRT, on machines that are made up file by file.

The last tests are no such machines: there the probe really opens the strict stand-in for the driver.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from i2i_runtime.doctor.finding import Finding
from i2i_runtime.doctor.nvidia import Probed, System, nvidia_findings, read_probe

STRICT = Path(__file__).parent / "strict_driver"
NO_LIBRARY = "No library to reach the GPU is installed (No module named 'cuda'): install it with ..."
NO_DRIVER = (
    "This machine does not have a working NVIDIA driver (libcuda.so.1: no such file), which a plan needs: ..."
)
ORIN = {
    "name": "Orin",
    "architecture": "sm_87",
    "driver": "12.6",
    "memory_bytes": 8 << 30,
    "free_bytes": 4 << 30,
    "shares_memory": True,
    "library": "PyCUDA",
}
CARD = {**ORIN, "name": "RTX 4090", "architecture": "sm_89", "shares_memory": False, "library": "cuda-python"}
PCI = {"sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n"}
DRIVER = {**PCI, "proc/driver/nvidia/version": "NVRM version: 580.65"}
JETPACK = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n",
    "usr/lib/python3.10/dist-packages/tensorrt/__init__.py": "",
}


@dataclass(frozen=True)
class Machine:
    """Files of the system, what the probe finds, and what is to be said: (works, part of the detail, the fix)."""

    files: Mapping[str, str]
    probed: Probed
    gpu: tuple[bool, str, str]
    tensorrt: tuple[bool, str, str]
    python: tuple[int, int] = (3, 10)
    virtual: bool = True
    sees_system: bool = False
    also: Mapping[str, tuple[bool, str, str]] = field(default_factory=dict)


MACHINES = {
    "no GPU": Machine(
        {},
        Probed(None, NO_DRIVER),
        (False, "not found; engines", ""),
        (False, "this machine has no NVIDIA GPU", ""),
    ),
    "a card without a driver": Machine(
        PCI,
        Probed(None, NO_DRIVER),
        (False, "there is a card, but its driver is not loaded", "sudo apt install nvidia-driver"),
        (False, "not installed", "pip install tensorrt"),
    ),
    "a driver without a Python library": Machine(
        DRIVER,
        Probed(None, NO_LIBRARY, {"tensorrt": ("10.16.1.11", "")}),
        (False, "no Python library that reaches it", "pip install 'cuda-bindings>=12.9.1'"),
        (
            False,
            "10.16.1.11 is installed, but finds no GPU (its driver is there, but no Python library",
            "pip install 'cuda-bindings>=12.9.1'",
        ),
    ),
    "a driver that does not answer": Machine(
        DRIVER,
        Probed(None, NO_DRIVER),
        (False, "its driver is there, but cannot be used: libcuda.so.1: no such file", "nvidia-smi"),
        (False, "not installed", "pip install tensorrt"),
    ),
    "a desktop": Machine(
        DRIVER,
        Probed(CARD, "", {"tensorrt": ("10.16.1.11", ""), "tensorrt-rtx": ("1.7.1.116", "")}),
        (True, "sm_89, driver for CUDA 12.6, 8.0 GiB, reached through cuda-python", ""),
        (True, "TensorRT 10.16.1.11 on RTX 4090", ""),
        also={"tensorrt-rtx": (True, "TensorRT for RTX 1.7.1.116 on RTX 4090", "")},
    ),
    "a desktop without TensorRT": Machine(
        DRIVER, Probed(CARD), (True, "sm_89", ""), (False, "not installed", "pip install tensorrt")
    ),
    "TensorRT for another driver": Machine(
        DRIVER,
        Probed(CARD, "", {"tensorrt": ("11.4.0.106", "CUDA initialization failure with error 35")}),
        (True, "sm_89", ""),
        (False, "11.4.0.106 does not start: CUDA initialization failure with error 35", ""),
    ),
    "RTX bindings without a GPU": Machine(
        {},
        Probed(None, NO_DRIVER, {"tensorrt-rtx": ("1.7.1.116", "")}),
        (False, "not found", ""),
        (False, "this machine has no NVIDIA GPU", ""),
        also={"tensorrt-rtx": (False, "finds no GPU (not found); it builds plans here all the same", "")},
    ),
    "a Jetson": Machine(
        JETPACK,
        Probed(ORIN, "", {"tensorrt": ("10.3.0", "")}),
        (True, "8.0 GiB shared with the processor, reached through PyCUDA", ""),
        (True, "TensorRT 10.3.0 on Orin", ""),
        sees_system=True,
    ),
    "a Jetson whose venv hides JetPack": Machine(
        JETPACK,
        Probed(ORIN),
        (True, "sm_87", ""),
        (
            False,
            "dist-packages, which this virtual environment does not see",
            "python3 -m venv --system-site-packages {prefix}",
        ),
    ),
    "a Jetson with a newer Python": Machine(
        JETPACK,
        Probed(ORIN),
        (True, "sm_87", ""),
        (False, "for Python 3.10; this is Python 3.12", "python3.10 -m venv --system-site-packages .venv"),
        python=(3, 12),
    ),
    "a Jetson without JetPack": Machine(
        {"etc/nv_tegra_release": "# R36\n"},
        Probed(ORIN),
        (True, "sm_87", ""),
        (False, "not installed", "sudo apt install nvidia-jetpack"),
    ),
    "a Jetson without a CUDA library": Machine(
        JETPACK,
        Probed(None, NO_LIBRARY, {"tensorrt": ("10.3.0", "")}),
        (False, "no Python library that reaches it", "pip install 'cuda-bindings>=12.9.1'"),
        (False, "10.3.0 is installed, but finds no GPU", "pip install 'cuda-bindings>=12.9.1'"),
        sees_system=True,
    ),
    "Debian's own TensorRT outside a venv": Machine(
        {**DRIVER, "usr/lib/python3/dist-packages/tensorrt/tensorrt.cpython-310-x86_64-linux-gnu.so": ""},
        Probed(CARD),
        (True, "sm_89", ""),
        (False, "but cannot be imported", "python3 -c 'import tensorrt'"),
        virtual=False,
    ),
    "WSL without a driver in Windows": Machine(
        {"proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2\n"},
        Probed(None, NO_DRIVER),
        (False, "this is WSL, and Windows has no NVIDIA driver", "install NVIDIA's driver in Windows"),
        (False, "this machine has no NVIDIA GPU", ""),
    ),
    "WSL with a driver": Machine(
        {
            "proc/sys/kernel/osrelease": "6.6.87.2-microsoft-standard-WSL2\n",
            "usr/lib/wsl/lib/libcuda.so.1": "",
        },
        Probed(CARD),
        (True, "sm_89", ""),
        (False, "not installed", "pip install tensorrt"),
    ),
    "a container without its GPU": Machine(
        {".dockerenv": "", **PCI},
        Probed(None, NO_DRIVER),
        (False, "none in this container", "docker run --gpus all ..."),
        (False, "not installed", "pip install tensorrt"),
    ),
    "a container with its GPU, driver hidden": Machine(
        {".dockerenv": ""},
        Probed(CARD, "", {"tensorrt": ("10.16.1.11", "")}),
        (True, "sm_89", ""),
        (True, "TensorRT 10.16.1.11 on RTX 4090", ""),
    ),
    "a driver that kills the process": Machine(
        DRIVER,
        read_probe('{"step": "device"}\n', "ended its process with code -11"),
        (False, "cannot be used: opening the GPU ended its process with code -11", "nvidia-smi"),
        (False, "not installed", "pip install tensorrt"),
    ),
    "a TensorRT that kills the process": Machine(
        DRIVER,
        read_probe(
            '{"step": "device"}\n' + json.dumps({"device": CARD}) + '\n{"step": "tensorrt"}\n',
            "ended its process with code -6",
        ),
        (True, "sm_89", ""),
        (False, "TensorRT does not start: starting it ended its process with code -6", ""),
    ),
}


def say(machine: Machine, root: Path) -> dict[str, Finding]:
    for name, content in machine.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    prefix = root / "home/user/.venv"
    prefix.mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(f"include-system-site-packages = {str(machine.sees_system).lower()}\n")
    base = prefix if not machine.virtual else root / "usr"
    system = System(root, prefix, base, machine.python)
    return {finding.name: finding for finding in nvidia_findings(system, lambda: machine.probed)}


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_is_told_what_is_missing(name: str, tmp_path: Path) -> None:
    machine = MACHINES[name]
    findings = say(machine, tmp_path)
    gpu = next(finding for finding in findings.values() if finding.topic == "GPU")
    expected = {gpu.name: machine.gpu, "tensorrt": machine.tensorrt, **machine.also}
    assert set(findings) == set(expected)
    for about, (works, detail, fix) in expected.items():
        finding = findings[about]
        assert finding.works == works
        assert detail in finding.detail
        assert finding.fix == fix.format(prefix=tmp_path / "home/user/.venv")


@pytest.mark.parametrize("name", MACHINES)
def test_what_does_not_work_is_one_line_without_leftovers(name: str, tmp_path: Path) -> None:
    for finding in say(MACHINES[name], tmp_path).values():
        assert "\n" not in finding.detail
        assert "()" not in finding.detail
        assert not finding.detail.endswith(".")


# ---- The probe itself, on the strict driver ---------------------------------------------------------------------


def doctor_on(strict_driver: Path, **settings: str) -> dict[str, dict[str, object]]:
    """What i2i-doctor prints about NVIDIA in a process that finds the strict driver and the fake TensorRT."""
    if importlib.util.find_spec("cuda") is None:
        pytest.skip("needs cuda-python")
    program = (
        "import json; from i2i_runtime.doctor.nvidia import nvidia_findings; "
        "print(json.dumps([finding.to_dict() for finding in nvidia_findings()]))"
    )
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(strict_driver),
        "PYTHONPATH": str(STRICT / "fake"),
        **settings,
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return {finding["name"]: finding for finding in json.loads(done.stdout)}


def test_the_device_is_opened_and_a_runtime_made(strict_driver: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    found = doctor_on(strict_driver, STRICT_CUDA_REPORT=str(report))
    assert (
        found["Strict GPU"]["detail"] == "sm_89, driver for CUDA 13.2, 2.0 GiB, reached through cuda-python"
    )
    assert found["tensorrt"]["works"]
    assert found["tensorrt"]["detail"] == "TensorRT 10.16.1.11 on Strict GPU"
    assert found["tensorrt-rtx"]["works"]
    (probe,) = map(json.loads, report.read_text().splitlines())
    assert probe["violations"] == []
    assert not any(probe["left"].values())


@pytest.mark.parametrize(
    ("wish", "detail"),
    [
        ("aborts", "TensorRT does not start: starting it ended its process with code -6"),
        ("broken", "libnvinfer.so.10: cannot open shared object file"),
    ],
)
def test_a_tensorrt_that_breaks_is_told_from_a_missing_one(
    strict_driver: Path, wish: str, detail: str
) -> None:
    found = doctor_on(strict_driver, FAKE_TENSORRT=wish)
    assert found["Strict GPU"]["works"]
    assert not found["tensorrt"]["works"]
    assert detail in str(found["tensorrt"]["detail"])
