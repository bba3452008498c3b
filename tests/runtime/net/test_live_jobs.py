"""Whole live jobs: several outputs from one translation, figures while they run, events as JSON."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.backoff import Backoff
from i2i_runtime.engines.onnxruntime import OnnxRuntimeEngine
from i2i_runtime.errors import SinkError, SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.prometheus import MetricsServer
from i2i_runtime.sinks import Sink
from i2i_runtime.sinks.mjpeg import MjpegSink
from i2i_runtime.sinks.push import NetworkSink
from i2i_runtime.sources import Source
from i2i_runtime.sources.network import StreamSource
from i2i_runtime.sources.reconnect import Patience, ReconnectingSource
from i2i_runtime.web.auth import Access


class Camera(Source):
    """Fifty images a second until it is closed; with `count`, it breaks after so many."""

    live = True
    name = "camera"

    def __init__(self, paint: Callable[..., Frame], count: int = 1_000_000) -> None:
        self._paint, self._left, self._closing = paint, count, threading.Event()
        self._index = 0

    def read(self) -> Frame | None:
        if self._closing.wait(0.02) or self._index >= self._left:
            return None
        self._index += 1
        return self._paint(self._index - 1, (200, 40, 30), 72, 128)

    def close(self) -> None:
        self._closing.set()


class Kept(Sink):
    """An output that keeps what it is given; with `slow`, it takes its time."""

    def __init__(self, name: str, slow_s: float = 0.0) -> None:
        self.name, self._slow_s = name, slow_s
        self.taken: list[tuple[Frame, Frame]] = []

    def write(self, translated: Frame, source: Frame) -> None:
        time.sleep(self._slow_s)
        self.taken.append((translated, source))


def get(url: str, path: str) -> str:
    address = url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=5)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    connection.close()
    return text


def test_a_slow_output_and_a_deaf_server_hold_nobody_up(paint: Callable[..., Frame], engines: Any) -> None:
    quick, slow = Kept("quick"), Kept("slow", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"rtmp://127.0.0.1:{deaf.getsockname()[1]}/live/x"
        push = NetworkSink(uri, stall_s=1.0, backoff=Backoff(first_s=0.05, limit_s=0.1))
        camera = Camera(paint, 60)
        pipeline = Pipeline(
            camera, OnnxRuntimeEngine(engines.identity), [quick, slow, push], policy="freshest", stall_s=30.0
        )
        with pytest.raises(SinkError, match="never accepted an image"):
            pipeline.run()
    assert len(quick.taken) >= 3 * len(slow.taken)
    assert slow.taken
    assert pipeline.stats.dropped_by_sink[1] >= 20


def test_one_translation_for_page_and_recording(
    paint: Callable[..., Frame], engines: Any, wait_until: Callable[..., None]
) -> None:
    page, kept, camera = MjpegSink(Access("127.0.0.1", 0)), Kept("kept"), Camera(paint)
    engine = OnnxRuntimeEngine(engines.invert)
    pipeline = Pipeline(camera, engine, [page, kept], policy="freshest")
    metrics = MetricsServer(Access("127.0.0.1", 0), pipeline.stats)
    job = threading.Thread(target=pipeline.run)
    job.start()
    wait_until(lambda: len(kept.taken) >= 5, "frames pass")
    viewer = StreamSource(f"{page.url}translated.mjpg")
    seen = viewer.read()
    viewer.close()
    assert seen is not None
    assert abs(int(seen.pixels[36, 64, 0]) - 55) < 8, "the engine inverted the image"
    figures = json.loads(get(page.url, "/figures"))
    assert figures["engine_ms"] > 0
    text = get(metrics.url, "/metrics")
    assert float(text.split("\ni2i_frames_out_total ")[1].split("\n")[0]) >= 5
    assert 'i2i_latency_seconds{quantile="0.95",stage="age"}' in text
    assert 'i2i_output_dropped_total{output="1 kept"}' in text
    camera.close()
    job.join(timeout=10)
    metrics.close()
    assert not job.is_alive()
    engine_ms = kept.taken[-1][0].engine_ms
    assert engine_ms is not None
    assert engine_ms > 0


def test_a_lost_camera_shows_a_card_that_no_engine_touched(
    paint: Callable[..., Frame], engines: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = Patience(slate_after_s=0.1, slate_every_s=0.05, stall_s=5.0)
    cameras = iter([Camera(paint, 3)])

    def open_camera() -> Camera:
        for camera in cameras:
            return camera
        raise SourceError("camera 0 cannot be opened: plug it in.")

    source = ReconnectingSource(open_camera, backoff=Backoff(first_s=0.01, limit_s=0.02), patience=patience)
    kept, engine = Kept("kept"), OnnxRuntimeEngine(engines.invert)
    infer, translated = engine.infer, []

    def counted(*given: Any) -> Any:
        translated.append(given)
        return infer(*given)

    def end_after_cards(_: object) -> None:
        if sum(frame.is_slate for _, frame in kept.taken) >= 5:
            source.close()

    monkeypatch.setattr(engine, "infer", counted)
    pipeline = Pipeline(source, engine, [kept], policy="freshest", limit=4)
    pipeline.run(end_after_cards)
    shown, card = next(pair for pair in kept.taken if "plug it in" in (pair[1].no_signal or ""))
    assert (shown.pixels == card.pixels).all()
    first_translated, first = kept.taken[0]
    assert (first_translated.pixels == 255 - first.pixels).all()
    new = sum(not frame.is_slate for _, frame in kept.taken)
    assert pipeline.stats.frames_out == new <= 3, "a card is no new frame"
    assert new <= len(translated) <= pipeline.stats.frames_in <= 3


def test_the_command_serves_the_page_and_the_figures(
    engines: Any,
    make_clip: Callable[..., Path],
    free_port: Callable[[], int],
    wait_until: Callable[..., None],
) -> None:
    clip = make_clip("four_seconds.mp4", pts=[512 * index for index in range(100)])
    page, metrics = free_port(), free_port()
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()", "--json", "--hud"]
    command += [
        "--engine",
        str(engines.identity),
        "--input",
        f"replay:{clip}",
        "--output",
        f"mjpeg://@:{page}",
        "--metrics",
        f":{metrics}",
        "--steady",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:

        def shown() -> bool:
            try:
                return "i2i_frames_in_total" in get(f"http://127.0.0.1:{metrics}", "/metrics")
            except OSError:
                return False

        wait_until(lambda: shown() or job.poll() is not None, "the figures are served")
        errors = job.communicate(timeout=60)[1]
    assert job.returncode == 0, errors
    assert f"http://127.0.0.1:{page}/" in errors
