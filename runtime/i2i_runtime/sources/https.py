"""Streams and playlists over HTTPS, through Python's own client.

FFmpeg checks the certificate of a playlist's server at most, and takes the pieces behind it from anybody, because its
HLS reader hands none of the options for TLS on. Here every connection is checked.
"""

from __future__ import annotations

import ssl
from http.client import HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError
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

    @property
    def closed(self) -> bool:
        return self._answer.closed

    def close(self) -> None:
        self._answer.close()


class _Basic(HTTPBasicAuthHandler):
    def http_error_401(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        fp.close()  # urllib leaves the refusal open, and its connection with it
        return super().http_error_401(req, fp, code, msg, headers)


class _Digest(HTTPDigestAuthHandler):
    def http_error_401(self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        fp.close()
        return super().http_error_401(req, fp, code, msg, headers)


class Opener:
    """What PyAV calls as `io_open` for `uri` and for every piece that it names.

    User name and password in `uri` go to its own host alone. Calls raise OSError. `close` ends the connections that
    are still open, because PyAV closes none of them if a stream cannot be opened.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        passwords = HTTPPasswordMgrWithDefaultRealm()
        parts = urlsplit(uri)
        if parts.username is not None:
            root = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
            passwords.add_password(None, root, unquote(parts.username), unquote(parts.password or ""))
        trusted = authorities()
        context = ssl.create_default_context(cafile=None if trusted is None else str(trusted))
        self._client = build_opener(
            HTTPSHandler(context=context),
            _Basic(passwords),
            _Digest(passwords),
        )
        self._timeout_s = timeout_s
        self._answers: list[_Answer] = []

    def __call__(self, url: str, flags: int, options: dict[str, str]) -> _Answer:
        piece = urlsplit(url)
        if piece.scheme not in ("http", "https"):
            raise PermissionError(f"a playlist from the network names {piece.scheme or 'a file'}:")
        bare = urlunsplit(piece._replace(netloc=piece.netloc.rpartition("@")[2]))
        request = Request(bare, headers={"User-Agent": "i2i-stream", "Accept": "*/*"})
        if "offset" in options:  # a piece that is a part of a file
            end = int(options["end_offset"]) - 1 if int(options.get("end_offset", 0)) else ""
            request.add_header("Range", f"bytes={options['offset']}-{end}")
        try:
            answer = _Answer(self._client.open(request, timeout=self._timeout_s))
        except HTTPError as error:
            error.close()  # it holds the connection
            raise
        self._answers = [*(open_ for open_ in self._answers if not open_.closed), answer]
        return answer

    def close(self) -> None:
        for answer in self._answers:
            answer.close()
