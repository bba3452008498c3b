"""Training and evaluation as functions of Python values: what `i2i_trainer.train` and `i2i_trainer.evaluate` are."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from i2i_trainer import evaluation, loop
from i2i_trainer.checkpoint import read_config
from i2i_trainer.errors import OptionError
from i2i_trainer.methods import changed_options, preset_of


def train(
    method: str,
    *,
    data: str | Path | None = None,
    out: str | Path,
    preset: str | None = None,
    resume: bool = False,
    **options: Any,
) -> Path:
    """Trains a method on a folder of images and returns its run folder `out`; progress is printed.

    `method` is a name of `i2i-train --help`, `data` a folder in one of the layouts of the trainer's README. `options`
    are the method's flags in Python's spelling (`image_size=128`); they win over those of `preset`. With `resume`
    the run in `out` continues with its recorded options, under those given now.

    Raises subclasses of `i2i_trainer.errors.TrainError`, each one sentence: OptionError, DataError, CheckpointError,
    DivergedError, and StoppedError if SIGINT or SIGTERM stopped the training, which has then saved itself.
    """
    if resume:
        recorded, config = read_config(Path(out))
        if recorded != method:
            raise OptionError(f"{out} holds a run of {recorded}, not of {method}: name that method.")
    else:
        config = preset_of(method, preset)
    given = options | {"out": out} | ({} if data is None else {"data": data})
    return loop.train(method, changed_options(method, config, given), resume)


def evaluate(run: str | Path, *, data: str | Path | None = None, **options: Any) -> dict[str, Any]:
    """Measures a run on the images of `data`, the run's own if None, and returns what `metrics.json` then holds.

    `options` are the flags of `i2i-eval` in Python's spelling (`direction="b2a"`, `limit=100`). Under "metrics" are
    numbers by name: distances to the target images (lower is better), errors to the truth where counterparts exist
    (`l1`, `rmse` in grey levels of 255, `psnr_db`, `ssim`), diversity, accuracies between 0 and 1. Writes
    `metrics.json` and `metrics.png` into the run folder. Raises TrainError subclasses in one sentence.
    """
    known = {field.name for field in fields(evaluation.Options)}
    if unknown := sorted(set(options) - known):
        raise OptionError(f"evaluate has no option {unknown[0]!r}: see i2i-eval --help.")
    folder = None if data is None else Path(data)
    return evaluation.evaluate(evaluation.Options(run=Path(run), data=folder, **options))
