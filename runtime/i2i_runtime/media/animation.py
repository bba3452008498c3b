"""Images that move: which GIF, PNG, WebP and AVIF files are clips, found out from their first bytes."""

from __future__ import annotations

from pathlib import Path

_HEAD_BYTES = 1 << 16
_GRAPHIC_CONTROL = b"\x21\xf9\x04"


def is_animated(path: Path) -> bool:
    """Whether an image file holds more than one frame; False if it cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".png", ".webp", ".avif"):
        return False
    try:
        if suffix == ".gif":
            # Each frame of an animation has such a block (GIF 89a, 23).
            return path.read_bytes().count(_GRAPHIC_CONTROL) > 1
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    if suffix == ".webp":
        return head[12:16] == b"VP8X" and bool(head[20] & 2)
    if suffix == ".avif":
        return head[4:8] == b"ftyp" and head[8:12] == b"avis"
    return b"acTL" in head.partition(b"IDAT")[0]
