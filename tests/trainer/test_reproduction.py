"""The reproduction scripts: no place is seen in both seasons, no test digit is trained on, scores by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from i2i_trainer.digits import Digits, read_digits

TRAINER = Path(__file__).parents[2] / "trainer"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINER))
    return importlib.import_module(f"reproduction.{name}")


def test_no_place_lends_both_seasons_and_no_test_place_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nordland = script("nordland", monkeypatch)
    frames = np.random.default_rng(0).integers(0, 255, (nordland.TEST_FRAMES + 21, 2, 4, 3), np.uint8)
    nordland.write_unpaired(frames, frames, tmp_path / "all", seed=0)
    a, b = ({int(path.stem) for path in (tmp_path / "all" / name).iterdir()} for name in ("trainA", "trainB"))
    assert (len(a), len(b)) == (10, 11)
    assert a | b == set(range(21))
    frames[3, :, 1:3] = 7  # a tunnel: one of its crops shows nothing
    nordland.write_unpaired(frames, frames, tmp_path / "tunnel", seed=0)
    kept = {int(path.stem) for path in (tmp_path / "tunnel").rglob("*.png")}
    assert kept == set(range(21)) - {3}


def test_scores_of_images_with_known_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    nordland = script("nordland", monkeypatch)
    truth = torch.zeros(1, 3, 8, 8)
    truth[..., 4:] = 1.0
    assert nordland.scores(truth, truth) == {"error": 0.0, "edges": 1.0}
    assert nordland.scores(-truth, truth) == {"error": 127.5, "edges": 1.0}
    assert nordland.scores(torch.zeros_like(truth), truth)["edges"] == 0.0
    across = truth.transpose(2, 3)
    assert abs(nordland.scores(across, truth)["edges"]) < 0.5
    brighter = nordland.matched(truth / 2 - 0.5, truth)
    torch.testing.assert_close(brighter, truth)


def test_target_digits_are_split_without_overlap_and_stored_as_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = script("digits", monkeypatch)
    count = 2 * digits.HELD_OUT + 30
    grey = np.arange(count, dtype=np.int64)
    images = np.zeros((count, 16, 16, 3), np.uint8)
    images[..., 0, :] = (grey % 256)[:, None, None]
    parts = digits.split_target(Digits(images, grey), seed=0)
    assert {name: len(part.labels) for name, part in parts.items()} == {
        "test": 1000,
        "val": 1000,
        "train": 30,
    }
    assert sorted(np.concatenate([part.labels for part in parts.values()])) == grey.tolist()
    train = Digits(parts["train"].images, parts["train"].labels % 10)
    digits.write_idx(tmp_path, train)
    again = read_digits(tmp_path)
    np.testing.assert_array_equal(again.images, train.images)
    np.testing.assert_array_equal(again.labels, train.labels)


def test_the_table_names_what_needs_no_training_beside_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = script("rows", monkeypatch)
    score = {"error": 54.4, "edges": 0.45}
    run = {"preset": "cpu", "steps": 2000, "cpu_seconds": 300, "seed": 0}
    nordland = {"experiment": "nordland", "method": "unit", "error": 40.0, "edges": 0.3, **run}
    nordland["references"] = {"the source itself": score}
    digits = {"experiment": "digits", "method": "cogan", "accuracy_last": 80.0, **run}
    digits |= {"accuracy_chosen_on_validation": 81.0, "share_of_paper_steps": 0.2}
    for name, row in (("nordland", nordland), ("digits", digits)):
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    lines = rows.table(tmp_path).splitlines()
    assert "| *the source itself* | 54.4 | 0.45 | | | |" in lines
    assert "| unit | 40.0 | 0.30 | cpu | 2000 | 5 |" in lines
    assert "| cogan | 80.0 % | 81.0 % | cpu | 2000 (20% of the paper's) | 5 |" in lines
