"""Trains the variants of one of the papers' ablations, measures each, and stores a row per variant and seed.

    cd trainer && python -m reproduction.ablations unit_maps --preset cpu --seed 0
    cd trainer && python -m reproduction.page          # the page with all rows

A run that was stopped continues; a variant that has its row is left out. Of images without a test split every fifth
is set aside before training.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import tyro
from PIL import Image

import i2i_trainer
from i2i_trainer.checkpoint import CHECKPOINT
from i2i_trainer.evaluation import Options as Evaluation
from reproduction.experiments import EXPERIMENTS, Experiment, Preset
from reproduction.nordland import TEST_FRAMES, read_frames, write_unpaired
from reproduction.rows import RESULTS, Origin, write_row

ENDINGS = (".jpg", ".jpeg", ".png")
SET_ASIDE = 5
"""Of images without a test split, one of so many is kept from training."""
LIMITS = {"limit": 200, "diversity_inputs": 20}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains the variants of an experiment and stores what each reaches."""

    experiment: tyro.conf.Positional[
        Literal["unit_maps", "bicyclegan_facades", "nicegan_nordland", "tunit_flowers"]
    ]
    preset: Preset = "cpu"
    """`cpu`: 64 pixels and small networks; `gpu`: the published sizes; `smoke`: two steps, nothing stored."""
    seed: int = 0
    variant: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names of variants; all of them if none is given."""
    data: Path = Path("../../shared/data")
    """Folder of the tars of images."""
    work: Path = Path("../runs/ablations")
    """Folder for the unpacked images and the runs."""


def unpacked(experiment: Experiment, options: Options) -> Path:
    """The images of an experiment as a folder; made once."""
    folder = options.work / "data" / f"{experiment.data}_seed{options.seed}"
    if folder.is_dir():
        return folder
    making = folder.with_name(f".{folder.name}.part")
    if experiment.data == "nordland":
        summers, winters = read_frames(options.data / "nordland_pairs.tar")
        write_unpaired(summers, winters, making, options.seed)
        for name, frames in (("testA", summers), ("testB", winters)):
            (making / name).mkdir()
            for place in range(len(frames) - TEST_FRAMES, len(frames)):
                Image.fromarray(frames[place]).save(making / name / f"{place:05d}.png")
    else:
        for name, content in _images(options.data / f"{experiment.data}.tar"):
            path = making / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    making.replace(folder)
    return folder


def _images(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Images of a tar under their names; of one whose only split is `train`, some as `test`."""
    with tarfile.open(archive) as opened:
        members = sorted(
            (member for member in opened if member.isfile() and member.name.lower().endswith(ENDINGS)),
            key=lambda member: member.name,
        )
        names = [PurePosixPath(member.name.removeprefix("./")) for member in members]
        alone = {name.parts[0] for name in names} == {"train"}
        for number, (name, member) in enumerate(zip(names, members, strict=True)):
            file = opened.extractfile(member)
            assert file is not None
            aside = alone and number % SET_ASIDE == 0
            yield PurePosixPath("test", *name.parts[1:]) if aside else name, file.read()


def row_of(experiment: Experiment, variant: str, data: Path, run: Path, options: Options) -> dict[str, Any]:
    """Trains a variant, or what is left of it, and measures it."""
    origin = Origin(options.seed)
    given = {**experiment.sizes[options.preset], **experiment.variants[variant].options}
    i2i_trainer.train(
        experiment.method,
        data=data,
        out=run,
        resume=(run / CHECKPOINT).is_file(),
        seed=options.seed,
        **given,
    )
    known = set(Evaluation.__dataclass_fields__)
    asked = {key: value for key, value in {**LIMITS, **experiment.evaluation}.items() if key in known}
    measured = i2i_trainer.evaluate(run, **asked)
    return {
        "experiment": options.experiment,
        "variant": variant,
        "method": experiment.method,
        "preset": options.preset,
        "data": experiment.data,
        "split": measured["split"],
        "options": given,
        "metrics": {name: measured["metrics"].get(name) for name in experiment.measures},
        **origin.finished(),
    }


def main(options: Options) -> None:
    """Every variant that has no row yet."""
    experiment = EXPERIMENTS[options.experiment]
    if unknown := sorted(set(options.variant) - set(experiment.variants)):
        raise SystemExit(
            f"{options.experiment} has no variant {unknown[0]!r}: it has {', '.join(experiment.variants)}."
        )
    data = unpacked(experiment, options)
    for variant in options.variant or experiment.variants:
        name = f"{options.experiment}_{variant.replace(' ', '-')}_{options.preset}_seed{options.seed}"
        if (RESULTS / f"{name}.json").is_file():
            continue
        row = row_of(experiment, variant, data, options.work / name, options)
        if options.preset != "smoke":
            write_row(name, row)
        print(variant, row["metrics"])


if __name__ == "__main__":
    main(tyro.cli(Options))
