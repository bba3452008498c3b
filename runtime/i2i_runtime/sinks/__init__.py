"""Sinks: files, windows, pages and network peers behind one verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.uri import Uri, parse_uri
from i2i_runtime.web.auth import ServerOptions, open_access


class Sink(Protocol):
    """Takes translated frames in order.

    `finish` makes the output whole (flushes the encoder, renames the partial file); without it `close` leaves
    nothing under the final name that could be taken for a finished file.
    """

    name: str

    def write(self, translated: Frame, source: Frame) -> None:
        """Takes one translated frame and the source frame it came from. Raises SinkError."""

    def finish(self) -> None:
        """Completes the output. Raises SinkError."""

    def close(self) -> None:
        """Releases everything; safe to call twice, and after a failure."""


@runtime_checkable
class Resumable(Protocol):
    """A sink that goes on with what an earlier run of the same job left; `done` frames of it are there already."""

    done: int

    def keep_all(self) -> None:
        """Told before the first frame of a live source: what is done does not come again, and times begin anew."""


@runtime_checkable
class Remarking(Protocol):
    """A sink that has something to say once it is finished: what its format could not hold, one sentence each."""

    notes: list[str]


@dataclass(frozen=True)
class SinkOptions:
    """What a user may say about any output.

    `codec`, `crf`, `preset` and `encoder` (option -> value, as the encoder names them) shape encoded video, None
    leaves each to the default of its kind. `rate` is frames per second where the source states none. `cut` ends
    carried-over audio where the images end. `job` describes what is being done, so that an unfinished output is
    resumed by the same job alone; `resume` goes on with it, `restart` throws it away. `server` guards outputs that are
    servers. `beside` says that the job has other outputs, which one that is only looked at must not slow down.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    encoder: dict[str, str] = field(default_factory=dict)
    rate: int | None = None
    cut: bool = False
    job: dict[str, str] = field(default_factory=dict)
    resume: bool = False
    restart: bool = False
    server: ServerOptions = field(default_factory=ServerOptions)
    beside: bool = False


def open_sink(text: str, options: SinkOptions | None = None) -> Sink:
    """Opens an output by its URI. Raises SinkError, or UsageError for a scheme nobody knows."""
    uri = parse_uri(text)
    opener = _OPENERS.get(uri.scheme)
    if opener is None:
        raise UsageError(
            f"No output is called {uri.scheme}: (known are {', '.join(sorted(_OPENERS))}); "
            "a path with a colon is written file:PATH."
        )
    try:
        return opener(uri, options or SinkOptions())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SinkError(
            f"{uri.shown} cannot be written ({reason}): see that it is spelled right and yours."
        ) from error


def _open_path(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.images import ImageSink, takes_images

    if takes_images(uri.location):
        return ImageSink(uri.path, options)
    from i2i_runtime.sinks.video import VideoSink

    return VideoSink(uri.path, options)


def _open_null(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.null import NullSink

    return NullSink()


def _open_window(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.window import WindowSink

    return WindowSink(uri.location)


def _open_page(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.mjpeg import MjpegSink

    return MjpegSink(open_access(uri.location, 8080, options.server), beside=options.beside)


def _open_push(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.push import NetworkSink

    return NetworkSink(uri.address, codec=options.codec or "libx264")


def _open_virtual_camera(uri: Uri, options: SinkOptions) -> Sink:
    from i2i_runtime.sinks.virtualcam import VirtualCameraSink

    return VirtualCameraSink(uri.location)


_OPENERS: dict[str, Callable[[Uri, SinkOptions], Sink]] = {
    "file": _open_path,
    "display": _open_window,
    "null": _open_null,
    "mjpeg": _open_page,
    "virtualcam": _open_virtual_camera,
    **dict.fromkeys(("rtmp", "rtmps", "rtsp", "rtsps"), _open_push),
}
