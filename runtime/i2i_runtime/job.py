"""One input through the engine to its outputs, from opening to report; and a folder of clips, one after
another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import Engine
from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.files import CLIP_ENDINGS
from i2i_runtime.logs import event
from i2i_runtime.pipeline import Pipeline, Policy
from i2i_runtime.progress import ProgressLine
from i2i_runtime.report import describe, write_json
from i2i_runtime.sinks import Sink, SinkOptions, open_sink
from i2i_runtime.sinks.journal import unfinished_folder
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.stages import Stage
from i2i_runtime.stages.temporal import HeldSource
from i2i_runtime.stats import JobStats
from i2i_runtime.uri import parse_uri, redact
from i2i_runtime.web.auth import Access

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Translation:
    """What is done to frames, the same for every input: the engine and what stands around it."""

    engine: Engine
    engine_path: Path
    engine_sha256: str
    style: NDArray[np.float32] | None
    stages: Callable[[], Sequence[Stage]]
    policy: Policy | None
    size: tuple[int, int] | None
    limit: int | None
    max_staleness_s: float | None
    stall_s: float
    steady: bool = False
    metrics: Access | None = None


@dataclass
class Outcome:
    """How a job ended; `sentence` is for people, `report` is what goes into a file."""

    exit_code: int
    sentence: str
    report: dict[str, Any] = field(default_factory=dict)


def translate(
    work: Translation,
    input_text: str,
    outputs: Sequence[str],
    source_options: SourceOptions,
    sink_options: SinkOptions,
    line: ProgressLine,
    report_path: Path | None,
    record: dict[str, Any],
) -> Outcome:
    """Does one job and writes its report, whatever the end. Raises I2IError and KeyboardInterrupt."""
    sinks = open_sinks(outputs, sink_options)
    try:
        source = open_source(input_text, replace(source_options, skip=_done(sinks, sink_options)))
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    if work.steady:
        source = HeldSource(source)
    pipeline = Pipeline(
        source,
        work.engine,
        sinks,
        policy=work.policy or ("freshest" if source.live else "every-frame"),
        stages=work.stages(),
        style=work.style,
        size=work.size,
        limit=work.limit,
        max_staleness_s=work.max_staleness_s,
        stall_s=work.stall_s,
    )
    stats = pipeline.stats
    ended = "failed"
    try:
        with _figures_served(work.metrics, stats):
            pipeline.run(line.show)
        ended = "damaged" if stats.losses else "done"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        notes = [note for sink in sinks for note in sink.notes]
        report = describe(
            stats,
            work.engine,
            engine_path=work.engine_path,
            engine_sha256=work.engine_sha256,
            outcome=ended,
            input_name=redact(input_text),
            outputs=[redact(output) for output in outputs],
            options=record,
            notes=notes,
        )
        counts = {"frames": stats.frames_out, "dropped": stats.dropped, "losses": len(stats.losses)}
        _log.info("%s: %s", redact(input_text), ended, extra=event("ended", outcome=ended, **counts))
        if report_path is not None:
            write_json(report_path, report)
    return Outcome(1 if stats.losses else 0, _sentence(stats, outputs, notes), report)


@contextmanager
def _figures_served(access: Access | None, stats: JobStats) -> Iterator[None]:
    """Serves the job's figures while it runs, where an address is given. Raises UsageError and SinkError."""
    if access is None:
        yield
        return
    from i2i_runtime.prometheus import MetricsServer

    try:
        server = MetricsServer(access, stats)
    except BaseException:
        stats.source.close()
        for sink in stats.sinks:
            sink.close()
        raise
    with closing(server):
        yield


def open_sinks(outputs: Sequence[str], options: SinkOptions) -> list[Sink]:
    """All outputs of one job, or none. Raises SinkError and UsageError."""
    sinks: list[Sink] = []
    try:
        options = replace(options, beside=len(outputs) > 1)
        sinks.extend(open_sink(output, options) for output in outputs)
    except BaseException:
        for sink in sinks:
            sink.close()
        raise
    return sinks


def _done(sinks: Sequence[Sink], options: SinkOptions) -> int:
    """How many frames a resumed job need not make again. Raises UsageError."""
    if not options.resume:
        return 0
    resumable = [sink.done for sink in sinks if sink.resumable]
    if len(resumable) != 1:
        raise UsageError("--resume goes on with exactly one video file: name that one as the only --output.")
    return resumable[0]


def _sentence(stats: JobStats, outputs: Sequence[str], notes: Sequence[str]) -> str:
    uris = [parse_uri(output) for output in outputs]
    where = ", ".join(str(uri.path) if uri.scheme == "file" else uri.shown for uri in uris)
    count = "1 frame" if stats.frames_out == 1 else f"{stats.frames_out} frames"
    pace = f" ({stats.fps:.1f} new frames per second)" if stats.fps else ""
    lines = [f"{count} in {stats.elapsed_s:.1f} s{pace}, {stats.dropped} dropped, written to {where}"]
    if stats.overdue:
        lines.append(f"{stats.overdue} frames were shown older than --max-staleness allows")
    lines += list(notes)
    lines += [f"lost: {loss}" for loss in stats.losses]
    return "\n".join(lines)


def clips_of(location: str) -> list[Path]:
    """The video files of a folder, in the order of their names; none where it is no folder."""
    folder = Path(location)
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in CLIP_ENDINGS and path.is_file())


def translate_folder(
    clips: Sequence[Path],
    folder: Path,
    one: Callable[[Path, Path], Outcome],
    line: ProgressLine,
    *,
    resume: bool,
    images: Path | None = None,
) -> Outcome:
    """`one` for every clip, into `folder` under the clip's name; a clip that fails does not stop the others.

    Last come the images of the folder `images`, if that is given. With `resume`, clips whose output is whole are
    passed over. Raises KeyboardInterrupt, and UsageError where the clips themselves lie in `folder`.
    """
    if any(clip.parent.resolve() == folder.resolve() for clip in clips):
        raise UsageError(f"{folder} holds the clips themselves: choose another folder as --output.")
    failures: list[str] = []
    reports: list[dict[str, Any]] = []
    jobs = list(zip(clips, _targets(folder, clips), strict=True))
    if images is not None:
        jobs.append((images, folder))
    for number, (clip, target) in enumerate(jobs, 1):
        if resume and clip != images and is_whole(target):
            line.say(f"{number}/{len(jobs)} {clip.name}: done before")
            continue
        line.begin(f"{number}/{len(jobs)} {clip.name}")
        try:
            outcome = one(clip, target)
        except I2IError as error:
            failures.append(f"{clip.name}: {error}")
            reports.append({"input": str(clip), "outcome": "failed", "error": str(error)})
        else:
            reports.append(outcome.report)
            line.say(f"{number}/{len(jobs)} {clip.name}: {outcome.sentence}")
            if outcome.exit_code != 0:
                failures.append(f"{clip.name}: damaged, {len(outcome.report['losses'])} losses")
    whole, what = len(jobs) - len(failures), "clips" if images is None else "parts, clips and images,"
    sentence = "\n".join(
        [f"{whole} of {len(jobs)} {what} are whole", *(f"failed: {text}" for text in failures)]
    )
    return Outcome(1 if failures else 0, sentence, {"clips": reports, "failures": failures})


def is_whole(target: Path) -> bool:
    """Whether an earlier job finished this video: it stands under its name, and nothing is left to join."""
    return target.exists() and not unfinished_folder(target).exists()


def _targets(folder: Path, clips: Sequence[Path]) -> list[Path]:
    """The clips' outputs: under their own names where that container is written to, else as MP4, none of them twice."""
    from i2i_runtime.sinks.encoder import CONTAINERS

    own = [clip.suffix.lower() in CONTAINERS for clip in clips]
    wished = [clip.name if kept else f"{clip.stem}.mp4" for clip, kept in zip(clips, own, strict=True)]
    taken = set(wished)
    targets = []
    for clip, kept, name in zip(clips, own, wished, strict=True):
        if not kept and wished.count(name) > 1:
            name = f"{clip.name}.mp4"
            while name in taken:
                name = f"{name}.mp4"
            taken.add(name)
        targets.append(folder / name)
    return targets
