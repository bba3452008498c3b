"""One job per output: an advisory lock beside it, which the system releases however the job ends."""

from __future__ import annotations

import errno
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path

from i2i_runtime.errors import UsageError

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class OutputLock:
    """Held from the opening of an output to its end; the file `.NAME.lock` exists for that time.

    Raises UsageError if another job holds it, and OSError. `note` says so if the file system has no locks: the job
    goes on then, because most users of such a disk run one job.
    """

    def __init__(self, output: Path) -> None:
        self.note = ""
        self._path = output.with_name(f".{output.name}.lock")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            # A job that is abandoned without an end must not keep the lock.
            self._closing = weakref.finalize(self, os.close, descriptor)
            try:
                if not self._locked(descriptor, output) or self._is_current(descriptor):
                    return
            except BaseException:
                self._closing()
                raise
            self._closing()  # its last owner has just removed it

    def _locked(self, descriptor: int, output: Path) -> bool:
        try:
            if sys.platform != "win32":
                import fcntl

                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        except BlockingIOError:
            raise UsageError(
                f"Another job is writing {output} now: wait until it has ended, or choose another --output."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        self.note = (
            f"{output.parent} is on a file system without locks: do not start a second job on the same output"
        )
        return False

    def _is_current(self, descriptor: int) -> bool:
        """Whether the locked file still has its name."""
        with suppress(OSError):
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        return False

    def release(self) -> None:
        """Removes the file and gives the lock back; safe to call twice."""
        if self._closing.alive:
            with suppress(OSError):
                self._path.unlink()
            self._closing()
