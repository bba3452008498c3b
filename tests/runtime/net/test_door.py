"""Visitors who say nothing, half a sentence, or too much keep nobody out and cost the job nothing."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.errors import UsageError
from i2i_runtime.web.auth import COOKIE, Access, Gatekeeper, ServerOptions, open_access

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

from starlette.responses import Response
from starlette.routing import Route

from i2i_runtime.web import door
from i2i_runtime.web.server import WebServer

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def server() -> Iterator[WebServer]:
    routes = [Route("/", lambda request: Response("hello"))]
    serving = WebServer(Access("127.0.0.1", 0, TOKEN), routes, "The page")
    yield serving
    serving.close()


def knock(server: WebServer, text: bytes = b"") -> socket.socket:
    visitor = socket.create_connection(("127.0.0.1", server.port), 10)
    visitor.sendall(text)
    return visitor


def owner_is_served(server: WebServer) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    served = (answer.status, answer.read()) == (200, b"hello")
    connection.close()
    return served


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b"GET"])
def test_silent_visitors_keep_nobody_out(server: WebServer, said: bytes, caplog: Any) -> None:
    visitors = [knock(server, said) for _ in range(200)]
    assert owner_is_served(server)
    assert len(server._socket.visitors) <= 2 * door.PLACES
    for visitor in visitors:
        visitor.close()
    assert owner_is_served(server)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_head_must_come_in_time(
    server: WebServer, monkeypatch: pytest.MonkeyPatch, wait_until: Callable[..., None]
) -> None:
    monkeypatch.setattr(door, "HEAD_S", 0.3)
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    slow, again = knock(server, request), knock(server, request + b"\r\n")
    assert again.recv(12) == b"HTTP/1.1 200"
    again.sendall(request)  # the second request on the same connection, without its end
    for visitor in (slow, again):
        visitor.settimeout(10)
        while visitor.recv(4096):
            pass
        visitor.close()
    wait_until(lambda: not server._socket.visitors, "nobody is left")
    assert owner_is_served(server)


def test_visitors_leave_descriptors_to_the_job(server: WebServer, caplog: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = max(map(int, os.listdir("/proc/self/fd"))) + 60
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        script = (
            "import resource, socket, sys, time\n"
            # The crowd is not held to this process's limit, which it inherits.
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
            f"kept = [socket.create_connection(('127.0.0.1', {server.port}), 10) for _ in range(200)]\n"
            "print('there', flush=True)\n"
            "sys.stdin.read()\n"
        )
        crowd = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert crowd.stdout is not None
        assert crowd.stdout.readline() == b"there\n"
        # Files that the job opens now.
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(10))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in opened:
            os.close(number)
    crowd.communicate(b"")
    assert owner_is_served(server)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_without_a_free_descriptor_a_visitor_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    entrance = door.Door(("127.0.0.1", 0), socket.AF_INET)
    visitor = socket.create_connection(entrance.getsockname(), 10)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filled = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        with contextlib.suppress(OSError):  # until there are too many
            while True:
                filled.append(os.open(os.devnull, os.O_RDONLY))
        entrance.setblocking(False)
        with pytest.raises(BlockingIOError):
            entrance.accept()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in filled:
            os.close(number)
    assert visitor.recv(1) == b""
    visitor.close()
    entrance.close()


@pytest.mark.parametrize(
    "line",
    [
        f"weird[]=1; {COOKIE}={TOKEN}",
        f'{COOKIE}={TOKEN}; a="b; c',
        f"=; ;;; {COOKIE} = {TOKEN} ;é=ü",
        f"{COOKIE}=stale; {COOKIE}={TOKEN}",
    ],
)
def test_cookies_of_other_programs_do_not_lock_the_owner_out(line: str) -> None:
    keeper = Gatekeeper(Access("127.0.0.1", 1, TOKEN))
    headers = [("host", "127.0.0.1:1"), ("cookie", line)]
    assert keeper.judge("GET", "/", "", headers).status == 200
    headers[1] = ("cookie", line.replace(TOKEN, "another-token-of-this-length"))
    assert keeper.judge("GET", "/", "", headers).status == 401


def test_a_key_with_a_pass_phrase_is_refused_in_a_sentence(tmp_path: Path) -> None:
    for name, header in (
        ("old.pem", "RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED"),
        ("new.pem", "ENCRYPTED PRIVATE KEY-----"),
    ):
        key = tmp_path / name
        key.write_text(f"-----BEGIN {header}\n")
        with pytest.raises(UsageError, match=rf"The key .*{name} has a pass phrase, .* openssl pkey -in"):
            open_access("@:1", 1, ServerOptions(tls_cert=key, tls_key=key))


def test_a_token_file_that_others_can_read_is_told(tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    open_access("@0.0.0.0:1", 1, ServerOptions(token_file=file))
    assert caplog.text == ""
    file.chmod(0o644)
    open_access("@0.0.0.0:1", 1, ServerOptions(token_file=file))
    assert f"can read the token file {file}: chmod 600 {file}" in caplog.text
    assert TOKEN not in caplog.text
