"""What a stranger types wrong ends in one sentence before anything is written, and right things say so plainly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.cli.options import StreamOptions, refuse_strays
from i2i_runtime.cli.stream import main, stream
from i2i_runtime.errors import SinkError, SourceError, UsageError
from i2i_runtime.report import write_json
from i2i_runtime.sources import open_source
from i2i_runtime.web.auth import ServerOptions, open_access


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "from i2i_runtime.cli.entry import stream; stream()"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "--limit 0 is too small"),
        ({"limit": -3}, "--limit -3"),
        ({"rate": 0}, "--rate 0"),
        ({"threads": -2}, "--threads -2"),
        ({"stall": 0.0}, "--stall 0 must be greater than 0"),
        ({"stall": float("nan")}, "--stall nan"),
        ({"max_staleness": -1.0}, "--max-staleness -1"),
        ({"input": ""}, "--input '' is not an input"),
        ({"input": "file:"}, "--input 'file:' is not an input"),
        ({"input": "webcam:"}, "--input 'webcam:' is not an input"),
        ({"output": ["file:"]}, "--output 'file:' is not an output"),
        ({"output": ["null"]}, "write null:, or ./null for a folder"),
        ({"output": ["mjpeg:8080"]}, "'8080' is not an address to listen on"),
        ({"input": "-"}, "from a pipe must be saved"),
        ({"output": [""]}, "--output '' is not an output"),
        ({"output": ["-"]}, "pipes are not supported"),
        ({"output": ["/dev/null"]}, "--output /dev/null is a device: write null:"),
        ({"crf": 999}, "--crf 999 is out of range: give 0 (best) to 51"),
        ({"crf": -1}, "--crf -1 is out of range"),
        ({"crf": 52, "codec": "libx265"}, "to 51"),
        ({"crf": 64, "output": ["o.webm"]}, "to 63"),
        ({"crf": 64, "codec": "libsvtav1"}, "to 63"),
        ({"output": ["o.mp4", "./o.mp4"]}, "--output ./o.mp4 is given twice"),
        ({"output": ["mjpeg://@:1", "mjpeg://@:1"]}, "mjpeg://@:1 is given twice"),
    ],
)
def test_options_without_a_meaning_are_usage_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"engine": "day2night", "input": "test://bars", "output": ["null:"], **options}
    with pytest.raises(UsageError) as refused:
        stream(StreamOptions(**given))
    assert said in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_version_is_told() -> None:
    assert command("--version").stdout == f"i2i-stream {version('i2i-stream')}\n"


def test_the_end_is_told_in_words_and_as_json(engines: Any, tmp_path: Path) -> None:
    job = ["-m", str(engines.identity), "-i", "test://bars", "--limit", "1"]
    target = tmp_path / "a b.png"
    told = command(*job, "-o", f"file://{target}").stderr.strip().splitlines()[-1]
    assert told.startswith("1 frame in ")
    assert told.endswith(f" 0 dropped, written to {target}")
    assert "per second" not in told
    event = json.loads(command(*job, "-o", "null:", "--json").stderr.strip().splitlines()[-1])
    assert (event["event"], event["outcome"], event["frames"]) == ("ended", "done", 1)


def test_a_camera_that_is_not_there_is_one_line() -> None:
    refused = command("-m", "day2night", "-i", "/dev/video99", "-o", "null:", "--quiet")
    assert refused.returncode == 1
    lines = refused.stderr.strip().splitlines()
    assert lines == [
        "i2i-stream: Camera /dev/video99 cannot be opened (it does not exist): "
        "list the cameras of this machine with i2i-doctor."
    ]


def test_a_pipe_is_named_as_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(SourceError, match="is a pipe or device"):
        open_source(str(tmp_path / "pipe.mp4"))


def test_resume_is_offered_only_where_something_is_done(engines: Any, make_clip: Callable[..., Path]) -> None:
    clip = make_clip("nowhere.mp4", pts=[0, 512])
    with pytest.raises(SinkError, match=r"cannot be written .* has free space\.$"):
        stream(StreamOptions(str(engines.identity), input=str(clip), output=["/proc/o.mp4"], quiet=True))


def test_a_report_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        write_json(tmp_path / "file" / "report.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        write_json(tmp_path / "folder", {})


def test_a_token_file_that_is_not_there_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        open_access("@0.0.0.0:1", 1, ServerOptions(token_file=tmp_path / "token"))
    assert "(No such file or directory): give" in str(refused.value)


def test_an_interrupt_that_a_library_turns_into_its_own_error_is_an_interrupt(engines: Any) -> None:
    script = (
        "import signal, os\n"
        "import i2i_runtime.engines as engines\n"
        "from i2i_runtime.cli.entry import stream\n"
        "def broken(*given, **named):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n"
        "        raise ImportError('initialization failed')\n"
        "engines.open_engine = broken\n"
        "stream()\n"
    )
    job = ["-m", str(engines.identity), "-i", "test://bars", "-o", "null:"]
    ended = subprocess.run([sys.executable, "-c", script, *job], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "i2i-stream: interrupted\n")


@pytest.mark.parametrize("name", ["stream", "bench", "doctor"])
@pytest.mark.parametrize("when", ["imported", "run"])
def test_an_interrupt_is_one_word_from_the_first_moment(name: str, when: str) -> None:
    script = (
        "import os, signal, sys, types\n"
        f"from i2i_runtime.cli.entry import {name}\n"
        "def interrupt(*given):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "class Slow:\n"
        "    def find_spec(self, module, path, target=None):\n"
        f"        if module == 'i2i_runtime.cli.{name}':\n"
        "            interrupt()\n"
        "sys.meta_path.insert(0, Slow())\n"
        "if sys.argv[1] == 'run':\n"
        f"    sys.modules['i2i_runtime.cli.{name}'] = types.SimpleNamespace(main=interrupt)\n"
        f"{name}()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, when], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, f"i2i-{name}: interrupted\n")


@pytest.mark.parametrize("name", ["stream", "bench", "doctor"])
@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("UsageError('Give one.')", 2, "Give one."),
        ("SinkError('No room.')", 1, "No room."),
        (
            "MemoryError()",
            1,
            "There is not enough memory for images of this size: use --size with a smaller one.",
        ),
        ("KeyError('x')", 1, "This is a bug in i2i-{} (KeyError: 'x'): please report it."),
        ("KeyboardInterrupt()", 130, "interrupted"),
    ],
)
def test_every_command_ends_errors_in_the_same_way(name: str, raised: str, code: int, said: str) -> None:
    script = (
        "import sys, types\n"
        f"from i2i_runtime.cli.entry import {name}\n"
        "from i2i_runtime.errors import *\n"
        "def main(arguments):\n"
        f"    raise {raised}\n"
        f"sys.modules['i2i_runtime.cli.{name}'] = types.SimpleNamespace(main=main)\n"
        f"{name}()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (code, f"i2i-{name}: {said.format(name)}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["day2night", "clip.mp4"],
            "day2night and clip.mp4 follow no option: write --engine day2night --input clip.mp4 --output FILE.",
        ),
        (["-m", "day2night", "-i", "a.mp4", "b.mp4", "-o", "out"], "b.mp4 is another: quote the pattern"),
        (["--engine=day2night", "--input", "a.mp4", "b.mp4", "c.mp4"], "b.mp4 is another: quote the pattern"),
        (
            ["-m", "day2night", "-i", "a.mp4", "--quiet", "o.mp4"],
            "o.mp4 follows no option: write for example",
        ),
        (["clip.mp4"], "clip.mp4 follows no option"),
    ],
)
def test_words_without_an_option_are_told_the_right_form(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        main(words)
    assert said in str(refused.value)


def test_words_with_an_option_are_not_strays() -> None:
    refuse_strays(
        ["-mday2night", "-i", "x", "--limit", "-3", "--json", "-o", "a", "--quiet", "-o=b", "--help"]
    )


def test_a_missing_input_is_told_before_a_missing_screen(
    engines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for missing in (str(tmp_path / "no.mp4"), f"replay:{tmp_path / 'no.mp4'}"):
        with pytest.raises(SourceError, match=r"no\.mp4 does not exist"):
            stream(StreamOptions(str(engines.identity), input=missing, quiet=True))
    with pytest.raises(SourceError, match="Camera 99"):
        stream(StreamOptions(str(engines.identity), camera=99, quiet=True))


def test_a_name_that_looks_like_a_protocol_is_a_name(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b.mp4").write_bytes(make_clip("colon.mp4", pts=[0, 512, 1024]).read_bytes())
    job = StreamOptions(str(engines.identity), input="./a:b.mp4", output=["./c:d.mp4"], quiet=True)
    assert stream(job) == 0
    assert Path("c:d.mp4").is_file()


def test_a_quoted_glob_of_clips_is_translated_clip_by_clip(
    engines: Any, make_clip: Callable[..., Path], tmp_path: Path
) -> None:
    clip = make_clip("one.mp4", pts=[0, 512, 1024]).read_bytes()
    for name in ("c1.mp4", "c2.mp4", "other.mp4"):
        (tmp_path / name).write_bytes(clip)

    def translated(pattern: str, output: Path) -> list[str]:
        source = str(tmp_path / pattern)
        assert (
            stream(StreamOptions(str(engines.identity), input=source, output=[str(output)], quiet=True)) == 0
        )
        return sorted(path.name for path in output.iterdir()) if output.is_dir() else [output.name]

    assert translated("c*.mp4", tmp_path / "out") == ["c1.mp4", "c2.mp4"]
    assert translated("oth*.mp4", tmp_path / "one.mkv") == ["one.mkv"]
    with pytest.raises(UsageError, match="contains the clips themselves"):
        translated("c*.mp4", tmp_path)
    with pytest.raises(UsageError, match="several clips: give one folder"):
        translated("c*.mp4", tmp_path / "both.mp4")
    assert (tmp_path / "c1.mp4").read_bytes() == clip
