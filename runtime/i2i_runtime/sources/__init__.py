"""Sources: cameras, clips, streams and synthetic scenes behind one verb."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from i2i_runtime.errors import SourceError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.uri import Uri, parse_uri


class Source(Protocol):
    """Delivers frames in order.

    `live` sources go on whether or not they are read, so that stale frames are dropped; others wait.
    `frame_count` is the expected number of frames, None where the source cannot know. One that can lose part of what
    it reads and go on also has `losses`: one sentence for each.
    """

    name: str
    live: bool
    frame_count: int | None

    def read(self) -> Frame | None:
        """The next frame, or None at the end. Blocks; raises SourceError."""

    def close(self) -> None:
        """Releases the device or file; a blocked `read` in another thread returns soon after."""


@runtime_checkable
class Skipping(Protocol):
    """A source that passes over the frames that a resumed job has done, before the first `read`."""

    def skip_one(self) -> bool:
        """Passes over one of them, losses noted; False once none is left. Blocks; raises SourceError."""


@dataclass(frozen=True)
class SourceOptions:
    """What a user may say about any input.

    `size` asks cameras, screens and synthetic scenes for (width, height); files keep their own. `rate` is wanted
    frames per second. `timeout_s` bounds the wait for a frame. `skip` is how many frames a resumed job has done.
    """

    size: tuple[int, int] | None = None
    rate: int | None = None
    timeout_s: float = 10.0
    tonemap: bool = False
    skip: int = 0


def open_source(text: str, options: SourceOptions | None = None) -> Source:
    """Opens an input by its URI. Raises SourceError, or UsageError for a scheme nobody knows."""
    uri = parse_uri(text)
    opener = _OPENERS.get(uri.scheme)
    if opener is None:
        raise UsageError(
            f"No input is called {uri.scheme}: (known are {', '.join(sorted(_OPENERS))}); "
            "a path with a colon is written file:PATH."
        )
    try:
        return opener(uri, options or SourceOptions())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(
            f"{uri.shown} cannot be read ({reason}): see that it is spelled right and yours."
        ) from error


def _open_path(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.media.images import names_images
    from i2i_runtime.sources.images import ImageSource

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
    from i2i_runtime.sources.jetson import CsiSource
    from i2i_runtime.sources.reconnect import ReconnectingSource

    return ReconnectingSource(lambda: CsiSource(uri.location, options.size, options.rate))


def _open_network(uri: Uri, options: SourceOptions) -> Source:
    from i2i_runtime.sources.network import StreamTimeouts, open_network_source

    return open_network_source(uri.address, timeouts=StreamTimeouts(options.timeout_s, options.timeout_s / 2))


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
    "screen": _open_screen,
    **dict.fromkeys(("rtsp", "rtsps", "rtmp", "rtmps", "http", "https"), _open_network),
    "test": _open_scene,
}
