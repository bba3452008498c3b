"""What only a board can prove: runs each check, writes rows and a tarball; elsewhere prints what it would do.

    make jetson-proof                       # on a board after install.sh; OUT=DIR takes the rows
    python runtime/jetson/proof.py --record DIR     # only the board's files, for the tests

A check passes if its command ends with 0 in time. What this machine lacks is skipped with the reason. Exit status 1
if a check failed. Power modes, unplugging, reboots and heat need a hand; they are listed last.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from i2i_runtime.board import Board, read_board
from i2i_runtime.errors import SourceError
from i2i_runtime.machine import describe_machine
from i2i_runtime.sources.gstreamer import has_element

# What board.py reads, below the root; values of units that are off cannot be read and are left out.
FACTS = (
    "etc/nv_tegra_release",
    "etc/nvpmodel.conf",
    "proc/cpuinfo",
    "proc/device-tree/model",
    "proc/meminfo",
    "sys/class/devfreq/*/*_freq",
    "sys/class/hwmon/hwmon*/curr*_input",
    "sys/class/hwmon/hwmon*/in*_input",
    "sys/class/hwmon/hwmon*/in*_label",
    "sys/class/hwmon/hwmon*/name",
    "sys/class/hwmon/hwmon*/oc*_event_cnt",
    "sys/class/thermal/cooling_device*/cur_state",
    "sys/class/thermal/cooling_device*/type",
    "sys/class/thermal/thermal_zone*/temp",
    "sys/class/thermal/thermal_zone*/type",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
    "sys/devices/system/cpu/cpufreq/policy*/scaling_*_freq",
    "var/lib/nvpmodel/status",
)
BIN = Path(sys.executable).parent
STREAM, BENCH, DOCTOR = (str(BIN / name) for name in ("i2i-stream", "i2i-bench", "i2i-doctor"))
SIZE = ("--size", "1280x720")
BY_HAND = (
    "power modes: sudo nvpmodel -m N, sudo jetson_clocks, then make jetson-proof again; compare with i2i-bench compare",
    "USB camera: unplug and replug it under i2i-stream --json; source_lost and source_back must follow",
    "service: sudo kill -9 its process, hang it with kill -STOP, reboot; it must run again within 10 s, 30 s, at boot",
    "heat: 30 minutes at the highest mode; the report's board.throttling and temperatures_c at the end",
)


@dataclass(frozen=True)
class Check:
    """One command; `needs` is what it asks of the machine: board, tensorrt or csi."""

    name: str
    settles: str
    command: tuple[str, ...]
    needs: str
    seconds: float = 300.0
    times: int = 1


@dataclass(frozen=True)
class Row:
    """What came of a check."""

    check: str
    outcome: str
    detail: str
    seconds: float


def checks(out: Path) -> tuple[Check, ...]:
    """All checks, with their files in `out`."""
    stream = (STREAM, "--engine", "day2night", "--quiet", *SIZE)
    scene = ("--input", "test://street", "--output", "null:", "--limit", "200")
    camera = ("--input", "csi://0", "--limit", "300")
    return (
        Check("doctor", "every part of the board is found", (DOCTOR, "--json"), "board"),
        Check(
            "plan",
            "a plan is built here and agrees with ONNX Runtime",
            (*stream, "--backend", "tensorrt", *scene, "--report", str(out / "plan.json")),
            "tensorrt",
            1800.0,
        ),
        Check(
            "bench",
            "frames per second and ages in this power mode",
            (BENCH, "day2night", *SIZE, "--json", str(out / "bench.json")),
            "board",
            1200.0,
        ),
        Check(
            "csi",
            "300 frames of sensor 0 reach a file",
            (*stream, *camera, "--output", str(out / "csi.mp4"), "--report", str(out / "csi.json")),
            "csi",
        ),
        Check(
            "csi starts",
            "50 starts and stops leave the camera daemon alive",
            (
                STREAM,
                "--engine",
                "day2night",
                "--quiet",
                "--input",
                "csi://0",
                "--limit",
                "5",
                "--output",
                "null:",
            ),
            "csi",
            60.0,
            times=50,
        ),
    )


def reason_to_skip(check: Check, board: Board | None) -> str:
    """Why this machine cannot run a check; empty if it can."""
    if board is None:
        return "this machine is not a Jetson"
    if check.needs == "tensorrt" and shutil.which("trtexec", path="/usr/src/tensorrt/bin") is None:
        return "TensorRT is not installed: sudo apt install nvidia-jetpack"
    if check.needs == "csi":
        try:
            if not has_element("nvarguscamerasrc"):
                return "GStreamer does not have nvarguscamerasrc: sudo apt install nvidia-l4t-gstreamer"
        except SourceError as error:
            return str(error)
    return ""


def run(check: Check) -> Row:
    """Runs the command as often as asked; the first failure is the outcome."""
    began_s = time.monotonic()
    for number in range(check.times):
        try:
            done = subprocess.run(
                check.command, capture_output=True, text=True, check=False, timeout=check.seconds
            )
        except subprocess.TimeoutExpired:
            return Row(
                check.name, "failed", f"no end after {check.seconds:.0f} s", time.monotonic() - began_s
            )
        except OSError as error:
            return Row(check.name, "failed", str(error), time.monotonic() - began_s)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()
            detail = f"run {number + 1}: exit {done.returncode}: {said[-1] if said else ''}"
            return Row(check.name, "failed", detail, time.monotonic() - began_s)
    return Row(check.name, "passed", check.settles, time.monotonic() - began_s)


def record(root: Path, target: Path) -> int:
    """Copies the files of FACTS below `root` to `target`; returns how many."""
    copied = 0
    for pattern in FACTS:
        for path in sorted(root.glob(pattern)):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
            copied += 1
    return copied


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("jetson-proof"), help="folder for rows and files")
    parser.add_argument("--record", type=Path, metavar="DIR", help="only copy the board's files to DIR")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="the folder that board facts are read from"
    )
    options = parser.parse_args()
    if options.record is not None:
        print(f"{record(options.root, options.record)} files copied to {options.record}")
        return 0
    board = read_board(options.root)
    rows = []
    if board is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        record(options.root, options.out / "tree")
    for check in checks(options.out):
        reason = reason_to_skip(check, board)
        row = Row(check.name, "skipped", reason, 0.0) if reason else run(check)
        rows.append(row)
        print(f"{row.outcome:8} {check.name}: {check.settles}")
        print(f"         {'would run' if reason else 'ran'} {check.times}x: {' '.join(check.command)}")
        if row.outcome != "passed":
            print(f"         {row.detail}")
        if board is not None:
            with (options.out / "rows.jsonl").open("a") as file:
                file.write(json.dumps({**asdict(row), "machine": describe_machine(options.root)}) + "\n")
    for task in BY_HAND:
        print(f"by hand  {task}")
    if board is not None:
        with tarfile.open(options.out.with_suffix(".tar.gz"), "w:gz") as archive:
            archive.add(options.out, options.out.name)
        print(f"send {options.out.with_suffix('.tar.gz')}")
    counted = {
        outcome: sum(row.outcome == outcome for row in rows) for outcome in ("passed", "failed", "skipped")
    }
    print(
        ", ".join(f"{count} {outcome}" for outcome, count in counted.items() if count or outcome == "passed")
    )
    return 1 if counted["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
