"""i2i-stream: frames of a camera, clip or folder through an engine, live or as a file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from i2i_runtime.cli.checks import checked_input, encoder_options
from i2i_runtime.cli.entry import INTERRUPTED
from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.uri import parse_uri, redact

if TYPE_CHECKING:
    from i2i_runtime.job import Outcome, Translation
    from i2i_runtime.sinks import SinkOptions
    from i2i_runtime.stages import Stage
    from i2i_runtime.web.auth import ServerOptions

# What an unfinished output must have in common with the run that goes on with it.
_SAME_JOB = (
    "style",
    "size",
    "compare",
    "hud",
    "steady",
    "codec",
    "crf",
    "preset",
    "encoder_option",
    "limit",
    "tonemap",
    "rate",
)


@dataclass(frozen=True)
class StreamOptions:
    """Translates what a camera, clip, stream or folder shows, live or into a file.

    Live: `i2i-stream --engine day2night --camera 0`.

    A file, with its sound and its times: `i2i-stream --engine day2night --input drive.mp4 --output
    night.mp4`.

    Whether that file is whole: `i2i-stream verify drive.mp4 night.mp4`.
    """

    engine: Annotated[str, tyro.conf.arg(aliases=["-m"])]
    """Engine file (.onnx or .plan), or the name of one that ships."""
    input: Annotated[str | None, tyro.conf.arg(aliases=["-i"])] = None
    """A video, a folder of clips or images, a quoted glob, replay:CLIP, rtsp://..., test://street, or a camera."""
    camera: int | None = None
    """Camera number: the same as --input NUMBER."""
    output: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(aliases=["-o"])] = field(
        default_factory=list
    )
    """A video file, a folder, display://0, mjpeg://@:8080, rtmp://..., null:. May be given several times."""
    style: str | None = None
    """A preset's name, numbers with commas, random:SEED, or an image to take the style of."""
    size: str | None = None
    """WxH that images are scaled to; cameras and scenes deliver it."""
    policy: Literal["auto", "every-frame", "freshest", "no-clock"] = "auto"
    """every-frame loses nothing; freshest never falls behind; no-clock does not wait for a replay's own pace."""
    max_staleness: float | None = None
    """Seconds after which a frame that still waits is dropped."""
    limit: int | None = None
    """Ends after so many frames."""
    rate: int | None = None
    """Frames per second asked of a camera, or given to images and scenes."""
    backend: Literal["tensorrt", "openvino", "onnxruntime"] | None = None
    """Back end; the fastest one that this machine has, unless said."""
    threads: int | None = None
    """Processor threads of the engine."""
    compare: bool = False
    """Source and translated side by side."""
    hud: bool = False
    """Age of the image, frames per second, drops and engine time, drawn into the image."""
    steady: bool = False
    """Less flicker: holds the source against noise and blends each translated image along the motion."""
    tonemap: bool = False
    """Brings high dynamic range down to BT.709 instead of refusing it."""
    codec: str | None = None
    """Video encoder; libx264 (libvpx-vp9 for WebM) unless said."""
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
    stall: float = 60.0
    """Seconds after which a source, engine or output that does not answer ends the job."""
    metrics: str | None = None
    """Serves figures for Prometheus at this address: :9100 is this machine alone, 0.0.0.0:9100 every network."""
    token_file: Path | None = None
    """File with the token that visitors of the page and of the figures must show."""
    tls_cert: Path | None = None
    """Certificate (PEM) that encrypts the page and the figures."""
    tls_key: Path | None = None
    """Its key (PEM)."""
    json: bool = False
    """Events as JSON, one per line, instead of the progress bar."""
    quiet: bool = False
    """Nothing but errors."""


def main() -> None:
    """The command. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    signals: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    arguments = sys.argv[1:]
    try:
        if arguments == ["--version"]:
            print(f"i2i-stream {version('i2i-stream')}")
            sys.exit(0)
        if arguments[:1] == ["verify"]:
            from i2i_runtime.verify import run_verify

            sys.exit(run_verify(arguments[1:]))
        options = tyro.cli(
            StreamOptions, prog="i2i-stream", args=arguments, config=(tyro.conf.FlagCreatePairsOff,)
        )
        sys.exit(stream(options))
    except I2IError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(INTERRUPTED)
    except MemoryError:
        _complain("There is not enough memory for images of this size: add --size with a smaller one.")
        sys.exit(1)
    except Exception as error:
        # A library that is interrupted while it is imported raises an error of its own.
        if signals:
            _complain("interrupted")
            sys.exit(INTERRUPTED)
        first = str(error).strip().partition("\n")[0]
        _complain(f"This is a bug in i2i-stream ({type(error).__name__}: {first}): please report it.")
        sys.exit(1)


def stream(options: StreamOptions) -> int:
    """Does what the options say and returns the exit code. Raises I2IError and KeyboardInterrupt."""
    from i2i_runtime.job import clips_of, is_whole, translate, translate_folder
    from i2i_runtime.media.images import names_images
    from i2i_runtime.media.size import parse_size
    from i2i_runtime.progress import ProgressLine
    from i2i_runtime.report import write_json
    from i2i_runtime.sources import SourceOptions

    input_text = checked_input(options)
    size = parse_size(options.size)
    if options.json:
        from i2i_runtime.logs import open_log

        open_log(as_json=True)
    source = parse_uri(input_text)
    clips = clips_of(source.location) if source.scheme == "file" else []
    images = source.path if clips and names_images(source.location) else None
    outputs = options.output or ["display://0"]
    target = parse_uri(outputs[0])
    left_out = ""
    if clips and (len(outputs) != 1 or target.scheme != "file" or target.path.suffix):
        if images is None:
            raise UsageError(f"{source.path} is a folder of clips: give one folder as --output.")
        names = ", ".join(clip.name for clip in clips)
        left_out = (
            f"only the images in {source.path} are translated: its clips ({names}) need a folder as --output"
        )
        clips = []
    one_file = not clips and len(outputs) == 1 and target.scheme == "file"
    if options.resume and one_file and target.path.is_file() and is_whole(target.path):
        with ProgressLine(silent=options.quiet or options.json) as line:
            line.say(f"{target.path} is whole: nothing is left to do (without --resume it is made again)")
        return 0
    work = _translation(options, size, _slots(options, input_text))
    sinks = _sink_options(options, work)
    sources = SourceOptions(size=size, rate=options.rate, tonemap=options.tonemap)
    record = _record(options)
    metadata = work.engine.metadata
    with ProgressLine(silent=options.quiet or options.json) as line:
        line.say(
            f"{metadata.name} ({metadata.direction}) runs on {work.engine.backend}: {work.engine.reason}"
        )
        if left_out:
            line.say(left_out)
        if clips:

            def one(clip: Path, target: Path) -> Outcome:
                given = _with_input(sinks, clip) if clip.is_file() else replace(sinks, resume=False)
                return translate(work, f"file:{clip}", [f"file:{target}"], sources, given, line, None, record)

            outcome = translate_folder(
                clips,
                target.path,
                one,
                line,
                resume=options.resume,
                images=images,
            )
            if options.report is not None:
                write_json(options.report, outcome.report)
        else:
            line.begin(redact(input_text))
            outcome = translate(
                work,
                input_text,
                outputs,
                sources,
                _with_input(sinks, input_text),
                line,
                options.report,
                record,
            )
        line.say(outcome.sentence)
    work.engine.close()
    return outcome.exit_code


def _translation(options: StreamOptions, size: tuple[int, int] | None, slots: int) -> Translation:
    from i2i_runtime.engines import engine_path, open_engine
    from i2i_runtime.files import sha256_of_file
    from i2i_runtime.job import Translation
    from i2i_runtime.style import style_from_text
    from i2i_runtime.web.auth import open_access

    path = engine_path(options.engine)
    engine = open_engine(path, options.backend, options.threads, slots)
    return Translation(
        engine=engine,
        engine_path=path,
        engine_sha256=sha256_of_file(path),
        style=None if options.style is None else style_from_text(options.style, engine.metadata, path),
        stages=lambda: _stages(options),
        steady=options.steady,
        metrics=None if options.metrics is None else open_access(options.metrics, 9100, _server(options)),
        policy=options.policy if options.policy in ("every-frame", "freshest") else None,
        size=size,
        limit=options.limit,
        max_staleness_s=options.max_staleness,
        stall_s=options.stall,
    )


def _server(options: StreamOptions) -> ServerOptions:
    from i2i_runtime.web.auth import ServerOptions

    return ServerOptions(options.token_file, options.tls_cert, options.tls_key)


def _slots(options: StreamOptions, input_text: str) -> int:
    """Frames side by side where only their number per second counts; a live image must not wait for another."""
    from i2i_runtime.engines import slots_for_throughput

    recorded = parse_uri(input_text).scheme in ("file", "test") and options.policy != "freshest"
    return slots_for_throughput() if recorded else 1


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


def _sink_options(options: StreamOptions, work: Translation) -> SinkOptions:
    from i2i_runtime.sinks import SinkOptions

    asked = {key: str(getattr(options, key)) for key in _SAME_JOB}
    return SinkOptions(
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        encoder=encoder_options(options.encoder_option),
        rate=options.rate,
        cut=options.limit is not None,
        job={"engine": work.engine_sha256, "backend": work.engine.backend, **asked},
        resume=options.resume,
        restart=options.restart,
        server=_server(options),
    )


def _with_input(sinks: SinkOptions, source: Path | str) -> SinkOptions:
    """The same with the input named, and its size and date where it is a file: a changed clip is another
    job.
    """
    described = {"input": redact(str(source))}
    uri = parse_uri(str(source))
    path = uri.path if uri.scheme == "file" else Path(source)
    if path.is_file():
        status = path.stat()
        described |= {"input_bytes": str(status.st_size), "input_modified_ns": str(status.st_mtime_ns)}
    return replace(sinks, job={**described, **sinks.job})


def _record(options: StreamOptions) -> dict[str, Any]:
    record = asdict(options)
    for name in ("report", "token_file", "tls_cert", "tls_key"):
        record[name] = None if record[name] is None else str(record[name])
    record["input"] = None if options.input is None else redact(options.input)
    record["output"] = [redact(output) for output in options.output]
    return record


def _complain(sentence: str) -> None:
    print(f"i2i-stream: {sentence}", file=sys.stderr)
