"""Facts about a Jetson board, read from the files of its system.

All paths are below one root folder, so that a tree of files stands for a board in the tests. The places are those of
NVIDIA's Jetson Linux documents (releases 36 to 39) and of the kernel's own interfaces (cpufreq, devfreq, thermal,
hwmon). What cannot be read is left empty, never guessed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ROOT = Path("/")
_JETPACK_OF_L4T = {35: "5", 36: "6", 38: "7", 39: "7"}
# Jetson Linux's encoder device; Orin Nano has none.
_ENCODERS = ("dev/v4l2-nvenc", "dev/nvhost-msenc")
_HOT_C = 85.0


@dataclass(frozen=True)
class Clock:
    """The clock of one unit in MHz: now, and the limits between which it may move. Equal limits: it is locked."""

    unit: str
    current_mhz: float
    lowest_mhz: float
    highest_mhz: float

    @property
    def is_locked(self) -> bool:
        return self.lowest_mhz == self.highest_mhz


@dataclass(frozen=True)
class Rail:
    """One power rail of the board's monitor."""

    name: str
    volts: float
    watts: float


@dataclass(frozen=True)
class Board:
    """One Jetson as it is now.

    `l4t` is the release of Jetson Linux, for example 36.4.3, `jetpack` the installed package's version, or only its
    major number if the package is not installed. `power_mode` is nvpmodel's. `temperatures_c` maps zones to degrees,
    `throttling` lists the cooling devices that are at work, `over_current` maps counters to events since the start.
    `has_encoder` says whether the board has a hardware video encoder, `argus_runs` whether the camera daemon runs,
    `in_group_video` whether this process may open cameras.
    """

    model: str
    l4t: str
    jetpack: str
    power_mode: str
    clocks: tuple[Clock, ...]
    temperatures_c: dict[str, float]
    throttling: tuple[str, ...]
    over_current: dict[str, int]
    rails: tuple[Rail, ...]
    argus_runs: bool
    has_encoder: bool
    swap_mb: int
    memory_mb: int
    in_group_video: bool

    @property
    def jetpack_major(self) -> int:
        """0 if it is not known."""
        digits = re.match(r"\d+", self.jetpack)
        return int(digits[0]) if digits else 0

    @property
    def hottest_c(self) -> float:
        """0 if no temperature can be read."""
        return max(self.temperatures_c.values(), default=0.0)

    @property
    def is_hot(self) -> bool:
        return self.hottest_c >= _HOT_C or bool(self.throttling)

    @property
    def unknown(self) -> tuple[str, ...]:
        """What a measurement on this board must state and cannot."""
        named = {"power mode": self.power_mode, "clocks": self.clocks}
        return tuple(name for name, value in named.items() if not value)

    def to_dict(self) -> dict[str, Any]:
        """The facts as reports and benchmark rows store them, with `unknown` among them."""
        return {**asdict(self), "unknown": list(self.unknown)}


def read_board(root: Path = _ROOT) -> Board | None:
    """The facts of the board below `root`; None if it is not a Jetson. Never raises for a missing file."""
    release = _text(root / "etc/nv_tegra_release")
    model = model_of(root)
    if not release and "jetson" not in model.lower():
        return None
    l4t = _l4t(release)
    memory = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    return Board(
        model=model,
        l4t=l4t,
        jetpack=_jetpack(root, l4t),
        power_mode=_power_mode(root),
        clocks=tuple(_clocks(root)),
        temperatures_c=dict(_temperatures(root)),
        throttling=tuple(_throttling(root)),
        over_current=dict(_over_current(root)),
        rails=tuple(_rails(root)),
        argus_runs=_runs(root, "nvargus-daemon"),
        has_encoder=any((root / device).exists() for device in _ENCODERS),
        swap_mb=int(memory.get("SwapTotal", 0)) // 1024,
        memory_mb=int(memory.get("MemTotal", 0)) // 1024,
        in_group_video=_in_group_video(root),
    )


def model_of(root: Path = _ROOT) -> str:
    """The board's name in its device tree; empty on a PC."""
    return _text(root / "proc/device-tree/model").strip("\0 \n")


def _l4t(release: str) -> str:
    """`36.4.3` from `# R36 (release), REVISION: 4.3, GCID: ...`."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    return f"{found[1]}.{found[2]}" if found else ""


def _jetpack(root: Path, l4t: str) -> str:
    for paragraph in _text(root / "var/lib/dpkg/status").split("\n\n"):
        if (
            paragraph.startswith("Package: nvidia-jetpack\n")
            and "\nStatus: install ok installed" in paragraph
        ):
            version = re.search(r"^Version: ([\d.]+)", paragraph, re.MULTILINE)
            return version[1] if version else ""
    return _JETPACK_OF_L4T.get(int(l4t.partition(".")[0]), "") if l4t else ""


def _power_mode(root: Path) -> str:
    """The name of nvpmodel's mode, for example 15W; its number if the table does not name it."""
    found = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if found is None:
        return ""
    number = int(found[1])
    table = _text(root / "etc/nvpmodel.conf")
    name = re.search(rf"<\s*POWER_MODEL\s+ID={number}\s+NAME=(\S+)\s*>", table)
    return name[1] if name else str(number)


def _clocks(root: Path) -> Iterator[Clock]:
    """cpufreq counts in kHz, one entry per cluster that shares a clock; devfreq in Hz."""
    for policy in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        yield from _clock(f"cpu {policy.name}", policy, "scaling_{}_freq", 1e3)
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        yield from _clock(device.name, device, "{}_freq", 1e6)


def _clock(unit: str, folder: Path, pattern: str, per_mhz: float) -> Iterator[Clock]:
    values = [_number(folder / pattern.format(what)) for what in ("cur", "min", "max")]
    known = [value / per_mhz for value in values if value is not None]
    if len(known) == 3:
        yield Clock(unit, *known)


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    """A zone whose unit is switched off cannot be read, and is left out."""
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        milli = _number(zone / "temp")
        if milli is not None:
            yield _text(zone / "type").strip() or zone.name, milli / 1000


def _throttling(root: Path) -> Iterator[str]:
    """Cooling devices that slow something down; a fan that turns is not one."""
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        kind = _text(device / "type").strip()
        if "fan" not in kind and (_number(device / "cur_state") or 0) > 0:
            yield kind or device.name


def _over_current(root: Path) -> Iterator[tuple[str, int]]:
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        for counter in sorted(monitor.glob("oc*_event_cnt")):
            events = _number(counter)
            if events is not None:
                yield counter.name.removesuffix("_event_cnt"), int(events)


def _rails(root: Path) -> Iterator[Rail]:
    """The channels of the INA3221 monitors: millivolts and milliamperes."""
    for monitor in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not _text(monitor / "name").startswith("ina3221"):
            continue
        for label in sorted(monitor.glob("in*_label")):
            channel = label.name.removeprefix("in").removesuffix("_label")
            millivolts = _number(monitor / f"in{channel}_input")
            milliamperes = _number(monitor / f"curr{channel}_input")
            if millivolts is not None and milliamperes is not None:
                volts = millivolts / 1000
                yield Rail(_text(label).strip(), volts, round(volts * milliamperes / 1000, 3))


def _runs(root: Path, program: str) -> bool:
    """Whether a process has this name; the kernel keeps 15 characters of it."""
    names = (_text(process / "comm").strip() for process in (root / "proc").glob("[0-9]*"))
    return program[:15] in names


def _in_group_video(root: Path) -> bool:
    if not hasattr(os, "getgroups"):
        return False
    found = re.search(r"^video:[^:]*:(\d+):", _text(root / "etc/group"), re.MULTILINE)
    own = {os.getegid(), *os.getgroups()}
    return os.geteuid() == 0 or (found is not None and int(found[1]) in own)


def _number(path: Path) -> float | None:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """The file as text; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
