"""Streams and playlists over HTTPS, through Python's own client.

FFmpeg checks the certificate of a playlist's server at most, and takes the pieces behind it from anybody, because its
HLS reader hands none of the options for TLS on. Here every connection is checked.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import (
    HTTPBasicAuthHandler,
    HTTPDigestAuthHandler,
    HTTPPasswordMgrWithDefaultRealm,
    HTTPSHandler,
    Request,
    build_opener,
)

from i2i_runtime.tls import authorities

# Otherwise FFmpeg's HLS reader takes every connection for one that it has opened itself.
OPTIONS = {"http_persistent": "0", "http_multiple": "0"}


class _Answer:
    """The body of an answer as PyAV reads it: what has arrived, without waiting for more."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer

    def read(self, size: int) -> bytes:
        return self._answer.read1(size)

    def close(self) -> None:
        self._answer.close()


def opener_for(uri: str, timeout_s: float) -> Callable[[str, int, dict[str, str]], Any]:
    """What PyAV calls as `io_open` for `uri` and for every piece that it names.

    User name and password in `uri` go to its own host alone. The opener raises OSError.
    """
    passwords = HTTPPasswordMgrWithDefaultRealm()
    parts = urlsplit(uri)
    if parts.username is not None:
        root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
        passwords.add_password(None, root, unquote(parts.username), unquote(parts.password or ""))
    trusted = authorities()
    client = build_opener(
        HTTPSHandler(context=ssl.create_default_context(cafile=None if trusted is None else str(trusted))),
        HTTPBasicAuthHandler(passwords),
        HTTPDigestAuthHandler(passwords),
    )

    def open_piece(url: str, flags: int, options: dict[str, str]) -> _Answer:
        piece = urlsplit(url)
        if piece.scheme not in ("http", "https"):
            raise PermissionError(f"a playlist from the network names {piece.scheme or 'a file'}:")
        bare = urlunsplit(piece._replace(netloc=piece.netloc.rpartition("@")[2]))
        request = Request(bare, headers={"User-Agent": "i2i-stream", "Accept": "*/*"})
        if "offset" in options:  # a piece that is a part of a file
            end = int(options["end_offset"]) - 1 if int(options.get("end_offset", 0)) else ""
            request.add_header("Range", f"bytes={options['offset']}-{end}")
        return _Answer(client.open(request, timeout=timeout_s))

    return open_piece
