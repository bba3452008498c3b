"""A job killed again and again at random moments, resumed, and compared with one that was left alone, byte for byte.

Beside every other job a second one is started on the same output, plainly, with --resume or with --restart: it must be
refused and leave no trace.

    python runtime/stress/kills.py CLIP --engine day2night --kills 100

Adds one row per kill and a summary to kills.jsonl beside this file.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import av
import tyro

import i2i_runtime.run
import i2i_runtime.sources.video  # noqa: F401
from i2i_runtime.bench.rows import append_row
from i2i_runtime.cli.entry import stream
from i2i_runtime.sinks import video
from i2i_runtime.verify import compare_files

ROWS = Path(__file__).with_name("kills.jsonl")
# Short segments, so that a short clip has many: what is tried is the journal, not the length of a segment.
SEGMENT_FRAMES = 16


@dataclass(frozen=True)
class Kills:
    """Kill a job at random moments and see that resuming gives the same film."""

    clip: Annotated[Path, tyro.conf.Positional]
    engine: str = "day2night"
    kills: int = 100
    seed: int = 0


def main() -> None:
    options = tyro.cli(Kills)
    dice = random.Random(options.seed)
    equal = 0
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "film.mp4"
        began_s = time.monotonic()
        if _end(_start(options, output)) != 0:
            sys.exit("the job fails even when it is left alone")
        whole_s = time.monotonic() - began_s
        undisturbed, its_bytes = _images(output), output.read_bytes()
        for number in range(options.kills):
            output.unlink(missing_ok=True)
            killed_s = dice.uniform(0.05, 1.0) * whole_s
            job, began = _start(options, output), time.monotonic()
            asks = dice.choice([None, None, None, "", "--resume", "--restart"])
            refused = None if asks is None else _second_is_refused(options, output, job, asks)
            time.sleep(max(0.0, began + killed_s - time.monotonic()))
            os.kill(job, signal.SIGKILL)
            killed = _end(job) == -signal.SIGKILL
            kept = _kept(output)
            resumed = _end(_start(options, output, "--resume"))
            same = resumed == 0 and _images(output) == undisturbed
            same = same and all(
                check.agrees for check in compare_files(options.clip, output) if check.name != "size"
            )
            same = same and output.read_bytes() == its_bytes
            same = same and refused is not False
            equal += same
            append_row(
                ROWS,
                {
                    "kill": number,
                    "at_s": round(killed_s, 3),
                    "killed": killed,
                    "frames_kept": kept,
                    "second_refused": refused,
                    "equal": same,
                },
            )
            output.with_name(f".{output.name}.lock").unlink(missing_ok=True)
            shutil.rmtree(output.with_name(f".{output.name}.unfinished"), ignore_errors=True)
    summary = {
        "clip": options.clip.name,
        "engine": Path(options.engine).name,
        "kills": options.kills,
        "equal": equal,
    }
    append_row(ROWS, {"summary": summary, "whole_s": round(whole_s, 3)})
    print(json.dumps(summary))
    sys.exit(0 if equal == options.kills else 1)


def _start(options: Kills, output: Path, *more: str) -> int:
    """The process id of the command, forked with its libraries loaded, so that the kill meets work and not imports."""
    child = os.fork()
    if child == 0:
        video.SEGMENT_FRAMES = SEGMENT_FRAMES
        sys.argv = ["i2i-stream", "--engine", options.engine, "--input", str(options.clip)]
        sys.argv += ["--output", str(output), "--quiet", "--backend", "onnxruntime", "--threads", "1", *more]
        try:
            stream()
        except SystemExit as end:
            os._exit(int(end.code or 0))
    return child


def _second_is_refused(options: Kills, output: Path, first: int, asks: str) -> bool | None:
    """Whether a second job on the same output ends as a usage error; None if the first had ended before it."""
    while not output.with_name(f".{output.name}.unfinished").exists():
        if os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return None
        time.sleep(0.005)
    code = _end(_start(options, output, *filter(None, [asks])))
    if os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return None
    return code == 2


def _end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _kept(output: Path) -> int:
    journal = output.with_name(f".{output.name}.unfinished") / "journal.jsonl"
    lines = journal.read_text().splitlines()[1:] if journal.exists() else []
    return sum(len(json.loads(line)["pts"]) for line in lines if line.endswith("}"))


def _images(film: Path) -> list[tuple[int | None, str]]:
    with av.open(film) as container:
        return [
            (frame.pts, hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest())
            for frame in container.decode(video=0)
        ]


if __name__ == "__main__":
    main()
