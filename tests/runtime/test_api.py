"""The Python surface: what is public resolves, is light to import, and does what the commands do."""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

import i2i_runtime as i2i
from i2i_runtime.verify import compare_files


@pytest.fixture
def clip(make_clip: Callable[..., Path]) -> Path:
    return make_clip("api.mp4", pts=[512 * index for index in range(20)], audio_tracks=1)


@pytest.mark.parametrize("name", i2i.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    found = getattr(i2i, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found)
        assert found.__module__.startswith("i2i_runtime")


def test_a_name_that_is_not_public_is_refused() -> None:
    name = "framez"
    with pytest.raises(AttributeError, match="has no attribute 'framez'"):
        getattr(i2i, name)
    assert dir(i2i) == sorted(i2i.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = (
        "import sys, i2i_runtime\n"
        "heavy = {'numpy', 'cv2', 'av', 'openvino', 'onnxruntime', 'rich', 'tyro', 'importlib.metadata'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert not [name for name in sys.modules if name.startswith('i2i_runtime.')]\n"
        "i2i_runtime.I2IError\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_types_of_the_two_functions_are_those_of_the_modules() -> None:
    for function in (i2i.translate, i2i.frames):
        assert get_type_hints(function)["engine"] == str | Path | i2i.Engine


def test_a_file_is_translated_as_by_the_command(engines: Any, clip: Path, tmp_path: Path) -> None:
    outcome = i2i.translate(clip, tmp_path / "out.mp4", engine=engines.invert)
    assert outcome.exit_code == 0
    assert outcome.report["frames"]["out"] == 20
    assert outcome.report["engine"]["file"] == str(engines.invert)
    assert all(check.agrees for check in compare_files(clip, tmp_path / "out.mp4"))


def test_a_style_is_a_text_or_a_code(engines: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    for style, output in (("red", first), (np.array([[90, 0, 0]], np.float32), second)):
        i2i.translate("test://bars", output, engine=engines.styled, style=style, limit=1, size=(64, 48))
    assert first.read_bytes() == second.read_bytes()


def test_an_open_engine_stays_open_and_errors_are_sentences(tmp_path: Path) -> None:
    engine = i2i.FakeEngine()
    with pytest.raises(i2i.SourceError, match="does not exist"):
        i2i.translate(tmp_path / "missing.mp4", "null:", engine=engine)
    with pytest.raises(i2i.EngineError, match="No engine is called"):
        i2i.translate("test://bars", "null:", engine="nobody")
    assert engine.infer(np.zeros((2, 2, 3), np.uint8)).min() == 255


def test_frames_of_a_clip_come_in_order_with_their_times(engines: Any, clip: Path) -> None:
    seen = list(i2i.frames(clip, engine=engines.invert))
    source = list(i2i.frames(clip, engine=i2i.FakeEngine(invert=False)))
    assert [frame.time_s for frame in seen] == [Fraction(index, 25) for index in range(20)]
    for frame, before in zip(seen, source, strict=True):
        np.testing.assert_array_equal(frame.pixels, 255 - before.pixels)


def test_leaving_the_loop_ends_the_work(clip: Path) -> None:
    translated: list[int] = []
    engine = i2i.FakeEngine(before=translated.append)
    for frame in i2i.frames(clip, engine=engine):
        if frame.index == 2:
            break
    done = len(translated)
    assert done < 20, "the clip is not translated to its end"
    assert [frame.index for frame in i2i.frames(clip, engine=engine, limit=3)] == [0, 1, 2]
    assert len(translated) == done + 3, "nothing was left running"


def test_an_error_ends_the_loop_with_its_own_sentence(clip: Path) -> None:
    def broken(number: int) -> None:
        if number == 5:
            raise i2i.EngineError("The engine broke: replace it.")

    seen: list[int] = []
    translated = i2i.frames(clip, engine=i2i.FakeEngine(before=broken))
    with pytest.raises(i2i.EngineError, match="The engine broke"):
        seen.extend(frame.index for frame in translated)
    assert seen == list(range(len(seen)))
    assert len(seen) <= 5


class Ramp(i2i.Source):
    """A live source that numbers its frames, as fast as they are read."""

    live = True

    def __init__(self, count: int) -> None:
        self.frame_count = count
        self._index = 0

    def read(self) -> i2i.Frame | None:
        if self._index == self.frame_count:
            return None
        pixels = np.full((4, 6, 3), self._index, np.uint8)
        self._index += 1
        return i2i.Frame(pixels, self._index - 1, self._index - 1, Fraction(1, 30), time.monotonic())


class Brighter(i2i.Stage):
    def process(self, translated: i2i.Frame, source: i2i.Frame) -> i2i.Frame:
        return translated.with_pixels(np.minimum(translated.pixels, 254) + np.uint8(1))


def test_source_stage_and_sink_of_ones_own_work_in_a_pipeline() -> None:
    sink, source = i2i.CollectingSink(), Ramp(9)
    i2i.Pipeline(source, i2i.FakeEngine(), [sink, i2i.NullSink()], stages=[Brighter()]).run()
    assert [int(frame.pixels[0, 0, 0]) for frame in sink.frames] == [
        min(256 - index, 255) for index in range(9)
    ]
    assert (sink.finished, sink.closed) == (True, True)


def test_the_doubles_have_the_names_of_the_real_ones(engines: Any) -> None:
    real = i2i.open_engine(engines.invert)
    fake = i2i.FakeEngine()
    for name in ("metadata", "backend", "reason", "slots", "infer", "close"):
        assert hasattr(real, name)
        assert hasattr(fake, name)
    assert inspect.signature(fake.infer).parameters.keys() == inspect.signature(real.infer).parameters.keys()
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(fake.infer(image), real.infer(image))
    with pytest.raises(i2i.EngineError, match="no style input"):
        fake.infer(image, np.zeros((1, 3), np.float32))
    real.close()
