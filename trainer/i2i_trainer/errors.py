"""The errors a user of the trainer can cause.

Every message is one sentence: what happened, why, and how to fix it. Commands print it and exit with
`exit_code`; nothing here is ever shown as a traceback.

    TrainError
    ├── OptionError      options that contradict each other or ask for the impossible (exit code 2)
    ├── DataError        images that are missing, unreadable or in no known layout
    ├── CheckpointError  a run folder that is missing, damaged, or of another method or version
    ├── DivergedError    a loss or weight that is no longer a finite number
    └── StoppedError     a training that was asked to stop and has saved itself (exit code 130)
"""

from __future__ import annotations


class TrainError(Exception):
    """A failure that the user can understand and fix; `str(error)` is that sentence."""

    exit_code = 1


class OptionError(TrainError):
    """Options that contradict each other; the message names the flag."""

    exit_code = 2


class DataError(TrainError):
    """Images that are missing, unreadable or in no known layout."""


class CheckpointError(TrainError):
    """A run folder that is missing, damaged, or written by another method or version."""


class DivergedError(TrainError):
    """A loss or weight that is no longer a finite number; the message names the step and the last checkpoint."""


class StoppedError(TrainError):
    """A training that SIGINT or SIGTERM stopped; the message names the step that is saved."""

    exit_code = 130
