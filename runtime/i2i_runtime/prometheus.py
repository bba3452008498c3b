"""Metrics of a running job for Prometheus, read when they are scraped."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from i2i_runtime.board import Board, read_board
from i2i_runtime.errors import UsageError
from i2i_runtime.extras import install_command
from i2i_runtime.stats import JobStats
from i2i_runtime.uri import redact
from i2i_runtime.web.auth import Access
from i2i_runtime.web.server import WebServer

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from starlette.requests import Request
    from starlette.responses import Response

DEFAULT_PORT = 9100
_QUANTILES = (0.5, 0.95, 0.99)


class JobCollector:
    """What Prometheus scrapes: counts, the age of the newest image, latencies by stage, losses and
    recoveries.
    """

    def __init__(self, stats: JobStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self._stats
        counts = {
            "i2i_frames_in": ("Frames that the source delivered", stats.frames_in),
            "i2i_frames_out": ("Frames handed to the outputs", stats.frames_out),
            "i2i_frames_dropped": (
                "Frames overtaken by a newer one before the first output",
                stats.dropped,
            ),
            "i2i_frames_dropped_stale": ("Frames dropped for their age", stats.dropped_stale),
            "i2i_source_outages": ("How often the source was lost", stats.source.outages),
            "i2i_source_recoveries": ("How often it came back", stats.source.recoveries),
        }
        for name, (what, value) in counts.items():
            yield CounterMetricFamily(name, what, value)
        yield GaugeMetricFamily("i2i_age_seconds", "Age of the newest image at hand-off", stats.age_ms / 1000)
        yield GaugeMetricFamily("i2i_fps", "New frames per second since the start", stats.fps)
        latency = GaugeMetricFamily(
            "i2i_latency_seconds", "Latency since the start", labels=("stage", "quantile")
        )
        for stage, histogram in stats.latencies.items():
            for quantile in _QUANTILES:
                seconds = histogram.percentile_ms(100 * quantile) / 1000
                latency.add_metric((stage, str(quantile)), seconds)
        yield latency
        by_sink = CounterMetricFamily("i2i_output_dropped", "Frames an output missed", labels=("output",))
        outages = CounterMetricFamily(
            "i2i_output_outages", "How often an output was lost", labels=("output",)
        )
        for number, (sink, dropped) in enumerate(zip(stats.sinks, stats.dropped_by_sink, strict=True)):
            label = (f"{number} {redact(sink.name)}",)
            by_sink.add_metric(label, dropped + sink.dropped)
            outages.add_metric(label, sink.outages)
        yield by_sink
        yield outages
        yield from board_metrics(read_board())


def board_metrics(board: Board | None) -> Iterator[Metric]:
    """Heat, throttling and power of a Jetson; nothing on another machine."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    if board is None:
        return
    heat = GaugeMetricFamily("i2i_board_temperature_celsius", "Temperature of a zone", labels=("zone",))
    for zone, degrees in board.temperatures_c.items():
        heat.add_metric((zone,), degrees)
    power = GaugeMetricFamily("i2i_board_power_watts", "Power that a rail draws", labels=("rail",))
    for rail in board.rails:
        power.add_metric((rail.name,), rail.watts)
    clocks = GaugeMetricFamily("i2i_board_clock_hertz", "Clock of a unit", labels=("unit",))
    for clock in board.clocks:
        clocks.add_metric((clock.unit,), clock.current_mhz * 1e6)
    currents = CounterMetricFamily("i2i_board_over_current", "Slowed down by the supply", labels=("counter",))
    for counter, events in board.over_current.items():
        currents.add_metric((counter,), events)
    yield from (heat, power, clocks, currents)
    yield GaugeMetricFamily(
        "i2i_board_throttling", "Cooling devices that slow it down", len(board.throttling)
    )


class MetricsServer:
    """Serves `/metrics`. Raises UsageError if the library is missing, SinkError if the address is
    taken.
    """

    def __init__(self, access: Access, stats: JobStats) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise UsageError(
                f"--metrics needs prometheus-client: run `{install_command('serve')}` in the project's folder."
            )
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
        from starlette.responses import Response
        from starlette.routing import Route

        registry = CollectorRegistry()
        collector: Any = JobCollector(stats)
        registry.register(collector)

        def metrics(request: Request) -> Response:
            return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

        self._server = WebServer(access, [Route("/metrics", metrics)], "Metrics")
        self.url = self._server.url

    def close(self) -> None:
        self._server.close()
