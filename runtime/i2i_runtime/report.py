"""What a job did, as JSON: the record that another run can be compared with."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from i2i_runtime.engines import Engine
from i2i_runtime.errors import SinkError
from i2i_runtime.files import reason_of, write_whole
from i2i_runtime.stats import JobStats

REPORT_VERSION = 1


def describe(
    stats: JobStats,
    engine: Engine,
    *,
    engine_path: Path,
    engine_sha256: str,
    outcome: str,
    input_name: str,
    outputs: Sequence[str],
    options: dict[str, Any],
    notes: Sequence[str],
) -> dict[str, Any]:
    """The report of a job that has ended; times in milliseconds unless a name says otherwise."""
    return {
        "report_version": REPORT_VERSION,
        "outcome": outcome,
        "input": input_name,
        "outputs": list(outputs),
        "engine": {
            "file": str(engine_path),
            "sha256": engine_sha256,
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
            "dropped_by_sink": {
                sink.name: dropped for sink, dropped in zip(stats.sinks, stats.dropped_by_sink, strict=True)
            },
        },
        "policy": stats.policy,
        "elapsed_s": round(stats.elapsed_s, 3),
        "fps_new_frames": round(stats.fps, 3),
        "latency": {name: histogram.summary() for name, histogram in stats.latencies.items()},
        "age_over_time_s_ms": stats.age_curve.kept,
        "losses": list(stats.losses),
        "notes": list(notes),
        "options": options,
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "python": platform.python_version(),
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes the complete file or nothing. Raises SinkError."""
    try:
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise SinkError(f"{path} cannot be written ({reason_of(error)}): choose another path.") from error
