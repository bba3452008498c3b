"""Every numeric case through Triton's true JIT, with a driver that launches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("jit_without_a_gpu.py")


@pytest.mark.parametrize("part", [0, 1])
def test_every_case_compiles_and_launches_as_on_a_gpu(part: int) -> None:
    major, minor = map(int, version("triton").split(".")[:2])
    if (major, minor) < (3, 6):
        pytest.skip(f"the JIT of triton {major}.{minor} asks another driver than 3.6 and later do")
    # Without the switch, releases from 3.9 on warn that contraction will be off by default.
    environment = {**os.environ, "TRITON_DEFAULT_FP_FUSION": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-W", "error", str(PROGRAM), "sm_90", str(part), "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["refusals"] == []
    assert found["launches"] > found["kernels"] > 40
