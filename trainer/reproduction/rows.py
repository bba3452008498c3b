"""Results of reproduction runs: one JSON file per run, and the markdown table made from them.

cd trainer && python -m reproduction.rows
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from i2i_trainer.checkpoint import write_atomically

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def provenance(started: float, seed: int) -> dict[str, Any]:
    """Command, seed, commit, device and seconds of the run that began at `started` (of `time.monotonic`)."""
    return {
        "command": " ".join(["python", "-m", f"reproduction.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "seed": seed,
        "commit": _commit(),
        "device": "cuda" if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} thread(s)",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started),
    }


def _commit() -> str:
    asked = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"


def write_row(name: str, row: dict[str, Any]) -> Path:
    """Stores one run's result as `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    write_atomically(path, (json.dumps(row, indent=2) + "\n").encode())
    return path


def table() -> str:
    """Markdown of every stored result."""
    rows = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return "\n\n".join(
        text
        for text in (
            _nordland([row for row in rows if row["experiment"] == "nordland"]),
            _digits([row for row in rows if row["experiment"] == "digits"]),
        )
        if text
    )


def _nordland(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "| method | error to the true winter | the same, colours matched | better than the source | steps | minutes |",
        "|---|---|---|---|---|---|",
    ]
    references = rows[0]["references"]
    for name, error in references.items():
        lines.append(f"| *{name}* | {error:.1f} | | | | |")
    for row in rows:
        better = "yes" if row["error"] < row["references"]["source itself"] else "**no**"
        lines.append(
            f"| {row['method']} | {row['error']:.1f} | {better} | {row['steps']} | {row['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def _digits(rows: list[dict[str, Any]]) -> str:
    return ""


if __name__ == "__main__":
    print(table())
