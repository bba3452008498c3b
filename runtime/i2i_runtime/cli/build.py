"""From the options of i2i-stream to the job and the translation that the runtime works with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from i2i_runtime.cli.checks import checked_input, encoder_options
from i2i_runtime.cli.options import StreamOptions
from i2i_runtime.engines import engine_path, open_engine, slots_for_throughput
from i2i_runtime.files import sha256_of_file
from i2i_runtime.job import Job, Translation
from i2i_runtime.media.size import parse_size
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sources import SourceOptions
from i2i_runtime.stages import Stage
from i2i_runtime.style import style_from_text
from i2i_runtime.uri import parse_uri
from i2i_runtime.web.auth import ServerOptions, open_access

_METRICS_PORT = 9100


def job_from_options(options: StreamOptions) -> Job:
    """The only place where options become a job; opens nothing. Raises UsageError."""
    text, encoder = checked_input(options), encoder_options(options.encoder_option)
    server = ServerOptions(options.token_file, options.tls_cert, options.tls_key)
    return Job(
        input=text,
        outputs=tuple(map(parse_uri, options.output or ["display://0"])),
        source=SourceOptions(
            parse_size(options.size),
            options.rate,
            tonemap=options.tonemap,
            deinterlace=options.deinterlace,
            tls_insecure=options.tls_insecure,
        ),
        sink=SinkOptions(
            codec=options.codec,
            crf=options.crf,
            preset=options.preset,
            encoder=encoder,
            rate=options.rate,
            cut=options.limit is not None,
            job=options.identity(),
            resume=options.resume,
            restart=options.restart,
            server=server,
            tls_insecure=options.tls_insecure,
        ),
        policy=options.policy if options.policy in ("every-frame", "freshest") else None,
        limit=options.limit,
        max_staleness_s=options.max_staleness,
        stall_s=options.stall,
        metrics=None if options.metrics is None else open_access(options.metrics, _METRICS_PORT, server),
        report=options.report,
        record=options.record(),
    )


def translation_from_options(options: StreamOptions, job: Job) -> Translation:
    """Opens the engine that the options name. Raises EngineError, UsageError, SourceError for a style image."""
    path = engine_path(options.engine)
    # Live, each frame must come soon; otherwise only the number of frames per second counts.
    recorded = job.input.scheme in ("file", "test") and job.policy != "freshest"
    size = job.source.size
    engine = open_engine(
        options.engine,
        options.backend,
        options.threads,
        slots_for_throughput() if recorded else 1,
        device=options.device,
        size=None if size is None else (size[1], size[0]),
        build=not options.no_build,
    )
    try:
        style = None if options.style is None else style_from_text(options.style, engine.metadata, path)
    except BaseException:
        engine.close()
        raise
    return Translation(
        engine=engine,
        engine_file=str(path),
        engine_sha256=sha256_of_file(path),
        style=style,
        stages=partial(_stages, options),
        steady=options.steady,
        style_file=None if options.style is None else Path(options.style),
    )


def _stages(options: StreamOptions) -> Sequence[Stage]:
    stages: list[Stage] = []
    if options.steady:
        from i2i_runtime.stages.temporal import Steadier

        stages.append(Steadier())
    if options.compare:
        from i2i_runtime.stages.side_by_side import SideBySide

        stages.append(SideBySide())
    if options.hud:
        from i2i_runtime.stages.overlay import Hud

        stages.append(Hud())
    return stages
