"""The page as a browser sees it, and who is let in."""

from __future__ import annotations

import http.client
import json
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.frame import Frame
from i2i_runtime.run import open_sinks
from i2i_runtime.sinks import SinkOptions
from i2i_runtime.sinks.mjpeg import Allowance, MjpegSink, shrunk, side_by_side
from i2i_runtime.sources.network import StreamSource
from i2i_runtime.web.auth import Access, ServerOptions, open_access

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

BLUE, RED = (20, 40, 220), (220, 30, 20)
TOKEN = "0123456789abcdef0123"


@pytest.fixture
def served(paint: Callable[..., Frame], repeat: Callable[..., None]) -> Callable[..., MjpegSink]:
    """Opens the page and shows blue sources with red translations on it until the test ends."""

    def start(access: Access | None = None, no_signal: str | None = None) -> MjpegSink:
        sink = MjpegSink(access or Access("127.0.0.1", 0))

        def write(number: int) -> None:
            source = replace(paint(2 * number, BLUE), no_signal=no_signal)  # every second image is missing
            translated = replace(source, pixels=paint(0, RED).pixels, engine_ms=12.5)
            sink.write(translated, source)

        repeat(0.03, write, sink.close)
        return sink

    return start


def ask(
    sink: MjpegSink,
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=5)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = b"" if answer.getheader("content-type", "").startswith("multipart") else answer.read()
    connection.close()
    return answer.status, text


def test_the_page_in_a_browser(
    served: Callable[..., MjpegSink], browser: Any, wait_until: Callable[..., None]
) -> None:
    sink = served()
    browser.open(sink.url)
    wait_until(lambda: browser.evaluate("pair && pair.width") == 640, "an image is drawn")
    wait_until(
        lambda: browser.evaluate("document.getElementById('engine_ms').textContent") == "12.5", "figures"
    )
    assert float(browser.evaluate("document.getElementById('fps').textContent")) > 0
    box = browser.evaluate(
        "(({x, y, width, height}) => [x, y, width, height])(image.getBoundingClientRect())"
    )

    def colour_at(part: float) -> np.ndarray:
        image = browser.screenshot()
        return np.asarray(image[round(box[1] + 0.25 * box[3]), round(box[0] + part * box[2])], int)

    assert np.abs(colour_at(0.3) - BLUE).max() < 12, "left of the divider is the source"
    assert np.abs(colour_at(0.7) - RED).max() < 12, "right of the divider is the translated image"
    browser.drag(box[0] + 0.5 * box[2], box[0] + 0.15 * box[2], box[1] + 0.5 * box[3])
    wait_until(lambda: browser.evaluate("divider") < 0.2, "the divider follows the pointer")
    assert np.abs(colour_at(0.3) - RED).max() < 12
    assert browser.complaints() == []


def test_the_page_tells_of_a_missing_signal(
    served: Callable[..., MjpegSink], browser: Any, wait_until: Callable[..., None]
) -> None:
    sink = served(no_signal="<b>cable</b>")
    browser.open(sink.url)
    said = "document.getElementById('notice').textContent"
    wait_until(
        lambda: browser.evaluate(said) == "No signal: <b>cable</b>", "the reason is on the page, as text"
    )


def test_mjpeg_out_is_mjpeg_in(served: Callable[..., MjpegSink]) -> None:
    sink = served()
    source = StreamSource(f"{sink.url}translated.mjpg")
    frame = source.read()
    source.close()
    assert frame is not None
    assert np.abs(frame.pixels.astype(int) - RED).mean() < 4


def test_images_are_encoded_only_for_viewers_and_all_see_the_same_moment(
    served: Callable[..., MjpegSink], wait_until: Callable[..., None]
) -> None:
    sink = served()
    wait_until(lambda: json.loads(ask(sink, "/figures")[1])["frames"] >= 3, "frames pass")
    assert sink._pairs._newest is None
    source = StreamSource(f"{sink.url}pair.mjpg")
    frame = source.read()
    source.close()
    assert frame is not None
    assert frame.pixels.shape == (180, 640, 3)
    assert np.abs(frame.pixels[:, :300].astype(int) - BLUE).mean() < 6
    assert np.abs(frame.pixels[:, 340:].astype(int) - RED).mean() < 6
    wait_until(lambda: not sink._pairs.watched, "the viewer who left is forgotten")


def test_figures(served: Callable[..., MjpegSink], wait_until: Callable[..., None]) -> None:
    sink = served()
    wait_until(lambda: json.loads(ask(sink, "/figures")[1])["dropped"] >= 3, "drops are counted")
    figures = json.loads(ask(sink, "/figures")[1])
    assert figures["engine_ms"] == 12.5
    assert figures["dropped"] == figures["frames"] - 1
    assert 0 <= figures["age_ms"] < 5000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": "localhost:80"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "127.0.0.1:80", "Origin": "http://127.0.0.1:80"}, 200),
        ({"Host": "127.0.0.1:80", "Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"X": "y" * 15000}, 200),
        ({"X": "y" * 20000}, 431),
    ],
)
def test_loopback_asks_for_no_token_but_knows_its_name(
    served: Callable[..., MjpegSink], headers: dict[str, str], status: int
) -> None:
    assert ask(served(), "/figures", headers)[0] == status


def test_nothing_but_reading(served: Callable[..., MjpegSink]) -> None:
    sink = served()
    assert ask(sink, "/figures", method="POST", body=b"{}")[0] == 405
    assert ask(sink, "/figures", body=b"x" * 100)[0] == 413
    assert ask(sink, "/figures?" + "x" * 5000)[0] == 414
    assert ask(sink, "/../../etc/passwd")[0] == 404


def test_a_token_is_asked_for_and_never_logged(
    served: Callable[..., MjpegSink], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    sink = served(Access("127.0.0.1", 0, token=TOKEN))
    wrong = TOKEN[:-1] + "4"
    assert ask(sink, "/figures")[0] == 401
    assert ask(sink, f"/figures?token={wrong}")[0] == 401
    assert ask(sink, "/figures", {"Authorization": f"Bearer {wrong}"})[0] == 401
    assert ask(sink, f"/figures?token={TOKEN}")[0] == 200
    assert ask(sink, "/figures", {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert ask(sink, "/figures", {"Cookie": f"i2i_token={TOKEN}"})[0] == 200
    assert ask(sink, f"/?token={TOKEN}")[0] == 303
    assert ask(sink, "/pair.mjpg", {"Cookie": "i2i_token=Ä; =; ;;"})[0] == 401
    shown = capfd.readouterr()
    assert TOKEN not in shown.out + shown.err + caplog.text


def test_a_browser_with_a_token(
    served: Callable[..., MjpegSink], browser: Any, wait_until: Callable[..., None]
) -> None:
    sink = served(Access("127.0.0.1", 0, token=TOKEN))
    browser.open(f"{sink.url}?token={TOKEN}")
    wait_until(lambda: browser.evaluate("pair && pair.width") == 640, "an image is drawn")
    assert "token" not in browser.evaluate("location.href"), "the token leaves the address bar"


def test_tls(tmp_path: Path, served: Callable[..., MjpegSink]) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    sink = served(open_access("@:0", 0, ServerOptions(tls_cert=certificate, tls_key=key)))
    context = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection("localhost", sink.port, timeout=5, context=context)
    connection.request("GET", "/figures")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(SinkError, match="cannot use the certificate"):
        MjpegSink(Access("127.0.0.1", 0, certificate=key, key=certificate))


def test_the_rules_for_addresses(tmp_path: Path) -> None:
    assert open_access("@:8080", 1) == Access("127.0.0.1", 8080)
    assert open_access(":9100", 1) == Access("127.0.0.1", 9100)
    assert open_access("", 9100) == Access("127.0.0.1", 9100)
    assert open_access("@[::1]:8080", 1) == Access("::1", 8080)
    everywhere = [
        open_access(text, 1) for text in ("@0.0.0.0:80", "[::]:80", "192.168.1.4:80", "camera.local:80")
    ]
    assert all(access.generated and len(access.token or "") >= 32 for access in everywhere)
    assert len({access.token for access in everywhere}) == 4
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert open_access("@0.0.0.0:80", 1, ServerOptions(token_file=file)).token == TOKEN
    file.write_text("short")
    with pytest.raises(UsageError, match="too weak"):
        open_access("@:80", 1, ServerOptions(token_file=file))
    for wrong in ("@:99999", "http://x", "a b:8", "@::1:80", "x/../y:80"):
        with pytest.raises(UsageError, match="not an address to listen on"):
            open_access(wrong, 1)
    with pytest.raises(UsageError, match="certificate needs its key"):
        open_access("@:80", 1, ServerOptions(tls_cert=file))


def test_a_made_up_token_is_shown_once(
    served: Callable[..., MjpegSink], capfd: pytest.CaptureFixture[str]
) -> None:
    access = Access("127.0.0.1", 0, token=TOKEN, generated=True)
    served(access)
    assert capfd.readouterr().err.count(TOKEN) == 1


def test_a_taken_port_is_one_sentence(served: Callable[..., MjpegSink]) -> None:
    sink = served()
    with pytest.raises(SinkError, match="choose another port"):
        MjpegSink(Access("127.0.0.1", sink.port))


def test_the_pair_has_the_translated_size_whatever_the_source() -> None:
    white = np.full((180, 320, 3), 255, np.uint8)
    pair = side_by_side(np.full((90, 50, 3), 128, np.uint8), white)
    assert pair.shape == (180, 640, 3)
    assert cv2.mean(pair[:, 320:])[0] == 255
    assert (pair[90, 160] == 128).all()
    assert (pair[90, 20] == 0).all(), "a source of another shape is not stretched"
    assert side_by_side(white, white, 160).shape == (90, 320, 3)


@pytest.mark.parametrize(
    ("asked", "given"), [(None, 321), (1, 1), (100, 107), (160, 160), (161, 321), (900, 321)]
)
def test_images_are_shrunk_but_never_under_what_is_shown(asked: int | None, given: int) -> None:
    assert shrunk(np.zeros((181, 321, 3), np.uint8), asked).shape[1] == given


def test_a_viewer_gets_no_more_than_it_shows_and_the_widest_decides(
    served: Callable[..., MjpegSink], wait_until: Callable[..., None]
) -> None:
    sink = served()  # images of 320x180
    small = StreamSource(f"{sink.url}translated.mjpg?width=150")
    frame = small.read()
    assert frame is not None
    assert frame.pixels.shape == (90, 160, 3)
    large = StreamSource(f"{sink.url}translated.mjpg?width=x")
    frame = large.read()
    wait_until(lambda: sink._singles.width is None, "a viewer that says nothing takes all there is")
    assert frame is not None
    small.close()
    large.close()


def test_the_page_takes_its_share_and_no_more() -> None:
    now, worked = [100.0], [7.0]
    allowance = Allowance(0.05, lambda: now[0], lambda: worked[0])

    def open_at(now_s: float) -> bool:
        now[0] = now_s
        return allowance.open

    assert open_at(100.0), "the first image is always made"
    with allowance.spent():
        worked[0] += 0.004
        now[0] += 0.009  # others had the core meanwhile: that is not the page's doing
    assert not open_at(100.079)
    assert open_at(100.081)


def test_the_page_alone_takes_every_frame() -> None:
    now = [100.0]
    alone = Allowance(1.0, lambda: now[0], lambda: now[0])
    for _ in range(3):
        assert alone.open
        with alone.spent():
            now[0] += 0.02


def test_the_page_knows_whether_it_is_alone(tmp_path: Path) -> None:
    options = SinkOptions()
    sinks = open_sinks(["mjpeg://127.0.0.1:0", f"{tmp_path}/out"], options)
    (single,) = open_sinks(["mjpeg://127.0.0.1:0"], options)
    assert [getattr(sink, "beside", None) for sink in (*sinks, single)] == [True, None, False]
    for sink in (*sinks, single):
        sink.close()


@pytest.mark.parametrize("path", ["/", "/pair.mjpg", "/translated.mjpg", "/figures"])
def test_a_question_for_the_head_alone_is_answered_at_once(
    served: Callable[..., MjpegSink], path: str
) -> None:
    sink = served()
    connection = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=10)
    connection.request("HEAD", path)
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    connection.request("HEAD", path)  # the connection is free again
    assert connection.getresponse().status == 200
    connection.close()
