"""Measured rows beside the script that made them, one JSON object per line, newest last."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from i2i_runtime.machine import describe_machine


def append_row(file: Path, row: dict[str, Any]) -> None:
    """Adds `row` with the time (UTC) and the machine it was made on."""
    made = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps({"made": made, **row, "machine": describe_machine()}) + "\n")
