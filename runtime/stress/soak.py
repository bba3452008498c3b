"""Live jobs watched for a long time: age of the image, memory, file descriptors, losses and recoveries.

    python runtime/stress/soak.py freshest --minutes 30     # engine three times slower than the source
    python runtime/stress/soak.py losses --count 200        # a network source that dies and comes back
    python runtime/stress/soak.py added --seconds 60        # what the pipeline adds to the engine's time
    python runtime/stress/soak.py replay CLIP               # i2i-stream --input replay:CLIP --policy freshest
    python runtime/stress/soak.py visitors --minutes 30     # a recording, and strangers who half-open connections

Each adds one row to soak.jsonl beside this file; `freshest` also draws soak_freshest.png. The engine is a
stand-in that takes a fixed time and changes nothing: what is measured is the pipeline around it. That of `replay` is a
real one, held back until it is as slow as asked.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import av
import cv2
import numpy as np
import tyro

from i2i_runtime.backoff import Backoff
from i2i_runtime.engines import Engine, open_engine
from i2i_runtime.frame import Frame, Image
from i2i_runtime.machine import describe_machine
from i2i_runtime.metadata import EngineMetadata, SizePolicy
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks import Sink, SinkOptions, open_sink
from i2i_runtime.sinks.mjpeg import MjpegSink
from i2i_runtime.sources import Source, open_source
from i2i_runtime.sources.network import StreamTimeouts, open_network_source
from i2i_runtime.sources.reconnect import Patience, ReconnectingSource
from i2i_runtime.sources.street import Street
from i2i_runtime.web.auth import Access

HERE = Path(__file__).parent
ROWS, CURVE = HERE / "soak.jsonl", HERE / "soak_freshest.png"
HEIGHT, WIDTH = 720, 1280


class StandInCamera(Source):
    """A 720p camera of `rate` frames a second; eight drawn streets in turn, each copied as a driver would."""

    live = True
    name = "stand-in camera"

    def __init__(self, rate: float) -> None:
        street = Street(WIDTH, HEIGHT)
        self._images = [street.draw(index) for index in range(0, 40, 5)]
        self._period_s = 1.0 / rate
        self._start_s = time.monotonic()
        self._index = itertools.count()
        self._closing = threading.Event()

    def read(self) -> Frame | None:
        index = next(self._index)
        if self._closing.wait(max(0.0, self._start_s + index * self._period_s - time.monotonic())):
            return None
        now_s = time.monotonic()
        pts = round((now_s - self._start_s) * 1e6)
        return Frame(self._images[index % 8].copy(), index, pts, Fraction(1, 1_000_000), now_s)

    def close(self) -> None:
        self._closing.set()


class StandInEngine:
    """Takes `engine_ms` for every frame and gives back a copy of it."""

    metadata = EngineMetadata("stand-in", "identity", "a -> a", SizePolicy())
    backend = "stand-in"
    reason = "a fixed time"
    slots = 1

    def __init__(self, engine_ms: float) -> None:
        self._engine_s = engine_ms / 1000

    def infer(self, image: Image, style: Any = None) -> Image:
        end_s = time.monotonic() + self._engine_s
        translated = image.copy()
        time.sleep(max(0.0, end_s - time.monotonic()))
        return translated

    def close(self) -> None:
        return


class AgeSink(Sink):
    """Remembers the age of each image at hand-off until `taken` asks."""

    name = "ages"

    def __init__(self) -> None:
        self._ages: list[float] = []

    def write(self, translated: Frame, source: Frame) -> None:
        self._ages.append((time.monotonic() - source.captured_s) * 1000)

    def taken(self) -> list[float]:
        ages, self._ages = self._ages, []
        return ages


@dataclass(frozen=True)
class Sample:
    time_s: float
    p50_ms: float
    p95_ms: float
    resident_mib: float
    descriptors: int
    threads: int


def sample(time_s: float, ages: list[float]) -> Sample:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    p50, p95 = np.percentile(ages, [50, 95]) if ages else (0.0, 0.0)
    resident = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return Sample(
        time_s, float(p50), float(p95), resident, len(os.listdir("/proc/self/fd")), threading.active_count()
    )


@dataclass(frozen=True)
class Freshest:
    """Age at hand-off in freshest mode with an engine that is too slow for its source."""

    kind: Annotated[Literal["freshest"], tyro.conf.Suppress] = "freshest"
    minutes: float = 30.0
    rate: float = 25.0
    slower: float = 3.0
    """How many source periods the engine takes."""

    def run(self) -> dict[str, Any]:
        period_ms = 1000 / self.rate
        engine_ms = self.slower * period_ms
        sink = AgeSink()
        source = ReconnectingSource(lambda: StandInCamera(self.rate))
        pipeline = Pipeline(source, StandInEngine(engine_ms), [sink], policy="freshest")
        job = threading.Thread(target=pipeline.run, daemon=True)
        job.start()
        began_s = time.monotonic()
        every_s = min(10.0, self.minutes * 60 / 30)
        samples = []
        while time.monotonic() - began_s < self.minutes * 60:
            time.sleep(every_s)
            samples.append(sample(time.monotonic() - began_s, sink.taken()))
        source.close()
        job.join(timeout=10.0)
        draw(samples, engine_ms + 2 * period_ms)
        third = max(1, len(samples) // 3)
        first, last = samples[1 : third + 1], samples[-third:]
        return {
            "minutes": self.minutes,
            "source_fps": self.rate,
            "engine_ms": engine_ms,
            "bound_ms": engine_ms + 2 * period_ms,
            "age_p50_ms": round(pipeline.stats.latencies["age"].percentile_ms(50), 2),
            "age_p95_ms": round(pipeline.stats.latencies["age"].percentile_ms(95), 2),
            "age_p95_first_third_ms": round(float(np.median([one.p95_ms for one in first])), 2),
            "age_p95_last_third_ms": round(float(np.median([one.p95_ms for one in last])), 2),
            "frames_in": pipeline.stats.frames_in,
            "frames_out": pipeline.stats.frames_out,
            "dropped": pipeline.stats.dropped,
            "dropped_by_source": pipeline.stats.dropped_by_source,
            "resident_mib_first_third": round(float(np.median([one.resident_mib for one in first])), 1),
            "resident_mib_last_third": round(float(np.median([one.resident_mib for one in last])), 1),
            "descriptors_first_last": [first[0].descriptors, last[-1].descriptors],
            "threads_first_last": [first[0].threads, last[-1].threads],
        }


@dataclass(frozen=True)
class Losses:
    """A Motion JPEG server on loopback that is closed and opened again, and a source that has to cope."""

    kind: Annotated[Literal["losses"], tyro.conf.Suppress] = "losses"
    count: int = 200

    def run(self) -> dict[str, Any]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        server = _ImageServer(port)
        source = open_network_source(
            f"http://127.0.0.1:{port}/translated.mjpg",
            timeouts=StreamTimeouts(open_s=5.0, read_s=2.0),
            backoff=Backoff(first_s=0.05, limit_s=0.5),
            patience=Patience(slate_after_s=0.3, slate_every_s=0.1, stall_s=10.0),
        )
        away_s, cards, before = [], 0, sample(0.0, [])
        for _ in range(self.count):
            while _read(source).is_slate:
                pass
            server.close()
            while not _read(source).is_slate:
                pass
            server = _ImageServer(port)
            back_s = time.monotonic()
            while _read(source).is_slate:
                cards += 1
            away_s.append(time.monotonic() - back_s)
        after = sample(0.0, [])
        source.close()
        server.close()
        return {
            "losses": source.outages,
            "recoveries": source.recoveries,
            "cards_shown_at_least": cards,
            "back_after_server_p50_s": round(float(np.median(away_s)), 3),
            "back_after_server_max_s": round(max(away_s), 3),
            "resident_mib_before_after": [round(before.resident_mib, 1), round(after.resident_mib, 1)],
            "descriptors_before_after": [before.descriptors, after.descriptors],
            "threads_before_after": [before.threads, after.threads],
        }


class _ImageServer:
    """Shows one image 50 times a second on a page."""

    def __init__(self, port: int) -> None:
        self._sink = MjpegSink(Access("127.0.0.1", port))
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)
        self._thread.start()

    def _show(self) -> None:
        image = np.full((180, 320, 3), 90, np.uint8)
        for index in itertools.count():
            if self._closing.wait(0.02):
                return
            frame = Frame(image, index, index, Fraction(1, 50), time.monotonic())
            self._sink.write(frame, frame)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._sink.close()


def _read(source: Source) -> Frame:
    frame = source.read()
    assert frame is not None, "the source ended"
    return frame


@dataclass(frozen=True)
class Added:
    """Time from capture to the hand-off to the sink, less the engine's, at 720p, with an engine that keeps
    up.
    """

    kind: Annotated[Literal["added"], tyro.conf.Suppress] = "added"
    seconds: float = 60.0
    rate: float = 30.0
    engine_ms: float = 20.0

    def run(self) -> dict[str, Any]:
        source = StandInCamera(self.rate)
        pipeline = Pipeline(source, StandInEngine(self.engine_ms), [AgeSink()], policy="freshest")
        threading.Timer(self.seconds, source.close).start()
        pipeline.run()
        added = pipeline.stats.latencies["added"].summary()
        return {"seconds": self.seconds, "source_fps": self.rate, "engine_ms": self.engine_ms, "added": added}


class HeldBackEngine:
    """A real engine whose every answer comes `engine_ms` after the question, or later if it is slower itself."""

    slots = 1

    def __init__(self, engine: Engine, engine_ms: float) -> None:
        self._engine, self._engine_s = engine, engine_ms / 1000
        self.metadata, self.backend, self.reason = engine.metadata, engine.backend, "held back"

    def infer(self, image: Image, style: Any = None) -> Image:
        end_s = time.monotonic() + self._engine_s
        translated = self._engine.infer(image, style)
        time.sleep(max(0.0, end_s - time.monotonic()))
        return translated

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True)
class Replay:
    """What `i2i-stream --engine ENGINE --input replay:CLIP --policy freshest` does with an engine too slow for the
    clip: the age of the shown image from the clip's beginning to its end.
    """

    clip: Annotated[Path, tyro.conf.Positional]
    kind: Annotated[Literal["replay"], tyro.conf.Suppress] = "replay"
    engine: str = "day2night"
    slower: float = 3.0
    """How many source periods the engine takes."""

    def run(self) -> dict[str, Any]:
        with av.open(self.clip) as container:
            rate = float(container.streams.video[0].average_rate or 30)
        engine_ms = self.slower * 1000 / rate
        engine = HeldBackEngine(open_engine(self.engine), engine_ms)
        source = open_source(f"replay:{self.clip}")
        # The network is compiled before the first frame is due.
        first = open_source(str(self.clip))
        engine.infer(_read(first).pixels)
        first.close()
        sink = AgeSink()
        pipeline = Pipeline(source, engine, [sink], policy="freshest")
        pipeline.run()
        ages = sink.taken()
        tenth = max(1, len(ages) // 10)
        return {
            "clip": self.clip.name,
            "engine": self.engine,
            "source_fps": round(rate, 3),
            "engine_ms": round(engine_ms, 2),
            "engine_p95_ms": round(pipeline.stats.latencies["infer"].percentile_ms(95), 2),
            "bound_ms": round(engine_ms + 2000 / rate, 2),
            "frames_in": pipeline.stats.frames_in,
            "frames_out": pipeline.stats.frames_out,
            "dropped": pipeline.stats.dropped,
            "dropped_by_source": pipeline.stats.dropped_by_source,
            "age_p50_ms_by_tenth": [
                round(float(np.median(ages[start : start + tenth])), 1)
                for start in range(0, tenth * 10, tenth)
            ],
            "age_p95_ms": round(float(np.percentile(ages, 95)), 2),
        }


@dataclass(frozen=True)
class Visitors:
    """A recording beside a page with a token, while strangers open connections and never finish a request."""

    kind: Annotated[Literal["visitors"], tyro.conf.Suppress] = "visitors"
    minutes: float = 30.0
    strangers: int = 300
    descriptors: int = 256
    """How many descriptors this process may have open."""

    def run(self) -> dict[str, Any]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, self.descriptors))
        token = "0123456789abcdef0123"
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "recording.mkv"
            page = MjpegSink(Access("127.0.0.1", 0, token), beside=True)
            source = StandInCamera(10.0)
            sinks = [open_sink(str(recording), SinkOptions(preset="ultrafast")), page]
            pipeline = Pipeline(source, StandInEngine(20.0), sinks, policy="freshest")
            job = threading.Thread(target=pipeline.run, daemon=True)
            job.start()
            strangers = subprocess.Popen(
                [sys.executable, str(HERE / "strangers.py"), str(page.port), str(self.strangers)]
            )
            samples, served, began_s = [], [], time.monotonic()
            while time.monotonic() - began_s < self.minutes * 60:
                time.sleep(min(5.0, self.minutes * 6))
                served.append(_owner_is_served(page.port, token))
                samples.append(sample(time.monotonic() - began_s, []))
            strangers.kill()
            strangers.wait()
            source.close()
            job.join(timeout=60.0)
            with av.open(recording) as container:
                recorded = sum(1 for _ in container.decode(video=0))
        third = max(1, len(samples) // 3)
        first, last = samples[:third], samples[-third:]
        return {
            "minutes": self.minutes,
            "strangers": self.strangers,
            "frames_delivered": pipeline.stats.frames_out,
            "frames_recorded": recorded,
            "owner_asked": len(served),
            "owner_served": sum(served),
            "resident_mib_first_third": round(float(np.median([one.resident_mib for one in first])), 1),
            "resident_mib_last_third": round(float(np.median([one.resident_mib for one in last])), 1),
            "descriptors_at_most": max(one.descriptors for one in samples),
            "descriptors_allowed": self.descriptors,
        }


def _owner_is_served(port: int, token: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/figures", headers={"Authorization": f"Bearer {token}"})
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def draw(samples: list[Sample], bound_ms: float) -> None:
    """Writes the curve: age (p50, p95, bound), memory and descriptors over time, each in a panel from
    zero.
    """
    panels: list[tuple[str, list[tuple[str, list[float], tuple[int, int, int]]]]] = [
        (
            "age at hand-off, ms",
            [
                ("p95", [one.p95_ms for one in samples], (40, 60, 200)),
                ("p50", [one.p50_ms for one in samples], (176, 114, 38)),
                ("bound: engine + 2 periods", [bound_ms] * len(samples), (150, 150, 150)),
            ],
        ),
        ("resident memory, MiB", [("", [one.resident_mib for one in samples], (60, 130, 60))]),
        ("open file descriptors", [("", [float(one.descriptors) for one in samples], (150, 60, 130))]),
    ]
    width, height, left = 900, 190, 70
    canvas = np.full((height * len(panels) + 30, width, 3), 255, np.uint8)
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (40, 40, 40)
    for number, (title, curves) in enumerate(panels):
        top, bottom = number * height + 34, (number + 1) * height - 10
        highest = 1.15 * max(max(values) for _, values, _ in curves)
        cv2.rectangle(canvas, (left, top), (width - 20, bottom), (225, 225, 225), 1)
        cv2.putText(canvas, title, (left, top - 10), font, 0.5, ink, 1, cv2.LINE_AA)
        cv2.putText(canvas, f"{highest:.0f}", (12, top + 10), font, 0.42, ink, 1, cv2.LINE_AA)
        cv2.putText(canvas, "0", (50, bottom), font, 0.42, ink, 1, cv2.LINE_AA)
        for line, (label, values, colour) in enumerate(curves):
            x = np.linspace(left, width - 20, len(values))
            y = bottom - (bottom - top) * np.array(values) / highest
            cv2.polylines(
                canvas, [np.stack([x, y], 1).round().astype(np.int32)], False, colour, 2, cv2.LINE_AA
            )
            cv2.putText(canvas, label, (left + 250 + 90 * line, top - 10), font, 0.5, colour, 1, cv2.LINE_AA)
    end = f"{samples[-1].time_s / 60:.0f} minutes"
    cv2.putText(canvas, end, (width - 120, canvas.shape[0] - 12), font, 0.5, ink, 1, cv2.LINE_AA)
    cv2.imwrite(str(CURVE), canvas)


def main() -> None:
    job: Freshest | Losses | Added | Replay | Visitors = tyro.cli(
        Freshest | Losses | Added | Replay | Visitors
    )
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    load = os.getloadavg()[0]
    row = {
        "soak": job.kind,
        "began": began,
        "load_average": round(load, 2),
        **job.run(),
        "machine": describe_machine(),
    }
    with ROWS.open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(row) + "\n")
    print(json.dumps({key: value for key, value in row.items() if key != "machine"}, indent=1))


if __name__ == "__main__":
    main()
