"""The command line: help, dry run, presets, sentences and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from i2i_trainer import cli, evaluation
from i2i_trainer.checkpoint import load_method, read_config, write_atomically
from i2i_trainer.errors import CheckpointError, DataError, OptionError
from i2i_trainer.methods import METHODS
from i2i_trainer.methods.cyclegan import CycleGANConfig


def test_help_names_every_method_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for name, entry in METHODS.items():
        assert f" {name} {' '.join(entry.method.summary.split())}" in printed


def test_flags_win_over_the_preset_over_the_defaults() -> None:
    _, config = cli.parse("cyclegan", ["--preset", "small", "--blocks", "2", "--no-flip"])
    assert isinstance(config, CycleGANConfig)
    assert (config.width, config.blocks, config.disc_width, config.flip) == (16, 2, 32, False)
    assert config.lr == CycleGANConfig().lr


@pytest.mark.parametrize("name", METHODS)
def test_presets_and_defaults_of_every_method_are_valid(name: str) -> None:
    kind = METHODS[name].config
    kind()
    for values in kind.presets.values():
        replace(kind(), **values)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], "no method 'nothing'"),
        (["cyclegan", "--preset", "huge"], "it has small"),
        (["cyclegan", "--batch", "0"], "--batch is 0"),
    ],
)
def test_usage_is_refused_in_one_sentence(arguments: list[str], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        cli.run(arguments)


def test_dry_run_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["cyclegan", "--dry-run", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["inference"] == {"parameters": 11378179, "macs": 49551507456, "size": [256, 256]}
    assert record["config"]["image_size"] == 256
    assert set(record["networks"]) == {"a2b", "b2a", "disc_a", "disc_b"}


def test_dry_run_prints_options_and_networks(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["cyclegan", "--dry-run", "--preset", "small"])
    printed = capsys.readouterr().out
    assert "cycle_weight" in printed
    assert "inference, one direction" in printed


def small_run(streets: Path, out: Path, *flags: str) -> list[str]:
    options = {"width": 4, "blocks": 1, "disc-width": 4, "disc-layers": 1, "image-size": 16, "load-size": 20}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["cyclegan", "--data", str(streets), "--out", str(out), "--device", "cpu", *given, *flags]


def test_resume_takes_the_recorded_options_and_the_flags(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.run(small_run(streets, out, "--steps", "2", "--seed", "5"))
    cli.run(["cyclegan", "--resume", "--out", str(out), "--steps", "3"])
    _, config = read_config(out)
    assert (config.steps, config.seed, config.image_size) == (3, 5, 16)
    with pytest.raises(OptionError, match="run of cyclegan, not of unit"):
        cli.run(["unit", "--resume", "--out", str(out)])
    with pytest.raises(CheckpointError, match="cannot be written"):
        cli.run(small_run(streets, out / "config.json" / "under", "--steps", "2"))


def test_a_killed_run_goes_on_from_its_checkpoint(
    streets: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    out = tmp_path / "run"
    flags = small_run(streets, out, "--steps", "100000", "--checkpoint-every", "3", "--log-every", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "i2i_trainer.cli", *flags],
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 8/"):
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    load_method(out)
    lost = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert lost[-1] >= 8
    cli.run(["cyclegan", "--resume", "--out", str(out), "--steps", "100000", "--dry-run"])
    first = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()][-1]
    cli.run(["cyclegan", "--resume", "--out", str(out), "--steps", str(first + 3)])
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, first + 4))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_with_130(
    streets: Path, tmp_path: Path, clean_environment: dict[str, str], number: signal.Signals
) -> None:
    out = tmp_path / "run"
    flags = small_run(streets, out, "--steps", "100000", "--log-every", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "i2i_trainer.cli", *flags],
        env=clean_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(number)
        process.stdout.read()
        said = process.stderr.read()
    assert process.returncode == 130
    last = json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert said == f"i2i-train: interrupted after step {last}, which is saved: continue with --resume.\n"
    load_method(out)


def test_a_file_is_not_a_run_folder_and_an_error_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_text("")
    with pytest.raises(CheckpointError, match=r"clip\.mp4 is not a run folder"):
        read_config(tmp_path / "clip.mp4")
    with pytest.raises(CheckpointError, match=r"\(Not a directory\): make room"):
        write_atomically(tmp_path / "clip.mp4" / "run" / "config.json", b"")


@pytest.mark.parametrize("name", ["i2i-train", "i2i-eval"])
def test_an_interrupt_is_a_sentence_with_the_name_of_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    monkeypatch.setattr(evaluation, "evaluate", interrupted)
    monkeypatch.setattr(sys, "argv", [name, "run", "--data", "folder"])
    with pytest.raises(SystemExit) as left:
        (cli if name == "i2i-train" else evaluation).main()
    assert left.value.code == 130
    assert capsys.readouterr().err.startswith(f"{name}: interrupted")


@pytest.mark.parametrize(
    ("flags", "ours"),
    [
        (["--epochs", "3"], "--epochs is not an option here: lengths are counted in steps, use --steps"),
        (["--batch_size=4"], "--batch_size is not an option here: use --batch"),
        (["--dataroot", "x"], "use --data"),
        (["--gpu_ids", "0"], "use --device"),
    ],
)
def test_flags_of_other_trainers_name_ours(flags: list[str], ours: str) -> None:
    with pytest.raises(OptionError, match=ours):
        cli.run(["cyclegan", *flags])


def test_help_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.run(["cyclegan", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "small: image_size 64, load_size 72" in printed
    assert "resnet6: blocks 6, image_size 128, load_size 143" in printed


def test_the_method_is_read_from_the_run_or_the_file(streets: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    cli.run(small_run(streets, out, "--steps", "1", "--seed", "5"))
    cli.run(["--resume", "--out", str(out), "--steps", "2"])
    assert read_config(out)[1].steps == 2
    copy = tmp_path / "copy"
    cli.run(["--config", str(out / "config.json"), "--out", str(copy), "--steps", "1"])
    name, config = read_config(copy)
    assert (name, config.seed, config.steps, config.out) == ("cyclegan", 5, 1, copy)
    with pytest.raises(OptionError, match="holds options of cyclegan, not of unit"):
        cli.run(["unit", "--config", str(out / "config.json")])
    with pytest.raises(CheckpointError, match="does not exist: name the config"):
        cli.run(["--config", str(tmp_path / "nothing.json")])
    with pytest.raises(OptionError, match="A method comes first"):
        cli.run(["--steps", "3"])


def test_a_moved_folder_of_images_is_named_as_recorded(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").symlink_to(streets)
    cli.run(small_run(Path("photos"), tmp_path / "run", "--steps", "1"))
    Path("photos").unlink()
    with pytest.raises(DataError, match="--data photos, as recorded by this run, is not a folder here"):
        cli.run(["--resume", "--out", str(tmp_path / "run"), "--steps", "2"])
    cli.run(["--resume", "--out", str(tmp_path / "run"), "--steps", "2", "--data", str(streets)])
