"""RTMP, HLS and RTSP in and out against real servers on loopback."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.push import NetworkSink
from i2i_runtime.sources.network import StreamSource, StreamTimeouts, open_network_source
from i2i_runtime.sources.reconnect import Patience

if TYPE_CHECKING:
    from tests.runtime.net.conftest import NextFrame

GREEN = (20, 200, 40)
QUICK = Backoff(first_s=0.05, limit_s=0.2)


@pytest.fixture
def pushing(paint: Callable[..., Frame], repeat: Callable[..., None]) -> Callable[[str], NetworkSink]:
    """Pushes a green image 25 times a second, in the background, until the test ends."""

    def start(uri: str) -> NetworkSink:
        sink = NetworkSink(uri, backoff=QUICK)

        def write(index: int) -> None:
            frame = paint(index, GREEN)
            sink.write(frame, frame)

        repeat(0.04, write, sink.close)
        return sink

    return start


def open_when_there(uri: str, deadline_s: float = 20.0) -> StreamSource:
    end_s = time.monotonic() + deadline_s
    while time.monotonic() < end_s:
        with contextlib.suppress(SourceError):
            return StreamSource(uri, StreamTimeouts(open_s=10.0, read_s=10.0))
        time.sleep(0.1)
    return StreamSource(uri)


def assert_colour(image: Any, colour: tuple[int, int, int]) -> None:
    assert np.abs(image.astype(int) - colour).mean() < 4.0


def test_rtmp_out_arrives_and_rtmp_in_reads_it(
    media_server: Any, pushing: Callable[[str], NetworkSink], next_frame: NextFrame
) -> None:
    sink = pushing(media_server.rtmp)
    source = open_when_there(media_server.rtmp)
    frames = [next_frame(source) for _ in range(5)]
    source.close()
    assert all(frame.pixels.shape == (180, 320, 3) for frame in frames)
    assert_colour(frames[-1].pixels, GREEN)
    assert sink.outages == 0


def test_hls_in_at_its_own_pace(
    media_server: Any, pushing: Callable[[str], NetworkSink], next_frame: NextFrame
) -> None:
    pushing(media_server.hls_push)
    source = open_when_there(media_server.hls)
    frames = [next_frame(source) for _ in range(12)]
    source.close()
    assert_colour(frames[-1].pixels, GREEN)
    shown_s = frames[-1].captured_s - frames[1].captured_s
    assert shown_s >= 0.9 * float(frames[-1].time_s - frames[1].time_s), "a piece is not played all at once"


def test_rtmp_from_ffmpeg(
    media_server: Any, ffmpeg: str, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    image = "-re -f lavfi -i testsrc=size=320x180:rate=25"
    encoder = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 25 -f flv"
    start([ffmpeg, *image.split(), *encoder.split(), media_server.rtmp])
    source = open_when_there(media_server.rtmp)
    first, second = source.read(), source.read()
    source.close()
    assert first is not None
    assert second is not None
    assert second.pts > first.pts


def test_rtsp_in_is_over_tcp_and_red(rtsp_server: Any) -> None:
    source = open_when_there(rtsp_server.pattern)
    frame = source.read()
    source.close()
    assert frame is not None
    assert_colour(frame.pixels, (254, 0, 0))


def test_rtsp_out_arrives(
    rtsp_server: Any, paint: Callable[..., Frame], wait_until: Callable[..., None]
) -> None:
    sink = NetworkSink(rtsp_server.inbox, backoff=QUICK)
    for index in range(60):
        frame = paint(index, GREEN)
        sink.write(frame, frame)
        wait_until(lambda wanted=index + 1: sink.sent + sink.dropped >= wanted, "the image is taken")
    sink.finish()
    sink.close()
    assert sink.outages == 0
    wait_until(
        lambda: rtsp_server.recording.exists() and rtsp_server.recording.stat().st_size,
        "something is recorded",
    )
    with av.open(str(rtsp_server.recording)) as container:
        decoded = next(container.decode(video=0))
    assert_colour(decoded.to_ndarray(format="rgb24"), GREEN)


def test_source_comes_back_after_the_server_died(rtsp_server: Any, next_frame: NextFrame) -> None:
    source = open_network_source(
        rtsp_server.pattern,
        timeouts=StreamTimeouts(open_s=3.0, read_s=1.0),
        backoff=QUICK,
        patience=Patience(slate_after_s=0.3, slate_every_s=0.1, stall_s=8.0),
    )
    assert not next_frame(source).is_slate
    rtsp_server.stop()
    frame = next_frame(source)
    while not frame.is_slate:
        frame = next_frame(source)
    assert frame.pixels.shape == (180, 320, 3)
    rtsp_server.restart()
    frame = next_frame(source)
    while frame.is_slate:
        frame = next_frame(source)
    source.close()
    assert source.outages == 1
    assert source.recoveries == 1
    assert source.read() is None


def test_sink_comes_back_after_the_server_died(
    media_server: Any, pushing: Callable[[str], NetworkSink], wait_until: Callable[..., None]
) -> None:
    media_server.stop()
    sink = pushing(media_server.rtmp)
    wait_until(lambda: sink.outages >= 1, "the outage is noticed")
    media_server.restart()
    source = open_when_there(media_server.rtmp)
    frame = source.read()
    source.close()
    assert frame is not None
    assert_colour(frame.pixels, GREEN)


def test_a_stream_that_nobody_took_is_not_finished(
    free_port: Callable[[], int], paint: Callable[..., Frame]
) -> None:
    sink = NetworkSink(f"rtmp://127.0.0.1:{free_port()}/live/nobody", backoff=QUICK)
    frame = paint(0, GREEN)
    sink.write(frame, frame)
    with pytest.raises(SinkError, match="never accepted an image"):
        sink.finish()
    sink.close()


def test_a_server_that_accepts_and_says_nothing_stalls_nobody(
    paint: Callable[..., Frame], wait_until: Callable[..., None]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        sink = NetworkSink(f"rtmp://127.0.0.1:{deaf.getsockname()[1]}/live/x", stall_s=1.0, backoff=QUICK)
        for index in range(20):
            frame = paint(index, GREEN, 720, 1280)
            sink.write(frame, frame)
        wait_until(lambda: sink.outages >= 1, "the watchdog kills the deaf connection")
        sink.close()
        with pytest.raises(SourceError, match="no response within 1 s"):
            StreamSource(
                f"rtmp://127.0.0.1:{deaf.getsockname()[1]}/live/x", StreamTimeouts(open_s=1.0, read_s=1.0)
            )


def test_listening_is_refused_with_the_way_out() -> None:
    with pytest.raises(SinkError, match="only pushes to a server"):
        NetworkSink("rtsp://@:8554/name")


def test_a_wrong_password_is_not_shown() -> None:
    with pytest.raises(SourceError) as caught:
        StreamSource("rtsp://admin:hunter2@127.0.0.1:1/x", StreamTimeouts(open_s=2.0, read_s=2.0))
    assert "hunter2" not in str(caught.value)
