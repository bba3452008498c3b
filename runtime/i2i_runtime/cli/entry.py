"""Where the commands start, and the only place where errors and interrupts become exit codes.

0 done, 1 failed, 2 usage, 130 interrupted. Nothing is imported here that takes time, so that an interrupt is handled
from the first moment.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`; importing `typing` takes time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType, TracebackType
    from typing import NoReturn

INTERRUPTED = 130


def _leave_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"{os.path.basename(sys.argv[0])}: interrupted\n")
    else:
        sys.__excepthook__(kind, error, trace)


# For an interrupt before `_start` has taken the signals: even `import signal` takes some milliseconds.
sys.excepthook = _leave_quietly


def stream() -> NoReturn:
    _start("i2i-stream", "i2i_runtime.cli.stream")


def bench() -> NoReturn:
    _start("i2i-bench", "i2i_runtime.cli.bench")


def doctor() -> NoReturn:
    _start("i2i-doctor", "i2i_runtime.cli.doctor")


def _start(name: str, module: str) -> NoReturn:
    def leave(number: int, frame: FrameType | None) -> None:
        # Nothing is open yet, and some libraries turn an interrupt of their import into an error of their own.
        try:
            os.write(2, f"{name}: interrupted\n".encode())
        finally:  # the terminal may be closed
            os._exit(INTERRUPTED)

    _on_interrupt(leave)
    from importlib import import_module

    from i2i_runtime.terminal import keep_standard_streams

    keep_standard_streams()
    _end(_exit_code(name, import_module(module).main))


def _on_interrupt(handler: Callable[[int, FrameType | None], None]) -> None:
    """Ctrl-C, a request to end, and a closed terminal; what the parent had ignored (nohup) stays ignored."""
    import signal

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _exit_code(name: str, command: Callable[[Sequence[str]], int]) -> int:
    """Runs a command on the arguments of the process and says in one sentence why it failed."""
    from i2i_runtime.errors import I2IError
    from i2i_runtime.files import reason_of
    from i2i_runtime.terminal import printable_lines

    interrupts: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    try:
        _on_interrupt(interrupt)
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
        from i2i_runtime.uri import redact

        # A library that is interrupted while it is imported raises an error of its own.
        if interrupts:
            sentence, code = "interrupted", INTERRUPTED
        elif isinstance(error, ImportError) and (told := sentence_of_import_error(error)):
            sentence, code = told, 1
        else:
            what = redact(f"{type(error).__name__}: {reason_of(error)}")
            sentence, code = f"This is a bug in {name} ({what}): please report it.", 1
    print(f"{name}: {printable_lines(sentence)}", file=sys.stderr)
    return code


def _end(code: int) -> NoReturn:
    """Ends the process with this code, also if a thread was left behind in a library or a driver.

    Such a thread makes the interpreter's own end crash ("terminate called without an active exception"). All outputs
    have been written or given up by now.
    """
    import threading

    sys.stdout.flush()
    sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(code)
    sys.exit(code)
