"""What systemd is told, through a real datagram socket; the job below is a real one with a fake engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from i2i_runtime.engines.fake import FakeEngine
from i2i_runtime.notify import Notifier
from i2i_runtime.pipeline import Pipeline
from i2i_runtime.sinks.null import NullSink
from i2i_runtime.sources import SourceOptions, open_source
from i2i_runtime.stats import Progress

STANDING = Progress(frames_in=0, frames_out=0, dropped=0, total=None, elapsed_s=0.0, age_ms=0.0)


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def told(systemd: socket.socket) -> list[str]:
    """All messages so far."""
    messages = []
    with suppress(BlockingIOError):
        while True:
            messages.append(systemd.recv(4096).decode())
    return messages


def test_ready_comes_with_the_first_image(systemd: socket.socket) -> None:
    notifier = Notifier(systemd.getsockname(), 30.0)
    notifier.feed(STANDING)
    assert told(systemd) == []
    notifier.feed(replace(STANDING, written=1, frames_out=1))
    (message,) = told(systemd)
    assert message.splitlines()[:2] == ["READY=1", "WATCHDOG=1"]
    assert "STATUS=1 frames, 0 dropped" in message


def test_the_watchdog_is_fed_by_progress_alone(systemd: socket.socket) -> None:
    now_s = [0.0]
    notifier = Notifier(systemd.getsockname(), 20.0, clock=lambda: now_s[0])
    for second, written in ((0.0, 1), (1.0, 2), (6.0, 3), (30.0, 3), (60.0, 3)):
        now_s[0] = second
        notifier.feed(replace(STANDING, written=written))
    messages = told(systemd)
    assert len(messages) == 2, (
        "at the first image and after a quarter of the time; never while nothing is written"
    )
    assert "READY" not in messages[1]


def test_variables_of_systemd(systemd: socket.socket) -> None:
    named = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "20000000"}
    assert Notifier.from_environment(named)._every_s == 5.0
    assert Notifier.from_environment({**named, "WATCHDOG_PID": str(os.getpid() + 1)})._every_s == 0.0
    Notifier.from_environment({}).stopping()
    Notifier.from_environment({"NOTIFY_SOCKET": "/nobody/listens"}).stopping()
    Notifier.from_environment(named).stopping()
    assert told(systemd) == ["STOPPING=1"]


def test_an_address_in_the_abstract_namespace() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0i2i-test-{os.getpid()}")
        listening.setblocking(False)
        Notifier(f"@i2i-test-{os.getpid()}").stopping()
        assert told(listening) == ["STOPPING=1"]


def test_the_command_tells_it(systemd: socket.socket) -> None:
    """As systemd starts it: ready after the first image, stopping at the end."""
    program = str(Path(sys.executable).with_name("i2i-stream"))
    command = [program, "--engine", "day2night", "--input", "test://street"]
    sized = ["--size", "64x64", "--limit", "30", "--output", "null:", "--quiet"]
    named = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "20000000"}
    subprocess.run([*command, *sized], env={**os.environ, **named}, check=True)
    messages = told(systemd)
    assert messages[0].startswith("READY=1\nWATCHDOG=1\n")
    assert messages[-1] == "STOPPING=1"


def test_a_job_feeds_it(systemd: socket.socket) -> None:
    notifier = Notifier(systemd.getsockname(), 0.0)
    source = open_source("test://street", SourceOptions(size=(64, 48), rate=30))
    Pipeline(source, FakeEngine(), [NullSink()], limit=10).run(notifier.feed)
    messages = told(systemd)
    assert messages[0].startswith("READY=1\nWATCHDOG=1\n")
