"""A page in the browser: source and translated under a draggable divider, the live statistics beside them.

/                 the page
/pair.mjpg        source (left half) and translated (right half) of one moment, in one JPEG
/translated.mjpg  the translated image alone, for players
                  ?width=640: no wider than a viewer that wide needs
/figures          age, fps, drops, engine time as JSON
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.live_stats import LiveMeter
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.pacing import Pacer
from i2i_runtime.web.auth import Access
from i2i_runtime.web.server import WebServer, require_serve_extra

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_BOUNDARY = "frame"
_SHARE = 0.06
_PAGE_TYPES = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}


class MjpegSink(Sink):
    """Serves Motion JPEG over HTTP; every viewer gets the newest image that its connection is ready for.

    Images are encoded only while a viewer is connected, once for all viewers, no larger than the widest of them shows
    them. `beside` other outputs that takes at most 6 % of one processor core, and images are skipped if it would
    take more; a page that is the only output shows every frame. `quality` is JPEG's, 1 to 100.
    """

    def __init__(self, access: Access, *, beside: bool = False, quality: int = 80) -> None:
        """Raises SinkError if the address is taken or the web server is not installed."""
        require_serve_extra("The page")
        self.name = f"mjpeg://{access.host}:{access.port}"
        self._quality = quality
        self._pacer = Pacer()
        self._meter = LiveMeter()
        self.beside = beside
        share = _SHARE if beside else 1.0
        self._pairs = _Broadcast(Allowance(share))
        self._singles = _Broadcast(Allowance(share))
        self._server = WebServer(access, self._routes(), "The page")
        self.url = self._server.url
        self.port = self._server.port

    def write(self, translated: Frame, source: Frame) -> None:
        self._pacer.wait(source)
        if self._singles.wanted:
            with self._singles.allowance.spent():
                shown = shrunk(translated.pixels, self._singles.width)
                self._singles.publish(_jpeg(shown, self._quality))
        if self._pairs.wanted:
            with self._pairs.allowance.spent():
                pair = side_by_side(source.pixels, translated.pixels, self._pairs.width)
                self._pairs.publish(_jpeg(pair, self._quality))
        self._meter.observe(translated, source)

    def close(self) -> None:
        self._pairs.close()
        self._singles.close()
        self._server.close()

    def _routes(self) -> list[Route]:
        from starlette.responses import Response, StreamingResponse
        from starlette.routing import Route

        page = files("i2i_runtime") / "web" / "page"
        assets = {name: (page / name).read_bytes() for name in _PAGE_TYPES}

        def asset(name: str) -> Route:
            def serve(request: Request) -> Response:
                return Response(assets[name], media_type=_PAGE_TYPES[name])

            return Route("/" if name == "index.html" else f"/{name}", serve)

        def stream(path: str, broadcast: _Broadcast) -> Route:
            def serve(request: Request) -> Response:
                kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
                if request.method == "HEAD":
                    return Response(media_type=kind)
                asked = request.query_params.get("width", "")
                width = int(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 6 else None
                return StreamingResponse(broadcast.parts(width or None), media_type=kind)

            return Route(path, serve)

        def figures(request: Request) -> Response:
            return Response(json.dumps(self._meter.latest.to_dict()), media_type="application/json")

        return [
            *(asset(name) for name in _PAGE_TYPES),
            stream("/pair.mjpg", self._pairs),
            stream("/translated.mjpg", self._singles),
            Route("/figures", figures),
        ]


class Allowance:
    """Lets work through as long as it takes no more than a share of one processor core; the first always."""

    def __init__(
        self,
        share: float,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self._share, self._clock, self._worked = share, clock, worked
        self._next_s = clock()

    @property
    def open(self) -> bool:
        return self._clock() >= self._next_s

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Around the work."""
        began_s, worked_s = self._clock(), self._worked()
        try:
            yield
        finally:
            self._next_s = began_s + (self._worked() - worked_s) / self._share


@dataclass(frozen=True)
class _Viewer:
    """`width` is that of one image as the viewer shows it, None for as wide as it comes."""

    loop: asyncio.AbstractEventLoop
    width: int | None


class _Broadcast:
    """The newest image for any number of viewers, from a thread into the server's event loop."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self._lock = threading.Lock()
        self._viewers: dict[asyncio.Event, _Viewer] = {}
        self._newest: bytes | None = None
        self._closed = False

    @property
    def watched(self) -> bool:
        return bool(self._viewers)

    @property
    def wanted(self) -> bool:
        """Whether a new image is to be made now."""
        return self.watched and self.allowance.open

    @property
    def width(self) -> int | None:
        """The widest that any viewer shows, None if one takes the full width."""
        with self._lock:
            widths = [viewer.width for viewer in self._viewers.values()]
        return (
            max((width for width in widths if width is not None), default=None)
            if None not in widths
            else None
        )

    def publish(self, jpeg: bytes) -> None:
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        self._newest = head.encode() + jpeg + b"\r\n"
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    async def parts(self, width: int | None) -> AsyncIterator[bytes]:
        """Parts of the multipart response; a viewer that is slow skips to the newest."""
        changed, sent = asyncio.Event(), None
        with self._lock:
            self._viewers[changed] = _Viewer(asyncio.get_running_loop(), width)
        try:
            while not self._closed:
                await changed.wait()
                changed.clear()
                if self._newest is not None and self._newest is not sent:
                    sent = self._newest
                    yield sent
        finally:
            with self._lock:
                del self._viewers[changed]

    def _wake(self) -> None:
        with self._lock:
            viewers = list(self._viewers.items())
        for changed, viewer in viewers:
            if not viewer.loop.is_closed():
                viewer.loop.call_soon_threadsafe(changed.set)


def side_by_side(source: Image, translated: Image, width: int | None = None) -> Image:
    """`[h, 2 w, 3]`: source left of translated, both of the translated image's size or less; see `shrunk`."""
    translated = shrunk(translated, width)
    source = letterboxed(shrunk(source, width), *translated.shape[:2])
    return np.hstack([source, translated])


def shrunk(image: Image, width: int | None) -> Image:
    """By the largest whole number that leaves it at least `width` wide: whole numbers shrink ten times as fast."""
    times = 1 if width is None else min(image.shape[1] // width, image.shape[0])
    if times <= 1:
        return image
    rows, columns = image.shape[0] // times, image.shape[1] // times
    whole = image[: rows * times, : columns * times]
    return np.asarray(cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _jpeg(image: Image, quality: int) -> bytes:
    parameters: list[Any] = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        height, width = image.shape[:2]
        raise SinkError(f"An image of {width}x{height} cannot be sent as JPEG: choose a smaller --size.")
    return bytes(data)
