"""The README's commands on a minimal Debian; minutes to an hour, so it is asked for: I2I_BARE="bookworm trixie"."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("bare.sh")
SUITES = os.environ.get("I2I_BARE", "").split()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_demo_runs_on_a_minimal_debian(suite: str) -> None:
    if suite not in SUITES:
        pytest.skip(f"set I2I_BARE={suite} to make a minimal Debian and run the demo in it")
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    made = subprocess.run([SCRIPT, suite, "demo"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "250 of 250 frames" in made.stdout
    assert json.loads(made.stdout.splitlines()[-1])["environment_mb"] < 700
