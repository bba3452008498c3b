"""The errors a user can cause.

Every message is one sentence: what happened, why, and how to fix it. Commands print it and exit 1; nothing
here is ever shown as a traceback.

    I2IError
    ├── UsageError      options that contradict each other or name nothing (exit code 2)
    ├── EngineError     an engine file that is missing, damaged, foreign or breaks the contract
    ├── SourceError     a camera, clip, stream or folder that cannot be read
    └── SinkError       an output that cannot be written
"""

from __future__ import annotations


class I2IError(Exception):
    """A failure that the user can understand and fix; `str(error)` is the whole sentence."""

    exit_code = 1


class UsageError(I2IError):
    """Options that contradict each other or name something that does not exist."""

    exit_code = 2


class EngineError(I2IError):
    """An engine file that cannot be loaded or does not keep the contract."""


class SourceError(I2IError):
    """An input that cannot be opened or read."""


class SinkError(I2IError):
    """An output that cannot be opened or written."""
