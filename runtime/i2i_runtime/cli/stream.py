"""i2i-stream: translates the frames of a camera, clip or folder, live or into a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import version

import tyro

from i2i_runtime.cli.options import StreamOptions, refuse_strays


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code. Raises I2IError and KeyboardInterrupt."""
    if list(arguments) == ["--version"]:
        print(f"i2i-stream {version('i2i-stream')}")
        return 0
    if arguments[:1] == ["verify"]:
        from i2i_runtime.cli.verify import main as verify

        return verify(arguments[1:])
    refuse_strays(arguments)
    return stream(
        tyro.cli(StreamOptions, prog="i2i-stream", args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    )


def stream(options: StreamOptions) -> int:
    """Does what the options say and returns the exit code. Raises I2IError and KeyboardInterrupt."""
    from i2i_runtime.batch import batch_from_job, run_batch
    from i2i_runtime.cli.build import job_from_options, translation_from_options
    from i2i_runtime.logs import log_opened
    from i2i_runtime.progress import ProgressLine

    with log_opened(as_json=options.json), ProgressLine(silent=options.quiet or options.json) as progress:
        batch = batch_from_job(job_from_options(options))
        translation = translation_from_options(options, batch.job)
        with closing(translation.engine):
            outcome = run_batch(translation, batch, progress)
        progress.say(outcome.sentence)
    if options.quiet and outcome.exit_code != 0:
        print(f"i2i-stream: {outcome.failure}", file=sys.stderr)
    return outcome.exit_code
