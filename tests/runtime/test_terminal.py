"""Names and tags from files of strangers reach a terminal as text, and secrets in addresses do not reach it at all."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from i2i_runtime.bench.compare import Verdict
from i2i_runtime.bench.tables import print_verdicts
from i2i_runtime.cli.doctor import _print_table
from i2i_runtime.console import SafeConsole
from i2i_runtime.doctor import Finding
from i2i_runtime.logs import log_opened
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata
from i2i_runtime.terminal import printable, printable_lines
from i2i_runtime.uri import parse_uri, redact

EVIL = "a\nb\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj.\u2066\u2028"
UNSAFE = set("\x1b\x07\x9b\u202e\u2066\u2028")


def test_what_a_terminal_obeys_is_shown_as_its_code() -> None:
    assert printable("\x1b[31m") == r"\x1b[31m"
    assert printable("a\nb") == r"a\nb"
    assert printable_lines("a\nb\tc") == "a\nb" + r"\tc"
    assert printable("\ud800") == r"\ud800"
    assert printable("Zürich 東京 می‌خواهم 👩‍💻 [red]:smile:") == "Zürich 東京 می‌خواهم 👩‍💻 [red]:smile:"


@given(st.text(st.characters(codec=None)))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = printable(text)
    assert not UNSAFE & set(shown)
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


def test_tables_and_lines_are_safe(capsys: pytest.CaptureFixture[str]) -> None:
    console = SafeConsole()
    console.print(EVIL)
    table = Table(EVIL, "b", title=EVIL)
    table.add_row(EVIL, f"[bold]{EVIL}")
    console.print(table)
    _print_table([Finding("camera", EVIL, False, EVIL, EVIL)])
    print_verdicts([Verdict(EVIL, 1.0, 2.0, 2.0, 0.1, "faster")])
    said = capsys.readouterr().out
    assert "owned" in said
    assert not UNSAFE & set(said)


def test_log_lines_are_safe() -> None:
    stream = io.StringIO()
    with log_opened(as_json=False, stream=stream):
        logging.getLogger("i2i_runtime.test").warning("lost: %s", EVIL)
    assert "owned" in stream.getvalue()
    assert not UNSAFE & set(stream.getvalue())


def test_a_job_with_names_of_strangers_is_safe(engines: Any, make_clip: Any, tmp_path: Path) -> None:
    model = onnx.load(engines.identity)
    described = EngineMetadata.from_json(model.metadata_props[0].value, origin="test")
    evil = replace(described, name=EVIL, direction=EVIL).to_json()
    onnx.helper.set_model_props(model, {METADATA_KEY: evil})
    onnx.save(model, tmp_path / "evil.onnx")
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in (f"{EVIL}.mp4", "next.mp4"):
        (clips / name).write_bytes(make_clip("safe.mp4", pts=[0, 512]).read_bytes())
    (clips / f"broken{EVIL}.mp4").write_bytes(b"nothing")
    command = [sys.executable, "-c", "from i2i_runtime.cli.entry import stream; stream()"]

    def said(source: str, output: str) -> str:
        job = [*command, "-m", str(tmp_path / "evil.onnx"), "-i", source, "-o", output]
        ended = subprocess.run(job, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert not UNSAFE & set(ended.stderr)
        return ended.stderr

    assert said(str(clips), str(tmp_path / "out")).count("owned") > 4
    assert "owned" in said(f"{tmp_path}/{EVIL}.mp4", "null:")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtmp://a.rtmp.youtube.com/live2/abcd-1234", "rtmp://a.rtmp.youtube.com/live2/***"),
        ("rtmps://live.example:443/app/inst/abcd", "rtmps://live.example:443/app/inst/***"),
        ("rtmp://live.example/app/abcd?bw=1&k=2", "rtmp://live.example/app/***?bw=***&k=***"),
        ("RTMP://live.example/app/abcd", "RTMP://live.example/app/***"),
        ("https://cam/x.m3u8?jwt=abcd&sessionid=abcd", "https://cam/x.m3u8?jwt=***&sessionid=***"),
        ("https://cam/x.m3u8?abcd", "https://cam/x.m3u8?***"),
        ("rtsp://bob:abcd@cam/1?x=abcd", "rtsp://***@cam/1?x=***"),
        ("rtsp://cam/stream1", "rtsp://cam/stream1"),
        ("https://cam/path/file.ts", "https://cam/path/file.ts"),
        ("rtmp://host/app", "rtmp://host/app"),
    ],
)
def test_secrets_of_addresses_are_hidden(address: str, shown: str) -> None:
    assert parse_uri(address).shown == shown
    lost = "is lost (no response); trying again"
    assert redact(f"{address} {lost}") == f"{shown} {lost}"
