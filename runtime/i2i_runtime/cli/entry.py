"""Where the commands begin: an interrupt is one word and exit code 130 from the first moment.

Nothing is imported here that takes time; what a command needs comes when an interrupt is provided for.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from types import FrameType

INTERRUPTED = 130


def stream() -> None:
    _start("i2i-stream", "i2i_runtime.cli.stream")


def bench() -> None:
    _start("i2i-bench", "i2i_runtime.cli.bench")


def doctor() -> None:
    _start("i2i-doctor", "i2i_runtime.cli.doctor")


def _start(name: str, module: str) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        # Nothing is open yet, and some libraries turn an interrupt of their import into an error of their own.
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
    command = import_module(module)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.main()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
