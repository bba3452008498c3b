"""Sinks: files, windows, pages and network peers behind one verb."""

from __future__ import annotations

from collections.abc import Callable

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.files import reason_of
from i2i_runtime.sinks.base import Closed, Sink, SinkOptions
from i2i_runtime.uri import Uri, parse_uri
from i2i_runtime.web.auth import open_access

__all__ = ["Closed", "Sink", "SinkOptions", "open_sink"]


def open_sink(text: str | Uri, options: SinkOptions | None = None) -> Sink:
    """Opens an output by its URI. Raises SinkError, or UsageError for an unknown scheme."""
    uri = text if isinstance(text, Uri) else parse_uri(text)
    opener = _OPENERS.get(uri.scheme)
    if uri.scheme == "v4l2":
        raise UsageError(
            f"{uri} is a camera, from which images are read: write virtualcam:{uri.location} for a virtual one."
        )
    if opener is None:
        raise UsageError(
            f"Unknown output scheme {uri.scheme!r}; supported: {', '.join(sorted(_OPENERS))}; "
            "write a path with a colon as file:PATH."
        )
    try:
        return opener(uri, options or SinkOptions())
    except (OSError, ValueError) as error:
        raise SinkError(
            f"{uri.shown} cannot be written ({reason_of(error)}): check the path and its permissions."
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

    return NetworkSink(uri.address, codec=options.codec or "libx264", tls_insecure=options.tls_insecure)


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
