"""Any GStreamer line that ends in an appsink as a live source, through PyGObject.

PyGObject and GStreamer are the system's (Debian, Ubuntu and JetPack: python3-gi, gir1.2-gst-plugins-base-1.0); they are
imported when the first line is opened. Images arrive as NV12 in system memory and are converted here, because only
the planes with their stride and colorimetry give exact colours.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame
from i2i_runtime.media.nv12 import Nv12Converter
from i2i_runtime.media.pixels import Image
from i2i_runtime.sources.base import Source

SINK = "appsink"
INSTALL = "sudo apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good"
_SYSTEM_PACKAGES = Path("/usr/lib/python3/dist-packages")
_MICROSECOND = Fraction(1, 1_000_000)
# How long one wait lasts: errors of the bus and a close are noticed after it.
_LOOK_S = 0.2
_PATIENCE_S = 1.0
# GStreamer's names of colour matrices -> ITU-T H.273, table 4.
_MATRICES = {"FCC": 4, "BT709": 1, "BT601": 5, "SMPTE240M": 7, "BT2020": 9}


@dataclass(frozen=True)
class Gstreamer:
    """The modules of GStreamer that are used here, as PyGObject makes them."""

    core: Any
    video: Any
    error: type[Exception]


@cache
def load_gstreamer() -> Gstreamer:
    """Imports GStreamer, from the system's packages if this environment hides them. Raises SourceError."""
    if importlib.util.find_spec("openvino") is not None:
        # Loaded after GStreamer, OpenVINO ends the process when it compiles a network in another thread.
        importlib.import_module("openvino").Core()
    try:
        # PyGObject's own importer is of an older kind, which Python warns about.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gi = _import_gi()
            for name in ("Gst", "GstApp", "GstVideo"):
                gi.require_version(name, "1.0")
            from gi.repository import GLib, Gst, GstApp, GstVideo  # noqa: F401 (GstApp gives appsink its methods)
    except (ImportError, ValueError) as error:
        raise SourceError(
            f"GStreamer cannot be used from this Python ({error}): install it with `{INSTALL}`, "
            "for the system's own Python version."
        ) from error
    Gst.init(None)
    return Gstreamer(Gst, GstVideo, GLib.Error)


def _import_gi() -> Any:
    """PyGObject alone from the system's folder: the other packages there must not replace this environment's."""
    if importlib.util.find_spec("gi") is None:
        folder = _SYSTEM_PACKAGES / "gi"
        spec = importlib.util.spec_from_file_location(
            "gi", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if spec is None or spec.loader is None or not folder.is_dir():
            raise ImportError("python3-gi is not installed")
        version = f"{sys.version_info[0]}{sys.version_info[1]}"
        if not list(folder.glob(f"_gi.cpython-{version}-*.so")):
            raise ImportError(f"python3-gi is not for Python {sys.version_info[0]}.{sys.version_info[1]}")
        module = importlib.util.module_from_spec(spec)
        sys.modules["gi"] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["gi"]
            raise
    import gi

    return gi


def has_element(name: str) -> bool:
    """Whether GStreamer has an element of this name. Raises SourceError if there is no GStreamer."""
    return load_gstreamer().core.ElementFactory.find(name) is not None


_LEFT_BEHIND: list[Any] = []
"""Pipelines whose driver hangs: freeing one that still runs would end the process with a segmentation fault."""


class GstreamerSource(Source):
    """Images of one pipeline, the newest first; stamped with the time at which they were captured.

    The line must end in exactly one appsink; it is set to NV12 and to keep only the newest image. `explain` turns a
    message of the pipeline into the reason and the fix, None for a message that it does not know.
    """

    live = True

    def __init__(
        self,
        name: str,
        line: str,
        *,
        timeout_s: float = 10.0,
        explain: Callable[[str], str | None] | None = None,
    ) -> None:
        """Raises SourceError if the line cannot be started."""
        self.name = name
        self._gst = load_gstreamer()
        self._timeout_s, self._explain = timeout_s, explain
        self._reading = Lock()
        self._closed = False
        self._index = 0
        self._start_s = time.monotonic()
        self._caps: Any = None
        self._info: Any = None
        self._converter: Nv12Converter | None = None
        self._pipeline = self._parsed(line)
        self._sink = self._the_appsink()
        self._bus = self._pipeline.get_bus()
        core = self._gst.core
        if self._pipeline.set_state(core.State.PLAYING) == core.StateChangeReturn.FAILURE:
            error = self._error() or f"{self.name} cannot be started: check the GStreamer line."
            self.close()
            raise SourceError(error)

    def _parsed(self, line: str) -> Any:
        try:
            return self._gst.core.parse_launch(line)
        except self._gst.error as error:
            raise SourceError(self._sentence(str(getattr(error, "message", error)))) from error

    def _the_appsink(self) -> Any:
        core = self._gst.core
        sinks = []
        if isinstance(self._pipeline, core.Bin):
            iterator = self._pipeline.iterate_sinks()
            while True:
                result, sink = iterator.next()
                if result != core.IteratorResult.OK:
                    break
                sinks.append(sink)
        found = [sink for sink in sinks if sink.get_factory().get_name() == SINK]
        if len(found) != 1:
            raise SourceError(f"{self.name} has {len(found)} appsinks: end the line with `! {SINK}` once.")
        sink = found[0]
        sink.set_property("caps", core.Caps.from_string("video/x-raw,format=NV12"))
        for setting, value in (("drop", True), ("max-buffers", 1), ("sync", False)):
            sink.set_property(setting, value)
        return sink

    def read(self) -> Frame | None:
        """The newest image; None if the pipeline ended. Raises SourceError after an error or `timeout_s`."""
        core = self._gst.core
        deadline_s = time.monotonic() + self._timeout_s
        while not self._closed:
            with self._reading:
                sample = None if self._closed else self._sink.try_pull_sample(int(_LOOK_S * core.SECOND))
                if sample is not None:
                    return self._frame(sample)
                if (error := self._error()) is not None:
                    raise SourceError(error)
                if not self._closed and self._sink.is_eos():
                    return self._ended()
            if time.monotonic() > deadline_s:
                raise SourceError(self._sentence(f"no image for {self._timeout_s:g} s"))
        return None

    def _ended(self) -> Frame | None:
        """The end of a stream; before the first image it is a failure that some elements do not report."""
        if self._index == 0:
            raise SourceError(self._sentence("EOS before the first image"))
        return None

    def _frame(self, sample: Any) -> Frame:
        captured_s = self._captured_s(sample)
        pixels = self._pixels(sample)
        index, self._index = self._index, self._index + 1
        return Frame(pixels, index, round((captured_s - self._start_s) * 1e6), _MICROSECOND, captured_s)

    def _captured_s(self, sample: Any) -> float:
        """`time.monotonic()` at the buffer's own time; on arrival if it has none, or one in the future."""
        core, now_s = self._gst.core, time.monotonic()
        running = sample.get_segment().to_running_time(core.Format.TIME, sample.get_buffer().pts)
        clock = self._pipeline.get_clock()
        if clock is None or running == core.CLOCK_TIME_NONE:
            return now_s
        age_ns = int(clock.get_time() - self._pipeline.get_base_time() - running)
        return now_s - max(0, age_ns) / 1e9

    def _pixels(self, sample: Any) -> Image:
        core, video = self._gst.core, self._gst.video
        caps = sample.get_caps()
        if self._info is None or not caps.is_equal(self._caps):
            self._caps, self._info = caps, video.VideoInfo.new_from_caps(caps)
            self._converter = self._converter_of(self._info)
        assert self._converter is not None
        buffer = sample.get_buffer()
        # The buffer's own layout comes first: hardware pads rows to more than the format demands.
        layout = video.buffer_get_video_meta(buffer) or self._info
        mapped, memory = buffer.map(core.MapFlags.READ)
        if not mapped:
            raise SourceError(
                f"{self.name} delivers images outside system memory: put a converter such as nvvidconv before appsink."
            )
        try:
            planes = planes_of_nv12(
                np.frombuffer(memory.data, np.uint8),
                self._info.width,
                self._info.height,
                strides=(layout.stride[0], layout.stride[1]),
                offsets=(layout.offset[0], layout.offset[1]),
            )
            return self._converter.rgb_from_planes(*planes)
        finally:
            buffer.unmap(memory)

    def _converter_of(self, info: Any) -> Nv12Converter:
        """With the colorimetry that the caps state; if they state none, BT.601 up to 576 lines and BT.709 above."""
        matrix, full = colour_of_names(
            info.colorimetry.matrix.value_nick, info.colorimetry.range.value_nick, info.height
        )
        return Nv12Converter(info.width, info.height, matrix, full=full)

    def _error(self) -> str | None:
        """The sentence of the first error on the bus; None if there is none."""
        kinds = self._gst.core.MessageType
        message = self._bus.timed_pop_filtered(0, kinds.ERROR)
        if message is None:
            return None
        error, debug = message.parse_error()
        return self._sentence(f"{error.message} [{message.src.get_name()}: {debug or ''}]")

    def _sentence(self, message: str) -> str:
        own = None if self._explain is None else self._explain(message)
        known = own or explain_gstreamer(message)
        if known is not None:
            return f"{self.name} {known}."
        shown = message.partition(" [")[0].rstrip(".")
        return f"{self.name} failed ({shown}): try the line with gst-launch-1.0."

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            # A driver that hangs holds the lock; its pipeline is left behind then.
            if self._reading.acquire(timeout=_PATIENCE_S):
                self._pipeline.set_state(self._gst.core.State.NULL)
                self._reading.release()
            else:
                _LEFT_BEHIND.append(self._pipeline)


def with_appsink(line: str) -> str:
    """A line that the user brings; without an appsink it gets a converter and one."""
    return line if re.search(rf"\b{SINK}\b", line) else f"{line} ! videoconvert ! {SINK}"


def planes_of_nv12(
    memory: Image, width: int, height: int, *, strides: tuple[int, int], offsets: tuple[int, int]
) -> tuple[Image, Image]:
    """Views of the planes `[H, W]` and `[ceil(H/2), ceil(W/2), 2]` in a buffer `[bytes]` with padded rows."""
    across, down = (width + 1) // 2, (height + 1) // 2
    luma = np.ndarray((height, width), np.uint8, memory, offsets[0], (strides[0], 1))
    chroma = np.ndarray((down, across, 2), np.uint8, memory, offsets[1], (strides[1], 2, 1))
    return luma, chroma


def colour_of_names(matrix: str, colour_range: str, height: int) -> tuple[int, bool]:
    """(matrix number of H.273, whether full range) from GStreamer's names, such as `bt709` and `0-255`."""
    guess = 5 if height <= 576 else 1
    return _MATRICES.get(matrix.upper(), guess), colour_range == "0-255"


def explain_gstreamer(message: str) -> str | None:
    """Reason and fix for the messages that every line can give."""
    if found := re.search(r'no element "([^"]+)"', message):
        return f"needs the GStreamer element {found[1]}, which is not installed: {_where_from(found[1])}"
    if found := re.search(r'no property "([^"]+)" in element "([^"]+)"', message):
        return f"sets {found[1]}, which {found[2]} does not have: list its settings with gst-inspect-1.0 {found[2]}"
    if "not-negotiated" in message or "could not link" in message:
        return "cannot be converted to NV12: put `! videoconvert` before appsink, or ask for another size or rate"
    if "EOS before the first image" in message:
        return "ended before its first image: try the line with gst-launch-1.0"
    if found := re.search(r"no image for ([\d.]+) s", message):
        return f"sent no image for {found[1]} s: check the camera and its cable"
    if "Device or resource busy" in message or "is busy" in message:
        return "is used by another program: end that program, or give each service its own camera"
    if "Permission denied" in message:
        return "may not be opened by this user: sudo usermod -aG video $USER, then log in again"
    return None


def _where_from(element: str) -> str:
    if element.startswith("nv"):
        return (
            "it comes with JetPack (sudo apt install nvidia-l4t-gstreamer; "
            "containers need docker run --runtime=nvidia)"
        )
    return (
        "check its spelling, or sudo apt install gstreamer1.0-plugins-good gstreamer1.0-plugins-bad "
        "gstreamer1.0-plugins-ugly"
    )
