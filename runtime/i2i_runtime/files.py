"""What the whole runtime knows about files: what may be written, complete writes, digests, endings, reasons."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

IMAGE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jp2", ".avif")
)
"""The endings, in lower case, of files that are read as images."""

CLIP_ENDINGS = frozenset(
    (
        ".mp4",
        ".m4v",
        ".mov",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".wmv",
        ".flv",
        ".ogv",
        ".3gp",
        ".mts",
        ".m2v",
        ".vob",
        ".mxf",
        ".asf",
        ".dv",
        ".y4m",
        ".h264",
        ".264",
        ".h265",
        ".265",
        ".hevc",
    )
)
"""The endings, in lower case, of files that a folder of clips is made of."""


_SIDECARS = frozenset(("thumbs.db", "desktop.ini", ".ds_store"))


def is_sidecar(path: Path) -> bool:
    """Whether a file system keeps its own notes in a file, whatever its ending: `._clip.mp4` is not a clip."""
    return path.name.startswith("._") or path.name.lower() in _SIDECARS


_BLOCK = 1 << 16
_NOT_FILES = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True)
class Kept:
    """A file that a command must not write over; `role` names it in the refusal ("the input")."""

    path: Path
    role: str


def refusal_of_target(
    path: Path, kept: Iterable[Kept] = (), *, is_own: Callable[[Path], bool] | None = None
) -> str | None:
    """Why a command must not write the file `path`, as the end of a sentence ("is the input"); None if it may.

    Every command asks here. A kept file is recognised under any spelling of its path and through links. Only files
    are written, so pipes, devices, sockets and folders are refused. `is_own` says whether an existing file is one that
    the command may replace; None allows any.
    """
    for one in kept:
        if same_file(path, one.path):
            return f"is {one.role}"
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None  # it does not exist, or writing it says better what is wrong
    for is_kind, kind in _NOT_FILES:
        if is_kind(mode):
            return f"is {kind}, not a file"
    if is_own is not None and not is_own(path):
        return "exists and holds something else"
    return None


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, or would be on a file system that ignores case."""
    with suppress(OSError, ValueError):
        return os.path.samefile(one, other)
    if os.path.exists(one) or os.path.exists(other):
        return False
    with suppress(OSError, ValueError):
        return folded(os.path.realpath(one)) == folded(os.path.realpath(other))
    return False


def folded(name: str) -> str:
    """A form that is the same for all names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a new file beside `path` to write to; it takes the final name if the block ends without an error.

    Until then an existing file stays as it is. The folder is created if it is missing. A symbolic link is replaced,
    not followed. Raises OSError, also if `path` is something else than a file.
    """
    if (refusal := refusal_of_target(path)) is not None:
        raise OSError(errno.EINVAL, f"it {refusal}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at the same time, and nobody may place a link here beforehand.
    partial = path.with_name(f".{path.name[:50]}.{secrets.token_hex(4)}.partial")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder survive a power cut, if its file system can. Raises OSError for a failing disk."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return  # a folder that may be written but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def write_whole(path: Path, content: bytes) -> None:
    """Writes the complete file or nothing; a crash in the middle leaves the old file. Raises OSError."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits in lower case. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint_of_file(path: Path) -> str:
    """A digest of a file's size and of 66 blocks of it, in constant time however large it is. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.sha256(str(size).encode())
        last = max(0, size - _BLOCK)
        for begin in sorted({last * number // 65 for number in range(66)}):
            file.seek(begin)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def reason_of(error: BaseException, *, last: bool = False) -> str:
    """The part of an error's message that fits into a sentence of ours: its first line, without a full stop.

    `last` takes the last line, for libraries that print their call stack before the reason. The name of the error's
    class if it has no message; at most 200 characters.
    """
    text = str(getattr(error, "strerror", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1 if last else 0][:200].rstrip(".") if lines else type(error).__name__
