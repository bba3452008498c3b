"""`make jetson-proof` on a machine that is not a board, and what it records."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.runtime.test_board import ORIN_NANO, write_tree

from i2i_runtime.board import read_board

PROOF = Path(__file__).parents[2] / "runtime" / "jetson" / "proof.py"
# Found among processes and packages, or private to a machine: these are not copied.
NOT_COPIED = {"jetpack": "6", "argus_runs": False}


def prove(*options: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROOF), *options], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_without_a_board_it_says_what_it_would_do(tmp_path: Path) -> None:
    done = prove("--root", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0 passed, 5 skipped"
    assert "would run 50x:" in done.stdout
    assert "by hand" in done.stdout
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_recorded_tree_has_the_facts_of_the_board(tmp_path: Path) -> None:
    board, copy = tmp_path / "board", tmp_path / "copy"
    write_tree(board, ORIN_NANO)
    done = prove("--root", str(board), "--record", str(copy), cwd=tmp_path)
    assert "files copied" in done.stdout
    original, recorded = read_board(board), read_board(copy)
    assert original is not None
    assert recorded is not None
    for name in (
        "model",
        "l4t",
        "power_mode",
        "clocks",
        "temperatures_c",
        "over_current",
        "rails",
        "memory_mb",
    ):
        assert getattr(recorded, name) == getattr(original, name)
    assert {name: getattr(recorded, name) for name in NOT_COPIED} == NOT_COPIED
