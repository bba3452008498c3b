"""CoGAN from labelled MNIST to unlabelled USPS, against a classifier that never saw USPS.

    cd trainer && python -m reproduction.digits --preset cpu

The official USPS test set is not at hand, so the 7,291 training digits are cut into 5,291 for training without
labels, 1,000 for validation and 1,000 for testing. Two figures are stored: the last step's, and that of the step
with the best validation accuracy. Nothing is ever chosen by the test digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from i2i_trainer.checkpoint import load_method
from i2i_trainer.digits import Digits, read_digits
from i2i_trainer.loop import train
from i2i_trainer.methods.cogan import CoGAN, CoGANConfig
from reproduction.rows import RESULTS, Origin, write_row

PAPER_STEPS = 10_000
HELD_OUT = 1000
PRESETS: dict[str, Mapping[str, Any]] = {
    "quick": {"steps": 1000, "log_every": 20, "width": 256},
    "cpu": {"steps": 1000, "log_every": 20},
    "full": {"steps": PAPER_STEPS},
    "smoke": {"steps": 4, "width": 16},
}
UNADAPTED: Mapping[str, Any] = {"width": 8, "gan_weight": 0.0, "feature_weight": 0.0}
"""Only the digits' cross entropy on the source: the same classifier, no adaptation."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains CoGAN on digits and stores how well it reads the unlabelled domain."""

    preset: Literal["quick", "cpu", "full", "smoke"] = "cpu"
    """`cpu`: 10 % of the paper's steps, half an hour on two cores; `quick`: the same with a generator of a quarter
    of the width; `full`: all 10,000 steps."""
    adapt: bool = True
    """Off: train the classifier on the source alone, the floor to beat."""
    seed: int = 0
    digits: Path = Path("../../shared/data/digits")
    """Folder with `mnist` and `usps`."""
    work: Path = Path("../runs/digits")


def split_target(target: Digits, seed: int) -> dict[str, Digits]:
    """Training, validation and test digits of the target, 28 x 28."""
    order = np.random.default_rng(seed).permutation(len(target.labels))
    parts = {
        "test": order[:HELD_OUT],
        "val": order[HELD_OUT : 2 * HELD_OUT],
        "train": order[2 * HELD_OUT :],
    }
    images = np.stack(
        [np.asarray(Image.fromarray(p).resize((28, 28), Image.Resampling.BILINEAR)) for p in target.images]
    )
    return {name: Digits(images[index], target.labels[index]) for name, index in parts.items()}


def write_idx(folder: Path, digits: Digits) -> None:
    """Stores digits as an IDX pair of the training split."""
    folder.mkdir(parents=True, exist_ok=True)
    grey = np.ascontiguousarray(digits.images[..., 0])
    header = np.array(grey.shape, dtype=">i4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + header + grey.tobytes())
    count = np.array([len(grey)], dtype=">i4").tobytes()
    labels: NDArray[np.uint8] = digits.labels.astype(np.uint8)
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + count + labels.tobytes())


def accuracy(method: CoGAN, digits: Digits, domain: str) -> float:
    """Share of digits read rightly, in per cent."""
    images = torch.from_numpy(digits.images).permute(0, 3, 1, 2).float() / 127.5 - 1
    read = torch.cat([method.classify(part, domain).argmax(dim=1) for part in torch.split(images, 200)])
    right = int((read == torch.from_numpy(digits.labels)).sum())
    return round(100 * right / len(read), 1)


def main(options: Options) -> None:
    """Trains in pieces, reads validation and test digits after each, and writes the result."""
    origin = Origin(options.seed)
    name = f"digits_{'cogan' if options.adapt else 'source_only'}_{options.preset}_seed{options.seed}"
    target = split_target(read_digits(options.digits / "usps"), options.seed)
    data = options.work / f"data_seed{options.seed}"
    if not data.exists():
        write_idx(data / "mnist", read_digits(options.digits / "mnist"))
        write_idx(data / "usps", target["train"])

    values = {**PRESETS[options.preset], **({} if options.adapt else UNADAPTED)}
    config = replace(
        CoGANConfig(),
        **values,
        data=data,
        out=options.work / name,
        domains=("mnist", "usps"),
        seed=options.seed,
        workers=0,
    )
    piece = max(1, config.steps // 8)
    config = replace(config, sample_every=piece, checkpoint_every=piece)
    curve: list[dict[str, float]] = []
    for steps in range(piece, config.steps + 1, piece):
        run = train("cogan", replace(config, steps=steps), resume=bool(curve))
        method = load_method(run)
        assert isinstance(method, CoGAN)
        # Without adaptation the target's own first layer has learned nothing: the source's reads for it.
        domain = "b" if options.adapt else "a"
        read = {part: accuracy(method, target[part], domain) for part in ("val", "test")}
        curve.append({"step": steps, **read})

    best = max(curve, key=lambda point: point["val"])
    row = {
        "experiment": "digits",
        "method": "cogan" if options.adapt else "no adaptation",
        "task": "MNIST to USPS",
        "preset": options.preset,
        "steps": config.steps,
        "share_of_paper_steps": config.steps / PAPER_STEPS,
        "options": dict(values),
        "accuracy_last": curve[-1]["test"],
        "accuracy_chosen_on_validation": best["test"],
        "chosen_step": best["step"],
        "curve": curve,
        **origin.finished(),
    }
    if options.preset != "smoke":
        write_row(name, row)
        sheet = run / "samples" / f"{config.steps:08d}.png"
        (RESULTS / f"{name}.png").write_bytes(sheet.read_bytes())
    print(row)


if __name__ == "__main__":
    main(tyro.cli(Options))
