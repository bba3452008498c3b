"""The report of a job as JSON: counts, latencies, losses, options and machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from i2i_runtime.board import read_board
from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.files import (
    CLIP_ENDINGS,
    IMAGE_ENDINGS,
    Kept,
    reason_of,
    refusal_of_target,
    write_whole,
)
from i2i_runtime.job import Job, Translation
from i2i_runtime.stats import JobStats
from i2i_runtime.terminal import printable

REPORT_VERSION = 1
_LOSSES_TOLD = 10
_LARGEST_REPORT_BYTES = 1 << 26
# Of jobs, of folders of clips, of verify, and of i2i-bench.
_KEYS_OF_REPORTS = frozenset({"report_version", "failures", "checks", "levels"})


def describe(translation: Translation, job: Job, stats: JobStats, outcome: str) -> dict[str, Any]:
    """The report of a job that has ended; times are in milliseconds unless a name says otherwise."""
    engine = translation.engine
    by_sink = zip(stats.sinks, stats.dropped_by_sink, strict=True)
    return {
        "report_version": REPORT_VERSION,
        "outcome": outcome,
        "input": job.input.shown,
        "input_delivers": stats.source.delivers,
        "outputs": [output.shown for output in job.outputs],
        "engine": {
            "file": translation.engine_file,
            "sha256": translation.engine_sha256,
            "name": engine.metadata.name,
            "direction": engine.metadata.direction,
            "backend": engine.backend,
            "reason": engine.reason,
        },
        "frames": {
            "in": stats.frames_in,
            "out": stats.frames_out,
            "dropped": stats.dropped,
            "dropped_by_source": stats.dropped_by_source,
            "dropped_stale": stats.dropped_stale,
            "overdue": stats.overdue,
            "dropped_by_sink": {sink.name: dropped for sink, dropped in by_sink},
        },
        "policy": stats.policy,
        "elapsed_s": round(stats.elapsed_s, 3),
        "fps_new_frames": round(stats.fps, 3),
        "latency": {name: histogram.summary() for name, histogram in stats.latencies.items()},
        "age_over_time_s_ms": stats.age_curve.kept,
        "losses": list(stats.losses),
        "notes": notes_of(stats),
        "options": job.record,
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "python": platform.python_version(),
            **_board(),
        },
    }


def _board() -> dict[str, Any]:
    """The state of a Jetson after the job: clocks, heat and throttling explain its rate."""
    board = read_board()
    return {} if board is None else {"board": board.to_dict()}


def summary(job: Job, stats: JobStats) -> str:
    """What a person reads at the end: frames, rate, drops, and one line for everything that was lost."""
    where = ", ".join(printable(str(uri.path) if uri.scheme == "file" else uri.shown) for uri in job.outputs)
    count = "1 frame" if stats.frames_out == 1 else f"{stats.frames_out} frames"
    pace = f" ({stats.fps:.1f} new frames per second)" if stats.fps else ""
    lines = [f"{count} in {stats.elapsed_s:.1f} s{pace}, {stats.dropped} dropped, written to {where}"]
    if stats.overdue:
        lines.append(f"{stats.overdue} frames were shown older than --max-staleness allows")
    lines += map(printable, notes_of(stats))
    losses = stats.losses
    lines += [f"lost: {printable(loss)}" for loss in losses[:_LOSSES_TOLD]]
    if len(losses) > _LOSSES_TOLD:
        lines.append(f"and {len(losses) - _LOSSES_TOLD} more losses, which --report lists")
    return "\n".join(lines)


def notes_of(stats: JobStats) -> list[str]:
    """What source and outputs did not do as asked, one sentence each."""
    return [*stats.source.notes, *(note for sink in stats.sinks for note in sink.notes)]


def check_json_target(path: Path, kept: Iterable[Kept] = ()) -> None:
    """Raises UsageError if a report must not be written to `path`: nothing but an earlier report is replaced."""
    if path.suffix.lower() in IMAGE_ENDINGS | CLIP_ENDINGS:
        raise UsageError(
            f"The report {path} would have the name of an image or video: write it as NAME.json."
        )
    if (refusal := refusal_of_target(path, kept, is_own=_is_report)) is not None:
        raise UsageError(f"The report {path} {refusal}: choose another path for it.")


def _is_report(path: Path) -> bool:
    """Whether a file is empty, or one of the JSON objects that the commands write."""
    try:
        if path.stat().st_size > _LARGEST_REPORT_BYTES:
            return False
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if text.strip() else {"checks": []}
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and not _KEYS_OF_REPORTS.isdisjoint(content)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the complete file or nothing, and over nothing but an earlier one. Raises SinkError and UsageError."""
    check_json_target(path)
    try:
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise SinkError(f"{path} cannot be written ({reason_of(error)}): choose another path.") from error
