"""Real peers on loopback, each on a free port and started by the test that asks for it."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from i2i_runtime.frame import Frame
from i2i_runtime.sources import Source

NextFrame = Callable[[Source], Frame]

_RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")


@pytest.fixture
def free_port() -> Callable[[], int]:
    def pick() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return pick


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def start(wait_until: Callable[..., None]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a program, waits until it listens on `port` where one is given, and ends it after the test."""
    running: list[subprocess.Popen[bytes]] = []

    def run(command: list[str], port: int | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        running.append(process)
        if port is not None:
            wait_until(
                lambda: _listens(port) or process.poll() is not None, f"{command[0]} listens on {port}"
            )
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class MediaServer:
    """nginx with its RTMP module: `rtmp` takes and gives streams, `hls` serves what is pushed there."""

    rtmp: str
    hls_push: str
    hls: str
    restart: Callable[[], None]
    stop: Callable[[], None]


@pytest.fixture
def media_server(
    tmp_path: Path, free_port: Callable[[], int], start: Callable[..., subprocess.Popen[bytes]]
) -> MediaServer:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None or not _RTMP_MODULE.exists():
        pytest.skip("nginx with libnginx-mod-rtmp is not installed")
    rtmp, http = free_port(), free_port()
    pieces = tmp_path / "hls"
    pieces.mkdir()
    config = tmp_path / "nginx.conf"
    config.write_text(
        textwrap.dedent(f"""
        load_module {_RTMP_MODULE};
        daemon off; master_process off; error_log {tmp_path}/error.log; pid {tmp_path}/nginx.pid;
        events {{ worker_connections 64; }}
        rtmp {{ server {{ listen 127.0.0.1:{rtmp}; chunk_size 4096;
            application live {{ live on; }}
            application hls {{ live on; hls on; hls_path {pieces}; hls_fragment 1s; hls_playlist_length 8s; }}
        }} }}
        http {{ access_log off;
            client_body_temp_path {tmp_path}; proxy_temp_path {tmp_path}; fastcgi_temp_path {tmp_path};
            uwsgi_temp_path {tmp_path}; scgi_temp_path {tmp_path};
            types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
            server {{ listen 127.0.0.1:{http}; location / {{ root {pieces}; }} }}
        }}
        """)
    )
    launch, stop = _switch(lambda: start([nginx, "-c", str(config), "-p", str(tmp_path)], rtmp))
    base, page = f"rtmp://127.0.0.1:{rtmp}", f"http://127.0.0.1:{http}/street.m3u8"
    return MediaServer(f"{base}/live/street", f"{base}/hls/street", page, launch, stop)


def _switch(launch: Callable[[], subprocess.Popen[bytes]]) -> tuple[Callable[[], None], Callable[[], None]]:
    """Starts a server; returns how to start it again and how to kill it."""
    running = [launch()]

    def stop() -> None:
        running[-1].kill()
        running[-1].wait()

    return lambda: running.append(launch()), stop


_RTSP_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer, GLib
Gst.init(None)
server = GstRtspServer.RTSPServer(address="127.0.0.1", service=sys.argv[1])
def mount(path, launch, record):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(launch)
    if record:
        factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    else:
        factory.set_shared(True)
    server.get_mount_points().add_factory(path, factory)
mount("/pattern", "( videotestsrc is-live=true pattern=red ! video/x-raw,width=320,height=180,framerate=25/1"
      " ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph264pay name=pay0 pt=96 )", False)
mount("/inbox", "( rtph264depay name=depay0 ! h264parse ! mpegtsmux ! filesink sync=false location="
      + sys.argv[2] + " )", True)
server.attach(None)
GLib.MainLoop().run()
"""


@dataclass(frozen=True)
class RtspServer:
    """A GStreamer RTSP server: a red image at `pattern`; what is pushed to `inbox` lands in `recording`."""

    pattern: str
    inbox: str
    recording: Path
    restart: Callable[[], None]
    stop: Callable[[], None]


@pytest.fixture
def rtsp_server(
    tmp_path: Path, free_port: Callable[[], int], start: Callable[..., subprocess.Popen[bytes]]
) -> RtspServer:
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if subprocess.run(["/usr/bin/python3", "-c", probe], capture_output=True, check=False).returncode:
        pytest.skip("gir1.2-gst-rtsp-server-1.0 is not installed for the system's Python")
    port, recording = free_port(), tmp_path / "inbox.ts"
    command = ["/usr/bin/python3", "-c", _RTSP_SERVER, str(port), str(recording)]
    launch, stop = _switch(lambda: start(command, port))
    base = f"rtsp://127.0.0.1:{port}"
    return RtspServer(f"{base}/pattern", f"{base}/inbox", recording, launch, stop)


@pytest.fixture
def ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("ffmpeg is not installed")
    return found


@pytest.fixture
def repeat() -> Iterator[Callable[[float, Callable[[int], None], Callable[[], None]], None]]:
    """Calls something with 0, 1, 2 ... every `period_s` until the test ends, then `afterwards`, on a
    thread each.
    """
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin(period_s: float, action: Callable[[int], None], afterwards: Callable[[], None]) -> None:
        def work() -> None:
            for number in itertools.count():
                if stop.wait(period_s):
                    break
                action(number)
            afterwards()

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield begin
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def next_frame() -> NextFrame:
    """Reads a frame from a source that has not ended."""

    def read(source: Source) -> Frame:
        frame = source.read()
        assert frame is not None, "the source has ended"
        return frame

    return read


@pytest.fixture
def paint() -> Callable[..., Frame]:
    """A frame of one colour, as a live source would deliver it now."""

    def frame(index: int, colour: tuple[int, int, int], height: int = 180, width: int = 320) -> Frame:
        now_s = time.monotonic()
        image = np.full((height, width, 3), colour, np.uint8)
        return Frame(image, index, round(now_s * 1e6), Fraction(1, 1_000_000), now_s)

    return frame
