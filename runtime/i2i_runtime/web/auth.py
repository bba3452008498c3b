"""Who may talk to the servers that the runtime opens: addresses, tokens, origins, sizes, certificates."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from i2i_runtime.errors import UsageError
from i2i_runtime.files import reason_of
from i2i_runtime.logs import event

_log = logging.getLogger(__name__)
_ADDRESS = re.compile(
    r"^@?(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:\[\]/@?#\s]*))(?::(?P<port>[0-9]{1,5}))?/?$"
)
_SHORTEST_TOKEN = 16
_LONGEST_TARGET = 2048
_LONGEST_HEADERS = 16384
COOKIE = "i2i_token"


@dataclass(frozen=True)
class Access:
    """Where a server listens and what a visitor must show.

    `token` is None only on loopback. `generated` says that nobody knows the token yet, so that it must be
    shown once on the terminal; it goes into no log.
    """

    host: str
    port: int
    token: str | None = None
    generated: bool = False
    certificate: Path | None = None
    key: Path | None = None

    @property
    def scheme(self) -> str:
        return "https" if self.certificate else "http"


@dataclass(frozen=True)
class ServerOptions:
    """What a user may say about the servers that this command opens.

    `token_file` holds the token visitors must show (16 characters or more); on any address but loopback one
    is made up where none is given. `tls_cert` and `tls_key` are PEM files.
    """

    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def open_access(address: str, default_port: int, options: ServerOptions | None = None) -> Access:
    """Reads `@:8080`, `:9100`, `0.0.0.0:8080` or `[::]:8080`; no host means loopback. Raises UsageError."""
    options = options or ServerOptions()
    match = _ADDRESS.match(address)
    port = default_port if match is None or match["port"] is None else int(match["port"])
    if match is None or port > 65535 or (match["host"] or "").isdecimal():
        raise UsageError(
            f"{address!r} is not an address to listen on: write @:8080, or @0.0.0.0:8080 for every network."
        )
    host = match["six"] or match["host"] or "127.0.0.1"
    if (options.tls_cert is None) != (options.tls_key is None):
        raise UsageError(
            "A certificate needs its key and a key its certificate: give --tls-cert and --tls-key both."
        )
    for file in (options.tls_cert, options.tls_key):
        if file is not None and not file.is_file():
            raise UsageError(f"{file} does not exist, so no encrypted server can be opened: give a PEM file.")
    if options.tls_key is not None and b"ENCRYPTED" in options.tls_key.read_bytes():
        raise UsageError(
            f"The key {options.tls_key} has a pass phrase, and a server cannot ask for it: write a copy without one, "
            f"for example with: openssl pkey -in {options.tls_key} -out plain.pem."
        )
    token, generated = None, False
    if options.token_file is not None:
        token = _token_from_file(options.token_file)
    elif not is_loopback(host):
        token, generated = secrets.token_urlsafe(24), True
    return Access(host, port, token, generated, options.tls_cert, options.tls_key)


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def _token_from_file(file: Path) -> str:
    try:
        token = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"The token file {file} cannot be read ({reason_of(error)}): give a text file with one line."
        ) from error
    if os.name == "posix" and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        _log.warning(
            "Other users of this machine can read the token file %s: chmod 600 %s",
            file,
            file,
            extra=event("token_file_readable", file=str(file)),
        )
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise UsageError(
            f"The token in {file} is too weak: write {_SHORTEST_TOKEN} or more letters and digits on one line, "
            "for example with: openssl rand -hex 24."
        )
    return token


@dataclass(frozen=True)
class Verdict:
    """What becomes of a request: status 200 lets it through; `greet` sets the cookie and cleans the
    address.
    """

    status: int
    reason: str = ""
    greet: bool = False


class Gatekeeper:
    """Judges a request by its head alone.

    Reading methods and no body; a bounded address; a Host header that is an IP address, this machine's own
    name or the name it listens on (a foreign name means DNS rebinding); an Origin, where one is sent, that is
    the page's own; and the token as bearer, cookie or query parameter.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._names = {"localhost", access.host.lower(), socket.gethostname().lower()}

    def judge(self, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]) -> Verdict:
        """`headers` are (lower-case name, value) pairs in the order sent."""
        fields: dict[str, list[str]] = {}
        for name, value in headers:
            fields.setdefault(name, []).append(value)
        if method not in ("GET", "HEAD"):
            return Verdict(405, "only reading is offered")
        if len(path) + len(query) > _LONGEST_TARGET:
            return Verdict(414, "the address is too long")
        if (
            sum(len(name) + len(value) for name, values in fields.items() for value in values)
            > _LONGEST_HEADERS
        ):
            return Verdict(431, "the headers are too long")
        if "transfer-encoding" in fields or any(
            value.strip() != "0" for value in fields.get("content-length", [])
        ):
            return Verdict(413, "a request carries no body here")
        if not self._host_is_ours(fields.get("host", [])):
            return Verdict(421, "the Host header does not name this server")
        if not self._origin_is_ours(fields):
            return Verdict(403, "another site asked for this")
        return self._check_token(path, query, fields)

    def _host_is_ours(self, hosts: list[str]) -> bool:
        if len(hosts) != 1:
            return False
        match = _ADDRESS.match(hosts[0])
        if match is None or hosts[0].startswith("@"):
            return False
        if match["six"]:
            return True
        name = match["host"].lower()
        return name in self._names or _is_ip_address(name)

    def _origin_is_ours(self, fields: dict[str, list[str]]) -> bool:
        own = f"{self._access.scheme}://{fields['host'][0]}".lower()
        if any(origin.lower() != own for origin in fields.get("origin", [])):
            return False
        foreign = "cross-site" in fields.get("sec-fetch-site", [])
        return not foreign or fields.get("sec-fetch-mode") == ["navigate"]

    def _check_token(self, path: str, query: str, fields: dict[str, list[str]]) -> Verdict:
        if self._access.token is None:
            return Verdict(200)
        shown = [
            value[7:] for value in fields.get("authorization", []) if value.lower().startswith("bearer ")
        ]
        shown += _tokens_from_cookies(fields.get("cookie", []))
        if any(self._matches(token) for token in shown):
            return Verdict(200)
        if any(self._matches(value) for name, value in _pairs(query) if name == "token"):
            return Verdict(200, greet=path == "/")
        return Verdict(401, "the token is missing or wrong: open the address that was shown on the terminal")

    def _matches(self, token: str) -> bool:
        assert self._access.token is not None
        return hmac.compare_digest(token.encode("utf-8", "replace"), self._access.token.encode())


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _tokens_from_cookies(lines: list[str]) -> list[str]:
    """The values of our cookie. Cookies of other programs on this host come too, and need not be well-formed."""
    pairs = (part.partition("=") for line in lines for part in line.split(";"))
    return [value.strip() for name, _, value in pairs if name.strip() == COOKIE]


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, max_num_fields=16)
    except ValueError:
        return []


class Guard:
    """ASGI middleware: asks the gatekeeper before the application sees anything, and seals every answer."""

    _SEALS = (
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
        (
            b"content-security-policy",
            b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
            b"frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
    )

    def __init__(self, app: Any, access: Access) -> None:
        self._app = app
        self._access = access
        self._gatekeeper = Gatekeeper(access)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]
        ]
        query = scope["query_string"].decode("latin-1")
        verdict = self._gatekeeper.judge(scope["method"], scope["path"], query, headers)
        if verdict.status != 200:
            await self._answer(send, verdict.status, verdict.reason.encode())
        elif verdict.greet:
            cookie = f"{COOKIE}={self._access.token}; HttpOnly; SameSite=Strict; Path=/"
            cookie += "; Secure" if self._access.certificate else ""
            await self._answer(send, 303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        else:
            await self._app(scope, receive, self._sealed(send))

    def _sealed(self, send: Any) -> Any:
        async def sealed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *self._SEALS]}
            await send(message)

        return sealed

    async def _answer(
        self, send: Any, status: int, text: bytes, extra: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(text)).encode()),
            # Who was refused holds no place while it thinks about the next request.
            *([(b"connection", b"close")] if status >= 400 else []),
        ]
        head = {"type": "http.response.start", "status": status, "headers": [*headers, *extra, *self._SEALS]}
        await send(head)
        await send({"type": "http.response.body", "body": text})
