"""Loading an engine in a thread of its own, so that a file that never loads ends in a sentence and Ctrl-C works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import TypeVar

from i2i_runtime.errors import EngineError

T = TypeVar("T")
LIMIT_S = 120.0
"""How long the network of a portable engine may take to load, in seconds: those that ship take less than one."""


def loaded_in_time(path: Path, load: Callable[[], T], limit_s: float | None = None) -> T:
    """What `load` returns or raises; EngineError if it does neither within `limit_s` (`LIMIT_S` by default).

    The thread of a library that never returns is left behind.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(load())
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=work, name=f"loading {path.name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if failures:
        raise failures[0]
    if not results:
        raise EngineError(
            f"{path} was not loaded within {limit_s:g} s: its network is too large for this machine, or made so that "
            "no back end gets through it; try another --backend."
        )
    return results[0]
