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


class Origin:
    """Where a result comes from; made when the run begins."""

    def __init__(self, seed: int) -> None:
        self._began = time.monotonic()
        self._fixed = {
            "command": " ".join(["python", "-m", f"reproduction.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
            "seed": seed,
            "commit": _commit(),
        }

    def finished(self) -> dict[str, Any]:
        """Command, seed, commit at the start, device, and seconds by the clock and of the processor."""
        cuda = torch.cuda.is_available()
        return {
            **self._fixed,
            "device": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} thread(s)",
            "machine": platform.machine(),
            "torch": torch.__version__,
            "seconds": round(time.monotonic() - self._began),
            "cpu_seconds": round(time.process_time()),
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


def table(results: Path = RESULTS) -> str:
    """Markdown of every stored result."""
    rows = [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]
    parts = [
        _nordland([row for row in rows if row["experiment"] == "nordland"]),
        _digits([row for row in rows if row["experiment"] == "digits"]),
    ]
    return "\n\n".join(part for part in parts if part)


def _nordland(rows: list[dict[str, Any]]) -> str:
    """Winters made from summers; what beats the source in both columns has learned something of winter."""
    if not rows:
        return ""
    lines = [
        "| winter of 400 test places | error, grey levels | edge correlation | preset | steps | CPU minutes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| *{name}* | {score['error']:.1f} | {score['edges']:.2f} | | | |"
        for name, score in rows[0]["references"].items()
    ]
    lines += [
        f"| {row['method']} | {row['error']:.1f} | {row['edges']:.2f} | {row['preset']} "
        f"| {row['steps']} | {_cpu_minutes(row)} |"
        for row in sorted(rows, key=lambda row: (row["preset"], row["error"]))
    ]
    return "\n".join(lines)


def _digits(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "| MNIST to USPS, 1,000 test digits | last step | chosen on validation | preset | steps | CPU minutes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['method']} | {row['accuracy_last']:.1f} % | {row['accuracy_chosen_on_validation']:.1f} % "
        f"| {row['preset']} | {row['steps']} ({row['share_of_paper_steps']:.0%} of the paper's) "
        f"| {_cpu_minutes(row)} |"
        for row in sorted(rows, key=lambda row: (row["preset"], row["accuracy_last"]))
    ]
    return "\n".join(lines)


def _cpu_minutes(row: dict[str, Any]) -> str:
    """Processor time of a run; a dash where it was not recorded."""
    return f"{row['cpu_seconds'] / 60:.0f}" if row.get("cpu_seconds") else "-"


if __name__ == "__main__":
    print(table())
