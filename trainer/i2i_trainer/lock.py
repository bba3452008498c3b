"""One training per run folder: an advisory lock that ends with the process, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from i2i_trainer.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no flock: there a second training is not noticed
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Inside, the run folder belongs to this process; it is made if missing, and removed again if it stays empty.

    Raises CheckpointError if another process trains in it or it cannot be written.
    """
    is_new = not run.exists()
    try:
        run.mkdir(parents=True, exist_ok=True)
        folder = os.open(run, os.O_RDONLY) if fcntl else None
    except OSError as error:
        raise CheckpointError(
            f"{run} cannot be written ({error.strerror}): name a folder of your own by --out."
        ) from error
    try:
        if folder is not None:
            _lock(folder, run)
        yield
    finally:
        if folder is not None:
            os.close(folder)  # ends the lock
        if is_new:
            with suppress(OSError):
                run.rmdir()


def _lock(folder: int, run: Path) -> None:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(
            f"{run} is in use by another training: wait until it ends, stop it, or name another --out."
        ) from error
    except OSError:
        return  # a file system without locks, such as some network shares
