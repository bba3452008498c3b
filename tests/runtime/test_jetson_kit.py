"""The kit for Jetson: scripts, unit, rules and image.

No board was at hand. install.sh runs below a made-up root; `apt-get`, `dpkg-query`, `python3`, `useradd`, `usermod`,
`getent`, `id`, `systemctl` and `udevadm` are stand-ins that record what they were asked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

KIT = Path(__file__).parents[2] / "runtime" / "jetson"
RELEASES = {
    "R36": "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "R38": "# R38 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
    "R39": "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64\n",
}
SERVICE = ("--service", "front", "--input", "csi://0", "--engine", "day2night")
# State of the stand-ins: one file per package, user and group membership.
STAND_INS = {
    "dpkg-query": 'for last; do :; done; [ -e "$STATE/package-$last" ] && echo "install ok installed"',
    "apt-get": (
        '[ "$1" = install ] || exit 0; shift\n'
        'for name; do case $name in -*) ;; *) : >"$STATE/package-$name" ;; esac; done'
    ),
    "sudo": 'exec "$@"',
    "useradd": 'for last; do :; done; : >"$STATE/user-$last"',
    "usermod": ': >"$STATE/member-$3-$2"',
    "getent": "exit 0",
    "id": (
        'case "$1" in -u) echo "${FAKE_UID:-0}" ;; -un) echo someone ;;\n'
        '-nG) for group in video render; do [ ! -e "$STATE/member-$2-$group" ] || echo "$group"; done ;;\n'
        '*) [ -e "$STATE/user-$1" ] ;; esac'
    ),
    "python3": (
        'for last; do :; done; mkdir -p "$last/bin"\n'
        'printf "#!/bin/sh\\necho python \\"\\$@\\" >>%s/log\\n" "$STATE" >"$last/bin/python"\n'
        'chmod +x "$last/bin/python"'
    ),
    "systemctl": "",
    "udevadm": "",
}


class Machine:
    """A made-up board below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.root, self.state = folder / "root", folder / "state"
        programs = folder / "programs"
        for path in (self.root / "etc", self.state, programs):
            path.mkdir(parents=True)
        for name, script in STAND_INS.items():
            program = programs / name
            program.write_text(f'#!/bin/bash\necho {name} "$@" >>"$STATE/log"\n{script}\n')
            program.chmod(0o755)
        self.path = f"{programs}:/usr/bin:/bin"

    def is_a(self, release: str) -> None:
        (self.root / "etc/nv_tegra_release").write_text(release)

    def install(self, *options: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": self.path, "STATE": str(self.state), "I2I_ROOT": str(self.root)}
        return subprocess.run(
            [str(KIT / "install.sh"), *options],
            env={**variables, "FAKE_UID": str(uid)},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def log(self) -> str:
        """All calls of the stand-ins."""
        return (self.state / "log").read_text()

    def files(self) -> dict[str, tuple[bytes, int]]:
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in self.root.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if sys.platform != "linux":
        pytest.skip("the kit is for Linux")
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("release", "says"),
    [
        (None, "this is not a Jetson"),
        (
            "# R35 (release), REVISION: 4.1, GCID: 1\n",
            "R35 (JetPack 5 or older) has a Python that is too old: flash",
        ),
        ("# R40 (release), REVISION: 1.0, GCID: 1\n", "R40 is not known to this script"),
    ],
)
def test_other_releases_are_refused_in_one_sentence(machine: Machine, release: str | None, says: str) -> None:
    if release is not None:
        machine.is_a(release)
    done = machine.install()
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (machine.state / "log").exists() or "apt-get" not in machine.log


@pytest.mark.parametrize(("release", "jetpack"), [("R36", "6"), ("R38", "7"), ("R39", "7")])
def test_each_release_gets_its_constraints(machine: Machine, release: str, jetpack: str) -> None:
    machine.is_a(RELEASES[release])
    done = machine.install(*SERVICE)
    assert done.returncode == 0, done.stderr
    assert f"constraints-jp{jetpack}.txt" in machine.log
    assert "-m venv --system-site-packages" in machine.log
    assert re.search(
        r"apt-get install -y --no-install-recommends python3-venv .*python3-libnvinfer", machine.log
    )


def test_the_service_has_its_settings_and_a_second_run_changes_nothing(machine: Machine) -> None:
    machine.is_a(RELEASES["R36"])
    first = machine.install(*SERVICE)
    assert first.returncode == 0, first.stderr
    settings = (machine.root / "etc/i2i/front.env").read_text()
    assert settings.splitlines()[:3] == ["ENGINE=day2night", "INPUT=csi://0", "OUTPUT=mjpeg://@:8080"]
    assert "systemctl enable i2i-stream@front" in machine.log
    before, calls = machine.files(), machine.log
    second = machine.install(*SERVICE)
    assert second.stdout.splitlines()[-1] == "nothing to change"
    assert machine.files() == before
    new = machine.log.removeprefix(calls)
    assert not re.search(r"^(apt-get|useradd|usermod|systemctl|udevadm|python)", new, re.MULTILINE)


def test_dry_run_shows_everything_and_changes_nothing(machine: Machine) -> None:
    machine.is_a(RELEASES["R36"])
    before = machine.files()
    done = machine.install("--dry-run", *SERVICE, uid=1000)
    assert done.returncode == 0, done.stderr
    for part in (
        "apt-get install",
        "pip install",
        "useradd",
        "i2i-stream@.service",
        "front.env",
        "systemctl enable",
    ):
        assert part in done.stdout
    assert machine.files() == before
    assert not list(machine.state.glob("package-*"))


def test_an_engine_file_is_copied_with_its_manifest(machine: Machine, tmp_path: Path) -> None:
    machine.is_a(RELEASES["R36"])
    (tmp_path / "my.plan").write_bytes(b"plan")
    (tmp_path / "my.plan.json").write_bytes(b"{}")
    done = machine.install(*SERVICE[:-1], str(tmp_path / "my.plan"))
    assert done.returncode == 0, done.stderr
    assert (machine.root / "opt/i2i/engines/my.plan").read_bytes() == b"plan"
    assert (machine.root / "opt/i2i/engines/my.plan.json").exists()
    assert "ENGINE=/opt/i2i/engines/my.plan\n" in (machine.root / "etc/i2i/front.env").read_text()


def test_two_services_share_neither_camera_nor_port(machine: Machine) -> None:
    machine.is_a(RELEASES["R36"])
    assert machine.install(*SERVICE).returncode == 0
    other = ("--service", "rear", "--engine", "day2night", "--input")
    assert "csi://0 is used by the service front" in machine.install(*other, "csi://0").stderr
    assert "add --metrics :9101" in machine.install(*other, "csi://1").stderr
    assert "add --output" in machine.install(*other, "csi://1", "--metrics", ":9101").stderr
    done = machine.install(*other, "csi://1", "--metrics", ":9101", "--output", "mjpeg://@:8081")
    assert done.returncode == 0, done.stderr
    changed = machine.install(*SERVICE, "--size", "640x360")
    assert changed.returncode == 1
    assert "front.env exists with other settings" in changed.stderr


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (("--fast",), "unknown option --fast", 2),
        (("--service",), "--service needs a value", 2),
        (("--service", "front"), "needs --input and --engine", 2),
        (("--service", "../x", "--input", "csi://0", "--engine", "a"), "use small letters", 2),
        (("--service", "front", "--input", "csi://0 $(id)", "--engine", "a"), "has no spaces", 2),
        (
            ("--service", "front", "--input", "csi://0", "--engine", "no.plan"),
            "there is no engine no.plan",
            1,
        ),
    ],
)
def test_wrong_options_are_one_sentence(
    machine: Machine, options: tuple[str, ...], says: str, code: int
) -> None:
    machine.is_a(RELEASES["R36"])
    done = machine.install(*options)
    assert done.returncode == code
    assert says in done.stderr


def test_a_service_needs_root(machine: Machine) -> None:
    machine.is_a(RELEASES["R36"])
    assert "run it with sudo" in machine.install(*SERVICE, uid=1000).stderr


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    """The command is replaced by one that exists here; the output must be empty, the exit code says little."""
    analyze = shutil.which("systemd-analyze") or pytest.skip("systemd-analyze is not installed")
    text = (KIT / "i2i-stream@.service").read_text()
    unit = tmp_path / "i2i-stream@.service"
    unit.write_text(text.replace("/opt/i2i/venv/bin/i2i-stream", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_unit_and_its_settings_name_the_same_things() -> None:
    unit, example = ((KIT / name).read_text() for name in ("i2i-stream@.service", "example.env"))
    used = set(re.findall(r"\$\{?([A-Z]+)", unit)) - {"SERVICE"}
    assert used == set(re.findall(r"^([A-Z]+)=", example, re.MULTILINE))
    assert {"Type=notify", "WatchdogSec=20", "Restart=always", "User=i2i"} <= set(unit.splitlines())


@pytest.mark.parametrize(
    ("tool", "names"), [("shellcheck", ("install.sh", "run.sh")), ("hadolint", ("Dockerfile",))]
)
def test_scripts_and_image_are_clean(tool: str, names: tuple[str, ...]) -> None:
    folders = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which(tool, path=folders) or pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        [program, *(str(KIT / name) for name in names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_the_container_gets_the_boards_runtime_and_devices() -> None:
    run = str(KIT / "run.sh")
    done = subprocess.run(
        [run, "--camera", "0"],
        env={**os.environ, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--runtime=nvidia" in done.stdout
    assert done.stdout.rstrip().endswith("i2i-jetson --camera 0")
    if not Path("/tmp/argus_socket").exists():
        done = subprocess.run([run, "--input", "csi://0"], capture_output=True, text=True, check=False)
        assert "sudo systemctl restart nvargus-daemon" in done.stderr
