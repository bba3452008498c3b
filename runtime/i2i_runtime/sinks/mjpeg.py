"""A page in the browser: source and translated under a draggable divider, the figures beside them.

/                 the page
/pair.mjpg        source (left half) and translated (right half) of one moment, in one JPEG
/translated.mjpg  the translated picture alone, for players
/figures          age, fps, drops, engine time as JSON
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from i2i_runtime.access import Access
from i2i_runtime.errors import SinkError
from i2i_runtime.figures import LiveFigures
from i2i_runtime.frame import Frame, Picture
from i2i_runtime.sinks.pacing import Pacer
from i2i_runtime.web import WebServer, require_serve_extra

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

_BOUNDARY = "frame"
_PAGE_TYPES = {"index.html": "text/html", "page.js": "text/javascript", "page.css": "text/css"}


class MjpegSink:
    """Serves Motion JPEG over HTTP; every viewer gets the newest picture that his connection is ready for.

    Pictures are encoded only while somebody watches, once for all viewers. `quality` is JPEG's, 1 to 100.
    """

    def __init__(self, access: Access, *, quality: int = 80) -> None:
        """Raises SinkError where the address is taken or the web server is not installed."""
        require_serve_extra("The page")
        self.name = f"mjpeg://{access.host}:{access.port}"
        self._quality = quality
        self._pacer = Pacer()
        self._figures = LiveFigures()
        self._pairs = _Broadcast()
        self._singles = _Broadcast()
        self._server = WebServer(access, self._routes(), "The page")
        self.url = self._server.url
        self.port = self._server.port

    def write(self, translated: Frame, source: Frame) -> None:
        self._pacer.wait(source)
        if self._singles.watched:
            self._singles.publish(_jpeg(translated.pixels, self._quality))
        if self._pairs.watched:
            self._pairs.publish(_jpeg(side_by_side(source.pixels, translated.pixels), self._quality))
        self._figures.observe(translated, source)

    def finish(self) -> None:
        return

    def close(self) -> None:
        self._pairs.close()
        self._singles.close()
        self._server.close()

    def _routes(self) -> list[Route]:
        from starlette.responses import Response, StreamingResponse
        from starlette.routing import Route

        page = files("i2i_runtime") / "page"
        assets = {name: (page / name).read_bytes() for name in _PAGE_TYPES}

        def asset(name: str) -> Route:
            def serve(request: Request) -> Response:
                return Response(assets[name], media_type=_PAGE_TYPES[name])

            return Route("/" if name == "index.html" else f"/{name}", serve)

        def stream(path: str, broadcast: _Broadcast) -> Route:
            def serve(request: Request) -> Response:
                kind = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
                return StreamingResponse(broadcast.parts(), media_type=kind)

            return Route(path, serve)

        def figures(request: Request) -> Response:
            return Response(json.dumps(self._figures.latest.to_dict()), media_type="application/json")

        return [
            *(asset(name) for name in _PAGE_TYPES),
            stream("/pair.mjpg", self._pairs),
            stream("/translated.mjpg", self._singles),
            Route("/figures", figures),
        ]


class _Broadcast:
    """The newest picture for any number of viewers, from a thread into the server's event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._viewers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._newest: bytes | None = None
        self._closed = False

    @property
    def watched(self) -> bool:
        return bool(self._viewers)

    def publish(self, jpeg: bytes) -> None:
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        self._newest = head.encode() + jpeg + b"\r\n"
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    async def parts(self) -> AsyncIterator[bytes]:
        """Parts of the multipart answer; a viewer that is slow skips to the newest."""
        changed, sent = asyncio.Event(), None
        with self._lock:
            self._viewers[changed] = asyncio.get_running_loop()
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
        for changed, loop in viewers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)


def side_by_side(source: Picture, translated: Picture) -> Picture:
    """`[H, 2 W, 3]`: the source, brought to the translated picture's size, left of the translated picture."""
    height, width = translated.shape[:2]
    if source.shape != translated.shape:
        source = np.asarray(cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return np.hstack([source, translated])


def _jpeg(picture: Picture, quality: int) -> bytes:
    parameters: list[Any] = [cv2.IMWRITE_JPEG_QUALITY, quality]
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), parameters)
    if not done:
        height, width = picture.shape[:2]
        raise SinkError(f"A picture of {width}x{height} cannot be sent as JPEG: choose a smaller --size.")
    return bytes(data)
