"""The Dockerfile's health check, run as Docker runs it; the image itself is not built here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from i2i_runtime.sinks.mjpeg import MjpegSink
from i2i_runtime.web.auth import Access

pytest.importorskip("starlette", reason="the serve extra is not installed")
pytest.importorskip("uvicorn", reason="the serve extra is not installed")

DOCKERFILE = Path(__file__).parents[3] / "runtime" / "Dockerfile"


def health(port: int) -> int:
    """The exit code of the health check against a port: 0 is healthy."""
    text = DOCKERFILE.read_text().replace("\\\n", "")
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*\])$", text, re.M)
    assert found is not None
    program, *arguments = json.loads(found[1])
    assert program == "python"
    arguments = [argument.replace(":8080/", f":{port}/") for argument in arguments]
    return subprocess.run([sys.executable, *arguments], stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize("token", [None, "0123456789abcdef0123"])
def test_a_page_that_responds_is_healthy(token: str | None) -> None:
    sink = MjpegSink(Access("127.0.0.1", 0, token=token))
    assert health(sink.port) == 0
    sink.close()


def test_no_page_is_unhealthy(free_port: Callable[[], int]) -> None:
    assert health(free_port()) != 0


def test_the_command_of_the_image_exists() -> None:
    entry, arguments = (
        json.loads(found)
        for found in re.findall(r"^(?:ENTRYPOINT|CMD) (\[.*\])$", DOCKERFILE.read_text(), re.M)
    )
    command = [str(Path(sys.executable).with_name(entry[0])), *arguments]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0
