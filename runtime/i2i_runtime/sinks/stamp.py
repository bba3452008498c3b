"""Which job a finished video is of: a mark behind its last byte, which players pass over.

MP4 and QuickTime hold it in a `uuid` box (ISO/IEC 14496-12), Matroska and WebM in a `Void` element (RFC 8794). A file
that was cut, truncated or written by another program has none.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

_MAGIC = bytes.fromhex("6932692d73747265616d2d6a6f622d31")
_DIGEST_BYTES = 32


def digest_of_job(job: dict[str, str]) -> bytes:
    """32 bytes that depend on every entry of the description of a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).digest()


def put_stamp(path: Path, digest: bytes) -> None:
    """Marks a finished video, by its suffix, as the output of a job. Raises OSError."""
    mark = _MAGIC + digest
    if path.suffix.lower() in (".mkv", ".webm"):
        box = b"\xec" + bytes([0x80 | len(mark)]) + mark
    else:
        box = (8 + len(mark)).to_bytes(4, "big") + b"uuid" + mark
    with path.open("ab") as file:
        file.write(box)


def read_stamp(path: Path) -> bytes | None:
    """The digest of the job that finished this video; None if it has no mark. Raises OSError."""
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - len(_MAGIC) - _DIGEST_BYTES))
        mark = file.read()
    return (
        mark[len(_MAGIC) :] if mark.startswith(_MAGIC) and len(mark) == len(_MAGIC) + _DIGEST_BYTES else None
    )
