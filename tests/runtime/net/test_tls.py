"""Streams over TLS: nothing is sent to a server that this machine does not trust, in either direction."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from i2i_runtime import tls
from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.push import NetworkSink
from i2i_runtime.sources.network import StreamSource, StreamTimeouts

QUICK = StreamTimeouts(open_s=5.0, read_s=5.0)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`authority.pem`, and `here.pem` (for 127.0.0.1) and `elsewhere.pem` that it has signed, each with its `.key`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    subject = ("-subj", "/CN=authority", "-addext", "basicConstraints=critical,CA:TRUE")
    openssl("req", "-x509", *new, "-keyout", "authority.key", "-out", "authority.pem", *subject)
    for name, host in (("here", "IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.example")):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text(f"subjectAltName={host}")
        signing = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signing, "-days", "2", "-out", f"{name}.pem")
    return folder


@pytest.fixture
def listen(certificates: Path) -> Iterator[Callable[..., tuple[int, list[bytes]]]]:
    """A server with this certificate, which answers `body` if it has one.

    Returns its port, and the first bytes of each visitor after the greeting of TLS.
    """
    sockets: list[socket.socket] = []

    def start(name: str, body: str | None = None, status: str = "200 OK") -> tuple[int, list[bytes]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
        server = socket.create_server(("127.0.0.1", 0))
        sockets.append(server)
        heard: list[bytes] = []

        def serve() -> None:
            while True:
                try:
                    visitor = server.accept()[0]
                except OSError:
                    return
                try:
                    visitor.settimeout(5)
                    with context.wrap_socket(visitor, server_side=True) as secured:
                        heard.append(secured.recv(2048))
                        if body is not None:
                            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                            secured.sendall(f"{head}{body}".encode())
                except OSError:
                    visitor.close()

        threading.Thread(target=serve, daemon=True).start()
        return server.getsockname()[1], heard

    yield start
    for server in sockets:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _read(uri: str, insecure: bool = False) -> str:
    with pytest.raises(SourceError) as refused:
        StreamSource(uri, QUICK, tls_insecure=insecure)
    return str(refused.value)


@pytest.mark.parametrize("scheme", ["https", "rtsps", "rtmps"])
def test_a_camera_is_trusted_before_it_gets_a_password(
    scheme: str,
    certificates: Path,
    listen: Callable[..., tuple[int, list[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    port, heard = listen("here")
    uri = f"{scheme}://bob:hunter2@127.0.0.1:{port}/x.ts"
    said = _read(uri)
    assert "its certificate is not trusted: unable to get local issuer certificate" in said
    assert "--tls-insecure" in said
    assert "hunter2" not in said
    assert not any(heard), "nothing was sent"
    assert "is not trusted" not in _read(uri, insecure=True)
    assert any(heard), "it was talked to"
    assert "--tls-insecure" in caplog.text
    assert "hunter2" not in caplog.text
    heard.clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    assert "is not trusted" not in _read(uri)
    assert any(heard), "the authority is known"
    port, heard = listen("elsewhere")
    assert "IP address mismatch" in _read(f"{scheme}://bob:hunter2@127.0.0.1:{port}/x.ts")
    assert not any(heard), "a certificate of another name is no better than none"


@pytest.mark.parametrize("scheme", ["rtsps", "rtmps"])
def test_a_server_is_trusted_before_it_gets_images(
    scheme: str,
    certificates: Path,
    listen: Callable[..., tuple[int, list[bytes]]],
    paint: Callable[..., Frame],
    monkeypatch: pytest.MonkeyPatch,
    wait_until: Callable[..., None],
) -> None:
    def pushed(name: str, insecure: bool = False) -> tuple[str, list[bytes]]:
        port, heard = listen(name)
        uri = f"{scheme}://127.0.0.1:{port}/live/key"
        sink = NetworkSink(
            uri, tls_insecure=insecure, stall_s=8.0, backoff=Backoff(first_s=0.05, limit_s=0.1)
        )
        sink.write(paint(0, (9, 9, 9)), paint(0, (9, 9, 9)))
        wait_until(lambda: sink.outages > 0, "the push fails", 60.0)
        with pytest.raises(SinkError) as refused:
            sink.finish()
        sink.close()
        return str(refused.value), heard

    said, heard = pushed("here")
    assert "its certificate is not trusted" in said
    assert not any(heard)
    assert any(pushed("here", insecure=True)[1])
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    assert any(pushed("here")[1])
    said, heard = pushed("elsewhere")
    assert "IP address mismatch" in said
    assert not any(heard)


def test_a_machine_without_authorities_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "authorities", lambda: None)
    said = tls.certificate_problem("https://camera.example/x", 1.0)
    assert said is not None
    assert "install ca-certificates" in said
    assert tls.certificate_problem("http://camera.example/x", 1.0) is None


def test_the_pieces_of_a_playlist_come_from_trusted_servers_too(
    certificates: Path,
    listen: Callable[..., tuple[int, list[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    stranger, heard = listen("elsewhere")
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2.0,", f"https://127.0.0.1:{stranger}/1.ts"]
    page = "\n".join([*lines, "#EXT-X-ENDLIST", ""])
    port, asked = listen("here", page)
    _read(f"https://127.0.0.1:{port}/live.m3u8")
    assert any(asked)
    assert not any(heard)


def test_a_playlist_names_no_files(
    certificates: Path, listen: Callable[..., tuple[int, list[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    secret = certificates / "secret.ts"
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2.0,", secret.as_uri(), "#EXT-X-ENDLIST", ""]
    port, _ = listen("here", "\n".join(lines))
    assert "secret" not in _read(f"https://127.0.0.1:{port}/live.m3u8")


def test_a_password_goes_to_its_own_server_alone(
    certificates: Path, listen: Callable[..., tuple[int, list[bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "authority.pem"))
    port, heard = listen("here", "refused", status="401 Unauthorized\r\nWWW-Authenticate: Basic realm='x'")
    said = _read(f"https://bob:hunter2@127.0.0.1:{port}/x.ts")
    assert "the server refuses the user name or password" in said
    assert [b"Authorization: Basic Ym9iOmh1bnRlcjI=" in request for request in heard][:2] == [False, True]
    other, elsewhere = listen(
        "here", "refused", status="401 Unauthorized\r\nWWW-Authenticate: Basic realm='x'"
    )
    port, _ = listen("here", "", status=f"302 Found\r\nLocation: https://127.0.0.1:{other}/x.ts")
    _read(f"https://bob:hunter2@127.0.0.1:{port}/x.ts")
    assert elsewhere
    assert not any(b"Authorization" in request for request in elsewhere)
