"""`i2i-train METHOD --data DIR --out runs/NAME`: trains a method, or shows what it would train."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from i2i_trainer.checkpoint import json_from_config, read_config, read_config_file
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import OptionError, TrainError
from i2i_trainer.methods import METHODS, entry_of, preset_of

FLAGS_OF_OTHERS = {
    "--epochs": "lengths are counted in steps, use --steps",
    "--n-epochs": "lengths are counted in steps, use --steps and --decay-from",
    "--n-epochs-decay": "lengths are counted in steps, use --steps and --decay-from",
    "--max-iter": "use --steps",
    "--iterations": "use --steps",
    "--dataroot": "use --data",
    "--dataset": "use --data",
    "--gpu-ids": "use --device, and torchrun for several devices",
    "--batch-size": "use --batch",
    "--name": "use --out runs/NAME",
    "--checkpoints-dir": "use --out",
    "--direction": "use --swap to exchange source and target",
    "--crop-size": "use --image-size",
    "--continue-train": "use --resume",
    "--learning-rate": "use --lr",
}
"""What other trainers call it, and what it is called here."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to do with the options of a method."""

    resume: bool = False
    """Continue the run in --out; flags given now win over its recorded options."""
    config: Path | None = None
    """Take the options of a run's config.json; flags given now win over them."""
    dry_run: bool = False
    """Print the resolved options and a table of the networks, then stop."""
    json: bool = False
    """With --dry-run, print one JSON object instead."""
    preset: str | None = None
    """Named set of options to start from; flags given now win over it."""


def main() -> None:
    """Entry point of `i2i-train`; exits with 0 done, 1 failed, 2 usage, 130 interrupted."""
    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        _complain("interrupted; continue from the last checkpoint with --resume.")
        sys.exit(130)
    except TrainError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except torch.OutOfMemoryError:
        _complain("The device's memory is full: lower --batch or --image-size, or use --precision bf16.")
        sys.exit(1)


def run(arguments: list[str]) -> int:
    """The command on a list of arguments. Raises TrainError."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print_methods()
        return 0
    name, *flags = arguments
    if name.startswith("-"):
        name, flags = _recorded_method(arguments), arguments
    command, config = parse(name, flags)
    if command.dry_run:
        show(name, config, as_json=command.json)
        return 0
    from i2i_trainer.loop import train  # Fabric takes seconds to import; --help and --dry-run do without it.

    out = train(name, config, command.resume)
    if os.environ.get("RANK", "0") == "0":
        Console().print(f"Done: {out}", highlight=False)
    return 0


def parse(name: str, flags: list[str]) -> tuple[Command, TrainConfig]:
    """Options of one method: its defaults, or a preset's, or a resumed run's, under the flags given."""
    entry = entry_of(name)
    _refuse_flags_of_others(flags)
    default = _default(name, flags)
    unprefixed = tyro.conf.arg(name="")
    both: Any = tuple[Annotated[Command, unprefixed], Annotated[entry.config, unprefixed]]  # type: ignore[name-defined]
    command, config = tyro.cli(
        both,
        default=(Command(), default),
        args=flags,
        prog=f"i2i-train {name}",
        description=_description(name),
    )
    return command, config


def _default(name: str, flags: list[str]) -> TrainConfig:
    if "--resume" in flags:
        recorded, config = read_config(Path(_value(flags, "--out") or TrainConfig.out))
        if recorded != name:
            raise OptionError(
                f"--out holds a run of {recorded}, not of {name}: use i2i-train {recorded} --resume."
            )
        return config
    if (path := _value(flags, "--config")) is None:
        return preset_of(name, _value(flags, "--preset"))
    recorded, config = read_config_file(Path(path))
    if recorded != name:
        raise OptionError(f"--config {path} holds options of {recorded}, not of {name}.")
    return replace(config, out=TrainConfig.out)


def _recorded_method(flags: list[str]) -> str:
    """The method of the run to continue, or of the options to take. Raises OptionError if neither is given."""
    if "--resume" in flags:
        return read_config(Path(_value(flags, "--out") or TrainConfig.out))[0]
    if (path := _value(flags, "--config")) is not None:
        return read_config_file(Path(path))[0]
    raise OptionError(f"A method comes first: choose one of {', '.join(METHODS)}.")


def _description(name: str) -> str:
    """The method in a line, and a line for each of its presets."""
    entry = METHODS[name]
    lines = [entry.method.summary]
    if entry.config.presets:
        lines.append("Presets, for --preset:")
    for preset, values in entry.config.presets.items():
        lines.append(f"{preset}: {', '.join(f'{option} {value}' for option, value in values.items())}")
    return "\n\n".join(lines)


def _refuse_flags_of_others(flags: list[str]) -> None:
    """Raises OptionError for a flag of another trainer, naming ours."""
    for given in flags:
        name = given.partition("=")[0].replace("_", "-")
        if name in FLAGS_OF_OTHERS:
            raise OptionError(f"{given.partition('=')[0]} is not an option here: {FLAGS_OF_OTHERS[name]}.")


def _value(flags: list[str], flag: str) -> str | None:
    for i, given in enumerate(flags):
        if given.startswith(f"{flag}="):
            return given.partition("=")[2]
        if given == flag and i + 1 < len(flags):
            return flags[i + 1]
    return None


def print_methods() -> None:
    """The methods with a line each."""
    console = Console()
    console.print(
        "usage: i2i-train METHOD --data DIR --out runs/NAME [--preset NAME] [--dry-run [--json]] [options]\n"
        "       i2i-train --resume --out runs/NAME [options]\n"
        "       i2i-train --config runs/OTHER/config.json --out runs/NAME [options]\n"
        "\nTrains an image-to-image translation method. Options of one method: i2i-train METHOD --help\n",
        markup=False,
        highlight=False,
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, entry in METHODS.items():
        table.add_row(f"  {name}", entry.method.summary)
    console.print(table)


def show(name: str, config: TrainConfig, as_json: bool) -> None:
    """Prints the resolved options and the networks with parameters and multiply-adds."""
    from i2i_trainer.summary import summarise

    summary = summarise(name, config)
    if as_json:
        print(json.dumps({**json_from_config(name, config), **summary.as_json()}, indent=2))
        return
    console = Console()
    options = Table("option", "value", title=f"i2i-train {name}")
    for option, value in json_from_config(name, config)["config"].items():
        options.add_row(option, str(value))
    console.print(options)
    console.print(summary.as_table())


def _complain(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        console = Console(stderr=True)
        console.print(f"i2i-train: {sentence}", style="red", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
