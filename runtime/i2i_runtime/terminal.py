"""What reaches the terminal: no control characters out of files, and no failure if nobody reads any more."""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from typing import TextIO

# Control characters, lone surrogates, separators of lines, and formats such as the override of direction.
_UNSAFE = ("Cc", "Cs", "Zl", "Zp", "Cf")
# These join letters of Persian and parts of emoji; they hide nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str, *, keep: str = "") -> str:
    """`text` with every character that a terminal would obey or hide shown as its code, `\\x1b` for escape.

    Names of files, engines and presets and tags of clips come from strangers. `keep` lists characters that stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char
        if char in keep or char in _JOINERS or unicodedata.category(char) not in _UNSAFE
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def printable_lines(text: str) -> str:
    """The same for text of ours that has several lines."""
    return printable(text, keep="\n")


def keep_standard_streams() -> None:
    """Makes messages that cannot be delivered vanish: `| head -1` or a closed terminal ends no job.

    A standard descriptor that is closed is opened on the null device, because the next file that is opened, an
    output perhaps, would take its number and with it what libraries print.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # it takes the lowest number that is free
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    return _LastingStream(
        open(number, "wb", closefd=False),
        encoding=stream.encoding if stream is not None else "utf-8",
        # A character that the terminal does not know is no reason to fail either.
        errors="backslashreplace",
        line_buffering=number == 2 or os.isatty(number),
    )


class _LastingStream(io.TextIOWrapper):
    """A standard stream whose text vanishes once it cannot be written."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        if not isinstance(
            error, BlockingIOError
        ):  # a terminal that is busy comes back, a closed one does not
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
