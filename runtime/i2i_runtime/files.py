"""What the whole runtime knows about files: complete writes, digests, endings, and why a library failed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    )
)
"""The endings, in lower case, of files that a folder of clips is made of."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the final name if the block ends without an error.

    Until then an existing file stays as it is. The folder is created if it is missing.
    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file at the same time.
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


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


def reason_of(error: BaseException, *, last: bool = False) -> str:
    """The part of an error's message that fits into a sentence of ours: its first line, without a full stop.

    `last` takes the last line, for libraries that print their call stack before the reason. The name of the error's
    class if it has no message; at most 200 characters.
    """
    text = str(getattr(error, "strerror", None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1 if last else 0][:200].rstrip(".") if lines else type(error).__name__
