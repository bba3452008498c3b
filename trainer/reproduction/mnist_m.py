"""Makes MNIST-M by the usual recipe: each MNIST digit inverts a random patch of a BSDS500 photograph.

    cd trainer && python -m reproduction.mnist_m --out ../runs/mnist_m

Ganin, Lempitsky: Unsupervised Domain Adaptation by Backpropagation, ICML 2015: the absolute difference of the patch and
the digit, channel by channel. 28 x 28 colour images as `train` tars of PNGs with a list of labels.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from i2i_trainer.digits import Digits, read_digits

TAR = "mnist_m_train.tar"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes colour digits for domain adaptation."""

    out: Path
    """Folder that gets `mnist_m_train.tar`; a digit folder of `unit-digits` and `cogan`."""
    count: int = 60_000
    seed: int = 0
    data: Path = Path("../../shared/data")
    """Folder with `digits/mnist` and `bsds500.tar`."""


def photographs(archive: Path) -> list[NDArray[np.uint8]]:
    """The photographs of BSDS500, `[H, W, 3] uint8 RGB`, in the order of their names."""
    with tarfile.open(archive) as opened:
        files = {m.name: opened.extractfile(m) for m in opened if m.name.lower().endswith(".jpg")}
        contents = [file.read() for _, file in sorted(files.items()) if file is not None]
    return [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in contents]


def blended(digits: Digits, photos: list[NDArray[np.uint8]], seed: int) -> Digits:
    """Digits `[N, H, W, 3]` as the absolute difference to a random patch each."""
    random = np.random.default_rng(seed)
    height, width = digits.images.shape[1:3]
    made = np.empty_like(digits.images)
    for number, digit in enumerate(digits.images):
        photo = photos[random.integers(len(photos))]
        top = random.integers(photo.shape[0] - height + 1)
        left = random.integers(photo.shape[1] - width + 1)
        patch = photo[top : top + height, left : left + width]
        made[number] = np.abs(patch.astype(np.int16) - digit)
    return Digits(made, digits.labels)


def write_tar(path: Path, digits: Digits) -> None:
    """Stores digits as PNGs with their `labels.txt`, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.part")
    listing = "".join(f"{number:05d}.png {label}\n" for number, label in enumerate(digits.labels))
    with tarfile.open(making, "w") as archive:
        _add(archive, "train_labels.txt", listing.encode())
        for number, pixels in enumerate(digits.images):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, format="PNG")
            _add(archive, f"{number:05d}.png", buffer.getvalue())
    making.replace(path)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def main(options: Options) -> None:
    """Reads both, writes one."""
    digits = read_digits(options.data / "digits" / "mnist")
    some = Digits(digits.images[: options.count], digits.labels[: options.count])
    write_tar(options.out / TAR, blended(some, photographs(options.data / "bsds500.tar"), options.seed))


if __name__ == "__main__":
    main(tyro.cli(Options))
