"""i2i-bench: its record, its verdicts, its chart. What it measures is real; that it is fast is not tested here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from i2i_runtime.bench import measure
from i2i_runtime.bench.chart import draw_bars
from i2i_runtime.bench.compare import compare_records
from i2i_runtime.bench.measure import Level, limit_of
from i2i_runtime.bench.tables import print_record
from i2i_runtime.cli.bench import BenchOptions, CompareOptions, bench, compare
from i2i_runtime.engines import Engine, open_engine
from i2i_runtime.errors import UsageError
from i2i_runtime.media.size import parse_size
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata, SizePolicy
from i2i_runtime.sources.recorded import RecordedSource


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine that inverts the image."""
    shape: list[str | int | None] = [1, "H", "W", 3]
    nodes = [
        helper.make_node("Cast", ["frame"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["white", "x"], ["y"]),
        helper.make_node("Cast", ["y"], ["translated"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "invert",
        [helper.make_tensor_value_info("frame", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("translated", TensorProto.UINT8, shape)],
        [helper.make_tensor("white", TensorProto.FLOAT, [], [255.0])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    metadata = EngineMetadata("invert", "test", "a -> b", SizePolicy())
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    path = tmp_path / "invert.onnx"
    onnx.save(model, path)
    return path


def test_record_holds_the_three_levels_and_what_they_were_made_on(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_file, chart = tmp_path / "r.json", tmp_path / "r.png"
    bench(
        BenchOptions(
            str(engine), input="test://bars", size="64x48", seconds=0.05, frames=6, repeats=2,
            json=record_file, chart=chart,
        )
    )  # fmt: skip
    record = json.loads(record_file.read_text())
    assert [level["name"] for level in record["levels"]] == ["engine alone", "pipeline", "end to end"]
    assert all(level["fps"] > 0 and len(level["fps_repeats"]) == 2 for level in record["levels"])
    assert (record["width"], record["height"]) == (64, 48)
    assert len(record["engine_sha256"]) == 64
    assert record["machine"]["cores"] >= 1
    assert record["machine"]["versions"]["numpy"] == np.__version__
    drawn = cv2.imread(str(chart))
    assert drawn is not None
    assert drawn.std() > 5
    assert record["input_sha256"] is None, "a scene is no file"
    assert record["threads"] == record["machine"]["cores"]
    assert (record["warm_up_frames"], record["frames"], record["repeats"]) == (8, 6, 2)
    assert all(level["memory_mb"] > 10 for level in record["levels"])
    shown = capsys.readouterr().out
    assert "invert (a -> b) at 64x48" in shown
    assert record["engine_sha256"][:12] in shown
    for name, what in {"wait": "in the queue before the engine", "write": "deliver"}.items():
        assert any(line.split()[:1] == [name] and what in line for line in shown.splitlines())
    assert record["limit"] in shown
    assert compare(CompareOptions(record_file, record_file)) == 0


def record_of(*rates: float) -> dict[str, Any]:
    return {"levels": [{"name": "end to end", "fps_repeats": list(rates)}], "machine": {"cores": 2}}


@pytest.mark.parametrize(
    ("new", "word"),
    [
        ((150, 151, 152), "faster"),
        ((70, 71, 72), "slower"),
        ((100, 101, 103), "same within the noise"),
        ((60, 120, 180), "same within the noise"),
    ],
)
def test_verdict_knows_the_noise(new: tuple[float, ...], word: str) -> None:
    (verdict,) = compare_records(record_of(99, 100, 101), record_of(*new))
    assert verdict.word == word


def level_of(name: str, fps: float, **stages: float) -> Level:
    return Level(
        name, fps, (fps,), {}, 1.0, 100.0, 0, {stage: {"p50_ms": ms} for stage, ms in stages.items()}
    )


@pytest.mark.parametrize(
    ("stages", "word"),
    [
        ({"read": 30.0, "infer": 10.0, "write": 1.0}, "Reading"),
        ({"read": 3.0, "infer": 10.0, "write": 40.0}, "--preset"),
        ({"read": 3.0, "infer": 10.0, "write": 1.0}, "--size"),
    ],
)
def test_limit_names_the_slowest_stage_and_a_fix(stages: dict[str, float], word: str) -> None:
    alone = level_of("engine alone", 100.0)
    assert word in limit_of(alone, alone, level_of("end to end", 90.0, **stages))


def test_scaling_is_shown_and_refusals_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {
        "256": {"fps": 500.0, "p50_ms": 2.0, "p95_ms": 2.5, "p99_ms": 3.0},
        "2160p": {"refused": "too large"},
    }
    level = {
        "name": "end to end", "fps": 9.0, "fps_repeats": [9.0], "cores_used": 1.0, "memory_mb": 90.0, "dropped": 0,
        "latency_ms": {"p50_ms": 1.0, "p95_ms": 1.0, "p99_ms": 1.0},
        "stages": {"read": {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}},
    }  # fmt: skip
    record = {
        "engine": "e", "direction": "a -> b", "width": 8, "height": 6, "precision": "fp32", "engine_sha256": "0" * 64,
        "backend": "b", "reason": "r", "input": "i", "input_sha256": "f" * 64, "threads": 2, "warm_up_frames": 8,
        "repeats": 1, "frames": 2, "seconds": 1.0, "start": {"first_frame_ms": 5.0}, "peak_memory_mb": 99.0,
        "limit": "l", "levels": [level], "scaling": {"sizes": sizes, "streams": [{"streams": 4, "fps": 40.0}]},
        "machine": {
            "processor": "p", "cores": 2, "features": [], "power_mode": "", "python": "3", "versions": {"numpy": "2"}
        },
    }  # fmt: skip
    print_record(record)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["256", "500.0", "2.0", "2.5", "3.0"] in lines
    assert ["2160p", "too", "large"] in lines
    assert ["4", "40.0", "10.0"] in lines


def test_one_image_has_no_rate_and_its_record_no_password(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, record_file = tmp_path / "[bold] password=hush.png", tmp_path / "r.json"
    cv2.imwrite(str(image), np.zeros((32, 32, 3), np.uint8))
    options = BenchOptions(str(engine), str(image), backend="onnxruntime", seconds=0.05, frames=2, repeats=1)
    record = bench(replace(options, json=record_file))
    assert record["limit"].startswith("The input holds one frame")
    assert record["levels"][-1]["fps"] == 0
    told = capsys.readouterr().out
    assert "[bold] password=***" in told
    assert "hush" not in told + record_file.read_text()
    assert compare(CompareOptions(record_file, record_file)) == 0
    assert "no verdict on end to end" in capsys.readouterr().out


def test_recorded_source_goes_round_and_ends() -> None:
    images = [np.full((2, 2, 3), value, np.uint8) for value in (1, 2)]
    source = RecordedSource(images, 5)
    values = []
    while (frame := source.read()) is not None:
        values.append((frame.index, int(frame.pixels[0, 0, 0])))
    assert values == [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)]


def test_chart_is_drawn_to_scale(tmp_path: Path) -> None:
    draw_bars({"g": {"long": 100.0, "short": 50.0}}, "fps", tmp_path / "c.png")
    drawn = cv2.imread(str(tmp_path / "c.png"))
    assert drawn is not None
    blue = (np.abs(drawn.astype(int) - [176, 114, 38]).sum(axis=2) == 0).sum(axis=1)
    lengths = sorted({int(n) for n in blue if n})
    assert lengths[0] * 2 == pytest.approx(lengths[-1], abs=4)


@pytest.mark.parametrize("text", ["1280", "0x5", "ax5", "1280x-2", "99999999x1", "²x2"])
def test_a_size_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
        parse_size(text)


def test_a_file_that_is_no_record_is_one_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "w.json"
    wrong.write_text("{}")
    with pytest.raises(UsageError, match="i2i-bench --json"):
        compare(CompareOptions(wrong, wrong))


def test_every_engine_that_is_opened_is_closed(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []

    def open_counted(*arguments: Any) -> Engine:
        found = open_engine(*arguments)
        close = found.close
        opened.append(found.backend)

        def close_counted() -> None:
            closed.append(found.backend)
            close()

        monkeypatch.setattr(found, "close", close_counted)
        return found

    monkeypatch.setattr(measure, "open_engine", open_counted)
    images = [np.zeros((32, 32, 3), np.uint8)]
    measure.measure_start(engine, "onnxruntime", None, images[0])
    measure.pipeline_without_devices(engine, "onnxruntime", None, images, 3, 2)
    measure.streams_at_once(engine, "onnxruntime", images, 0.01, (2,))
    assert len(opened) == 4
    assert closed == opened
