"""Checkpoints beside the last one: the newest few, the best by a measure, and new runs that start from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from i2i_trainer.checkpoint import BEST, CHECKPOINT, load_method, read_state
from i2i_trainer.errors import CheckpointError, DataError, OptionError
from i2i_trainer.layouts import find_domains
from i2i_trainer.loop import train
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.scenes import write_scenes
from i2i_trainer.validation import Validation, with_validation


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty streets by day and twenty by night."""
    root = tmp_path_factory.mktemp("many")
    write_scenes(root, count=20, size=(24, 32), held_out=1)
    return root


def first_weight(run: Path, step: int | str | None) -> torch.Tensor:
    return next(iter(load_method(run, step).parameters())).detach()


def test_the_newest_checkpoints_are_kept(tiny: CycleGANConfig) -> None:
    run = train("cyclegan", replace(tiny, steps=8, keep=2))
    assert sorted(path.name for path in (run / "history").iterdir()) == [
        "00000006.safetensors",
        "00000008.safetensors",
    ]
    assert not torch.equal(first_weight(run, 6), first_weight(run, 8))
    assert torch.equal(first_weight(run, "8"), first_weight(run, None))
    with pytest.raises(CheckpointError, match="no checkpoint of step 4, it has 6, 8: keep more by --keep N"):
        load_method(run, 4)
    with pytest.raises(CheckpointError, match="train with --eval-every N"):
        load_method(run, "best")


def test_the_best_step_is_kept_and_survives_a_resume(
    tiny: CycleGANConfig, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([5.0, 3.0, 4.0, 3.5, 2.0])
    monkeypatch.setattr(Validation, "__call__", lambda self, method, device: next(values))
    tiny = replace(tiny, data=many, steps=6, eval_every=2)
    run = train("cyclegan", tiny)
    assert read_state(run, BEST) == {"step": 4, "measure": "patch_kid_x100", "value": 3.0, "ema_warmup": True}
    train("cyclegan", replace(tiny, steps=8), resume=True)
    assert read_state(run, BEST)["step"] == 4  # 3.5 is no better
    train("cyclegan", replace(tiny, steps=10), resume=True)
    assert read_state(run, BEST)["step"] == 10
    assert torch.equal(first_weight(run, "best"), first_weight(run, None))
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["validation"]["patch_kid_x100"] for row in rows}
    assert measured == {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 2.0}


def test_measuring_changes_no_step(tiny: CycleGANConfig, many: Path, tmp_path: Path) -> None:
    plain = replace(tiny, data=many, ema=0.9)
    # Images are set aside either way, so that both train on the same ones.
    often = train("cyclegan", replace(plain, eval_every=1, out=tmp_path / "often"))
    once = train("cyclegan", replace(plain, eval_every=100, out=tmp_path / "once"))
    ours, theirs = load_file(often / CHECKPOINT), load_file(once / CHECKPOINT)
    assert [
        name for name in ours if not torch.equal(ours[name].nan_to_num(-7), theirs[name].nan_to_num(-7))
    ] == []


def test_every_tenth_image_is_set_aside_and_test_is_never_touched(many: Path, tiny: CycleGANConfig) -> None:
    config = replace(tiny, data=many, eval_every=2)
    domains = find_domains(config)
    seen, aside = with_validation(config, domains, paired=False)
    assert aside is not None
    assert (len(seen.a), len(aside.a)) == (18, 2)
    assert not {image.name for image in seen.a} & {image.name for image in aside.a}
    for image in (*seen.a, *aside.a):
        assert "testA" not in str(getattr(image, "path", ""))
    assert with_validation(replace(config, eval_every=0), domains, paired=False) == (domains, None)


def test_a_val_split_is_measured_and_nothing_set_aside(
    streets: Path, tiny: CycleGANConfig, tmp_path: Path
) -> None:
    for folder in ("trainA", "trainB", "valA", "valB"):
        (tmp_path / folder).mkdir()
        for number in range(3):
            Image.new("RGB", (24, 24), (40 * number,) * 3).save(tmp_path / folder / f"{number}.png")
    config = replace(tiny, data=tmp_path, eval_every=2)
    domains = find_domains(config)
    seen, aside = with_validation(config, domains, paired=False)
    assert seen is domains
    assert aside is not None
    assert {path.parent.name for image in aside.a if (path := getattr(image, "path", None))} == {"valA"}


def test_too_few_images_cannot_be_set_aside(tiny: CycleGANConfig) -> None:
    with pytest.raises(DataError, match="--eval-every needs a val split, or at least 20 images per domain"):
        train("cyclegan", replace(tiny, eval_every=2))


def test_the_measures(tiny: CycleGANConfig, many: Path) -> None:
    config = replace(tiny, data=many, identity_weight=0.0)
    paired = find_domains(config, "train", paired=True)
    identical = replace(paired, b=paired.a)
    method = CycleGAN(config)
    method.a2b.forward = lambda image: image  # type: ignore[method-assign]
    cpu = torch.device("cpu")
    assert Validation(config, identical).measure == "l1"
    assert Validation(config, identical)(method, cpu) == 0
    assert Validation(config, paired)(method, cpu) > 10
    frechet = replace(config, eval_measure="patch_frechet")
    assert Validation(frechet, identical)(method, cpu) == pytest.approx(0, abs=1e-2)
    assert Validation(frechet, paired)(method, cpu) > 1
    with pytest.raises(OptionError, match="needs counterparts"):
        Validation(replace(config, eval_measure="l1"), replace(paired, paired=False))


def test_a_run_starts_from_the_weights_that_fit(
    tiny: CycleGANConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train("cyclegan", replace(tiny, ema=0.9, out=tmp_path / "first"))
    averaged = load_method(first).state_dict()
    capsys.readouterr()
    again = train(
        "cyclegan",
        replace(tiny, steps=1, lr=1e-12, disc_width=8, start_from=first, out=tmp_path / "again"),
    )
    said = capsys.readouterr().out
    assert f"tensors start as those of {first}; new are disc_a.0.weight" in said
    begun = load_file(again / CHECKPOINT)
    for name, value in averaged.items():
        if name.startswith("a2b"):
            torch.testing.assert_close(begun[f"model/{name}"], value, rtol=0, atol=1e-6)
    with pytest.raises(OptionError, match="is a file: name the run folder"):
        train("cyclegan", replace(tiny, start_from=first / CHECKPOINT, out=tmp_path / "third"))
