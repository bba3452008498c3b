"""Tells systemd that a job is ready and makes progress, after sd_notify(3); silent if systemd did not ask for it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from i2i_runtime.stats import Progress


class Notifier:
    """READY after the first image was written, then WATCHDOG while images go on being written.

    A job that hangs writes nothing and is restarted by systemd; a lost camera is not a hang, because its slate is
    written. `address` is the path of a datagram socket, or `@name` in Linux's abstract namespace.
    """

    def __init__(
        self, address: str = "", watchdog_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._every_s = watchdog_s / 4
        self._clock = clock
        self._written = 0
        self._fed_s = float("-inf")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """As systemd's variables say; a watchdog that is meant for another process is ignored."""
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "0") if for_us else "0"
        return cls(environment.get("NOTIFY_SOCKET", ""), int(microseconds) / 1e6)

    def feed(self, standing: Progress) -> None:
        """Called by the pipeline several times a second."""
        if not self._address or standing.written == self._written:
            return
        first, self._written = self._written == 0, standing.written
        now_s = self._clock()
        if first or now_s - self._fed_s >= self._every_s:
            self._fed_s = now_s
            ready = "READY=1\n" if first else ""
            counts = f"{standing.frames_out} frames, {standing.dropped} dropped, age {standing.age_ms:.0f} ms"
            self._send(f"{ready}WATCHDOG=1\nSTATUS={counts}")

    def stopping(self) -> None:
        """The job has ended and its outputs are being completed."""
        if self._address:
            self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        # A job must not end because nobody listens.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
            to_systemd.sendto(text.encode(), self._address)
