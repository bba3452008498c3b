"""The training loop: prepare, resume, then step, log, sample and save until the steps are done."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor, nn

from i2i_trainer.checkpoint import (
    CHECKPOINT,
    Tensors,
    random_state,
    read_checkpoint,
    restore_optimiser,
    restore_random_state,
    restore_weights,
    tensors_from_optimiser,
    under,
    write_checkpoint,
    write_config,
)
from i2i_trainer.config import TrainConfig
from i2i_trainer.data import ImageBatches, RawBatch, preview_batch
from i2i_trainer.errors import DataError, DivergedError, OptionError, StoppedError
from i2i_trainer.layouts import Domains, find_domains
from i2i_trainer.lock import locked
from i2i_trainer.logs import Ledger, Log, Screen, Speed
from i2i_trainer.method import Method
from i2i_trainer.methods import entry_of
from i2i_trainer.optimise import Average, Optimisation
from i2i_trainer.schedule import lr_factor
from i2i_trainer.sheets import write_curves, write_sheet
from i2i_trainer.signals import stopping

PREVIEW_ROWS = 4


def train(name: str, config: TrainConfig, resume: bool = False) -> Path:
    """Trains the method `name` and returns its run folder `config.out`.

    With `resume`, continues from the folder's checkpoint as if it had never stopped. Raises TrainError subclasses in
    one sentence; a run whose losses stop being finite ends with DivergedError and keeps its last good checkpoint;
    one that SIGINT or SIGTERM stops ends with StoppedError after saving the step in hand.
    """
    first = os.environ.get("RANK", "0") == "0"
    with locked(config.out) if first else nullcontext():
        return _train(name, config, resume)


def _train(name: str, config: TrainConfig, resume: bool) -> Path:
    # Data and device: everything that a user can have wrong is found before the first step.
    entry = entry_of(name)
    domains = find_domains(config, "train", entry.method.paired)
    config = replace(config, domains=domains.names, white=domains.white)
    scaler = _scaler(config)
    fabric = _fabric(config, scaler)
    rank, world, device = fabric.global_rank, fabric.world_size, fabric.device
    run = config.out
    if not resume and (run / CHECKPOINT).exists():
        raise OptionError(
            f"--out {run} holds a trained run: continue it with --resume, or name another folder."
        )
    batches = ImageBatches(domains, config, rank, world)
    preview = _preview_images(config, domains, entry.method.paired)

    # Networks: the same weights in every process, then random numbers of its own for each.
    _seed(config.seed)
    method = entry.method(config).to(device)
    method.check_data(domains)
    if config.ema > 0 and not method.ema_modules():
        raise OptionError(
            f"--ema {config.ema} does nothing for {name}, which keeps no average: leave it at 0."
        )
    if config.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    optimisation = Optimisation(fabric, method.optimisers(), config.clip_norm, config.accumulate, scaler)
    average = Average(method.ema_modules(), config.ema) if config.ema > 0 else None
    _seed(config.seed + 1 + rank)

    done = 0
    if resume:
        done = _restore(run, name, method, optimisation, average, rank, device)
        if done >= config.steps:
            return _complete(run, config, done)
        fabric.barrier()
    if rank == 0:
        write_config(run, name, config)
    log = Log(run / "log.jsonl", done) if rank == 0 else None
    screen = Screen(name, config.steps, done, shown=rank == 0)
    ledger, speed = Ledger(fabric), Speed()
    last_good = done

    with (
        closing(screen),
        closing(batches.from_number(done * config.accumulate, config.workers)) as stream,
        stopping(alone=world == 1) as stop,
    ):
        for step in range(done, config.steps):
            # One step: every micro-batch through the method; the optimisers move in the last one.
            optimisation.scale_lr(lr_factor(config, step))
            for micro_batch in range(config.accumulate):
                batch = next(stream).to_device(device)
                optimisation.begin(step, micro_batch)
                with fabric.autocast():
                    losses = method.step(batch, optimisation)
                ledger.add(losses, step + 1)
                speed.add(2 * config.batch)
            if average is not None:
                average.update()
            done = step + 1
            screen.advance(done)
            last = done == config.steps
            ends = last or stop.asked

            # Log: the only place where the losses leave the device.
            if done % config.log_every == 0 or ends:
                with _naming_last_good(run, last_good):
                    read = ledger.read()
                if log is not None:
                    row = _row(done, config, read, speed.read(), batches.unreadable)
                    log.append(row)
                    screen.say(row)

            # Sample.
            if (done % config.sample_every == 0 or last) and rank == 0:
                with _averaged(average), _own_random_numbers(device):
                    columns = _preview(method, preview, fabric)
                write_sheet(run / "samples" / f"{done:08d}.png", columns)

            # Save.
            if done % config.checkpoint_every == 0 or ends:
                with _naming_last_good(run, last_good):
                    ledger.check()
                    _check_weights(method, done)
                state = _gathered(fabric, _process_state(method, device))
                if log is not None:
                    _save(run, name, done, method, optimisation, average, state)
                    write_curves(run / "curves.png", log.rows)
                last_good = done
            if ends:
                break
    if batches.unreadable:
        screen.note(f"{batches.unreadable} images could not be read and were skipped.")
    fabric.barrier()
    if done < config.steps:
        raise StoppedError(f"interrupted after step {done}, which is saved: continue with --resume.")
    return run


def _complete(run: Path, config: TrainConfig, done: int) -> Path:
    """The run as it is, if no step is left; nothing is written. Raises OptionError if fewer steps are asked for."""
    if done > config.steps:
        raise OptionError(
            f"--steps {config.steps} is below step {done}, which {run} has reached: give a number above it."
        )
    return run


def _fabric(config: TrainConfig, scaler: torch.amp.GradScaler | None) -> Fabric:
    """Devices as torchrun laid them out, or a single one."""
    device = _device_kind(config)
    plugins: list[Any] = []
    if config.precision != "32":
        precision: Any = {"bf16": "bf16-mixed", "16": "16-mixed"}[config.precision]
        plugins.append(MixedPrecision(precision, device, scaler))
    launched = torch.distributed.is_torchelastic_launched()
    if launched:
        local, nodes = _torchrun_shape()
        fabric = Fabric(accelerator=device, devices=local, num_nodes=nodes, strategy="ddp", plugins=plugins)
    else:
        fabric = Fabric(accelerator=device, devices=1, plugins=plugins)
    fabric.launch()
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return fabric


def _torchrun_shape() -> tuple[int, int]:
    """Processes per host and hosts, from the variables that torchrun hands to its processes."""
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return local, int(os.environ["WORLD_SIZE"]) // local


def _device_kind(config: TrainConfig) -> str:
    if config.device != "auto":
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there[config.device]:
            raise OptionError(f"--device {config.device} is not on this machine: use --device auto or cpu.")
        return config.device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _scaler(config: TrainConfig) -> torch.amp.GradScaler | None:
    return torch.amp.GradScaler(_device_kind(config)) if config.precision == "16" else None


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (a library may draw from it)
    torch.manual_seed(seed)


def _preview_images(config: TrainConfig, domains: Domains, paired: bool) -> RawBatch:
    """Images that training never sees, if there are any; nothing about them may stop a training."""
    for split in ("test", "val"):
        with suppress(DataError):
            return preview_batch(find_domains(config, split, paired), config, PREVIEW_ROWS)
    return preview_batch(domains, config, PREVIEW_ROWS)


def _row(
    done: int, config: TrainConfig, losses: dict[str, float], pictures_per_s: float, unreadable: int
) -> dict[str, Any]:
    return {
        "step": done,
        "pictures": done * 2 * config.batch * config.accumulate,
        "pictures_per_s": round(pictures_per_s, 3),
        "lr": config.lr * lr_factor(config, done - 1),
        "losses": losses,
        "unreadable": unreadable,
    }


@torch.no_grad()
def _preview(method: Method, preview: RawBatch, fabric: Fabric) -> dict[str, Tensor]:
    with fabric.autocast():
        return method.preview(preview.to_device(fabric.device))


@contextmanager
def _averaged(average: Average | None) -> Iterator[None]:
    """The averaged weights in the networks for a while."""
    if average is None:
        yield
        return
    average.exchange()
    try:
        yield
    finally:
        average.exchange()


@contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """The same random numbers for every sheet, and none taken from the training."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield


@contextmanager
def _naming_last_good(run: Path, last_good: int) -> Iterator[None]:
    try:
        yield
    except DivergedError as error:
        kept = (
            f"the last good checkpoint is that of step {last_good} in {run}"
            if last_good
            else "no checkpoint was written yet"
        )
        raise DivergedError(
            f"{error}; {kept}: resume with a lower --lr, --clip-norm 1 or --precision 32."
        ) from error


def _check_weights(method: nn.Module, done: int) -> None:
    finite = torch.stack([parameter.detach().isfinite().all() for parameter in method.parameters()]).all()
    if not bool(finite.item()):
        raise DivergedError(f"A weight stopped being a finite number by step {done}")


def _process_state(method: Method, device: torch.device) -> Tensors:
    """What differs between processes: random generators and the method's extra state."""
    random_tensors = {f"random/{name}": tensor for name, tensor in random_state(device).items()}
    extra = {f"extra/{name}": tensor.detach().cpu() for name, tensor in method.extra_state().items()}
    return {**random_tensors, **extra}


def _gathered(fabric: Fabric, state: Tensors) -> Tensors:
    """State of all processes; that of process k > 0 under `processK/`."""
    if fabric.world_size == 1:
        return state
    states: list[Tensors] = [{} for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(states, state)
    own = dict(states[0])
    for process, theirs in enumerate(states[1:], start=1):
        own.update({f"process{process}/{name}": tensor for name, tensor in theirs.items()})
    return own


def _save(
    run: Path,
    name: str,
    done: int,
    method: Method,
    optimisation: Optimisation,
    average: Average | None,
    process_state: Tensors,
) -> None:
    tensors = {f"model/{key}": tensor for key, tensor in method.state_dict().items()} | process_state
    values: dict[str, Any] = {}
    for optimiser_name, optimiser in optimisation.optimisers.items():
        state, values[optimiser_name] = tensors_from_optimiser(optimiser)
        tensors |= {f"optimiser/{optimiser_name}/{key}": tensor for key, tensor in state.items()}
    if average is not None:
        for module, weights in average.weights.items():
            tensors |= {f"average/{module}/{key}": tensor for key, tensor in weights.items()}
    scaler = optimisation.scaler.state_dict() if optimisation.scaler is not None else None
    write_checkpoint(run, name, tensors, {"step": done, "optimisers": values, "scaler": scaler})


def _restore(
    run: Path,
    name: str,
    method: Method,
    optimisation: Optimisation,
    average: Average | None,
    rank: int,
    device: torch.device,
) -> int:
    """Puts back what `_save` wrote; returns the number of steps done."""
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
