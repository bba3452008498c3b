"""NVIDIA's GPU, its driver and TensorRT: what works here, and for what does not, which part is missing.

The device is really opened and a runtime really made, in a process of its own (`probe`); the files of the system
then tell the reason apart.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from i2i_runtime.doctor.finding import Finding
from i2i_runtime.engines.tensorrt.cuda import INSTALL
from i2i_runtime.engines.tensorrt.manifest import TENSORRT, TENSORRT_RTX
from i2i_runtime.processes import module_command

_VENDOR = "0x10de"
_TIMEOUT_S = 60.0
_FLAVOURS = {TENSORRT: "TensorRT", TENSORRT_RTX: "TensorRT for RTX"}


@dataclass(frozen=True)
class Probed:
    """What the process found that opened the GPU. `flavours` is flavour -> (version, why no runtime was made)."""

    device: dict[str, Any] | None = None
    device_error: str = ""
    flavours: dict[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """The parts of a Linux system that tell why a GPU is not reached; a test makes one up below `root`."""

    root: Path = Path("/")
    prefix: Path = Path(sys.prefix)
    base_prefix: Path = Path(sys.base_prefix)
    python: tuple[int, int] = (sys.version_info[0], sys.version_info[1])

    @property
    def is_jetson(self) -> bool:
        return self._has("etc/nv_tegra_release")

    @property
    def is_wsl(self) -> bool:
        return "microsoft" in self._text("proc/sys/kernel/osrelease").lower()

    @property
    def is_container(self) -> bool:
        return self._has(".dockerenv") or self._has("run/.containerenv")

    @property
    def has_driver(self) -> bool:
        return self._has("proc/driver/nvidia/version") or self._has("dev/nvhost-gpu") or self.is_jetson

    @property
    def has_wsl_library(self) -> bool:
        return self._has("usr/lib/wsl/lib/libcuda.so.1")

    @property
    def has_card(self) -> bool:
        vendors = (self.root / "sys/bus/pci/devices").glob("*/vendor")
        return any(vendor.read_text().strip() == _VENDOR for vendor in vendors)

    @property
    def tegra_release(self) -> str:
        return self._text("etc/nv_tegra_release").partition("\n")[0]

    @property
    def hides_system_packages(self) -> bool:
        """Whether this Python is a virtual environment that does not see the system's packages."""
        if self.prefix == self.base_prefix:
            return False
        settings = self.prefix / "pyvenv.cfg"
        text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
        return not re.search(r"^include-system-site-packages\s*=\s*true", text, re.MULTILINE | re.IGNORECASE)

    def system_tensorrt(self) -> tuple[Path, tuple[int, int] | None] | None:
        """The system's folder of packages with TensorRT in it, and the Python it is for (None: any)."""
        for folder in sorted((self.root / "usr/lib").glob("python3*/dist-packages")):
            if (folder / "tensorrt").is_dir():
                version = re.fullmatch(r"python3\.(\d+)", folder.parent.name)
                return folder, (3, int(version[1])) if version else self._python_of(folder / "tensorrt")
        return None

    def _python_of(self, package: Path) -> tuple[int, int] | None:
        """Debian keeps packages of all its Pythons in one folder; the extension's name says for which it is."""
        tags = [re.search(r"cpython-3(\d+)", library.name) for library in package.glob("*.so")]
        found = [(3, int(tag[1])) for tag in tags if tag]
        return None if not found or self.python in found else found[0]

    def _has(self, path: str) -> bool:
        return (self.root / path).exists()

    def _text(self, path: str) -> str:
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def probe() -> Probed:
    """Opens the GPU in a process of its own, because a broken driver or library may kill it."""
    command = module_command("i2i_runtime.doctor.probe")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        lines = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return read_probe(lines, f"did not respond for {_TIMEOUT_S:.0f} s")
    ended = "" if done.returncode == 0 else f"ended its process with code {done.returncode}"
    return read_probe(done.stdout, ended)


def read_probe(lines: str, ended: str) -> Probed:
    """What `probe` printed; `ended` says how it was cut off, and is then the reason of the step it was in."""
    said: dict[str, Any] = {}
    for line in lines.splitlines():
        said.update(json.loads(line))
    error, step = str(said.get("device_error", "")), said.get("step", "device")
    if ended and step == "device":
        error = f"opening the GPU {ended}"
    flavours = {name: (said[name]["version"], said[name]["error"]) for name in _FLAVOURS if name in said}
    if ended and step in _FLAVOURS and step not in flavours:
        flavours[step] = ("", f"starting it {ended}")
    return Probed(said.get("device"), error, flavours)


def nvidia_findings(system: System | None = None, run: Callable[[], Probed] = probe) -> Iterator[Finding]:
    """The GPU, then each flavour of TensorRT."""
    here = system or System()
    probed = run()
    yield _gpu(here, probed)
    yield _tensorrt(here, probed)
    if TENSORRT_RTX in probed.flavours:
        yield _flavour(TENSORRT_RTX, here, probed)


def _gpu(system: System, probed: Probed) -> Finding:
    if probed.device is not None:
        facts = probed.device
        detail = (
            f"{facts['architecture']}, driver for CUDA {facts['driver']}, {facts['memory_bytes'] / 2**30:.1f} GiB"
            f"{' shared with the processor' if facts['shares_memory'] else ''}, reached through {facts['library']}"
        )
        return Finding("GPU", str(facts["name"]), True, detail)
    why, fix = _why_no_gpu(system, probed)
    name = "Jetson" if system.is_jetson else "NVIDIA"
    return Finding("GPU", name, False, f"{why}; engines run on the processor", fix)


def _why_no_gpu(system: System, probed: Probed) -> tuple[str, str]:
    """Why the device could not be opened, and the command that changes it."""
    if "No library to reach the GPU" in probed.device_error and (system.has_driver or system.has_wsl_library):
        return "its driver is there, but no Python library that reaches it", INSTALL.split("`")[1]
    if system.is_wsl and not system.has_wsl_library:
        return (
            "this is WSL, and Windows has no NVIDIA driver that serves it",
            "install NVIDIA's driver in Windows",
        )
    if system.is_container and not system.has_driver:
        return "none in this container: its machine has none, or did not give it", "docker run --gpus all ..."
    if system.has_driver or system.has_wsl_library:
        return f"its driver is there, but cannot be used: {_shortened(probed.device_error)}", "nvidia-smi"
    if system.has_card:
        return "there is a card, but its driver is not loaded", "sudo apt install nvidia-driver"
    return "not found", ""


def _tensorrt(system: System, probed: Probed) -> Finding:
    if TENSORRT in probed.flavours:
        return _flavour(TENSORRT, system, probed)
    hidden = system.system_tensorrt()
    if hidden is not None:
        return _hidden(system, *hidden)
    if probed.device is None and not (system.has_driver or system.has_card or system.has_wsl_library):
        return Finding("back end", TENSORRT, False, "this machine has no NVIDIA GPU")
    fix = "sudo apt install nvidia-jetpack" if system.is_jetson else "pip install tensorrt"
    return Finding("back end", TENSORRT, False, "not installed", fix)


def _hidden(system: System, folder: Path, python: tuple[int, int] | None) -> Finding:
    """TensorRT of the system, which this Python cannot import."""
    where = f"the system's TensorRT is in {folder}"
    if python is not None and python != system.python:
        wanted, own = (".".join(map(str, version)) for version in (python, system.python))
        detail = f"{where}, for Python {wanted}; this is Python {own}"
        return Finding(
            "back end", TENSORRT, False, detail, f"python{wanted} -m venv --system-site-packages .venv"
        )
    if system.hides_system_packages:
        detail = f"{where}, which this virtual environment does not see"
        fix = f"python3 -m venv --system-site-packages {system.prefix}"
        return Finding("back end", TENSORRT, False, detail, fix)
    return Finding(
        "back end", TENSORRT, False, f"{where}, but cannot be imported", "python3 -c 'import tensorrt'"
    )


def _flavour(flavour: str, system: System, probed: Probed) -> Finding:
    version, error = probed.flavours[flavour]
    title = f"{_FLAVOURS[flavour]} {version}".strip()
    if probed.device is not None and not error:
        return Finding("back end", flavour, True, f"{title} on {probed.device['name']}")
    if error:
        return Finding("back end", flavour, False, f"{title} does not start: {_shortened(error)}")
    why, fix = _why_no_gpu(system, probed)
    builds = "; it builds plans here all the same" if flavour == TENSORRT_RTX else ""
    return Finding("back end", flavour, False, f"{title} is installed, but finds no GPU ({why}){builds}", fix)


def _shortened(sentence: str) -> str:
    """The reason inside a sentence of ours, `This machine does not ... (reason), which ...`, or all of it."""
    inside = re.search(r"\((.*?)\)[,:] ", sentence)
    return (inside[1] if inside else sentence).rstrip(".")
