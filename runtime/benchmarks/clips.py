"""Every clip of a folder through i2i-stream, and whether it came back whole.

    python runtime/benchmarks/clips.py ../shared/data/videos --engine day2night

Adds one row per clip to clips.jsonl beside this file and prints the table of the runtime's README.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from i2i_runtime.batch import clips_of
from i2i_runtime.bench.rows import append_row
from i2i_runtime.verify import compare_files

ROWS = Path(__file__).with_name("clips.jsonl")


@dataclass(frozen=True)
class Clips:
    """Translate and verify all clips of a folder."""

    folder: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"


def main() -> None:
    options = tyro.cli(Clips)
    print("| clip | frames | exit | frames, times, sound, tags, colour | remarks |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for clip in clips_of(options.folder):
            row = translate_and_verify(clip, options.engine, Path(scratch))
            append_row(ROWS, row)
            whole = "agree" if not row["disagree"] else "differ: " + ", ".join(row["disagree"])
            remarks = "; ".join([*row["losses"], *row["notes"], row["error"]]).strip("; ")
            print(f"| {clip.name} | {row['frames']} | {row['exit']} | {whole} | {remarks} |", flush=True)


def translate_and_verify(clip: Path, engine: str, scratch: Path) -> dict[str, Any]:
    """One row: exit code, frames, which checks of `i2i-stream verify` disagree, and what was said."""
    output, report = scratch / clip.name, scratch / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()", "--quiet"]
    command += [
        "--engine",
        engine,
        "--input",
        f"file:{clip}",
        "--output",
        f"file:{output}",
        "--report",
        str(report),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = (
        json.loads(report.read_text())
        if report.exists()
        else {"frames": {"out": 0}, "losses": [], "notes": []}
    )
    checks = compare_files(clip, output) if output.exists() else []
    return {
        "clip": clip.name,
        "engine": engine,
        "exit": done.returncode,
        "frames": told["frames"]["out"],
        "disagree": [check.name for check in checks if not check.agrees] if checks else ["no output"],
        "losses": told["losses"],
        "notes": told["notes"],
        "error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "",
    }


if __name__ == "__main__":
    main()
