"""Prints the record of i2i-bench as tables: results, conditions and machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from i2i_runtime.bench.compare import Verdict
from i2i_runtime.console import SafeConsole

_PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")
_STAGES = {
    "read": "decode, to RGB",
    "wait": "in the queue before the engine",
    "infer": "translate",
    "write": "deliver",
    "added": "everything but translating",
    "age": "from decoding to delivery",
}


def print_record(record: dict[str, Any]) -> None:
    """Prints a record of `i2i-bench`."""
    console = SafeConsole()
    console.print(_engine(record), soft_wrap=True)
    console.print(_machine(record["machine"]), soft_wrap=True)
    if "board" in record["machine"]:
        console.print(_board(record["machine"]["board"]), soft_wrap=True)
    console.print(_conditions(record), soft_wrap=True)
    console.print(_levels(record["levels"]))
    console.print(_stages(record["levels"][-1]["stages"]))
    if "scaling" in record:
        console.print(_sizes(record["scaling"]["sizes"]))
        console.print(_streams(record["scaling"]["streams"]))
    console.print(
        f"First frame after {record['start']['first_frame_ms']:.0f} ms; "
        f"at most {record['peak_memory_mb']:.0f} MB used. {record['limit']}",
        soft_wrap=True,
    )


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Prints the verdicts of `i2i-bench compare`, one line per level."""
    table = _table("level", "old fps", "new fps", "new / old", "noise", "verdict")
    for verdict in verdicts:
        rates = f"{verdict.old_fps:.1f}", f"{verdict.new_fps:.1f}", f"{verdict.ratio:.3f}"
        table.add_row(verdict.level, *rates, f"±{verdict.noise:.1%}", verdict.word)
    SafeConsole().print(table)


def _engine(record: dict[str, Any]) -> str:
    return (
        f"{record['engine']} ({record['direction']}) at {record['width']}x{record['height']}, "
        f"file in {record['precision']}, sha256 {record['engine_sha256'][:12]}, "
        f"on {record['backend']}: {record['reason']}"
    )


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['cores']} cores, {' '.join(machine['features'])}, "
        f"power mode {machine['power_mode'] or 'unknown'}; Python {machine['python']}, {versions}"
    )


def _board(board: dict[str, Any]) -> str:
    """The state of a Jetson, or why its speeds cannot be compared."""
    if board["unknown"]:
        unknown = " and ".join(board["unknown"])
        return f"{board['model']}: {unknown} cannot be read, so this measurement is not comparable to others."
    clocks = ", ".join(f"{clock['unit']} {clock['current_mhz']:.0f} MHz" for clock in board["clocks"])
    hottest = max(board["temperatures_c"].values(), default=None)
    heat = "temperature unknown" if hottest is None else f"{hottest:.0f} degrees"
    slowed = f", slowed down by {', '.join(board['throttling'])}" if board["throttling"] else ""
    return f"{board['model']}, JetPack {board['jetpack']}: {clocks}; {heat}{slowed}"


def _conditions(record: dict[str, Any]) -> str:
    digest = f" (sha256 {record['input_sha256'][:12]})" if record["input_sha256"] else ""
    return (
        f"{record['input']}{digest}; {record['threads']} threads, {record['warm_up_frames']} frames of warm-up, "
        f"{record['repeats']} repeats of {record['frames']} frames, {record['seconds']:g} s for the engine alone"
    )


def _levels(levels: list[dict[str, Any]]) -> Table:
    table = _table("level", "fps", "low to high", "p50 ms", "p95", "p99", "cores", "MB", "dropped")
    for level in levels:
        rates = level["fps_repeats"]
        table.add_row(
            level["name"],
            f"{level['fps']:.1f}",
            f"{min(rates):.1f} to {max(rates):.1f}",
            *(f"{level['latency_ms'][key]:.1f}" for key in _PERCENTILES),
            f"{level['cores_used']:.2f}",
            f"{level['memory_mb']:.0f}",
            str(level["dropped"]),
        )
    table.caption = "ms: in the engine alone, added by the pipeline in the other two"
    return table


def _stages(stages: dict[str, dict[str, float]]) -> Table:
    table = _table("end to end", "", "p50 ms", "p95", "p99")
    table.columns[1].justify = "left"
    for name, what in _STAGES.items():
        if name in stages:
            table.add_row(name, what, *(f"{stages[name][key]:.1f}" for key in _PERCENTILES))
    return table


def _sizes(sizes: dict[str, dict[str, Any]]) -> Table:
    table = _table("engine alone", "fps", "p50 ms", "p95", "p99")
    for name, row in sizes.items():
        if "refused" in row:
            table.add_row(name, row["refused"])
        else:
            table.add_row(name, f"{row['fps']:.1f}", *(f"{row[key]:.1f}" for key in _PERCENTILES))
    return table


def _streams(rows: list[dict[str, Any]]) -> Table:
    table = _table("streams at once", "fps together", "fps of each")
    for row in rows:
        table.add_row(str(row["streams"]), f"{row['fps']:.1f}", f"{row['fps'] / row['streams']:.1f}")
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=SIMPLE_HEAD, pad_edge=False, caption_justify="left", padding=(0, 1, 0, 0))
    for heading in others:
        table.add_column(heading, justify="right")
    return table
