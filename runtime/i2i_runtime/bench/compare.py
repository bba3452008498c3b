"""Compares two benchmark records with respect to their noise."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2i_runtime.errors import UsageError

_SMALLEST = 0.02
"""Differences below two per cent are never reported: clocks and caches vary that much by themselves."""


@dataclass(frozen=True)
class Verdict:
    """One level of two records: `ratio` is new over old rate, `noise` the spread of both as a share."""

    level: str
    old_fps: float
    new_fps: float
    ratio: float
    noise: float
    word: str


def compare_records(old: dict[str, Any], new: dict[str, Any]) -> list[Verdict]:
    """A verdict for each level in both records: faster, slower, or the same within the noise.

    A level that was measured on one frame has no frame rate, and no verdict.
    """
    levels = {level["name"]: level for level in old["levels"]}
    verdicts = []
    for level in new["levels"]:
        if level["name"] not in levels:
            continue
        before, after = levels[level["name"]]["fps_repeats"], level["fps_repeats"]
        if not (statistics.median(before) and statistics.median(after)):
            continue
        ratio = statistics.median(after) / statistics.median(before)
        noise = max(_SMALLEST, _spread(before) + _spread(after))
        word = "same within the noise" if abs(ratio - 1) <= noise else ("faster" if ratio > 1 else "slower")
        verdicts.append(
            Verdict(level["name"], statistics.median(before), statistics.median(after), ratio, noise, word)
        )
    return verdicts


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What else changed between two records and might explain a difference."""
    keys = ("engine_sha256", "precision", "backend", "threads", "input", "input_sha256", "width", "height")
    found = [
        f"{key}: {old.get(key)} before, {new.get(key)} now" for key in keys if old.get(key) != new.get(key)
    ]
    then, now = old["machine"], new["machine"]
    found += [
        f"{key}: {then.get(key)} before, {now.get(key)} now"
        for key in ("processor", "cores", "power_mode", "versions")
        if then.get(key) != now.get(key)
    ]
    return found


def read_record(path: Path) -> dict[str, Any]:
    """A record written by `i2i-bench --json`. Raises UsageError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["levels"] or not record["machine"]:
            raise ValueError("it holds no levels")
        return dict(record)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): give a file made by i2i-bench --json."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is not a benchmark record ({error}): give a file made by i2i-bench --json."
        ) from error


def _spread(rates: Sequence[float]) -> float:
    """Half the range of the repeats over their median."""
    return (max(rates) - min(rates)) / 2 / statistics.median(rates)
