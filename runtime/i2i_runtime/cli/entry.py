"""Where the commands start, and the only place where errors and interrupts become exit codes.

0 done, 1 failed, 2 usage, 130 interrupted. Nothing is imported here that takes time, so that an interrupt is handled
from the first moment.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import FrameType
from typing import NoReturn

from i2i_runtime.errors import I2IError
from i2i_runtime.files import reason_of

INTERRUPTED = 130


def stream() -> NoReturn:
    _start("i2i-stream", "i2i_runtime.cli.stream")


def bench() -> NoReturn:
    _start("i2i-bench", "i2i_runtime.cli.bench")


def doctor() -> NoReturn:
    _start("i2i-doctor", "i2i_runtime.cli.doctor")


def _start(name: str, module: str) -> NoReturn:
    def leave(number: int, frame: FrameType | None) -> None:
        # Nothing is open yet, and some libraries turn an interrupt of their import into an error of their own.
        os.write(2, f"{name}: interrupted\n".encode())
        os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, leave)
    command = import_module(module)
    sys.exit(_exit_code(name, command.main))


def _exit_code(name: str, command: Callable[[Sequence[str]], int]) -> int:
    """Runs a command on the arguments of the process and says in one sentence why it failed."""
    interrupts: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        return command(sys.argv[1:])
    except I2IError as error:
        sentence, code = str(error), error.exit_code
    except KeyboardInterrupt:
        sentence, code = "interrupted", INTERRUPTED
    except MemoryError:
        sentence, code = (
            "There is not enough memory for images of this size: use --size with a smaller one.",
            1,
        )
    except Exception as error:
        from i2i_runtime.opencv import sentence_of_import_error

        # A library that is interrupted while it is imported raises an error of its own.
        if interrupts:
            sentence, code = "interrupted", INTERRUPTED
        elif isinstance(error, ImportError) and (told := sentence_of_import_error(error)):
            sentence, code = told, 1
        else:
            what = f"{type(error).__name__}: {reason_of(error)}"
            sentence, code = f"This is a bug in {name} ({what}): please report it.", 1
    print(f"{name}: {sentence}", file=sys.stderr)
    return code
