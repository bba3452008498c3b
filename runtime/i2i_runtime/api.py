"""The runtime from Python: translate files, and iterate over the translated frames of any input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.batch import batch_from_job, run_batch
from i2i_runtime.engines import Backend, Engine, engine_path, open_engine, slots_for_throughput
from i2i_runtime.files import sha256_of_file
from i2i_runtime.frame import Frame
from i2i_runtime.job import Job, Outcome, Translation
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.progress import ProgressLine
from i2i_runtime.queues import Aborted, Channel
from i2i_runtime.sinks import Closed, Sink, SinkOptions
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.stages import Stage
from i2i_runtime.style import style_from_text
from i2i_runtime.uri import Uri, parse_uri

Stages: TypeAlias = Callable[[], Sequence[Stage]]


def translate(
    input: str | Path,
    output: str | Path | Sequence[str | Path],
    *,
    engine: str | Path | Engine,
    style: str | NDArray[np.float32] | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    stages: Stages = tuple,
    sink: SinkOptions | None = None,
    backend: Backend | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Outcome:
    """Translates an input into one or more outputs, as `i2i-stream` does; returns when it is done.

    Args:
        input: A video, a folder of clips or images, a glob, a camera number, `rtsp://...`, `test://street`.
        output: A video file, a folder, `display://0`, `mjpeg://@:8080`, `rtmp://...`, `null:`, or several of them.
        engine: An engine file, the name of an engine that ships, or an open engine, which stays open.
        style: A style code `[1, S] float32`, or a text as `--style` takes it; None for the engine's default.
        size: (width, height) in pixels that frames are scaled to; None keeps them.
        limit: The number of frames after which the job ends.
        stages: Makes the stages of one job, for example `lambda: [MyStage()]`.
        sink: Codec, quality, `resume=True` to continue an unfinished output, `restart=True` to delete it.
        backend: `tensorrt`, `openvino` or `onnxruntime`; None for the fastest that this machine has.
        threads: Processor threads of the engine.
        progress: Shows the progress line of the command on standard error.

    Returns:
        The outcome: `exit_code` is 0, or 1 if the input was damaged; `report["losses"]` names what was lost.

    Raises:
        I2IError: Its subclasses UsageError, EngineError, SourceError and SinkError say in one sentence what failed.
        KeyboardInterrupt: The user pressed Ctrl-C; a video file is left to be resumed.
    """
    several = [output] if isinstance(output, (str, Path)) else output
    sink = sink or SinkOptions()
    encoder = {key: str(asdict(sink)[key]) for key in ("codec", "crf", "preset", "encoder", "rate")}
    identity = {"size": str(size), "limit": str(limit), **encoder}
    style_text = style if isinstance(style, str) or style is None else style.tolist()
    job = Job(
        input=parse_uri(str(input)),
        outputs=tuple(parse_uri(str(one)) for one in several),
        source=SourceOptions(size=size, rate=sink.rate),
        sink=replace(sink, cut=limit is not None, job={**identity, "style": str(style_text), **sink.job}),
        limit=limit,
    )
    batch = batch_from_job(job)
    with (
        _opened(engine, style, stages, job.input, backend, threads) as translation,
        ProgressLine(silent=not progress) as line,
    ):
        return run_batch(translation, batch, line)


def frames(
    input: str | Path,
    *,
    engine: str | Path | Engine,
    style: str | NDArray[np.float32] | None = None,
    size: tuple[int, int] | None = None,
    limit: int | None = None,
    stages: Stages = tuple,
    backend: Backend | None = None,
    threads: int | None = None,
) -> Iterator[Frame]:
    """Iterates over the translated frames of an input; the arguments are those of `translate`.

    Each frame has `pixels` `[H, W, 3] uint8 RGB`, full range, which belong to the caller, and its exact time `time_s`
    in seconds. Decoding and translation run ahead in threads of their own. Every frame of a file is delivered; of a
    live input the newest, so a slow loop skips frames instead of falling behind. Leaving the loop closes the input.

    Raises I2IError at the frame that fails.
    """
    uri = parse_uri(str(input))
    with _opened(engine, style, stages, uri, backend, threads) as translation:
        source = open_source(uri, SourceOptions(size=size))
        sink = _Iteration(keep_newest=source.live)
        pipeline = Pipeline(
            source,
            translation.engine,
            [sink],
            policy="freshest" if source.live else "every-frame",
            stages=translation.stages(),
            style=translation.style,
            size=size,
            limit=limit,
            stall_s=math.inf,  # the caller's loop may take as long as it likes
        )
        yield from sink.frames_of(pipeline)


class _Iteration(Sink):
    """Hands frames over to the thread that iterates."""

    name = "iteration"

    def __init__(self, *, keep_newest: bool) -> None:
        self._channel: Channel[Frame] = Channel(1, keep_newest=keep_newest)

    def write(self, translated: Frame, source: Frame) -> None:
        try:
            self._channel.put(translated)
        except Aborted:
            raise Closed from None

    def frames_of(self, pipeline: Pipeline) -> Iterator[Frame]:
        """Runs the pipeline in a thread of its own until it ends or the caller leaves the loop."""
        failures: list[BaseException] = []

        def run() -> None:
            try:
                pipeline.run()
            except BaseException as error:
                failures.append(error)
            finally:
                self._channel.close()

        thread = Thread(target=run, name="frames", daemon=True)
        thread.start()
        try:
            while (taken := self._channel.get()) is not None:
                yield taken[1]
        finally:
            self._channel.abort()
            pipeline.stats.source.close()
            thread.join()
        if failures:
            raise failures[0]


@contextmanager
def _opened(
    engine: str | Path | Engine,
    style: str | NDArray[np.float32] | None,
    stages: Stages,
    source: Uri,
    backend: Backend | None,
    threads: int | None,
) -> Iterator[Translation]:
    """The translation with its engine open; an engine that the caller opened stays open."""
    if not isinstance(engine, (str, Path)):
        code = style_from_text(style, engine.metadata, Path()) if isinstance(style, str) else style
        yield Translation(engine, style=code, stages=stages)
        return
    path = engine_path(engine)
    recorded = source.scheme in ("file", "test")
    opened = open_engine(engine, backend, threads, slots_for_throughput() if recorded else 1)
    try:
        code = style_from_text(style, opened.metadata, path) if isinstance(style, str) else style
        style_file = Path(style) if isinstance(style, str) else None
        yield Translation(opened, str(path), sha256_of_file(path), code, stages, style_file=style_file)
    finally:
        opened.close()
