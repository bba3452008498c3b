"""Sources: cameras, clips, streams and synthetic scenes behind one verb."""

from __future__ import annotations

from collections.abc import Callable

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.files import reason_of
from i2i_runtime.sources.base import Source, SourceOptions, SourceWrapper
from i2i_runtime.uri import Uri, parse_uri

__all__ = ["Source", "SourceOptions", "SourceWrapper", "open_source"]


def open_source(text: str | Uri, options: SourceOptions | None = None) -> Source:
    """Opens an input by its URI. Raises SourceError, or UsageError for an unknown scheme."""
    uri = text if isinstance(text, Uri) else parse_uri(text)
    opener = _OPENERS.get(uri.scheme)
    if opener is None:
        raise UsageError(
            f"Unknown input scheme {uri.scheme!r}; supported: {', '.join(sorted(_OPENERS))}; "
            "write a path with a colon as file:PATH."
        )
    try:
        return opener(uri, options or SourceOptions())
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{uri.shown} cannot be read ({reason_of(error)}): check the path and its permissions."
        ) from error


def _open_path(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.media.animation import is_animated
    from i2i_runtime.media.images import names_images
    from i2i_runtime.sources.images import ImageSource

    if is_animated(uri.path):
        from i2i_runtime.sources.animation import AnimationSource

        return AnimationSource(uri.path, options)
    if names_images(uri.location):
        return ImageSource(uri.location, options)
    return _open_video(uri, options)


def _open_video(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.video import VideoSource

    return VideoSource(uri.path, options)


def _open_replay(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.replay import ReplaySource
    from i2i_runtime.sources.video import VideoSource

    return ReplaySource(VideoSource(uri.path, options))


def _open_camera(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.camera import CameraSource
    from i2i_runtime.sources.reconnect import ReconnectingSource

    return ReconnectingSource(lambda: CameraSource(uri.location, options))


def _open_csi(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.jetson import csi_line, explain_argus

    return _open_gstreamer(uri, csi_line(uri.location, options), options, explain_argus)


def _open_nvv4l2(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.jetson import nvv4l2_line

    return _open_gstreamer(uri, nvv4l2_line(uri.location, options), options)


def _open_line(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.gstreamer import with_appsink

    return _open_gstreamer(uri, with_appsink(uri.location), options)


def _open_gstreamer(
    uri: Uri, line: str, options: SourceOptions, explain: Callable[[str], str | None] | None = None
) -> Source:
    from i2i_runtime.sources.gstreamer import GstreamerSource
    from i2i_runtime.sources.reconnect import ReconnectingSource

    return ReconnectingSource(
        lambda: GstreamerSource(uri.shown, line, timeout_s=options.timeout_s, explain=explain)
    )


def _open_network(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.network import StreamTimeouts, open_network_source

    timeouts = StreamTimeouts(options.timeout_s, options.timeout_s / 2)
    return open_network_source(uri.address, timeouts=timeouts, tls_insecure=options.tls_insecure)


def _open_screen(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.screen import ScreenSource

    return ScreenSource(uri.location, options.rate or 30)


def _open_scene(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.synthetic import SyntheticSource

    return SyntheticSource(uri.location, options)


_OPENERS: dict[str, Callable[[Uri, SourceOptions], Source]] = {
    "file": _open_path,
    "replay": _open_replay,
    "webcam": _open_camera,
    "v4l2": _open_camera,
    "csi": _open_csi,
    "nvv4l2": _open_nvv4l2,
    "gst": _open_line,
    "screen": _open_screen,
    **dict.fromkeys(("rtsp", "rtsps", "rtmp", "rtmps", "http", "https"), _open_network),
    "test": _open_scene,
}
