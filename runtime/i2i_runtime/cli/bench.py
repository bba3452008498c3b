"""i2i-bench: an engine alone, in the pipeline, and end to end, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from i2i_runtime.errors import UsageError
from i2i_runtime.terminal import printable
from i2i_runtime.uri import redact

if TYPE_CHECKING:
    from i2i_runtime.frame import Image


@dataclass(frozen=True)
class BenchOptions:
    """Measures an engine alone, in the pipeline without devices, and end to end.

    i2i-bench day2night --input drive.mp4 --json new.json

    i2i-bench compare old.json new.json
    """

    engine: Annotated[str, tyro.conf.Positional]
    """Engine file (.onnx or .plan), or the name of one that ships."""
    input: Annotated[str, tyro.conf.arg(aliases=["-i"])] = "test://street"
    """Clip, folder or scene to measure with."""
    size: str | None = None
    """WxH that images are scaled to; by default the size of the input."""
    backend: Literal["tensorrt", "openvino", "onnxruntime"] | None = None
    """Back end; by default the fastest that this machine has."""
    threads: int | None = None
    """Processor threads of the engine."""
    seconds: float = 10.0
    """How long the engine alone is measured, in seconds."""
    frames: int = 200
    """Frames through the pipeline, per repeat."""
    repeats: int = 5
    """Runs of each level; their median is reported, their spread is the noise."""
    json: Path | None = None
    """Writes the record here, for `i2i-bench compare`."""
    chart: Path | None = None
    """Draws the three frame rates, and the scaling if measured, as PNG."""
    scaling: bool = False
    """Also measures several resolutions (256 to 2160p) and several streams at once."""


@dataclass(frozen=True)
class CompareOptions:
    """Compares two records of i2i-bench: faster, slower, or the same within their noise."""

    old: Annotated[Path, tyro.conf.Positional]
    """Record before the change."""
    new: Annotated[Path, tyro.conf.Positional]
    """Record after the change."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns 0, for `compare` 1 if the new record is slower. Raises I2IError and KeyboardInterrupt."""
    if arguments[:1] == ["compare"]:
        return compare(tyro.cli(CompareOptions, prog="i2i-bench compare", args=arguments[1:]))
    bench(tyro.cli(BenchOptions, prog="i2i-bench", args=arguments))
    return 0


def bench(options: BenchOptions) -> dict[str, Any]:
    """Measures, prints and writes; returns the record. Raises I2IError."""
    from i2i_runtime.bench import measure
    from i2i_runtime.bench.tables import print_record
    from i2i_runtime.engines import engine_path, open_engine
    from i2i_runtime.files import sha256_of_file
    from i2i_runtime.machine import describe_machine, usable_cores
    from i2i_runtime.media.size import parse_size
    from i2i_runtime.report import write_json

    if options.repeats < 1 or options.frames < 2 or options.seconds <= 0:
        raise UsageError("--repeats, --frames and --seconds must be positive, with at least two frames.")
    path = engine_path(options.engine)
    size = parse_size(options.size)
    images = measure.sample_images(options.input, size)
    height, width = images[0].shape[:2]
    start = measure.measure_start(path, options.backend, options.threads, images[0])
    with closing(open_engine(path, options.backend, options.threads)) as engine:
        alone = measure.engine_alone(engine, images, options.seconds, options.repeats)
        backend, reason, metadata = engine.backend, engine.reason, engine.metadata
    piped = measure.pipeline_without_devices(
        path, options.backend, options.threads, images, options.frames, options.repeats
    )
    whole = measure.end_to_end(
        path, options.backend, options.threads, options.input, size, options.frames, options.repeats
    )
    record: dict[str, Any] = {
        "engine": metadata.name,
        "engine_sha256": sha256_of_file(path),
        "direction": metadata.direction,
        "precision": metadata.precision,
        "macs_per_pixel": metadata.macs_per_pixel,
        "backend": backend,
        "reason": reason,
        "threads": options.threads or usable_cores(),
        "input": redact(options.input),
        "input_sha256": sha256_of_file(Path(options.input)) if Path(options.input).is_file() else None,
        "width": width,
        "height": height,
        "warm_up_frames": len(images),
        "frames": options.frames,
        "repeats": options.repeats,
        "seconds": options.seconds,
        "start": start,
        "levels": [asdict(level) for level in (alone, piped, whole)],
        "limit": measure.limit_of(alone, piped, whole),
        "peak_memory_mb": round(measure.peak_memory_mb(), 1),
        "machine": describe_machine(),
    }
    if options.scaling:
        record["scaling"] = _scale(path, options, images)
    print_record(record)
    if options.json is not None:
        write_json(options.json, record)
    if options.chart is not None:
        _draw(record, options.chart)
    return record


def compare(options: CompareOptions) -> int:
    """Prints the verdicts; returns 1 if a level became slower by more than the noise. Raises UsageError."""
    from i2i_runtime.bench.compare import compare_records, differences, read_record
    from i2i_runtime.bench.tables import print_verdicts

    old, new = read_record(options.old), read_record(options.new)
    verdicts = compare_records(old, new)
    print_verdicts(verdicts)
    told = {verdict.level for verdict in verdicts}
    for level in new["levels"]:
        if level["name"] not in told:
            print(f"no verdict on {printable(level['name'])}: one of the records has no rate for it")
    for line in differences(old, new):
        print(f"changed as well: {printable(line)}")
    return int(any(verdict.word == "slower" for verdict in verdicts))


def _scale(path: Path, options: BenchOptions, images: list[Image]) -> dict[str, Any]:
    from i2i_runtime.bench import measure
    from i2i_runtime.engines import open_engine
    from i2i_runtime.errors import EngineError

    sizes: dict[str, Any] = {}
    for name, size in measure.SCALES.items():
        with closing(open_engine(path, options.backend, options.threads)) as engine:
            try:
                sample = measure.sample_images(options.input, size)
                level = measure.engine_alone(engine, sample, options.seconds / 2, 1)
                sizes[name] = {"fps": round(level.fps, 2), **level.latency_ms}
            except EngineError as error:
                sizes[name] = {"refused": str(error)}
    streams = measure.streams_at_once(path, options.backend, images, options.seconds / 2, (1, 2, 4))
    return {"sizes": sizes, "streams": streams}


def _draw(record: dict[str, Any], path: Path) -> None:
    from i2i_runtime.bench.chart import draw_bars

    title = f"{record['engine']} {record['width']}x{record['height']} {record['backend']}"
    groups = {title: {level["name"]: level["fps"] for level in record["levels"]}}
    if "scaling" in record:
        groups["engine alone by size"] = {
            n: r["fps"] for n, r in record["scaling"]["sizes"].items() if "fps" in r
        }
        groups["streams at once"] = {
            f"{r['streams']} streams": r["fps"] for r in record["scaling"]["streams"]
        }
    draw_bars(groups, "fps", path)
