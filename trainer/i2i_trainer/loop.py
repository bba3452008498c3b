"""The training loop: prepare, resume, then step, log, sample, measure and save until the steps are done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from i2i_trainer.checkpoint import CHECKPOINT, load_method, read_config, read_state, write_config
from i2i_trainer.config import TrainConfig, flag
from i2i_trainer.data import ImageBatches, RawBatch, preview_batch
from i2i_trainer.device import fabric_of, is_first_process, scaler_of, seed_everything
from i2i_trainer.errors import CheckpointError, DataError, DivergedError, OptionError, StoppedError
from i2i_trainer.heading import heading, remarks_on_sizes
from i2i_trainer.health import remarks_on_losses, remarks_on_output, remarks_on_stage
from i2i_trainer.history import History
from i2i_trainer.layouts import Domains, find_domains
from i2i_trainer.lock import locked
from i2i_trainer.logs import Ledger, Log, Screen, Speed
from i2i_trainer.method import Method
from i2i_trainer.methods import entry_of
from i2i_trainer.optimise import Average, Optimisation
from i2i_trainer.resume import check_weights, gathered, process_state, restore, save, start_from, weights_of
from i2i_trainer.schedule import lr_factor
from i2i_trainer.sheets import captioned, write_curves, write_sheet
from i2i_trainer.signals import stopping
from i2i_trainer.validation import Validation, with_validation

PREVIEW_ROWS = 4
EARLY_SAMPLES = (1, 50, 100, 200, 500)
"""Steps with a sheet, beside every `sample_every`: a mistake in the data shows in the first minutes."""
FIRST_REMARKS = 200
"""The step from which outputs that say nothing are remarked on."""


def train(name: str, config: TrainConfig, resume: bool = False) -> Path:
    """Trains the method `name` and returns its run folder `config.out`.

    With `resume`, continues from the folder's checkpoint as if it had never stopped. Raises TrainError subclasses in
    one sentence; a run whose losses stop being finite ends with DivergedError and keeps its last good checkpoint;
    one that SIGINT or SIGTERM stops ends with StoppedError after saving the current step.
    """
    with locked(config.out) if is_first_process() else nullcontext():
        return _train(name, config, resume)


def _train(name: str, config: TrainConfig, resume: bool) -> Path:
    # Data and device: everything that a user can have wrong is found before the first step.
    entry, run = entry_of(name), config.out
    if resume and _nothing_left(run, config):
        return run
    domains = _find_domains(config, resume, entry.method.paired)
    config = replace(config, domains=domains.names, white=domains.white)
    scaler = scaler_of(config)
    fabric = fabric_of(config, scaler)
    rank, world, device = fabric.global_rank, fabric.world_size, fabric.device
    if not resume and (run / CHECKPOINT).exists():
        raise OptionError(
            f"--out {run} holds a trained run: continue it with --resume, or name another folder."
        )
    seen, set_aside = with_validation(config, domains, entry.method.paired)
    batches = ImageBatches(seen, config, rank, world)
    preview = _preview_images(config, seen, entry.method.paired)

    # Networks: the same weights in every process, then random numbers of its own for each.
    seed_everything(config.seed)
    method = entry.method(config).to(device)
    remarks = method.check_data(domains) + remarks_on_sizes(domains, config.load_size)
    if config.ema > 0 and not method.ema_modules():
        raise OptionError(
            f"--ema {config.ema} does nothing for {name}, which keeps no average: leave it at 0."
        )
    if config.augment != "none" and not method.augments:
        raise OptionError(
            f"--augment {config.augment} is not for {name}: leave it out, or use cyclegan, cut, fastcut or realtime."
        )
    if config.start_from is not None and not resume:
        remarks.append(start_from(method, config.start_from))
    if (teacher := method.teacher_run()) is not None:
        method.learn_from(load_method(teacher))
    if config.channels_last:
        method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.train()
    optimisation = Optimisation(fabric, method.optimisers(), config.clip_norm, config.accumulate, scaler)
    average = Average(method.ema_modules(), config.ema) if config.ema > 0 else None
    validation = Validation(config, set_aside) if set_aside is not None and rank == 0 else None
    seed_everything(config.seed + 1 + rank)

    done = 0
    if resume:
        with _naming_changed_options(run, config):
            done = restore(run, name, method, optimisation, average, rank, device)
        fabric.barrier()
    if rank == 0:
        write_config(run, name, config)
    log = Log(run / "log.jsonl", done) if rank == 0 else None
    history = History(run, name, config.keep, validation.measure if validation else "")
    screen = Screen(name, config, done, shown=rank == 0)
    ledger, speed = Ledger(fabric), Speed()
    last_good = done

    with (
        closing(screen),
        closing(batches.from_number(done * config.accumulate, config.workers)) as stream,
        stopping(alone=world == 1) as stop,
    ):
        # Said once a signal would be heeded: who reads it may send one.
        screen.head(heading(name, config, seen, set_aside, method, device.type), remarks)
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
                average.update(step)
            done = step + 1
            screen.advance(done)
            ends = done == config.steps or stop.asked
            measures = config.eval_every > 0 and (done % config.eval_every == 0 or ends)

            # Measure on images that are set aside, by the averaged weights.
            value = None
            if measures and validation is not None:
                with _averaged(average), _own_random_numbers(device), fabric.autocast():
                    value = validation(method, device)

            # Log: the only place where the losses leave the device.
            if done % config.log_every == 0 or ends or measures:
                with _naming_last_good(run, last_good):
                    read = ledger.read()
                if log is not None:
                    row = _row(
                        done, config, read, speed.read(), screen.seconds_left(done), batches.unreadable
                    )
                    if value is not None and validation is not None:
                        row["validation"] = {validation.measure: value}
                    log.append(row)
                    screen.say(row, method.stage(step))
                    screen.warn(remarks_on_losses(log.rows))

            # Sample.
            if (done in EARLY_SAMPLES or done % config.sample_every == 0 or ends) and rank == 0:
                with _averaged(average), _own_random_numbers(device):
                    columns = _preview(method, preview, fabric)
                    if done >= FIRST_REMARKS:
                        screen.warn(remarks_on_output(method.inference(), preview.to_device(device).a))
                write_sheet(run / "samples" / f"{done:08d}.png", captioned(columns, config.domains))

            # Save.
            if done % config.checkpoint_every == 0 or ends:
                with _naming_last_good(run, last_good):
                    ledger.check()
                    check_weights(method, done)
                state = gathered(fabric, process_state(method, device))
                if log is not None:
                    save(run, name, done, method, optimisation, average, state)
                    history.add(done, weights_of(method, average))
                    write_curves(run / "curves.png", log.rows)
                last_good = done
            if value is not None and history.offer(done, value, weights_of(method, average)):
                screen.note(f"Best so far: step {done}, {history.measure} {value:.4g}")
            if ends:
                break
    if batches.unreadable:
        screen.note(f"{batches.unreadable} images could not be read and were skipped.")
    for remark in remarks_on_stage(method, done) + (remarks_on_losses(log.rows) if log is not None else []):
        screen.note(remark)
    fabric.barrier()
    if done < config.steps:
        raise StoppedError(f"interrupted after step {done}, which is saved: continue with --resume.")
    return run


def _nothing_left(run: Path, config: TrainConfig) -> bool:
    """Whether a run is complete as it is. Raises OptionError if fewer steps are asked for than it has."""
    done = int(read_state(run)["step"])
    if done > config.steps:
        raise OptionError(
            f"--steps {config.steps} is below step {done}, which {run} has reached: give a number above it."
        )
    return done == config.steps


def _find_domains(config: TrainConfig, resume: bool, paired: bool) -> Domains:
    if resume and not config.data.is_dir() and read_config(config.out)[1].data == config.data:
        raise DataError(
            f"--data {config.data}, as recorded by this run, is not a folder here: add --data DIR with its new place."
        )
    return find_domains(config, "train", paired)


@contextmanager
def _naming_changed_options(run: Path, config: TrainConfig) -> Iterator[None]:
    """Names the options that differ from the recorded ones, if the checkpoint does not fit."""
    recorded = read_config(run)[1]
    try:
        yield
    except CheckpointError as error:
        changed = [
            f"{flag(field.name)} was {getattr(recorded, field.name)}"
            for field in fields(recorded)
            if getattr(recorded, field.name) != getattr(config, field.name)
            and field.name not in ("steps", "data", "out", "domains", "white")
        ]
        if not changed:
            raise
        raise CheckpointError(
            f"The checkpoint does not fit these options: {', '.join(changed)} when this run began; leave that out, or "
            "start another run."
        ) from error


def _preview_images(config: TrainConfig, domains: Domains, paired: bool) -> RawBatch:
    """Images that training never sees, if there are any; nothing about them may stop a training."""
    for split in ("test", "val"):
        with suppress(DataError):
            return preview_batch(find_domains(config, split, paired), config, PREVIEW_ROWS)
    return preview_batch(domains, config, PREVIEW_ROWS)


def _row(
    done: int,
    config: TrainConfig,
    losses: dict[str, float],
    pictures_per_s: float,
    seconds_left: float,
    unreadable: int,
) -> dict[str, Any]:
    return {
        "step": done,
        "pictures": done * 2 * config.batch * config.accumulate,
        "pictures_per_s": round(pictures_per_s, 3),
        "seconds_left": round(seconds_left),
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
