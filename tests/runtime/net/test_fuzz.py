"""Short runs of the fuzz script: what it finds in seconds must stay at nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "runtime" / "stress" / "fuzz.py"


@pytest.mark.parametrize(
    "target",
    ["engine", "metadata", "sidecar", "names", "uri", "gatekeeper", "http", "log", "journal", "run", "pair"],
)
def test_damaged_inputs(target: str) -> None:
    pytest.importorskip("starlette", reason="the serve extra is not installed")
    command = [sys.executable, str(SCRIPT), "--scale", "0.02", "--target", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "inputs, 0 wrong" in done.stdout
