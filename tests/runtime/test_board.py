"""Facts of Jetson boards.

The trees below are made from NVIDIA's documents and the kernel's, not recorded on boards: no board was at hand.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.bench.tables import _board
from i2i_runtime.board import Board, Clock, Rail, read_board
from i2i_runtime.doctor.jetson import jetson_findings
from i2i_runtime.machine import describe_machine
from i2i_runtime.prometheus import board_metrics

# As documented for Orin Nano with JetPack 6.2; the fan turns, the zone of a unit that is off cannot be read.
ORIN_NANO = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64, DATE: ...\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/meminfo": "MemTotal:        7802112 kB\nSwapTotal:       3901056 kB\n",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm aes crc32 atomics\n\nprocessor\t: 1\n",
    "proc/812/comm": "nvargus-daemon\n",
    "var/lib/dpkg/status": (
        "Package: nano\nStatus: install ok installed\nVersion: 6.2-1\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nArchitecture: arm64\nVersion: 6.2.1+b38\n"
    ),
    "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=1 NAME=25W >\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1344000\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "729600\n",
    "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1344000\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "918000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "51312\n",
    "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "2\n",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
    "sys/class/hwmon/hwmon2/oc3_event_cnt": "4\n",
    "etc/group": f"root:x:0:\nvideo:x:{os.getegid()}:i2i\n",
}


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    write_tree(tmp_path, ORIN_NANO)
    return tmp_path


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def board_of(root: Path) -> Board:
    board = read_board(root)
    assert board is not None
    return board


def test_every_fact_of_an_orin_nano(orin: Path) -> None:
    assert board_of(orin) == Board(
        model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        l4t="36.4.3",
        jetpack="6.2.1",
        power_mode="25W",
        clocks=(
            Clock("cpu policy0", 1344.0, 729.6, 1344.0),
            Clock("17000000.gpu", 918.0, 918.0, 918.0),
        ),
        temperatures_c={"cpu-thermal": 51.312},
        throttling=(),
        over_current={"oc1": 0, "oc3": 4},
        rails=(Rail("VDD_IN", 5.0, 6.0),),
        argus_runs=True,
        has_encoder=False,
        swap_mb=3809,
        memory_mb=7619,
        in_group_video=True,
    )


def test_a_pc_is_not_a_board(tmp_path: Path) -> None:
    write_tree(tmp_path, {"proc/cpuinfo": "model name : A PC\nflags : avx2 fma\n"})
    assert read_board(tmp_path) is None
    assert list(jetson_findings(read_board(tmp_path))) == []
    machine = describe_machine(tmp_path)
    assert machine["processor"] == "A PC"
    assert machine["features"] == ["avx2"]
    assert "board" not in machine


def test_a_board_that_tells_little_is_still_a_board(tmp_path: Path) -> None:
    write_tree(tmp_path, {"etc/nv_tegra_release": "# R38 (release), REVISION: 2.0, GCID: 1\n"})
    board = board_of(tmp_path)
    assert (board.l4t, board.jetpack, board.jetpack_major) == ("38.2.0", "7", 7)
    assert board.unknown == ("power mode", "clocks")


def test_power_mode_is_nvpmodels_and_not_the_governor(orin: Path) -> None:
    machine = describe_machine(orin)
    assert machine["power_mode"] == "25W"
    assert machine["governor"] == "schedutil"
    assert machine["processor"] == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert machine["features"] == ["asimd"]
    (orin / "etc/nvpmodel.conf").unlink()
    assert describe_machine(orin)["power_mode"] == "1"


def test_a_benchmark_without_power_mode_and_clocks_says_so(orin: Path) -> None:
    assert "25W" not in _board(board_of(orin).to_dict()), "the machine's line has it"
    assert "cpu policy0 1344 MHz, 17000000.gpu 918 MHz; 51 degrees" in _board(board_of(orin).to_dict())
    (orin / "var/lib/nvpmodel/status").unlink()
    (orin / "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq").unlink()
    (orin / "sys/class/devfreq/17000000.gpu/cur_freq").unlink()
    said = _board(board_of(orin).to_dict())
    assert "power mode and clocks cannot be read, so this measurement is not comparable" in said


def test_the_metrics_of_a_board(orin: Path) -> None:
    pytest.importorskip("prometheus_client", reason="the serve extra is not installed")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in board_metrics(board_of(orin))
        for sample in metric.samples
    }
    assert samples["i2i_board_temperature_celsius", "cpu-thermal"] == 51.312
    assert samples["i2i_board_power_watts", "VDD_IN"] == 6.0
    assert samples["i2i_board_clock_hertz", "17000000.gpu"] == 918e6
    assert samples["i2i_board_over_current_total", "oc3"] == 4
    assert samples["i2i_board_throttling",] == 0
    assert not list(board_metrics(None))


def test_the_doctor_of_a_healthy_board(orin: Path) -> None:
    found = {finding.name: finding for finding in jetson_findings(board_of(orin))}
    assert found["NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"].works
    assert "25W, clocks not locked" in found["power mode"].detail
    assert found["power mode"].fix == "sudo jetson_clocks"
    assert "oc3 4 times" in found["over-current"].detail
    assert not found["video encoder"].works
    assert found["argus"].works


@pytest.mark.parametrize(
    ("change", "name", "says", "fix"),
    [
        ({"argus_runs": False}, "argus", "does not run", "sudo systemctl restart nvargus-daemon"),
        ({"in_group_video": False}, "group video", "not in group", "sudo usermod -aG video,render $USER"),
        ({"swap_mb": 0}, "memory", "building a plan may fail", "sudo systemctl start nvzramconfig"),
        (
            {"throttling": ("cpu-throttle-alert",)},
            "temperature",
            "slowed down by cpu-throttle-alert",
            "--fan",
        ),
        ({"temperatures_c": {"gpu-thermal": 97.0}}, "temperature", "97 degrees", "--fan"),
        ({"model": "Nano", "jetpack": "5.1.2"}, "Nano", "JetPack 6 or 7 is needed", "flash JetPack 6"),
        ({"power_mode": ""}, "power mode", "power mode cannot be read", "sudo nvpmodel -q"),
    ],
)
def test_the_doctor_names_the_fault_and_its_cure(
    orin: Path, change: dict[str, Any], name: str, says: str, fix: str
) -> None:
    board = replace(board_of(orin), **change)
    finding = next(finding for finding in jetson_findings(board) if finding.name == name)
    assert not finding.works
    assert says in finding.detail
    assert fix in finding.fix
