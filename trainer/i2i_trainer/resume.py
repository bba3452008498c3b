"""Everything that the next step depends on, to the checkpoint and back; and weights to start a new run from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from i2i_trainer.checkpoint import (
    Tensors,
    load_method,
    random_state,
    read_checkpoint,
    restore_optimiser,
    restore_random_state,
    restore_weights,
    tensors_from_optimiser,
    under,
    write_checkpoint,
)
from i2i_trainer.errors import DivergedError, OptionError
from i2i_trainer.method import Method
from i2i_trainer.optimise import Average, Optimisation

NAMED = 5
"""Most tensors that a message names."""


def process_state(method: Method, device: torch.device) -> Tensors:
    """What differs between processes: random generators and the method's extra state."""
    random_tensors = {f"random/{name}": tensor for name, tensor in random_state(device).items()}
    extra = {f"extra/{name}": tensor.detach().cpu() for name, tensor in method.extra_state().items()}
    return {**random_tensors, **extra}


def gathered(fabric: Fabric, state: Tensors) -> Tensors:
    """State of all processes; that of process k > 0 under `processK/`."""
    if fabric.world_size == 1:
        return state
    states: list[Tensors] = [{} for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(states, state)
    own = dict(states[0])
    for process, theirs in enumerate(states[1:], start=1):
        own.update({f"process{process}/{name}": tensor for name, tensor in theirs.items()})
    return own


def weights_of(method: Method, average: Average | None) -> Tensors:
    """The weights and their moving average, by their names in a checkpoint."""
    tensors = {f"model/{key}": tensor for key, tensor in method.state_dict().items()}
    if average is not None:
        for module, weights in average.weights.items():
            tensors |= {f"average/{module}/{key}": tensor for key, tensor in weights.items()}
    return tensors


def save(
    run: Path,
    name: str,
    done: int,
    method: Method,
    optimisation: Optimisation,
    average: Average | None,
    processes: Tensors,
) -> None:
    """Writes the checkpoint after step `done`."""
    tensors = weights_of(method, average) | processes
    values: dict[str, Any] = {}
    for optimiser_name, optimiser in optimisation.optimisers.items():
        state, values[optimiser_name] = tensors_from_optimiser(optimiser)
        tensors |= {f"optimiser/{optimiser_name}/{key}": tensor for key, tensor in state.items()}
    scaler = optimisation.scaler.state_dict() if optimisation.scaler is not None else None
    kept = {"step": done, "optimisers": values, "scaler": scaler, "ema_warmup": True}
    write_checkpoint(run, name, tensors, kept)


def restore(
    run: Path,
    name: str,
    method: Method,
    optimisation: Optimisation,
    average: Average | None,
    rank: int,
    device: torch.device,
) -> int:
    """Puts back what `save` wrote; returns the number of steps done."""
    tensors, state = read_checkpoint(run, name)
    restore_weights(method, tensors)
    for optimiser_name, optimiser in optimisation.optimisers.items():
        own = under(tensors, f"optimiser/{optimiser_name}/")
        restore_optimiser(optimiser, own, state["optimisers"][optimiser_name])
    if average is not None:
        average.start()  # a run that kept no average starts one from what it has learned
        for module, weights in average.weights.items():
            for key, kept in under(tensors, f"average/{module}/").items():
                weights[key].copy_(kept)
    if optimisation.scaler is not None and state["scaler"] is not None:
        optimisation.scaler.load_state_dict(state["scaler"])
    # A process that the stopped run did not have keeps its fresh random numbers and starts an empty pool.
    process = "" if rank == 0 else f"process{rank}/"
    extra = under(tensors, f"{process}extra/")
    method.load_extra_state({key: tensor.to(device) for key, tensor in extra.items()})
    if kept_random := under(tensors, f"{process}random/"):
        restore_random_state(kept_random, device)
    return int(state["step"])


def start_from(method: Method, run: Path) -> str:
    """Copies the weights of another run that fit by name and shape; returns a sentence about those that do not.

    Of a run with averaged weights these are taken. Raises CheckpointError if `run` is not a trained run, OptionError
    if nothing fits.
    """
    if run.is_file():
        raise OptionError(f"--from {run} is a file: name the run folder that it was made from.")
    theirs, mine = load_method(run).state_dict(), method.state_dict()
    fitting = {key: value for key, value in theirs.items() if key in mine and mine[key].shape == value.shape}
    if not fitting:
        raise OptionError(f"--from {run} has no weights that fit this method and its options.")
    method.load_state_dict({**mine, **fitting})
    left = [key for key in mine if key not in fitting]
    sentence = f"{len(fitting)} of {len(mine)} tensors start as those of {run}"
    if not left:
        return f"{sentence}."
    more = f" and {len(left) - NAMED} others" if len(left) > NAMED else ""
    return f"{sentence}; new are {', '.join(left[:NAMED])}{more}."


def check_weights(method: nn.Module, done: int) -> None:
    """Raises DivergedError if a weight is not finite."""
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in method.parameters()]).all()
    if not bool(finite.item()):
        raise DivergedError(f"A weight stopped being a finite number by step {done}")
