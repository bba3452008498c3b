"""What every sink is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from i2i_runtime.files import Kept
from i2i_runtime.frame import Frame
from i2i_runtime.web.auth import ServerOptions


class Closed(Exception):
    """Raised by `Sink.write` if the user closed the output: the job ends normally, as at the end of the input."""


class Sink(ABC):
    """Takes translated frames in order. Subclass it to bring your own output; only `write` must be written.

    Set `name` as an attribute. To report `done`, `notes`, `dropped` or `outages`, override the property with a
    property or a class attribute.

    Threads: `write` and `finish` are called by one thread, which is not the one that made the sink and which no other
    sink shares. `close` is called by the thread that runs the job, `end_early` by any thread while `write` runs.

    Buffers: all sinks of a job get the same frames. Do not write into their pixels; they may be kept.
    """

    name: str = "sink"
    resumable: bool = False
    """Whether the sink continues what an interrupted run of the same job left."""

    @abstractmethod
    def write(self, translated: Frame, source: Frame) -> None:
        """Takes one translated frame and the source frame it was made from. May block.

        Raises SinkError, which ends the job as a failure, and Closed, which ends it normally.
        """

    def finish(self) -> None:  # noqa: B027 (an empty default, not a forgotten abstract method)
        """Completes the output after its last frame: flushes, renames the partial file. Raises SinkError.

        Not called if the job fails: what was written must not look like a finished output then.
        """

    def close(self) -> None:  # noqa: B027
        """Releases everything; safe to call twice, and after a failure."""

    def keep_all(self) -> None:  # noqa: B027
        """Told before the first frame of a live source: frames that are done do not come again, times start anew."""

    def end_early(self) -> None:  # noqa: B027
        """Told that the user ended the job before the end of the input; `finish` follows after the last frames."""

    @property
    def done(self) -> int:
        """How many frames an earlier run of the same job has written."""
        return 0

    @property
    def notes(self) -> Sequence[str]:
        """What was not done as asked, one sentence each, for the summary; complete after `finish`."""
        return ()

    @property
    def dropped(self) -> int:
        """Frames that `write` took and the output could not deliver."""
        return 0

    @property
    def outages(self) -> int:
        """How often the connection to the output was lost."""
        return 0


@dataclass(frozen=True)
class SinkOptions:
    """What a user may say about any output.

    `codec`, `crf`, `preset` and `encoder` (option -> value, as the encoder names them) configure encoded video; None
    leaves each to the default of its kind. `rate` is frames per second if the source states none. `cut` ends copied
    audio where the images end. `job` describes what is being done, so that only the same job resumes an unfinished
    output; `resume` continues it, `restart` deletes it. `stamp` marks a finished video as that of this job (see
    `sinks.stamp`). `kept` are the files that must not be written over. `server` guards outputs that are servers.
    `beside` says that the job has other outputs, which a preview must not slow down. `tls_insecure`
    pushes to servers whose certificate cannot be checked.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    encoder: dict[str, str] = field(default_factory=dict)
    rate: int | None = None
    cut: bool = False
    job: dict[str, str] = field(default_factory=dict)
    stamp: bytes | None = None
    kept: tuple[Kept, ...] = ()
    resume: bool = False
    restart: bool = False
    server: ServerOptions = field(default_factory=ServerOptions)
    beside: bool = False
    tls_insecure: bool = False
