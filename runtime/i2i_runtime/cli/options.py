"""The options of i2i-stream: one dataclass is the flags, their help, and the record in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from i2i_runtime.errors import UsageError
from i2i_runtime.uri import redact

# An interrupted job is only resumed with the same values of these.
_IDENTITY = (
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
    "deinterlace",
    "rate",
)


@dataclass(frozen=True)
class StreamOptions:
    """Translates a camera, a clip, a stream or a folder, live or into a file.

    Live: `i2i-stream --engine day2night --camera 0`.

    A file, with its sound and its time stamps: `i2i-stream --engine day2night --input drive.mp4 --output
    night.mp4`.

    To check that file: `i2i-stream verify drive.mp4 night.mp4`.
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
    """A preset's name, numbers separated by commas, random:SEED, or a reference image."""
    size: str | None = None
    """WxH that images are scaled to; cameras and scenes deliver it."""
    policy: Literal["auto", "every-frame", "freshest", "no-clock"] = "auto"
    """every-frame loses nothing; freshest never falls behind; no-clock reads a replay as fast as possible."""
    max_staleness: float | None = None
    """Drops frames that have waited longer than this, in seconds."""
    limit: int | None = None
    """Stops after this many frames of the input. Of a live input, those that are dropped count too."""
    rate: int | None = None
    """Frames per second requested from a camera, or given to images and scenes."""
    backend: Literal["tensorrt", "openvino", "onnxruntime"] | None = None
    """Back end; by default the fastest that this machine has."""
    device: Literal["gpu", "npu", "cpu"] | None = None
    """What computes; by default the fastest that this machine has."""
    no_build: bool = False
    """Uses TensorRT only if the plan was built before."""
    threads: int | None = None
    """Processor threads of the engine."""
    compare: bool = False
    """Source and translated frame side by side."""
    hud: bool = False
    """Draws age, frames per second, drops and engine time into the image."""
    steady: bool = False
    """Less flicker: reduces noise in the source and blends each translated frame along the motion."""
    tonemap: bool = False
    """Converts high dynamic range to BT.709 instead of refusing it."""
    deinterlace: bool = False
    """Makes progressive frames of the fields of an interlaced file."""
    codec: str | None = None
    """Video encoder; by default libx264 (libvpx-vp9 for WebM)."""
    crf: int | None = None
    """Quality of the encoder: lower is better and larger."""
    preset: str | None = None
    """Speed preset of the encoder."""
    encoder_option: Annotated[tyro.conf.UseAppendAction[list[str]], tyro.conf.arg(aliases=["-e"])] = field(
        default_factory=list
    )
    """KEY=VALUE for the encoder, as FFmpeg names it. May be given several times."""
    resume: bool = False
    """Continues an unfinished output."""
    restart: bool = False
    """Deletes an unfinished output and starts over."""
    report: Path | None = None
    """Writes counts, latencies and back end to this JSON file."""
    stall: float = 60.0
    """Stops the job if a source, engine or output does not respond for this many seconds; five times as long for the
    engine's first image of each size."""
    metrics: str | None = None
    """Serves Prometheus metrics at this address: :9100 on this machine only, 0.0.0.0:9100 on every network."""
    token_file: Path | None = None
    """File with the token that visitors of the page and of the metrics must present."""
    tls_cert: Path | None = None
    """Certificate (PEM) that encrypts the page and the metrics."""
    tls_key: Path | None = None
    """Private key of the certificate (PEM)."""
    tls_insecure: bool = False
    """Accepts any certificate of https, rtsps and rtmps servers, such as that of a camera which made its own."""
    json: bool = False
    """Events as JSON, one per line, instead of the progress bar."""
    quiet: bool = False
    """Prints errors only."""

    def record(self) -> dict[str, Any]:
        """The options as the report stores them: paths as text, no passwords."""
        record = asdict(self)
        for name in ("report", "token_file", "tls_cert", "tls_key"):
            record[name] = None if record[name] is None else str(record[name])
        record["input"] = None if self.input is None else redact(self.input)
        record["output"] = [redact(output) for output in self.output]
        return record

    def identity(self) -> dict[str, str]:
        """The options that change what is written: an unfinished output is resumed only if they are the same."""
        return {name: str(getattr(self, name)) for name in _IDENTITY}


def refuse_strays(arguments: Sequence[str]) -> None:
    """Raises UsageError for words that follow no option, with the form that was probably meant."""
    switches = {name for name, kind in get_type_hints(StreamOptions).items() if kind is bool}
    strays, takes_value, last = [], False, ""
    for word in arguments:
        is_option = word.startswith("-") and len(word) > 1
        if is_option and not takes_value:
            last = word
            is_attached = "=" in word or (word[1] != "-" and len(word) > 2)  # --input=x, -ix
            takes_value = not is_attached and word.lstrip("-").replace("-", "_") not in switches | {
                "help",
                "h",
            }
        elif takes_value:
            takes_value = False
        else:
            strays.append((word, last))
    if not strays:
        return
    words = [word for word, _ in strays]
    if any(option in ("-i", "--input") for _, option in strays):
        raise UsageError(
            f"--input takes one input, and {words[0]} is another: quote the pattern (--input '*.mp4'), or give the "
            "folder."
        )
    if len(words) == 2 and not {"-m", "--engine", "-i", "--input"} & set(arguments):
        raise UsageError(
            f"{words[0]} and {words[1]} follow no option: write --engine {words[0]} --input {words[1]} --output FILE."
        )
    raise UsageError(
        f"{words[0]} follows no option: write for example --engine NAME --input CLIP --output FILE."
    )
