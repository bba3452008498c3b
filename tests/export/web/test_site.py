"""The static site: what is written, and the same translation in a browser as in ONNX Runtime."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from i2i_export.cli import main
from i2i_export.enginefile import EngineFile, write_engine
from i2i_export.errors import ExportError
from i2i_export.parity import cpu_session
from i2i_export.web import ort_web
from i2i_export.web.site import site_from_engine
from i2i_runtime.engines import MODELS
from i2i_runtime.engines.contract import pad
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata

POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'"


class SiteServer(SimpleHTTPRequestHandler):
    """Serves the site as export/README.md says: with the page's policy for the worker too, and isolated for threads."""

    isolated = True

    def end_headers(self) -> None:
        page = (Path(self.directory) / "index.html").read_text()
        self.send_header("Content-Security-Policy", page.split('Policy" content="')[1].split('"')[0])
        if self.isolated:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


class UnisolatedSiteServer(SiteServer):
    isolated = False


@pytest.fixture(scope="module")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site") / "site"
    try:
        site_from_engine(MODELS / "day2night.onnx", site)
    except ExportError as error:
        if "npm" not in str(error) or "SHA-256" in str(error):
            raise
        pytest.skip(f"onnxruntime-web is not at hand: {error}")
    return site


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serves a folder on loopback until the test ends; returns its address."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(site: Path, handler: type[SiteServer] = SiteServer) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(site)))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


ASK_WORKER = """
(async () => {
  const engine = (await (await fetch('engines/list.json')).json()).find((entry) => entry.file === %(file)s);
  const worker = new Worker('engine.js', { type: 'module' });
  const ask = (message) => new Promise((resolve) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.postMessage(message);
  });
  const opened = await ask({ kind: 'open', engine, backEnd: %(backend)s });
  if (opened.kind !== 'opened') return opened;
  const pixels = Uint8Array.from(atob(%(pixels)s), (c) => c.charCodeAt(0)).buffer;
  const frame = await ask({ kind: 'frame', width: %(width)d, height: %(height)d, pixels, style: %(style)s });
  worker.terminate();
  if (frame.kind !== 'frame') return frame;
  let text = '';
  for (const value of new Uint8Array(frame.pixels)) text += String.fromCharCode(value);
  return { ...opened, pixels: btoa(text) };
})()
"""


def translated_in_browser(
    browser: Any, image: Image, file: str, style: list[float] | None = None, backend: str = "wasm"
) -> tuple[str, Image]:
    height, width = image.shape[:2]
    rgba = np.dstack([image, np.full((height, width), 255, np.uint8)])
    words = {
        "file": file,
        "backend": backend,
        "pixels": base64.b64encode(rgba.tobytes()).decode(),
        "style": style,
    }
    ask = ASK_WORKER % {
        **{name: json.dumps(value) for name, value in words.items()},
        "width": width,
        "height": height,
    }
    answer = browser.evaluate(ask)
    assert answer["kind"] == "opened", answer
    raw = np.frombuffer(base64.b64decode(answer["pixels"]), np.uint8).reshape(height, width, 4)
    assert (raw[..., 3] == 255).all()
    return answer["backEnd"], raw[..., :3]


def translated_by_onnxruntime(engine: Path, image: Image, style: list[float] | None = None) -> Image:
    model = onnx.load(engine)
    text = next(entry.value for entry in model.metadata_props if entry.key == "i2i")
    metadata = EngineMetadata.from_json(text, origin=engine.name)
    height, width = image.shape[:2]
    size = metadata.size
    tall = -(-max(height, size.min_height) // size.stride) * size.stride
    wide = -(-max(width, size.min_width) // size.stride) * size.stride
    feeds: dict[str, Any] = {"frame": pad(image, tall, wide)[None]}
    if style is not None:
        feeds["style"] = np.asarray([style], np.float32)
    translated: Image = cpu_session(model).run(["translated"], feeds)[0][0][:height, :width]
    return translated


def image_of(width: int, height: int) -> Image:
    """Smooth colours and noise, `[H, W, 3] uint8 RGB`."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 17 + y / 23)], axis=-1)
    noise = np.random.default_rng(3).normal(0, 12, smooth.shape)
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


def test_the_browser_translates_as_onnxruntime_does(
    shared_site: Path, serve: Callable[..., str], browser: Any
) -> None:
    """Also at sizes that are not a multiple of the stride, and under the smallest, where the page pads and crops."""
    browser.open(serve(shared_site))
    for width, height in ((320, 184), (317, 181), (40, 25)):
        image = image_of(width, height)
        backend, translated = translated_in_browser(browser, image, "day2night.onnx")
        expected = translated_by_onnxruntime(MODELS / "day2night.onnx", image)
        assert np.abs(translated.astype(int) - expected).max() <= 1, f"{width}x{height}"
        assert np.abs(expected.astype(int) - image).max() > 20, "the engine does change the image"
        assert backend.startswith("WebAssembly")


def test_a_style_reaches_the_engine(
    shared_site: Path, serve: Callable[..., str], browser: Any, painter_engine: EngineFile, tmp_path: Path,
    wait_until: Callable[..., None],
) -> None:  # fmt: skip
    site, engine = tmp_path / "site", tmp_path / "painter.onnx"
    write_engine(painter_engine, engine)
    assert site_from_engine(engine, site, package_of(shared_site, tmp_path)) == 1
    browser.open(serve(site))
    wait_until(lambda: browser.evaluate("document.getElementById('style').hidden === false"), "sliders")
    assert browser.evaluate("document.querySelectorAll('#sliders input').length") == 4
    options = browser.evaluate("[...document.getElementById('preset').options].map((option) => option.text)")
    assert options == ["default", "warm", "own"]
    image, style = image_of(96, 64), [1.0, 1.0, -0.5, 2.0]
    _, translated = translated_in_browser(browser, image, "painter.onnx", style)
    assert np.abs(translated.astype(int) - translated_by_onnxruntime(engine, image, style)).max() <= 1
    _, usual = translated_in_browser(browser, image, "painter.onnx")
    assert np.abs(usual.astype(int) - translated).max() > 1, "another style gives another image"


def package_of(site: Path, folder: Path) -> Path:
    """The npm package's folder again, from what a site holds of it."""
    package = folder / "package"
    for inside, name in ort_web._MODULES.items():
        (package / inside).parent.mkdir(parents=True, exist_ok=True)
        (package / inside).write_bytes((site / "ort" / name).read_bytes())
    return package


def text_of(browser: Any, name: str) -> str:
    """What an element shows; a dash, as for a figure that is not known, while the page is still loading."""
    return str(browser.evaluate(f"document.getElementById('{name}')?.textContent ?? '–'"))


def click(browser: Any, name: str) -> None:
    browser.evaluate(f"document.getElementById('{name}').click()")


def test_the_page_translates_the_street_and_is_used_by_keyboard(
    shared_site: Path, serve: Callable[..., str], browser: Any, wait_until: Callable[..., None]
) -> None:
    browser.look(1200, 800, "dark")
    browser.open(serve(shared_site, UnisolatedSiteServer))
    wait_until(lambda: text_of(browser, "fps") not in ("–", "0.0"), "frames are shown", 60)
    assert text_of(browser, "runs_on") == "WebAssembly, 1 thread", "not isolated, so without threads"
    assert browser.evaluate("document.getElementById('notice').hidden")
    left, right = browser.evaluate(
        """((canvas) => [0.25, 0.75].map((part) => {
          const data = canvas.getContext('2d').getImageData(part * canvas.width - 20, 20, 40, 20).data;
          return data.reduce((sum, value, i) => sum + (i % 4 === 3 ? 0 : value), 0) / (data.length * 0.75);
        }))(document.getElementById('view'))"""
    )
    assert left > right + 30, "the day sky on the left is brighter than the night sky on the right"
    browser.evaluate("document.getElementById('view').focus()")
    browser.press("ArrowLeft")
    browser.press("ArrowLeft")
    assert browser.evaluate("document.getElementById('view').getAttribute('aria-valuenow')") == "46"
    unnamed = browser.evaluate(
        """[...document.querySelectorAll('button, input, select, [role=slider]')].filter((control) =>
          !(control.textContent.trim() || control.labels?.length || control.getAttribute('aria-label'))).length"""
    )
    assert unnamed == 0
    for width in (360, 1200):
        browser.look(width, 740, "light")
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            f"{width} is wide enough"
        )
    assert browser.complaints() == []


def test_the_camera_is_translated_and_saved(
    shared_site: Path, serve: Callable[..., str], start_browser: Callable[..., Any], wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:  # fmt: skip
    video = tmp_path / "camera.y4m"
    frames = [
        bytes([90 + 10 * n]) * (320 * 180) + bytes([200]) * (160 * 90) + bytes([110]) * (160 * 90)
        for n in range(9)
    ]
    video.write_bytes(
        b"YUV4MPEG2 W320 H180 F20:1 Ip A1:1 C420jpeg\n" + b"".join(b"FRAME\n" + f for f in frames)
    )
    browser = start_browser(
        f"--use-fake-ui-for-media-stream --use-fake-device-for-media-stream --use-file-for-fake-video-capture={video}"
    )
    browser.open(serve(shared_site))
    wait_until(lambda: text_of(browser, "pixels") != "–", "the street is shown", 60)
    browser.evaluate(
        """(() => {
          window.saved = [];
          const own = URL.createObjectURL;
          URL.createObjectURL = (blob) => { window.saved.push(blob); return own.call(URL, blob); };
          window.names = [];
          HTMLAnchorElement.prototype.click = function () { window.names.push(this.download); };
        })()"""
    )
    click(browser, "camera")
    pressed = "document.getElementById('camera').getAttribute('aria-pressed')"
    wait_until(lambda: browser.evaluate(pressed) == "true", "the camera is chosen")
    blue = """(() => { const c = document.getElementById('view');
      const [r, g, b] = c.getContext('2d').getImageData(c.width / 4, c.height / 2, 1, 1).data; return b - r; })()"""
    wait_until(lambda: browser.evaluate(blue) > 60, "the camera's blue is on the source side", 60)
    click(browser, "still")
    wait_until(lambda: browser.evaluate("window.saved.length") == 1, "an image is saved")
    click(browser, "record")
    wait_until(
        lambda: text_of(browser, "record").endswith(" kB)") and "(0 kB" not in text_of(browser, "record"),
        "something is recorded",
        60,
    )
    click(browser, "record")
    wait_until(lambda: browser.evaluate("window.saved.length") == 2, "a recording is saved")
    assert browser.evaluate("window.saved[0].type") == "image/png"
    assert browser.evaluate("window.saved[1].type").startswith("video/")
    assert browser.evaluate("Math.min(...window.saved.map((blob) => blob.size))") > 100
    names = browser.evaluate("window.names")
    assert names[0].endswith(".png")
    assert names[1].endswith((".mp4", ".webm"))
    assert browser.complaints() == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NotFoundError", "has no camera"),
        ("NotAllowedError", "was refused"),
        ("NotReadableError", "another program"),
    ],
)
def test_a_camera_that_does_not_start_is_one_sentence(
    shared_site: Path,
    serve: Callable[..., str],
    browser: Any,
    wait_until: Callable[..., None],
    name: str,
    sentence: str,
) -> None:
    """The names are those of Media Capture and Streams, section 10.2: a headless browser has no user to refuse."""
    browser.open(serve(shared_site))
    wait_until(lambda: text_of(browser, "pixels") != "–", "the street is shown", 60)
    browser.evaluate(
        f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', '{name}'))"
    )
    click(browser, "camera")
    wait_until(lambda: sentence in text_of(browser, "notice"), "the sentence is shown")
    before = text_of(browser, "fps")
    wait_until(lambda: text_of(browser, "fps") != before, "the street goes on")


CHOOSE_FILE = """
(async () => {
  const canvas = new OffscreenCanvas(96, 62);
  canvas.getContext('2d').fillRect(0, 0, 96, 62);
  const content = %s ? await canvas.convertToBlob() : 'no image';
  const chosen = new DataTransfer();
  chosen.items.add(new File([content], 'mine.png', { type: 'image/png' }));
  const input = document.getElementById('file');
  input.files = chosen.files;
  input.dispatchEvent(new Event('change'));
})()
"""


def test_a_file_is_translated_and_a_broken_one_is_one_sentence(
    shared_site: Path, serve: Callable[..., str], browser: Any, wait_until: Callable[..., None]
) -> None:
    browser.open(serve(shared_site))
    wait_until(lambda: text_of(browser, "pixels") != "–", "the street is shown", 60)
    browser.evaluate(CHOOSE_FILE % "false")
    wait_until(lambda: "mine.png cannot be shown" in text_of(browser, "notice"), "the sentence is shown")
    browser.evaluate(CHOOSE_FILE % "true")
    wait_until(lambda: text_of(browser, "pixels") == "96×62", "the image is translated at its own size")
    assert browser.evaluate("document.getElementById('notice').hidden")


def test_an_engine_that_the_browser_cannot_hold_is_one_sentence(
    shared_site: Path,
    serve: Callable[..., str],
    browser: Any,
    wait_until: Callable[..., None],
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    subprocess.run(["cp", "-r", str(shared_site), str(site)], check=True)
    (entry,) = json.loads((site / "engines/list.json").read_text())
    (site / "engines/list.json").write_text(json.dumps([{**entry, "bytes": 3_000_000_000}]))
    browser.open(serve(site))
    wait_until(
        lambda: "(3000 MB) is too large for this browser" in text_of(browser, "notice"), "the sentence"
    )


def test_what_a_site_holds(shared_site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {str(file.relative_to(shared_site)) for file in shared_site.rglob("*") if file.is_file()}
    assert names >= {"index.html", "page.js", "engine.js", "engines/day2night.onnx", "ort/LICENSE"}
    for file in shared_site.glob("*.*"):
        assert "http://" not in file.read_text(), f"{file.name} loads nothing from elsewhere"
        assert "https://" not in file.read_text(), f"{file.name} loads nothing from elsewhere"
    assert POLICY in (shared_site / "index.html").read_text()
    assert json.loads((shared_site / "ort/package.json").read_text())["version"] == ort_web.VERSION

    site = tmp_path / "two"
    package = package_of(shared_site, tmp_path)
    for engine in ("day2night", "night2day", "day2night"):
        words = [str(MODELS / f"{engine}.onnx"), "--web", str(site), "--ort-web", str(package)]
        assert main(words) == 0
    assert "a site with 2 engines" in " ".join(capsys.readouterr().err.split())
    entries = json.loads((site / "engines/list.json").read_text())
    assert [entry["metadata"]["direction"] for entry in entries] == ["day -> night", "night -> day"]


def test_what_cannot_be_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MODELS / "day2night.onnx"
    with pytest.raises(ExportError, match=r"not the folder of onnxruntime-web .* is missing"):
        site_from_engine(engine, tmp_path / "site", tmp_path)
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "index.html").write_text("mine")
    with pytest.raises(ExportError, match="not a site of i2i-export"):
        site_from_engine(engine, other, tmp_path)
    assert (other / "index.html").read_text() == "mine"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(ort_web, "user_cache_path", lambda name: tmp_path / "cache")
    with pytest.raises(ExportError, match="npm, which fetches it, is not installed"):
        site_from_engine(engine, tmp_path / "site")
    npm = tmp_path / "npm"
    npm.write_text(f"#!{sys.executable}\nimport sys; sys.exit('npm error network offline')\n")
    npm.chmod(0o755)
    with pytest.raises(ExportError, match=r"npm could not fetch .* \(npm error network offline\)"):
        site_from_engine(engine, tmp_path / "site")
    assert not (tmp_path / "site").exists()
