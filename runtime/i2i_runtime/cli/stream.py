"""i2i-stream: frames of a camera, clip or folder through an engine, live or as a file."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from i2i_runtime.errors import I2IError, UsageError

INTERRUPTED = 130


@dataclass(frozen=True)
class StreamOptions:
    """Translates what a camera, clip, stream or folder shows.

    i2i-stream --engine day2night --camera 0
    i2i-stream --engine day2night --input drive.mp4 --output night.mp4
    i2i-stream verify drive.mp4 night.mp4
    """

    engine: Annotated[str, tyro.conf.arg(aliases=["-m"])]
    """Engine file (.onnx or .plan), or the name of one that ships."""
    input: Annotated[str | None, tyro.conf.arg(aliases=["-i"])] = None
    """What to translate: a video, folder or quoted glob, replay:CLIP, rtsp://..., test://street, or a camera number."""
    camera: int | None = None
    """Camera number: the same as --input NUMBER."""
    output: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(aliases=["-o"])] = field(
        default_factory=list
    )
    """Where to: a video file, a folder, display://0, null:, ... May be given several times."""
    style: str | None = None
    """A preset's name, numbers with commas, random:SEED, or a picture to take the style of."""
    size: str | None = None
    """WxH that pictures are scaled to; cameras and scenes deliver it."""
    policy: Literal["auto", "every-frame", "freshest", "no-clock"] = "auto"
    """every-frame loses nothing, freshest never falls behind, no-clock does not wait for a replay's pace."""
    max_staleness: float | None = None
    """Seconds after which a frame that still waits is dropped."""
    limit: int | None = None
    """Ends after so many frames."""
    rate: int | None = None
    """Frames per second asked of a camera, or given to pictures and scenes."""
    backend: Literal["tensorrt", "openvino", "onnxruntime"] | None = None
    """Back end; the fastest one that this machine has, unless said."""
    threads: int | None = None
    """Processor threads of the engine."""
    compare: bool = False
    """Source and translated side by side."""
    tonemap: bool = False
    """Brings high dynamic range down to BT.709 instead of refusing it."""
    codec: str | None = None
    """Video encoder, libx264 unless said."""
    crf: int | None = None
    """Quality of the encoder: lower is better and larger."""
    preset: str | None = None
    """Speed preset of the encoder."""
    encoder_option: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(aliases=["-e"])] = field(
        default_factory=list
    )
    """KEY=VALUE for the encoder, as FFmpeg names it. May be given several times."""
    resume: bool = False
    """Goes on with an output that was begun and not finished."""
    restart: bool = False
    """Throws an unfinished output away and begins anew."""
    report: Path | None = None
    """Writes counts, latencies and back end to this JSON file."""
    quiet: bool = False
    """No progress bar and no closing lines."""


def main() -> None:
    """The command. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options = tyro.cli(StreamOptions, prog="i2i-stream", args=arguments)
        sys.exit(stream(options))
    except I2IError as error:
        print(f"i2i-stream: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("i2i-stream: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def stream(options: StreamOptions) -> int:
    """Does the job and returns the exit code. Raises I2IError and KeyboardInterrupt."""
    from i2i_runtime.compare import SideBySide
    from i2i_runtime.engines import engine_path, open_engine
    from i2i_runtime.pipeline import Pipeline
    from i2i_runtime.report import describe, file_sha256, write_json
    from i2i_runtime.sinks import SinkOptions, open_sink
    from i2i_runtime.sources import SourceOptions, open_source
    from i2i_runtime.style import style_from_text

    size = _size(options.size)
    text = _input(options)
    path = engine_path(options.engine)
    engine = open_engine(path, options.backend, options.threads)
    sha256 = file_sha256(path)
    style = None if options.style is None else style_from_text(options.style, engine.metadata, path)
    sink_options = SinkOptions(
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        encoder=_encoder_options(options.encoder_option),
        rate=options.rate,
        job=_job(options, text, sha256, engine.backend),
        resume=options.resume,
        restart=options.restart,
    )
    source = open_source(text, SourceOptions(size=size, rate=options.rate, tonemap=options.tonemap))
    sinks = [open_sink(output, sink_options) for output in options.output or ["display://0"]]
    policy = (
        options.policy
        if options.policy in ("every-frame", "freshest")
        else ("freshest" if source.live else "every-frame")
    )
    pipeline = Pipeline(
        source,
        engine,
        sinks,
        policy=policy,
        stages=[SideBySide()] if options.compare else [],
        style=style,
        size=size,
        limit=options.limit,
        max_staleness_s=options.max_staleness,
    )
    outcome = "failed"
    try:
        pipeline.run()
        outcome = "damaged input" if pipeline.losses else "done"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        if options.report is not None:
            write_json(
                options.report,
                describe(
                    pipeline,
                    engine,
                    engine_path=path,
                    engine_sha256=sha256,
                    options={},
                    notes=[],
                    outcome=outcome,
                ),
            )
    return 1 if pipeline.losses else 0


def _input(options: StreamOptions) -> str:
    if (options.input is None) == (options.camera is None):
        raise UsageError("Say what to translate with either --input or --camera.")
    return options.input if options.input is not None else str(options.camera)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, x, height = text.lower().partition("x")
    if not (
        x
        and width.isdecimal()
        and height.isdecimal()
        and 0 < int(width) <= 65536
        and 0 < int(height) <= 65536
    ):
        raise UsageError(f"--size {text} is no size: write WIDTHxHEIGHT, for example 1280x720.")
    return int(width), int(height)


def _encoder_options(pairs: list[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"-e {pair} is no option: write KEY=VALUE, for example -e tune=film.")
        options[key] = value
    return options


def _job(options: StreamOptions, text: str, engine_sha256: str, backend: str) -> dict[str, str]:
    """What an unfinished output must have in common with the run that goes on with it."""
    asked = {
        key: str(getattr(options, key))
        for key in (
            "style",
            "size",
            "compare",
            "codec",
            "crf",
            "preset",
            "encoder_option",
            "limit",
            "tonemap",
        )
    }
    return {"input": text, "engine": engine_sha256, "backend": backend, **asked}
