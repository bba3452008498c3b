"""RTSP, RTMP, HLS and MJPEG in, through PyAV, with time-outs on every call."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import av
from av.error import FFmpegError

from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SourceError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Frame
from i2i_runtime.media.colour import ColourConverter
from i2i_runtime.media.origin import Colour
from i2i_runtime.sources import https
from i2i_runtime.sources.base import Source
from i2i_runtime.sources.https import Opener
from i2i_runtime.sources.reconnect import Patience, ReconnectingSource
from i2i_runtime.tls import certificate_problem, trust_options
from i2i_runtime.uri import redact

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")
_MILLISECOND = Fraction(1, 1000)
_TOLERATED_S = 1.0


@dataclass(frozen=True)
class StreamTimeouts:
    """How long opening a stream and waiting for its next packet may take, in seconds."""

    open_s: float = 10.0
    read_s: float = 5.0

    def for_playlist(self) -> StreamTimeouts:
        """HLS comes in pieces of many seconds, and nothing in between."""
        return StreamTimeouts(max(self.open_s, 20.0), max(self.read_s, 30.0))


class StreamSource(Source):
    """One connection to one network stream; ends or raises when the connection does.

    RTSP goes over TCP: lost UDP packets are torn images. Decoding keeps no frames back (`low_delay`, slices
    rather than frames in threads), because a threaded decoder would hold one frame per thread.
    """

    live = True

    def __init__(
        self,
        uri: str,
        timeouts: StreamTimeouts | None = None,
        *,
        rtsp_transport: str = "tcp",
        tls_insecure: bool = False,
    ) -> None:
        """Raises SourceError if the server does not respond in time, is not trusted, or sends no video."""
        timeouts = timeouts or StreamTimeouts()
        if is_playlist(uri):
            timeouts = timeouts.for_playlist()
        self.name = redact(uri)
        self._closed = False
        self._index = 0
        options = {
            "fflags": "nobuffer",
            "flags": "low_delay",
            "probesize": "500000",
            "analyzeduration": "1000000",
            **trust_options(uri, tls_insecure),
        }
        if urlsplit(uri).scheme in ("rtsp", "rtsps"):
            options["rtsp_transport"] = rtsp_transport
        self._opener: Opener | None = None
        if not tls_insecure and (urlsplit(uri).scheme == "https" or is_playlist(uri)):
            self._opener, options = Opener(uri, timeouts.read_s), {**options, **https.OPTIONS}
        try:
            self._container = av.open(
                uri, options=options, timeout=(timeouts.open_s, timeouts.read_s), io_open=self._opener
            )
        except (FFmpegError, OSError, ValueError) as error:
            self._close_connections()
            refusal = _refusal(self.name, error, timeouts)
            if not (tls_insecure or _timed_out(error)) and (
                problem := certificate_problem(uri, timeouts.read_s)
            ):
                refusal = f"{self.name} cannot be opened ({problem})."
            raise SourceError(refusal) from error
        if not self._container.streams.video:
            self._container.close()
            self._close_connections()
            raise SourceError(
                f"{self.name} carries no video: check the address, or which track the server sends."
            )
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "SLICE"
        self._frames = self._container.decode(self._stream)
        self._converter: ColourConverter | None = None
        self._began_s = float("-inf")

    def read(self) -> Frame | None:
        """The next image; None if the peer ended the stream. Raises SourceError after a loss or
        `read_s`.
        """
        if self._closed:
            return None
        try:
            decoded = next(self._frames, None)
        except (FFmpegError, OSError) as error:
            reason = "stopped sending" if _timed_out(error) else f"broke off ({_plain(error)})"
            raise SourceError(f"{self.name} {reason}: check the network and the sender.") from error
        if decoded is None:
            return None
        if self._container.format.name == "hls":
            self._hold_back(decoded)
        captured_s = time.monotonic()
        index, self._index = self._index, self._index + 1
        pts = decoded.pts if decoded.pts is not None else index
        if self._converter is None:
            colour = Colour(matrix=int(decoded.colorspace), range=int(decoded.color_range))
            self._converter = ColourConverter(colour, decoded.format.name, decoded.height)
        return Frame(
            self._converter.rgb_from_frame(decoded), index, pts, decoded.time_base or _MILLISECOND, captured_s
        )

    def _hold_back(self, decoded: av.VideoFrame) -> None:
        """A piece of a playlist arrives all at once; its frames are let go one by one, when they are due."""
        if decoded.pts is None:
            return
        now_s = time.monotonic()
        due_s = self._began_s + decoded.time
        if (
            not -_TOLERATED_S < due_s - now_s < _TOLERATED_S
        ):  # the first frame, a jump, or a piece that came late
            self._began_s = now_s - decoded.time
        elif due_s > now_s:
            time.sleep(due_s - now_s)

    def close(self) -> None:
        """Ends the connection; call it from the thread that reads."""
        if not self._closed:
            self._closed = True
            del self._frames
            self._container.close()
            self._close_connections()

    def _close_connections(self) -> None:
        if self._opener is not None:
            self._opener.close()


def open_network_source(
    uri: str,
    *,
    timeouts: StreamTimeouts | None = None,
    backoff: Backoff | None = None,
    patience: Patience | None = None,
    rtsp_transport: str = "tcp",
    tls_insecure: bool = False,
) -> ReconnectingSource:
    """A network stream that reconnects by itself. Raises SourceError if the first connection fails."""
    if patience is None and is_playlist(uri):
        patience = Patience(stall_s=45.0)
    return ReconnectingSource(
        lambda: StreamSource(uri, timeouts, rtsp_transport=rtsp_transport, tls_insecure=tls_insecure),
        backoff=backoff,
        patience=patience,
    )


def is_playlist(uri: str) -> bool:
    return urlsplit(uri).path.endswith(".m3u8")


def _timed_out(error: Exception) -> bool:
    return isinstance(error, (av.error.ExitError, TimeoutError)) or (
        isinstance(error, URLError) and isinstance(error.reason, TimeoutError)
    )


def _plain(error: Exception) -> str:
    return redact(reason_of(error))


def _refusal(name: str, error: Exception, timeouts: StreamTimeouts) -> str:
    if _timed_out(error):
        why = f"no response within {timeouts.open_s:g} s"
    elif isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)) or (
        isinstance(error, HTTPError) and error.code in (401, 403)
    ):
        why = "the server refuses the user name or password"
    else:
        why = _plain(error)
    return f"{name} cannot be opened ({why}): check the address and that the sender is running."
