"""What every source is, and a wrapper around another source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from i2i_runtime.frame import Frame


class Source(ABC):
    """Delivers frames in order. Subclass it to bring your own input; only `read` must be written.

    Set `name`, `live` and `frame_count` as attributes. `live` sources go on whether or not they are read, so a job
    drops stale frames; others wait. `frame_count` is the expected number of frames, None if it is not known.
    `replayable` says that a live source delivers the same frames again when it is opened again, so that a resumed job
    continues where it was interrupted. To report `losses`, `notes`, `outages` or `recoveries`, override the property,
    with a property or a class attribute.

    Threads: `skip_one` and `read` are called by one thread, which is not the one that made the source. `close` is
    called once or more from other threads, also while `read` blocks.

    Buffers: the pixels of a frame that `read` returned belong to the job. Do not write into them again; a source that
    reuses its memory returns a copy.
    """

    name: str = "source"
    delivers: str = ""
    """What a device agreed to deliver, for people: size, format and rate."""
    live: bool = False
    frame_count: int | None = None
    replayable: bool = False

    @abstractmethod
    def read(self) -> Frame | None:
        """The next frame, or None at the end. May block; raises SourceError."""

    def skip_one(self) -> bool:
        """Skips one frame that a resumed job has done before; False once none is left. Raises SourceError.

        Called before the first `read` until it returns False. `SourceOptions.skip` says how many there are.
        """
        return False

    def close(self) -> None:  # noqa: B027 (an empty default, not a forgotten abstract method)
        """Releases the device or file. A `read` that blocks meanwhile returns soon after; later ones give None."""

    @property
    def losses(self) -> Sequence[str]:
        """One sentence for each part of a damaged input that could not be read. A job with losses exits with 1."""
        return ()

    @property
    def notes(self) -> Sequence[str]:
        """What was done to the frames unasked, or should be known about them, one sentence each."""
        return ()

    @property
    def outages(self) -> int:
        """How often the connection to the source was lost."""
        return 0

    @property
    def recoveries(self) -> int:
        """How often it was restored."""
        return 0


class SourceWrapper(Source):
    """Passes everything on to another source; a subclass overrides what it changes, mostly `read`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = source.name
        self.delivers = source.delivers
        self.live = source.live
        self.frame_count = source.frame_count
        self.replayable = source.replayable

    def read(self) -> Frame | None:
        return self._source.read()

    def skip_one(self) -> bool:
        return self._source.skip_one()

    def close(self) -> None:
        self._source.close()

    @property
    def losses(self) -> Sequence[str]:
        return self._source.losses

    @property
    def notes(self) -> Sequence[str]:
        return self._source.notes

    @property
    def outages(self) -> int:
        return self._source.outages

    @property
    def recoveries(self) -> int:
        return self._source.recoveries


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about any input.

    `size` asks cameras, screens and synthetic scenes for (width, height); files keep their own. `rate` is the
    desired number of frames per second. `timeout_s` limits the wait for a frame. `tonemap` converts high dynamic
    range to BT.709. `deinterlace` makes progressive frames of the fields of files. `skip` is the number of frames
    that an earlier run of a resumed job has done. `tls_insecure` takes streams from servers whose certificate
    cannot be checked.
    """

    size: tuple[int, int] | None = None
    rate: int | None = None
    timeout_s: float = 10.0
    tonemap: bool = False
    deinterlace: bool = False
    skip: int = 0
    tls_insecure: bool = False
