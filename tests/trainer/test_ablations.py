"""The papers' ablations: every variant's options exist, the page says what the rows say, a variant runs and resumes."""

from __future__ import annotations

import importlib
import json
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from i2i_trainer.digits import Digits, read_digits
from i2i_trainer.methods import METHODS, changed_options

TRAINER = Path(__file__).parents[2] / "trainer"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TRAINER))
    return importlib.import_module(f"reproduction.{name}")


def test_every_variant_is_one_that_its_method_takes_and_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, experiment in script("experiments", monkeypatch).EXPERIMENTS.items():
        for preset, sizes in experiment.sizes.items():
            configs = [
                changed_options(
                    experiment.method,
                    METHODS[experiment.method].config(),
                    {**sizes, **variant.options},
                )
                for variant in experiment.variants.values()
            ]
            assert len({repr(config) for config in configs}) == len(configs), (name, preset)


def test_the_page_is_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    page = script("page", monkeypatch)
    assert page.PAGE.read_text() == page.page()


def test_seeds_become_mean_and_spread_and_nothing_is_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = script("page", monkeypatch)
    for seed, accuracy in enumerate((0.4, 0.5)):
        row = {"experiment": "unit_maps", "variant": "full", "preset": "cpu", "seed": seed}
        row["metrics"] = {"pixel_accuracy_within_16": accuracy, "l1": None}
        (tmp_path / f"{seed}.json").write_text(json.dumps(row))
    lines = page.page(tmp_path).splitlines()
    assert "| full | 0.600 | cpu | 0.45 ± 0.071 | not measured | 0, 1 |" in lines
    assert "| no cycle | 0.568 | cpu | not run | not run | none |" in lines


def test_a_variant_is_trained_on_one_part_and_measured_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablations = script("ablations", monkeypatch)
    made = tmp_path / "images"
    random = np.random.default_rng(0)
    made.mkdir()
    with tarfile.open(tmp_path / "maps.tar", "w") as archive:
        for number in range(10):
            path = made / f"{number}.png"
            Image.fromarray(random.integers(0, 255, (72, 144, 3), np.uint8)).save(path)
            archive.add(path, f"./train/{path.name}")
    options = ablations.Options(
        experiment="unit_maps", preset="smoke", variant=("full",), data=tmp_path, work=tmp_path / "work"
    )
    experiment = ablations.EXPERIMENTS["unit_maps"]
    data = ablations.unpacked(experiment, options)
    parts = {name: {path.name for path in (data / name).iterdir()} for name in ("train", "test")}
    assert (len(parts["train"]), len(parts["test"])) == (8, 2)
    assert not parts["train"] & parts["test"]
    run = tmp_path / "run"
    row = ablations.row_of(experiment, "full", data, run, options)
    assert row["split"] == "test"
    assert 0 <= row["metrics"]["pixel_accuracy_within_16"] <= 1
    again = ablations.row_of(experiment, "full", data, run, options)
    assert again["metrics"] == row["metrics"]
    with pytest.raises(SystemExit, match="has no variant 'fuller'"):
        ablations.main(
            ablations.Options(experiment="unit_maps", variant=("fuller",), data=tmp_path, work=tmp_path)
        )


def test_colour_digits_invert_a_patch_and_are_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist_m = script("mnist_m", monkeypatch)
    digit = np.zeros((2, 28, 28, 3), np.uint8)
    digit[:, 10:18, 10:18] = 255
    photo = np.full((60, 50, 3), (10, 100, 200), np.uint8)
    made = mnist_m.blended(Digits(digit, np.array([3, 0])), [photo], seed=0)
    assert made.images[0, 0, 0].tolist() == [10, 100, 200]
    assert made.images[0, 12, 12].tolist() == [245, 155, 55]
    mnist_m.write_tar(tmp_path / mnist_m.TAR, made)
    again = read_digits(tmp_path)
    np.testing.assert_array_equal(again.images, made.images)
    assert again.labels.tolist() == [3, 0]
