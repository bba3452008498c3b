"""The portable engines on both back ends: the contract, sizes, style, and refusals in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from i2i_runtime.engines import Backend, Engine, open_engine
from i2i_runtime.engines.contract import pad, padded_size
from i2i_runtime.errors import EngineError, I2IError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, SizePolicy
from i2i_runtime.sources import open_source

BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


def photo(width: int, height: int) -> Image:
    return np.random.default_rng(width * height).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1), (2, 1), (5, 7)])
def test_identity_gives_back_every_size(engines: Any, backend: Backend, size: tuple[int, int]) -> None:
    engine = open_engine(engines.identity, backend)
    given = photo(*size)
    kept = given.copy()
    np.testing.assert_array_equal(engine.infer(given), given)
    np.testing.assert_array_equal(given, kept)
    engine.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_belongs_to_the_caller(engines: Any, backend: Backend) -> None:
    engine = open_engine(engines.invert, backend)
    first = engine.infer(photo(40, 30))
    kept = first.copy()
    engine.infer(255 - photo(40, 30))
    np.testing.assert_array_equal(first, kept)
    assert first.flags["C_CONTIGUOUS"]
    assert first.flags["WRITEABLE"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stride_is_padded_by_reflection_and_cropped(engines: Any, backend: Backend) -> None:
    engine = open_engine(engines.conv, backend)
    given = photo(30, 21)
    reflected = np.pad(given, ((0, 3), (0, 2), (0, 0)), mode="reflect")
    whole = engine.infer(np.ascontiguousarray(reflected))
    np.testing.assert_array_equal(engine.infer(given), whole[:21, :30])


def test_back_ends_agree(engines: Any) -> None:
    given = photo(128, 96)
    reference = open_engine(engines.conv, "onnxruntime").infer(given).astype(float)
    fast = open_engine(engines.conv, "openvino").infer(given).astype(float)
    error = np.mean((reference - fast) ** 2)
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 40


@pytest.mark.parametrize("backend", BACKENDS)
def test_style_has_a_default_and_can_be_given(engines: Any, backend: Backend) -> None:
    engine = open_engine(engines.styled, backend)
    given = np.full((8, 8, 3), 100, np.uint8)
    np.testing.assert_array_equal(engine.infer(given), given)
    styled = engine.infer(given, np.array([[50, 0, -50]], np.float32))
    assert styled[0, 0].tolist() == [150, 100, 50]
    with pytest.raises(EngineError, match="takes a style of 3 numbers"):
        engine.infer(given, np.zeros((1, 5), np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_fixed_size_refuses_others_and_says_how_to_mend_it(engines: Any, backend: Backend) -> None:
    engine = open_engine(engines.fixed, backend)
    assert engine.infer(photo(48, 32)).shape == (32, 48, 3)
    with pytest.raises(EngineError, match=r"exactly 48x32 and this one is 64x32: add --size 48x32"):
        engine.infer(photo(64, 32))


def test_openvino_stays_in_f32_where_the_engine_says_so(
    engines: Any, save_engine: Any, tmp_path: Path
) -> None:
    engine = open_engine(engines.conv, "openvino")
    noted = replace(engine.metadata, notes={"openvino_precision": "f32"})
    path = save_engine(tmp_path / "noted.onnx", [], metadata=noted.to_json())
    assert open_engine(path, "openvino").backend == "openvino f32"


def test_padding_reflects_again_where_the_image_is_small() -> None:
    row = np.arange(3, dtype=np.uint8)[None, :, None].repeat(3, axis=2).repeat(3, axis=0)
    assert pad(row, 3, 8)[0, :, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pad(photo(1, 1), 4, 4).reshape(-1, 3).std(axis=0).tolist() == [0, 0, 0]
    same = photo(8, 8)
    assert pad(same, 8, 8) is same


def test_sizes_outside_the_policy_are_refused() -> None:
    policy = SizePolicy(stride=8, min_height=64, max_height=128, min_width=64, max_width=256)
    assert padded_size(policy, 64, 65) == (64, 72)
    assert padded_size(policy, 60, 64) == (64, 64)
    with pytest.raises(EngineError, match="add --size 256x128"):
        padded_size(policy, 129, 300)
    with pytest.raises(EngineError, match="add --size 64x64"):
        padded_size(policy, 1, 1)


def broken_files(folder: Path, save: Callable[..., Path], whole: Path) -> dict[str, tuple[Path, str]]:
    """name -> (file, what the sentence must say)"""
    noise = folder / "noise.onnx"
    noise.write_bytes(np.random.default_rng(1).bytes(4000))
    empty = folder / "empty.onnx"
    empty.write_bytes(b"")
    torn = folder / "torn.onnx"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    words = folder / "words.onnx"
    words.write_text("night falls\n")
    newer = json.loads(EngineMetadata("n", "m", "a -> b", SizePolicy()).to_json()) | {"schema_version": 99}
    stranger = json.loads(EngineMetadata("n", "m", "a -> b", SizePolicy()).to_json())
    stranger["extra_inputs"] = [{"name": "mood", "shape": [1], "default": [0.0]}]
    return {
        "noise": (noise, "damaged"),
        "empty": (empty, "damaged"),
        "torn": (torn, "damaged"),
        "text": (words, "is a text file, not a network"),
        "a folder": (Path("."), "is not an engine"),
        "no metadata": (save(folder / "bare.onnx", [], metadata=None), "i2i-export adopt"),
        "bad json": (save(folder / "json.onnx", [], metadata="{"), "cannot be read"),
        "not an object": (save(folder / "list.onnx", [], metadata="[1]"), "cannot be read"),
        "newer schema": (save(folder / "newer.onnx", [], metadata=json.dumps(newer)), "update i2i-stream"),
        "unknown input": (
            save(folder / "mood.onnx", [], metadata=json.dumps(stranger)),
            "does not follow the engine",
        ),
        "missing": (folder / "missing.onnx", "does not exist"),
        "no engine": (folder / "film.mp4", "is not an engine"),
        "no name": (Path("nobody"), "No engine is called nobody"),
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_broken_engines_are_refused_in_one_sentence(
    engines: Any, save_engine: Callable[..., Path], backend: Backend, tmp_path: Path
) -> None:
    for name, (path, says) in broken_files(tmp_path, save_engine, engines.conv).items():
        with pytest.raises(I2IError) as caught:
            open_engine(path, backend)
        text = str(caught.value)
        assert says in text, (name, text)
        assert "\n" not in text, name
        assert text.endswith((".", ")")), (name, text)


def test_choice_of_back_end_is_explained(engines: Any) -> None:
    engine: Engine = open_engine(engines.identity)
    assert engine.backend.split()[0] in engine.backend
    assert engine.reason
    assert open_engine(engines.identity, "onnxruntime").reason == "--backend onnxruntime"


def test_opening_an_engine_reports_to_nobody(engines: Any) -> None:
    """OpenVINO's telemetry would fork this process and call a server; a fresh process must never load it."""
    script = (
        "import sys, multiprocessing\n"
        "def refuse(self): raise SystemExit('a process was started')\n"
        "multiprocessing.Process.start = refuse\n"
        "import numpy as np\n"
        "from i2i_runtime.engines import open_engine\n"
        "open_engine(sys.argv[1], 'openvino').infer(np.zeros((8, 8, 3), np.uint8))\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(engines.identity)], check=True)


@pytest.mark.parametrize(
    ("engine", "direction", "clips"),
    [
        ("day2night", "day -> night", ("tmo324__countryroad.mp4", "udacity__solidWhiteRight.mp4")),
        ("day2night-large", "day -> night", ("tmo324__countryroad.mp4", "udacity__solidWhiteRight.mp4")),
        ("night2day", "night -> day", ("tmo324__night.mp4",)),
    ],
)
def test_the_shipped_engines_keep_40_db_on_real_frames(
    real_videos: Path, engine: str, direction: str, clips: tuple[str, ...]
) -> None:
    reference, picked = open_engine(engine, "onnxruntime"), open_engine(engine)
    assert picked.metadata.direction == direction
    for clip in clips:
        source = open_source(str(real_videos / clip))
        frame = source.read()
        source.close()
        assert frame is not None
        error = np.mean((reference.infer(frame.pixels).astype(float) - picked.infer(frame.pixels)) ** 2)
        assert 10 * np.log10(255**2 / max(float(error), 1e-9)) >= 40


def test_ctrl_c_after_an_engine_was_closed_is_a_plain_interrupt(engines: Any) -> None:
    """OpenVINO would leave the thread with a stack for signals that is no longer there."""
    script = (
        "import gc, signal, sys\n"
        "import numpy as np\n"
        "from i2i_runtime.engines import open_engine\n"
        "engine = open_engine(sys.argv[1], 'openvino')\n"
        "engine.infer(np.zeros((9, 7, 3), np.uint8))\n"
        "engine.close()\n"
        "del engine\n"
        "gc.collect()\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(engines.invert)], capture_output=True, check=True
    )
    assert done.stdout == b"interrupted\n"


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_image_that_is_not_contiguous_gives_the_same_result(engines: Any, backend: Backend) -> None:
    bgr = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    engine = open_engine(engines.invert, backend)
    assert np.array_equal(engine.infer(bgr[..., ::-1]), 255 - bgr[..., ::-1])
    engine.close()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
)
def test_an_array_that_is_not_a_frame_is_refused_in_a_sentence(engines: Any, image: Any) -> None:
    engine = open_engine(engines.invert, "onnxruntime")
    with pytest.raises(EngineError, match=r"\[H, W, 3\] uint8 RGB and was given \["):
        engine.infer(image)
    engine.close()
