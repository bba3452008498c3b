"""Targets of fuzz.py about files: journals of unfinished jobs, run folders, and pairs of container and codec."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from i2i_runtime.errors import I2IError
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sinks.encoder import CONTAINERS
from i2i_runtime.sinks.journal import Journal, Segment, unfinished_folder
from i2i_runtime.sinks.video import VideoSink
from i2i_runtime.sources import SourceOptions
from i2i_runtime.sources.video import VideoSource

FRAMES = 6
_VIDEO = (
    "libx264",
    "libx265",
    "libsvtav1",
    "libvpx-vp9",
    "libvpx",
    "mpeg4",
    "ffv1",
    "prores_ks",
    "png",
    "qtrle",
    "huffyuv",
)
_AUDIO = (
    "aac",
    "libopus",
    "flac",
    "libmp3lame",
    "pcm_s16le",
    "pcm_f32be",
    "ac3",
    "alac",
    "mp2",
    "wmav2",
    "adpcm_ms",
)
_SOURCES = ("matroska", "mov", "avi", "nut", "mpegts")
_ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e308, float("nan"), float("inf"), "", "../x", "/etc/passwd", "\0", [], [[]], {},
    "9" * 5000,
    "000001.nut", "000001.again.nut", "1/0", [0], [2**63],
)  # fmt: skip


class Wrong(Exception):
    """The code answered, but the answer breaks a rule."""


def fuzz_journal(rng: random.Random, folder: Path) -> None:
    """A journal with entries of other kinds, torn, or with other names: nothing outside its folder is touched."""
    output, victim = folder / "film.mp4", folder / "victim.nut"
    victim.write_bytes(b"precious")
    unfinished = unfinished_folder(output)
    unfinished.mkdir(exist_ok=True)
    names = [f"{number:06d}{rng.choice(['', '', '', '.again'])}.nut" for number in range(3)]
    for name in names:
        (unfinished / name).write_bytes(b"x")
    lines: list[Any] = [{"job": {"engine": "e", "backend": "b"}}]
    lines += [{"file": name, "pts": [2 * i, 2 * i + 1], "time_base": ""} for i, name in enumerate(names)]
    for _ in range(rng.randint(0, 3)):
        number = rng.randrange(len(lines))
        if isinstance(lines[number], dict) and lines[number] and rng.random() < 0.8:
            lines[number][rng.choice(list(lines[number]))] = copy.deepcopy(rng.choice(_ODD))
        else:
            lines[number] = copy.deepcopy(rng.choice(_ODD))
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    if rng.random() < 0.3:
        text = text[: rng.randrange(len(text) + 1)] + rng.randbytes(rng.randint(0, 9))
    (unfinished / "journal.jsonl").write_bytes(text)
    outside = {path for path in folder.iterdir() if path != unfinished}
    try:
        journal = Journal(output, {"engine": "e", "backend": "b"})
        journal.resume()
        file = journal.next_file("nut")
        (unfinished / file).write_bytes(b"y")
        journal.record(Segment(file, (2**40,)))
        if rng.random() < 0.5:
            journal.discard()
    finally:
        if {
            path for path in folder.iterdir() if path != unfinished
        } != outside or victim.read_bytes() != b"precious":
            raise Wrong("a file outside the folder of the job was touched")


def fuzz_run_folder(rng: random.Random, folder: Path) -> None:
    """A run folder whose config or checkpoint holds something else: the trainer's own error, or an ordinary result."""
    from safetensors.numpy import save_file

    from i2i_trainer.checkpoint import VERSION, read_checkpoint, read_config, write_config
    from i2i_trainer.errors import TrainError
    from i2i_trainer.methods import METHODS

    write_config(folder, "cyclegan", METHODS["cyclegan"].config(data=folder))
    file = folder / "config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    for _ in range(rng.randint(1, 3)):
        spot = content
        while isinstance(inner := spot[key := rng.choice(list(spot))], dict) and inner and rng.random() < 0.8:
            spot = inner
        spot[key] = copy.deepcopy(rng.choice(_ODD))
        if not isinstance(content, dict):
            break
    text = json.dumps(content) if rng.random() < 0.9 else "[" * rng.randint(1, 100_000)
    file.write_text(text, encoding="utf-8")
    state = json.dumps(rng.choice([{"step": 3}, *({"step": odd} for odd in _ODD), *_ODD]))
    described = {"state": state, "method": "cyclegan", "version": str(VERSION)}
    save_file({"net.weight": np.zeros(2, np.float32)}, folder / "checkpoint.safetensors", described)
    _expect_one_sentence(lambda: read_config(folder), TrainError)
    _expect_one_sentence(lambda: read_checkpoint(folder, "cyclegan"), TrainError)


def _expect_one_sentence(use: Callable[[], object], refusal: type[Exception]) -> None:
    try:
        use()
    except refusal as refused:
        if "\n" in str(refused):
            raise Wrong(f"not one sentence: {str(refused)[:80]!r}") from None


def fuzz_pair(rng: random.Random, folder: Path) -> None:
    """A video codec, a container and a sound of any kind: a complete file, or refused before the first frame."""
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    source = folder / "source"
    if not _write_source(source, rng):
        return
    codec, suffix = rng.choice([*_VIDEO, None]), rng.choice(list(CONTAINERS))
    output = folder / f"out{suffix}"
    clip = VideoSource(source, SourceOptions())
    sink: VideoSink | None = None
    written = 0
    try:
        sink = VideoSink(output, SinkOptions(codec=codec))
        while (frame := clip.read()) is not None:
            sink.write(frame, frame)
            written += 1
        sink.finish()
    except I2IError:
        if written:
            raise Wrong(f"{codec} in {suffix} failed after {written} frames") from None
        return
    finally:
        clip.close()
        if sink is not None:
            sink.close()
    with av.open(output) as made:
        count = sum(1 for _ in made.decode(video=0))
        sounds = len(made.streams.audio)
    if count != FRAMES:
        raise Wrong(f"{codec} in {suffix}: {count} of {FRAMES} frames")
    if not sounds and not any("audio stream" in note for note in sink.notes):
        raise Wrong(f"{codec} in {suffix}: the sound is missing and nobody said so")


def _write_source(path: Path, rng: random.Random) -> bool:
    """A short clip with a tone; False if this pair of container and sound cannot be made."""
    audio = rng.choice([name for name in _AUDIO if name in av.codecs_available])
    try:
        with av.open(path, "w", format=rng.choice(_SOURCES)) as container:
            images = container.add_stream("mpeg4", rate=25)
            assert isinstance(images, av.VideoStream)
            images.width, images.height, images.pix_fmt = 64, 48, "yuv420p"
            sound = container.add_stream(audio, rate=rng.choice([44100, 48000]))
            assert isinstance(sound, av.AudioStream)
            sound.layout = rng.choice(["mono", "stereo"])
            resampler = av.AudioResampler(
                sound.format, sound.layout, sound.rate, sound.codec_context.frame_size or 1024
            )
            for index in range(FRAMES):
                image = av.VideoFrame.from_ndarray(np.full((48, 64, 3), index * 40, np.uint8), "rgb24")
                picture = image.reformat(format="yuv420p")
                picture.pts, picture.time_base = index, Fraction(1, 25)
                container.mux(images.encode(picture))
            container.mux(images.encode(None))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 12000), np.float32), format="flt", layout="mono")
            tone.sample_rate, tone.pts = sound.rate, 0
            for made in [*resampler.resample(tone), *resampler.resample(None)]:
                container.mux(sound.encode(made))
            container.mux(sound.encode(None))
        with av.open(path) as container:
            return sum(1 for _ in container.decode(video=0)) == FRAMES and bool(container.streams.audio)
    except (av.error.FFmpegError, ValueError, OSError):
        return False
