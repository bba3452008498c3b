"""What every test relies on (Ctrl-C interrupts, an empty user's cache), a stand-in for NVIDIA's driver, a browser."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import i2i_runtime  # noqa: F401  sets OpenCV's limit of pixels, which counts only before cv2 is loaded
from i2i_runtime.sinks.encoder import use_ordinary_priority

CACHE = pytest.StashKey[Path]()
STRICT_DRIVER = Path(__file__).parent / "runtime" / "strict_driver"


def pytest_configure(config: pytest.Config) -> None:
    """Restores SIGINT, which a shell ignores in what it starts in the background (`nohup make test &`).

    Python installs no handler over an ignored signal and child processes inherit the ignoring, so that a test
    which interrupts itself or a child would wait for ever. Every pytest-xdist worker passes here too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What one run of the tests keeps in the user's cache must not reach another, nor the user.
    os.environ["XDG_CACHE_HOME"] = str(
        config.stash.setdefault(CACHE, Path(tempfile.mkdtemp(prefix="i2i-cache-")))
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """Tests that encode AV1 themselves, as root, leave no real-time priority behind."""
    yield
    use_ordinary_priority()


@pytest.fixture(scope="session")
def strict_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a strict stand-in for NVIDIA's driver library, compiled under its name."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the strict driver with")
    library = tmp_path_factory.mktemp("strict_driver") / "libcuda.so.1"
    source = STRICT_DRIVER / "driver.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-o", str(library), str(source), "-ldl", "-lpthread"], check=True
    )
    return library.parent


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """Polls a condition with a deadline; fails with `what` when it does not come true."""

    def wait(condition: Callable[[], object], what: str, deadline_s: float = 20.0) -> None:
        end_s = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end_s:
                pytest.fail(f"waited {deadline_s:g} s in vain: {what}")
            time.sleep(0.02)

    return wait


class Browser:
    """A headless Chromium, spoken to over a pair of pipes in the DevTools protocol."""

    def __init__(self, program: str, profile: Path, extra_flags: str = "") -> None:
        child_reads, self._to = os.pipe()
        self._from, child_writes = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        flags += " --disable-component-update --disable-sync --window-size=1200,600 --remote-debugging-pipe"
        flags += f" {extra_flags} --user-data-dir={profile}"
        line = f"exec {program} {flags} about:blank 3<&{child_reads} 4>&{child_writes}"
        self._process = subprocess.Popen(
            ["bash", "-c", line],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._held = b""
        self._number = 0
        self._session: str | None = None
        self._complaints: list[str] = []
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or what it promises."""
        answer = self._ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        return answer["result"].get("value")

    def look(self, width: int, height: int, theme: str) -> None:
        """Takes a screen of this size in CSS pixels, and a theme: `light` or `dark`."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self) -> Any:
        """`[H, W, 3] uint8 RGB`."""
        import cv2
        import numpy as np

        data = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)

    def drag(self, x0: float, x1: float, y: float) -> None:
        for kind, x, buttons in (("mousePressed", x0, 1), ("mouseMoved", x1, 1), ("mouseReleased", x1, 0)):
            self._ask(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1
            )

    def complaints(self) -> list[str]:
        """What the browser logged as an error so far."""
        return self._complaints

    def close(self) -> None:
        os.close(self._to)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._from)

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self._complaints.append(json.dumps(answer["params"]))
            if answer.get("method") == "Log.entryAdded" and answer["params"]["entry"]["level"] == "error":
                self._complaints.append(answer["params"]["entry"]["text"])

    def _next(self) -> Any:
        end_s = time.monotonic() + 20.0
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end_s - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._from, 1 << 20)
            assert data, "the browser has ended"
            self._held += data
        message, _, self._held = self._held.partition(b"\0")
        return json.loads(message)


@pytest.fixture
def start_browser(tmp_path: Path) -> Iterator[Callable[..., Browser]]:
    """Starts a headless Chromium with these flags besides the usual ones; it ends with the test."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium is installed")
    running: list[Browser] = []

    def run(extra_flags: str = "") -> Browser:
        running.append(Browser(program, tmp_path / f"profile-{len(running)}", extra_flags))
        return running[-1]

    yield run
    for browser in running:
        browser.close()


@pytest.fixture
def browser(start_browser: Callable[..., Browser]) -> Browser:
    return start_browser()
