"""What a job is: a translation, where frames come from and go to, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import Engine
from i2i_runtime.files import Kept
from i2i_runtime.pipeline import Policy
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sources import SourceOptions
from i2i_runtime.stages import Stage
from i2i_runtime.uri import Uri
from i2i_runtime.web.auth import Access


@dataclass(frozen=True)
class Translation:
    """What is done to each frame, the same for every input.

    `style` is float32 `[1, S]` or None for the engine's default. `stages` makes the stages of one job, because stages
    remember frames. `steady` also reduces the noise of the source. `engine_file` and `engine_sha256` name the engine in
    reports. `style_file` is the reference image of the style, if there is one.
    """

    engine: Engine
    engine_file: str = ""
    engine_sha256: str = ""
    style: NDArray[np.float32] | None = None
    stages: Callable[[], Sequence[Stage]] = tuple
    steady: bool = False
    style_file: Path | None = None


@dataclass(frozen=True)
class Job:
    """One input, its outputs, and the pace between them.

    `policy` None means freshest for live inputs and every-frame for others.
    `limit` stops after that many frames; `max_staleness_s` drops frames that waited longer; `stall_s` stops the job if
    a source, engine or output does not respond for that long. `metrics` is where Prometheus metrics are served.
    `report` is the JSON file that is written at the end, `record` the options that it stores.
    """

    input: Uri
    outputs: tuple[Uri, ...]
    source: SourceOptions = field(default_factory=SourceOptions)
    sink: SinkOptions = field(default_factory=SinkOptions)
    policy: Policy | None = None
    limit: int | None = None
    max_staleness_s: float | None = None
    stall_s: float = 60.0
    metrics: Access | None = None
    report: Path | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def input_path(self) -> Path | None:
        """The file, folder or glob that the input names; None for devices, streams and scenes."""
        if self.input.scheme == "replay":
            return Path(self.input.location)
        return self.input.path if self.input.scheme == "file" else None

    @property
    def target(self) -> Path | None:
        """The only output, if it is a path."""
        first = self.outputs[0]
        return first.path if len(self.outputs) == 1 and first.scheme == "file" else None


def files_read(translation: Translation, job: Job) -> tuple[Kept, ...]:
    """The files that a job reads, which nothing that it writes may replace."""
    engine = Path(translation.engine_file) if translation.engine_file else None
    server = job.sink.server
    read = [
        (job.input_path, "the input"),
        (engine, "the engine"),
        (engine and engine.with_name(f"{engine.name}.json"), "the description of the engine"),
        (translation.style_file, "the image of --style"),
        (server.token_file, "the token file"),
        (server.tls_cert, "the certificate"),
        (server.tls_key, "the key of the certificate"),
    ]
    return tuple(Kept(path, role) for path, role in read if path is not None)


def files_written(job: Job) -> tuple[Kept, ...]:
    """The outputs of a job that are files or folders."""
    return tuple(Kept(uri.path, "an output of this job") for uri in job.outputs if uri.scheme == "file")


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `exit_code` 0 or, for a damaged input, 1; `sentence` for people; `report` for programs."""

    exit_code: int
    sentence: str
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> str:
        """What went wrong: all that is told under `--quiet`."""
        lines = self.sentence.splitlines()
        return "\n".join([line for line in lines if line.startswith(("lost: ", "failed: ", "and "))] or lines)
