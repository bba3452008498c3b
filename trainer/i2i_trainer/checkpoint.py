"""The run folder: `config.json`, and `checkpoint.safetensors` with everything that the next step depends on.

Tensors are named `model/...`, `average/MODULE/...`, `optimiser/NAME/INDEX/KEY`, `extra/...` and `random/...`; all other
state is JSON in the header's metadata. Per-process tensors of processes beyond the first are prefixed
`process1/`, `process2/`, and so on. Nothing is ever pickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import CheckpointError, OptionError
from i2i_trainer.method import Method
from i2i_trainer.methods import METHODS, changed_options

VERSION = 1
CHECKPOINT = "checkpoint.safetensors"
BEST = "best.safetensors"
HISTORY = "history"
CONFIG = "config.json"

Tensors = dict[str, Tensor]


def write_atomically(path: Path, content: bytes) -> None:
    """All of the content under its name, or nothing: a temporary file beside it, flushed to disk, then renamed.

    Makes the folder. Raises CheckpointError if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> CheckpointError:
    reason = getattr(error, "strerror", None) or error
    return CheckpointError(
        f"{path} cannot be written ({reason}): make room or name a folder of your own by --out; "
        "what was there before is unharmed."
    )


def json_from_config(method: str, config: TrainConfig) -> dict[str, Any]:
    """What `config.json` holds: the method's name, the format's version and every option."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    return {"version": VERSION, "method": method, "config": plain}


def write_config(run: Path, method: str, config: TrainConfig) -> None:
    """Writes `config.json` into the run folder."""
    content = json.dumps(json_from_config(method, config), indent=2) + "\n"
    write_atomically(run / CONFIG, content.encode())


def read_config(run: Path) -> tuple[str, TrainConfig]:
    """Method name and options of a run. Raises CheckpointError: missing, damaged, or of another version."""
    if not (run / CONFIG).is_file():
        raise CheckpointError(
            f"{run} is not a run folder, it has no {CONFIG}: name a folder made by i2i-train."
        )
    return read_config_file(run / CONFIG)


def read_config_file(path: Path) -> tuple[str, TrainConfig]:
    """The same of a `config.json` that may be anywhere."""
    try:
        record = json.loads(path.read_text())
        version, method, values = record["version"], record["method"], dict(record["config"])
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist: name the config.json of a run.") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({_line(error)}): take it from a copy of the run."
        ) from error
    if version != VERSION:
        raise CheckpointError(
            f"{path} has version {version}, this program reads {VERSION}: use the program that wrote it."
        )
    if not isinstance(method, str) or method not in METHODS:
        raise CheckpointError(
            f"{path} names the method {method!r}, which this program does not have: update it."
        )
    try:
        kind = METHODS[method].config
        return method, changed_options(method, kind(), {**kind.formerly, **values})
    except OptionError as error:
        raise CheckpointError(f"{path} does not fit this program ({error}): update it.") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        # The checks of a config count on values of the right kind.
        raise CheckpointError(
            f"{path} holds a value of another kind ({_line(error)}): take it from a copy of the run."
        ) from error


def _line(error: Exception) -> str:
    """The first line of an error's message, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def checkpoint_file(run: Path, step: int | str | None = None) -> str:
    """The file in a run folder that holds a step: the last one if None, `"best"`, or a step that was kept.

    Raises CheckpointError naming the steps there are.
    """
    if step is None:
        return CHECKPOINT
    if step == "best":
        if (run / BEST).is_file():
            return BEST
        raise CheckpointError(f"{run} has no {BEST}: train with --eval-every N to keep the best step.")
    kept = {int(path.stem): f"{HISTORY}/{path.name}" for path in (run / HISTORY).glob("*.safetensors")}
    if (run / CHECKPOINT).is_file():
        kept[int(read_state(run, CHECKPOINT)["step"])] = CHECKPOINT
    if str(step).isdigit() and int(step) in kept:
        return kept[int(step)]
    known = ", ".join(str(number) for number in sorted(kept)) or "none"
    raise CheckpointError(f"{run} has no checkpoint of step {step}, it has {known}: keep more by --keep N.")


def load_method(run: str | Path, step: int | str | None = None) -> Method:
    """The trained method of a run folder, on the CPU, in evaluation mode, with averaged weights if they are kept.

    `step` is a step that `--keep` kept, or `"best"`, that of the lowest measure of `--eval-every`; None is the last.
    Raises CheckpointError in one sentence: not a run folder, no checkpoint yet, damaged, of another method or version.
    """
    run = Path(run)
    name, config = read_config(run)
    method = METHODS[name].method(config)
    tensors, _ = read_checkpoint(run, name, checkpoint_file(run, step))
    restore_weights(method, tensors)
    for module_name, module in method.ema_modules().items():
        average = under(tensors, f"average/{module_name}/")
        if average:
            module.load_state_dict(average)
    return method.eval()


def write_checkpoint(
    run: Path, method: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any], file: str = CHECKPOINT
) -> None:
    """Writes tensors and plain state atomically: a killed program leaves the previous checkpoint complete."""
    path = run / file
    temporary = path.with_name(f".{path.name}.part")
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {"method": method, "version": str(VERSION), "state": json.dumps(state)}
    try:
        path.parent.mkdir(exist_ok=True)
        save_file(whole, temporary, metadata=metadata)
        temporary.chmod(0o644)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def read_state(run: Path, file: str = CHECKPOINT) -> dict[str, Any]:
    """The plain state of a checkpoint, the step among it. Raises CheckpointError if it is missing or damaged."""
    path = run / file
    if not path.is_file():
        raise CheckpointError(f"{run} has no {file} yet: train until the first checkpoint is written.")
    try:
        with safe_open(path, framework="pt") as opened:
            return _state_from_text(opened.metadata()["state"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({_line(error)}): take it from a copy of the run."
        ) from error


def _state_from_text(text: str) -> dict[str, Any]:
    """The plain state of a checkpoint. Raises ValueError."""
    state = json.loads(text)
    if not isinstance(state, dict):
        raise ValueError("its state is not an object")
    return state


def read_checkpoint(run: Path, method: str, file: str = CHECKPOINT) -> tuple[Tensors, dict[str, Any]]:
    """Tensors on the CPU and plain state. Raises CheckpointError if it is missing, damaged or another method's."""
    path = run / file
    if not path.is_file():
        raise CheckpointError(f"{run} has no {file} yet: train until the first checkpoint is written.")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {_renamed(name, method): opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        version, state = metadata["version"], _state_from_text(metadata["state"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({_line(error)}): take it from a copy of the run."
        ) from error
    if version != str(VERSION):
        raise CheckpointError(
            f"{path} has version {version}, this program reads {VERSION}: use the program that wrote it."
        )
    if metadata.get("method") != method:
        raise CheckpointError(
            f"{path} belongs to the method {metadata.get('method')!r}, not {method!r}: name the run of that method."
        )
    return tensors, state


def _renamed(name: str, method: str) -> str:
    """What a tensor of an older checkpoint is called today."""
    if name.startswith(("model/", "average/")):
        for old, new in METHODS[method].method.renamed.items():
            name = name.replace(old, new)
    return name


def restore_weights(method: Method, tensors: Tensors) -> None:
    """Loads `model/...` into the method. Raises CheckpointError if names or shapes do not fit."""
    stored = under(tensors, "model/")
    fresh = {name: value for name, value in method.state_dict().items() if name.startswith(method.added)}
    try:
        method.load_state_dict(fresh | stored)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(
            f"The checkpoint does not fit the method's options ({reason}): use the run's own."
        ) from error


def tensors_from_optimiser(optimiser: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """State of an optimiser as tensors named `INDEX/KEY`, and the rest as plain values."""
    whole = optimiser.state_dict()
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for index, entries in whole["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{key}"] = value
            else:
                values[f"{index}/{key}"] = value
    return tensors, values


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Tensors, values: Mapping[str, Any]) -> None:
    """Puts back what `tensors_from_optimiser` gave, in the memory layout of the parameters."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **values}.items():
        index, key = name.split("/", 1)
        parameter = parameters[int(index)]
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim:
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})


def random_state(device: torch.device) -> Tensors:
    """States of every random generator that a step may draw from: torch, its device, numpy, python."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (a method may draw from it)
    assert isinstance(numpy_state, dict)
    _, words, gauss = random.getstate()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(
            [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]], dtype=torch.float64
        ),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
    }
    if device.type == "cuda":
        tensors["cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def restore_random_state(tensors: Tensors, device: torch.device) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(tensors["torch"])
    position, has_gauss, gauss = tensors["numpy_rest"].tolist()
    np.random.set_state(  # noqa: NPY002
        ("MT19937", tensors["numpy"].numpy().astype(np.uint32), int(position), int(has_gauss), gauss)
    )
    python_gauss = tensors["python_gauss"].item()
    words = tuple(tensors["python"].tolist())
    random.setstate((3, words, None if np.isnan(python_gauss) else python_gauss))
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)


def under(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose names start with the prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
