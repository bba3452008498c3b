"""The loop: exact resume, several processes, accumulation, averages, schedules, divergence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from i2i_trainer.checkpoint import CHECKPOINT, load_method, read_config
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import CheckpointError, DataError, DivergedError, OptionError, StoppedError
from i2i_trainer.lock import locked
from i2i_trainer.loop import train
from i2i_trainer.method import Batch, Losses, Update
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.cyclegan import CycleGAN, CycleGANConfig
from i2i_trainer.schedule import lr_factor


def weights(run: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    return {name: value for name, value in load_file(run / CHECKPOINT).items() if name.startswith(prefix)}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [
        name for name in one if not torch.equal(one[name].nan_to_num(-7), other[name].nan_to_num(-7))
    ]
    assert not different


def test_resume_gives_the_same_bits(tiny: CycleGANConfig, tmp_path: Path) -> None:
    tiny = replace(tiny, ema=0.9, workers=2, precision="32")
    whole = train("cyclegan", replace(tiny, out=tmp_path / "whole"))
    # Stopped in step 3, after the checkpoint of step 2: what came after it is lost and done again.
    stopped = replace(tiny, out=tmp_path / "stopped")
    train("cyclegan", replace(stopped, steps=2))
    train("cyclegan", stopped, resume=True)
    assert_same(weights(whole), weights(stopped.out))
    assert any(name.startswith("average/") for name in weights(whole))
    assert any(name.startswith("extra/pool_a") for name in weights(whole))
    rows = [
        [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        for run in (whole, stopped.out)
    ]
    assert [row["step"] for row in rows[1]] == [2, 4]
    assert [row["losses"] for row in rows[0]] == [row["losses"] for row in rows[1]]


def signalled_in_step(monkeypatch: pytest.MonkeyPatch, call: int, *signals: signal.Signals) -> None:
    """Sends the process the signals in the middle of the `call`-th step from here on."""
    step, calls = CycleGAN.step, 0

    def signalled(method: CycleGAN, batch: Batch, update: Update) -> Losses:
        nonlocal calls
        calls += 1
        if calls == call:
            for number in signals:
                signal.raise_signal(number)
        return step(method, batch, update)

    monkeypatch.setattr(CycleGAN, "step", signalled)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_saves_its_step_and_goes_on_to_the_same_bits(
    tiny: CycleGANConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    tiny = replace(tiny, steps=5, ema=0.9, workers=2, log_every=5, checkpoint_every=100)
    whole = train("cyclegan", replace(tiny, out=tmp_path / "whole"))
    stopped = replace(tiny, out=tmp_path / "stopped")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        signalled_in_step(patched, 3, number)
        with pytest.raises(
            StoppedError, match=r"^interrupted after step 3, which is saved: continue with --resume\.$"
        ):
            train("cyclegan", stopped)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert [json.loads(line)["step"] for line in (stopped.out / "log.jsonl").read_text().splitlines()] == [3]
    assert (stopped.out / "curves.png").is_file()
    assert (stopped.out / "samples" / "00000003.png").is_file()
    train("cyclegan", stopped, resume=True)
    assert_same(weights(whole), weights(stopped.out))


def test_a_second_signal_interrupts_at_once(tiny: CycleGANConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    signalled_in_step(monkeypatch, 3, signal.SIGTERM, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train("cyclegan", replace(tiny, steps=5, checkpoint_every=2))
    _, config = read_config(tiny.out)
    assert config.steps == 5
    train("cyclegan", replace(tiny, steps=3), resume=True)  # from the checkpoint of step 2


def test_a_signal_in_the_last_step_changes_nothing(
    tiny: CycleGANConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    signalled_in_step(monkeypatch, 4, signal.SIGTERM)
    assert (train("cyclegan", tiny) / "samples" / "00000004.png").is_file()


def test_training_in_another_thread_leaves_signals_alone(tiny: CycleGANConfig) -> None:
    thread = threading.Thread(target=train, args=("cyclegan", tiny))
    thread.start()
    thread.join()
    assert (tiny.out / CHECKPOINT).is_file()


def test_run_folder_is_complete(tiny: CycleGANConfig) -> None:
    run = train("cyclegan", tiny)
    assert read_config(run) == ("cyclegan", replace(tiny, white=(65535, 65535)))
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    samples = {"samples/00000001.png", "samples/00000004.png"}
    assert names == {"config.json", CHECKPOINT, "log.jsonl", "curves.png", *samples}
    method = load_method(run)
    out = method.inference("b2a")(torch.zeros(1, 3, 20, 24))
    assert out.shape == (1, 3, 20, 24)
    assert not method.training


def test_loaded_weights_are_the_averaged_ones(tiny: CycleGANConfig) -> None:
    run = train("cyclegan", replace(tiny, ema=0.5))
    loaded = load_method(run).state_dict()
    average = weights(run, "average/a2b/")
    assert average
    for name, value in average.items():
        assert torch.equal(loaded["a2b." + name.removeprefix("average/a2b/")], value)
    assert not torch.equal(weights(run)["model/a2b.0.weight"], loaded["a2b.0.weight"])


def test_two_processes_reach_the_weights_of_one(
    tiny: CycleGANConfig, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    tiny = replace(tiny, steps=2, decay_from=1)
    one = train("cyclegan", replace(tiny, batch=4, pool=50))
    flags = {
        "--data": tiny.data,
        "--out": tmp_path / "two",
        "--batch": 4,
        "--pool": 50,
        **{
            f"--{name.replace('_', '-')}": getattr(tiny, name)
            for name in (
                *("width", "blocks", "disc_width", "disc_layers", "image_size", "load_size", "steps"),
                *("decay_from", "workers", "log_every", "checkpoint_every", "device"),
            )
        },
    }
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        *launch,
        "-m",
        "i2i_trainer.cli",
        "cyclegan",
        *(str(x) for pair in flags.items() for x in pair),
    ]
    done = subprocess.run(command, env=clean_environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    ours, theirs = weights(one, "model/"), weights(tmp_path / "two", "model/")
    assert ours.keys() == theirs.keys()
    # Two steps: the order of float sums grows with every step. A bias before a norm has no gradient but noise.
    for name, value in ours.items():
        if name.endswith("weight"):
            torch.testing.assert_close(theirs[name], value, rtol=0, atol=1e-6)
    logs = [json.loads((run / "log.jsonl").read_text().splitlines()[-1]) for run in (one, tmp_path / "two")]
    assert logs[1]["losses"] == pytest.approx(logs[0]["losses"], rel=1e-3)


@pytest.mark.parametrize("name", ["drit", "tunit"])
def test_a_checkpoint_that_counts_steps_itself_still_resumes(
    streets: Path, tmp_path: Path, name: str
) -> None:
    kind = METHODS[name].config
    small = {"batch": 4, "workers": 0, "device": "cpu", "sample_every": 100, "checkpoint_every": 1}
    rhythm = {"every": 2} if name == "drit" else {"separated_steps": 1}
    config = kind(**{**kind.presets["small"], **small, **rhythm, "data": streets, "schedule": "constant"})
    whole = train(name, replace(config, steps=2, out=tmp_path / "whole"))
    old = train(name, replace(config, steps=1, out=tmp_path / "old"))
    counter = {"drit": "content_moves", "tunit": "calls"}[name]
    rewritten(old, lambda tensors: {**tensors, f"extra/{counter}": torch.tensor(1)})
    train(name, replace(config, steps=2, out=old), resume=True)
    assert_same(weights(whole), weights(old))


def test_a_cyclegan_of_the_first_version_still_loads_and_resumes(
    tiny: CycleGANConfig, tmp_path: Path
) -> None:
    tiny = replace(tiny, ema=0.9)
    whole = train("cyclegan", replace(tiny, out=tmp_path / "whole"))
    old = train("cyclegan", replace(tiny, steps=2, out=tmp_path / "old"))
    new_names = set(load_file(old / CHECKPOINT))
    rewritten(old, lambda tensors: {key.replace(".body.", ".layers."): t for key, t in tensors.items()})
    assert any(".layers." in name for name in load_file(old / CHECKPOINT))
    load_method(old)
    train("cyclegan", replace(tiny, out=old), resume=True)
    assert_same(weights(whole), weights(old))
    assert set(load_file(old / CHECKPOINT)) == new_names


def rewritten(run: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    """Writes the run's checkpoint anew with other tensors and the same metadata."""
    with safe_open(run / CHECKPOINT, framework="pt") as file:
        metadata = file.metadata()
    save_file(change(load_file(run / CHECKPOINT)), run / CHECKPOINT, metadata=metadata)


@pytest.mark.parametrize("broken", ["partner", "images"])
def test_a_test_folder_that_cannot_be_used_stops_no_training(
    tiny: CycleGANConfig, tmp_path: Path, broken: str
) -> None:
    data = tmp_path / "data"
    for folder in ("trainA", "trainB", "testA", "testB"):
        (data / folder).mkdir(parents=True)
        for path in (tiny.data / folder).iterdir():
            (data / folder / path.name).write_bytes(path.read_bytes())
    for path in (data / "testB").iterdir():
        path.unlink() if broken == "partner" else path.write_bytes(b"nothing")
    if broken == "partner":
        (data / "testB").rmdir()
    run = train("cyclegan", replace(tiny, data=data))
    assert (run / "samples" / "00000004.png").is_file()


def test_accumulated_micro_batches_equal_one_large_batch(tiny: CycleGANConfig, tmp_path: Path) -> None:
    tiny = replace(tiny, steps=2, decay_from=1)
    whole = train("cyclegan", replace(tiny, batch=4, pool=50, out=tmp_path / "whole"))
    parts = train("cyclegan", replace(tiny, batch=2, accumulate=2, pool=50, out=tmp_path / "parts"))
    for name, value in weights(whole, "model/").items():
        if name.endswith("weight"):
            torch.testing.assert_close(weights(parts)[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_mixed_precision_trains_and_keeps_float32_weights(tiny: CycleGANConfig, precision: str) -> None:
    run = train("cyclegan", replace(tiny, precision=precision))  # type: ignore[arg-type]
    assert {value.dtype for value in weights(run, "model/").values()} == {torch.float32}
    resumed = train("cyclegan", replace(tiny, precision=precision, steps=6), resume=True)  # type: ignore[arg-type]
    assert all(value.isfinite().all() for value in weights(resumed, "model/").values())


def test_a_loss_that_is_not_finite_ends_the_run(tiny: CycleGANConfig) -> None:
    train("cyclegan", replace(tiny, steps=2))
    sentence = r"in step \d+; the last good checkpoint is that of step 2 in .*--lr"
    with pytest.raises(DivergedError, match=sentence):
        train("cyclegan", replace(tiny, steps=40, lr=1e30), resume=True)
    assert all(value.isfinite().all() for value in weights(tiny.out, "model/").values())


def test_a_trained_run_is_not_overwritten(tiny: CycleGANConfig) -> None:
    train("cyclegan", tiny)
    with pytest.raises(OptionError, match="--resume"):
        train("cyclegan", tiny)


def test_one_training_per_run_folder(tiny: CycleGANConfig) -> None:
    train("cyclegan", replace(tiny, steps=2))
    before = contents(tiny.out)
    with (
        locked(tiny.out),
        pytest.raises(CheckpointError, match=r"in use by another training: wait .* or name another --out"),
    ):
        train("cyclegan", tiny, resume=True)
    assert contents(tiny.out) == before
    train("cyclegan", tiny, resume=True)


def test_a_run_that_cannot_start_leaves_no_folder(tiny: CycleGANConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        train("cyclegan", replace(tiny, data=tmp_path / "nothing", out=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_fewer_steps_than_reached_are_refused_and_change_nothing(tiny: CycleGANConfig) -> None:
    train("cyclegan", tiny)
    before = contents(tiny.out)
    with pytest.raises(OptionError, match=r"--steps 3 is below step 4, which .* has reached"):
        train("cyclegan", replace(tiny, steps=3), resume=True)
    assert contents(tiny.out) == before
    assert train("cyclegan", tiny, resume=True) == tiny.out  # nothing is left to do
    assert contents(tiny.out) == before


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_checkpoints_of_others_are_refused(tiny: CycleGANConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no config"):
        load_method(tmp_path)
    run = train("cyclegan", replace(tiny, steps=2))
    with pytest.raises(CheckpointError, match="options: --width was 4 when this run began"):
        train("cyclegan", replace(tiny, width=8), resume=True)
    record = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**record, "version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        load_method(run)
    (run / "config.json").write_text(json.dumps({**record, "method": "nothing"}))
    with pytest.raises(CheckpointError, match="'nothing'"):
        load_method(run)
    (run / "config.json").write_text(json.dumps(record))
    content = (run / CHECKPOINT).read_bytes()
    (run / CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_method(run)
    (run / CHECKPOINT).unlink()
    with pytest.raises(CheckpointError, match="first checkpoint"):
        load_method(run)


def test_learning_rates_follow_the_step() -> None:
    linear = TrainConfig(schedule="linear", steps=200, decay_from=100)
    assert [lr_factor(linear, step) for step in (0, 100, 150, 200)] == [1.0, 1.0, 0.5, 0.0]
    halve = TrainConfig(schedule="halve", decay_every=10)
    assert [lr_factor(halve, step) for step in (0, 9, 10, 25)] == [1.0, 1.0, 0.5, 0.25]
    steps = TrainConfig(schedule="milestones", milestones=(10, 30))
    assert [lr_factor(steps, step) for step in (0, 9, 10, 29, 30)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert lr_factor(TrainConfig(), 10**6) == 1.0
