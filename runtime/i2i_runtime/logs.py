"""Log lines for people and for programs, without secrets.

Every module logs through `logging.getLogger(__name__)` and names what happened with `extra=event(...)`; with
`--json` each event becomes one JSON object on one line.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, TextIO

from i2i_runtime.terminal import printable
from i2i_runtime.uri import redact


def event(name: str, **fields: Any) -> dict[str, Any]:
    """The `extra` of a log call: the event and its fields, for programs."""
    return {"event": name, "fields": fields}


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, event, message and the fields of the event; secrets removed."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": redact(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            line.setdefault(name, redact(value) if isinstance(value, str) else value)
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: redact(str(value)))


class PlainFormatter(logging.Formatter):
    """The message alone; secrets removed, control characters shown as their codes."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(redact(super().format(record)))


@contextmanager
def log_opened(*, as_json: bool, stream: TextIO | None = None) -> Iterator[None]:
    """Inside, the runtime's events go to `stream` (stderr), one line each.

    People see warnings alone: a lost source, a certificate that is not checked.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else PlainFormatter("%(message)s"))
    logger = logging.getLogger("i2i_runtime")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if as_json else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
        logger.setLevel(before[0])
        logger.propagate = before[1]
