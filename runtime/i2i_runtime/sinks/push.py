"""RTMP and RTSP out: pushes to a server, reconnects after a loss, and never slows the other sinks."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import select
import subprocess
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

from i2i_runtime.backoff import Backoff
from i2i_runtime.errors import SinkError
from i2i_runtime.frame import Frame
from i2i_runtime.logs import event
from i2i_runtime.media.letterbox import letterboxed
from i2i_runtime.processes import module_command
from i2i_runtime.queues import Mailbox
from i2i_runtime.sinks.base import Sink
from i2i_runtime.sinks.pacing import Pacer
from i2i_runtime.sinks.push_worker import STAMP
from i2i_runtime.tls import TLS_PORTS, certificate_problem, trust_options
from i2i_runtime.uri import redact
from i2i_runtime.watchdog import AwakeClock

_log = logging.getLogger(__name__)
_FORMATS = {"rtmp": "flv", "rtmps": "flv", "rtsp": "rtsp", "rtsps": "rtsp"}
PUSH_SCHEMES = tuple(_FORMATS)


class NetworkSink(Sink):
    """Pushes H.264 to `rtmp://` (FLV) or `rtsp://` (ANNOUNCE and RECORD over TCP).

    The sink's own thread takes the newest image and hands it to a process that encodes and sends it (see
    `push`). A server that is slow or gone costs images of this stream, counted in `dropped`, and nothing
    else; the process is killed and started again, with back-off, when it fails or takes nothing for `stall_s`.
    """

    outages = 0

    def __init__(
        self,
        uri: str,
        *,
        bitrate: int = 4_000_000,
        codec: str = "libx264",
        tls_insecure: bool = False,
        stall_s: float = 10.0,
        backoff: Backoff | None = None,
    ) -> None:
        """Raises SinkError for an address that cannot be pushed to; a server that does not respond is
        retried.
        """
        parts = urlsplit(uri)
        self.name = redact(uri)
        if sys.platform == "win32":
            raise SinkError(
                f"{self.name} cannot be pushed to from Windows, whose pipes cannot be waited for: use mjpeg://@:8080, "
                "or run i2i-stream in WSL."
            )
        if parts.scheme not in _FORMATS:
            raise SinkError(f"{self.name} cannot be pushed to: use rtmp:// or rtsp://.")
        if not parts.hostname:
            raise SinkError(
                f"{self.name} asks to serve a stream, but i2i-stream only pushes to a server: start one (MediaMTX, "
                f"nginx-rtmp) and write {parts.scheme}://HOST/NAME, or open a page with mjpeg://@:8080."
            )
        options = (
            {"rtsp_transport": "tcp"}
            if _FORMATS[parts.scheme] == "rtsp"
            else {"flvflags": "no_duration_filesize"}
        )
        self._uri, self._tls_insecure = uri, tls_insecure
        self._job: dict[str, Any] = {
            "uri": uri,
            "format": _FORMATS[parts.scheme],
            "options": {**options, **(trust_options(uri, tls_insecure) if parts.scheme in TLS_PORTS else {})},
            "bitrate": bitrate,
            "codec": codec,
        }
        self._stall_s = stall_s
        self._backoff = backoff or Backoff()
        self._pacer = Pacer()
        self._box: Mailbox[Frame] = Mailbox()
        self._gone = threading.Event()
        self._size: tuple[int, int] | None = None
        self._failure = ""
        self._accepted = False
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name=f"{self.name} sender", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        return self._box.replaced

    def write(self, translated: Frame, source: Frame) -> None:
        """Hands the image over and returns; a recorded source is held to its own pace."""
        self._pacer.wait(source)
        self._box.put(translated)

    def finish(self) -> None:
        """Sends what still waits and closes the stream properly. Raises SinkError if nothing was ever
        accepted.
        """
        self._box.close()
        self._thread.join(timeout=2 * self._stall_s)
        if not self._accepted:
            raise SinkError(
                f"{self.name} never accepted an image ({self._failure or 'no response'}): check the address, the "
                "stream name and that the server allows publishing."
            )

    def close(self) -> None:
        self._gone.set()
        self._box.close()
        self._thread.join(timeout=2 * self._stall_s)

    def _run(self) -> None:
        rng = random.Random()
        delays = self._backoff.delays(rng)
        while not self._box.closed:
            first = self._box.get(1.0)
            if first is None:
                continue
            before = self.sent
            reason = self._session(first)
            if reason is None:
                return
            self.outages += 1
            self._failure = reason = self._certificate_problem() or reason
            fields = event("sink_lost", sink=self.name, reason=reason)
            _log.warning("%s is lost (%s); trying again", self.name, reason, extra=fields)
            if self.sent > before:
                delays = self._backoff.delays(rng)
            self._gone.wait(next(delays))

    def _certificate_problem(self) -> str | None:
        return None if self._tls_insecure or self._accepted else certificate_problem(self._uri, self._stall_s)

    def _session(self, first: Frame) -> str | None:
        """Runs one sending process until it fails (returns why) or the stream is complete (None)."""
        self._size = self._size or (first.pixels.shape[0], first.pixels.shape[1])
        header = json.dumps({**self._job, "height": self._size[0], "width": self._size[1]})
        process = subprocess.Popen(
            module_command("i2i_runtime.sinks.push_worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        reason = None
        try:
            self._feed(process.stdin.fileno(), header.encode() + b"\n")
            self._send_all(process, self._size, first)
            process.stdin.close()
            process.wait(timeout=self._stall_s)
        except (TimeoutError, subprocess.TimeoutExpired):
            reason = f"it took no image for {self._stall_s:g} s"
        except OSError:
            reason = "the sending process ended"
        process.kill()
        process.wait()
        with process.stdout:
            states = [json.loads(line) for line in process.stdout]
        with contextlib.suppress(OSError):  # what was still buffered for a process that died
            process.stdin.close()
        self._accepted |= any(state["state"] == "sending" for state in states)
        stated = [state["reason"] for state in states if "reason" in state]
        return redact(stated[-1]) if stated else reason

    def _send_all(self, process: subprocess.Popen[bytes], size: tuple[int, int], first: Frame) -> None:
        assert process.stdin is not None
        pipe, last_pts = process.stdin.fileno(), -1
        frame: Frame | None = first
        while frame is not None or not self._box.closed:
            if frame is not None:
                last_pts = max(last_pts + 1, round(float(frame.time_s - first.time_s) * 1e6))
                self._feed(pipe, STAMP.pack(last_pts))
                self._feed(pipe, letterboxed(frame.pixels, *size).data.cast("B"))
                self.sent += 1
            elif process.poll() is not None:
                raise BrokenPipeError
            frame = self._box.get(0.5)

    def _feed(self, pipe: int, data: bytes | memoryview) -> None:
        """Writes all of `data`. Raises TimeoutError if nothing is taken for `stall_s`, OSError on its
        death.
        """
        view = memoryview(data)
        awake = AwakeClock()  # the process that sends is paused together with this one
        while view:
            left_s = self._stall_s - awake.now_s()
            if left_s <= 0 or self._gone.is_set():
                raise TimeoutError
            _, writable, _ = select.select([], [pipe], [], min(left_s, 0.5))
            if writable:
                view = view[os.write(pipe, view) :]
