"""Every base dependency has a wheel for the machines we name. Asks the package index: I2I_WHEELS=1 runs it.

pip resolves for another machine without downloading the wheels. Markers in pyproject.toml are evaluated for that
machine here, because pip evaluates them for the one it runs on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GLIBC_2_35 = tuple(f"manylinux_2_{minor}_aarch64" for minor in range(35, 16, -1))
MACOS = tuple(f"macosx_{major}_0_arm64" for major in (14, 13, 12, 11))


@dataclass(frozen=True)
class Machine:
    """A machine as wheel tags name it (newest first) and as markers do."""

    name: str
    python: str
    tags: tuple[str, ...]
    platform_machine: str
    platform_system: str
    sys_platform: str


MACHINES = [
    Machine("JetPack 6", "3.10", GLIBC_2_35, "aarch64", "Linux", "linux"),
    Machine("JetPack 7", "3.12", GLIBC_2_35, "aarch64", "Linux", "linux"),
    *(Machine("Windows", python, ("win_amd64",), "AMD64", "Windows", "win32") for python in ("3.10", "3.13")),
    *(Machine("macOS", python, MACOS, "arm64", "Darwin", "darwin") for python in ("3.10", "3.13")),
]


def dependencies_on(machine: Machine) -> list[str]:
    """The base dependencies that this machine installs, without their markers."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    environment = {
        "platform_machine": machine.platform_machine,
        "platform_system": machine.platform_system,
        "sys_platform": machine.sys_platform,
        "python_version": machine.python,
    }
    wanted = []
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            requirement.marker = None
            wanted.append(str(requirement))
    return wanted


def test_openvino_is_for_x86_alone() -> None:
    names = {
        machine.name: {Requirement(line).name for line in dependencies_on(machine)} for machine in MACHINES
    }
    assert [name for name, found in names.items() if "openvino" in found] == ["Windows"]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.name} {machine.python}")
def test_every_base_dependency_has_a_wheel(machine: Machine, tmp_path: Path) -> None:
    if not os.environ.get("I2I_WHEELS"):
        pytest.skip("set I2I_WHEELS=1 to ask the package index")
    wanted = dependencies_on(machine)
    if machine.sys_platform == "linux":
        wanted.append("opencv-python-headless")
    tags = [part for tag in machine.tags for part in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    command += [
        "--target",
        str(tmp_path),
        "--only-binary",
        ":all:",
        "--report",
        str(tmp_path / "report.json"),
    ]
    command += ["--implementation", "cp", "--python-version", machine.python, *tags, *wanted]
    resolved = subprocess.run(command, capture_output=True, text=True, check=False)
    assert resolved.returncode == 0, resolved.stderr
    found = {
        item["metadata"]["name"].lower()
        for item in json.loads((tmp_path / "report.json").read_text())["install"]
    }
    assert {Requirement(line).name for line in wanted} <= found
