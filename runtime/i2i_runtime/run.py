"""Runs one job: opens its input and outputs, runs the pipeline, and writes the report whatever the end."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from i2i_runtime.errors import UsageError
from i2i_runtime.files import fingerprint_of_file
from i2i_runtime.job import Job, Outcome, Translation, files_read, files_written
from i2i_runtime.logs import event
from i2i_runtime.media.images import image_paths
from i2i_runtime.notify import Notifier
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.progress import ProgressLine
from i2i_runtime.report import check_json_target, describe, summary, write_json
from i2i_runtime.sinks import Sink, SinkOptions, open_sink
from i2i_runtime.sinks.stamp import digest_of_job
from i2i_runtime.sources import Source, open_source
from i2i_runtime.stages.temporal import HeldSource
from i2i_runtime.stats import JobStats, Progress
from i2i_runtime.uri import Uri
from i2i_runtime.web.auth import Access

_log = logging.getLogger(__name__)


def run_job(translation: Translation, job: Job, progress: ProgressLine) -> Outcome:
    """Does one job and writes its report, whatever the end. Raises I2IError and KeyboardInterrupt."""
    engine = translation.engine
    kept = files_read(translation, job)
    if job.report is not None:
        check_json_target(job.report, [*kept, *files_written(job)])
    identity, stamp = _identity(translation, job), stamp_of_job(translation, job)
    options = replace(job.sink, job=identity, stamp=stamp, kept=kept)
    source, sinks = _opened(job, options)
    if source.delivers:
        progress.say(f"{source.name} delivers {source.delivers}")
    if translation.steady:
        source = HeldSource(source)
    pipeline = Pipeline(
        source,
        engine,
        sinks,
        policy=job.policy or ("freshest" if source.live else "every-frame"),
        stages=translation.stages(),
        style=translation.style,
        size=job.source.size,
        limit=job.limit,
        max_staleness_s=job.max_staleness_s,
        stall_s=job.stall_s,
    )
    stats = pipeline.stats
    notifier = Notifier.from_environment()

    def watch(standing: Progress) -> None:
        progress.show(standing)
        notifier.feed(standing)

    ended = "failed"
    try:
        with _metrics_served(job.metrics, stats):
            pipeline.run(watch)
        ended = "damaged" if stats.losses else "done"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        notifier.stopping()
        report = describe(translation, job, stats, ended)
        counts = {"frames": stats.frames_out, "dropped": stats.dropped, "losses": len(stats.losses)}
        _log.info("%s: %s", job.input.shown, ended, extra=event("ended", outcome=ended, **counts))
        if job.report is not None:
            write_json(job.report, report)
    return Outcome(1 if stats.losses else 0, summary(job, stats), report)


def open_sinks(outputs: Sequence[Uri | str], options: SinkOptions) -> list[Sink]:
    """All outputs of one job, or none. Raises SinkError and UsageError."""
    sinks: list[Sink] = []
    try:
        options = replace(options, beside=len(outputs) > 1)
        sinks.extend(open_sink(output, options) for output in outputs)
    except BaseException:
        _close_all(sinks)
        raise
    return sinks


def _identity(translation: Translation, job: Job) -> dict[str, str]:
    """What an unfinished output must have in common with the job that resumes it: a changed input is another job."""
    named = {"input": job.input.shown}
    path = job.input_path
    if path is not None and path.is_file():
        status = path.stat()
        scheme = "" if job.input.scheme == "file" else f"{job.input.scheme}:"
        named = {"input": f"{scheme}{path.resolve()}"}
        named |= {"input_bytes": str(status.st_size), "input_modified_ns": str(status.st_mtime_ns)}
    elif path is not None:
        named |= {"input_files": _listing_digest(image_paths(job.input.location))}
    return {
        **named,
        "engine": translation.engine_sha256,
        "backend": translation.engine.backend,
        **job.sink.job,
    }


def _listing_digest(paths: Sequence[Path]) -> str:
    """A digest of names, sizes and times of files."""
    listing = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def stamp_of_job(translation: Translation, job: Job) -> bytes:
    """What a finished video is marked with: the same for the same content of the input, engine and options.

    Neither the name nor the time of the input changes it.
    """
    path = job.input_path
    if path is None:
        content = job.input.text
    elif path.is_file():
        content = fingerprint_of_file(path)
    else:
        content = _listing_digest(image_paths(job.input.location))
    return digest_of_job({**job.sink.job, "engine": translation.engine_sha256, "content": content})


def _opened(job: Job, options: SinkOptions) -> tuple[Source, list[Sink]]:
    """Input and outputs of a job, or none of them.

    A wrong input is told before a missing screen. Only a job that is resumed asks its output first, for how many
    frames are done.
    """
    if job.sink.resume:
        sinks = open_sinks(job.outputs, options)
        try:
            return open_source(job.input, replace(job.source, skip=_done(sinks, job.sink))), sinks
        except BaseException:
            _close_all(sinks)
            raise
    source = open_source(job.input, job.source)
    try:
        return source, open_sinks(job.outputs, options)
    except BaseException:
        source.close()
        raise


def _done(sinks: Sequence[Sink], options: SinkOptions) -> int:
    """How many frames a resumed job need not do again. Raises UsageError."""
    if not options.resume:
        return 0
    resumable = [sink.done for sink in sinks if sink.resumable]
    if len(resumable) != 1:
        raise UsageError("--resume continues exactly one video file: give it as the only --output.")
    return resumable[0]


@contextmanager
def _metrics_served(access: Access | None, stats: JobStats) -> Iterator[None]:
    """Serves the metrics of a job while it runs, if an address is given. Raises UsageError and SinkError."""
    if access is None:
        yield
        return
    from i2i_runtime.prometheus import MetricsServer

    try:
        server = MetricsServer(access, stats)
    except BaseException:
        _close_all([stats.source, *stats.sinks])
        raise
    with closing(server):
        yield


def _close_all(opened: Sequence[Sink | Source]) -> None:
    for one in opened:
        one.close()
