"""Sources: cameras, clips, streams and synthetic scenes behind one verb."""

from __future__ import annotations

from typing import Protocol

from i2i_runtime.frame import Frame


class Source(Protocol):
    """Delivers frames in order.

    `live` sources go on whether or not they are read, so that stale frames are dropped; others wait.
    `frame_count` is the expected number of frames, None where the source cannot know.
    """

    name: str
    live: bool
    frame_count: int | None

    def read(self) -> Frame | None:
        """The next frame, or None at the end. Blocks; raises SourceError."""

    def close(self) -> None:
        """Releases the device or file; a blocked `read` in another thread returns soon after."""
