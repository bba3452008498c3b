"""Digits as their publishers store them: IDX, USPS text, SVHN's MATLAB file, a tar of PNGs with a list of labels."""

from __future__ import annotations

import gzip
import io
import math
import struct
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from i2i_trainer.errors import DataError
from i2i_trainer.images import Pixels, open_image

_LARGEST = 1 << 30
"""Bytes of the largest file of digits that is read; the largest that is published has half as many."""


class Digits(NamedTuple):
    """Images `[N, H, W, 3] uint8 RGB` and classes `[N] int64`, 0 to 9."""

    images: Pixels
    labels: NDArray[np.int64]


def read_digits(folder: Path, split: str = "train") -> Digits:
    """Digits of a folder: `*images-idx3-ubyte[.gz]`, `zip.train.gz`, `train_32x32.mat`, PNGs (or a `*.tar` of them).

    Raises DataError if the folder holds none of them for this split, or damaged ones.
    """
    try:
        digits = _found(folder, split)
    except (OSError, EOFError, SyntaxError, ValueError, LookupError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"The {split} digits in {folder} are damaged ({type(error).__name__}: {error}): fetch them again."
        ) from error
    if len(digits.images) != len(digits.labels) or not 0 <= digits.labels.min() <= digits.labels.max() <= 9:
        raise DataError(
            f"The {split} digits in {folder} have not one label from 0 to 9 for each image: fetch them again."
        )
    return digits


def _found(folder: Path, split: str) -> Digits:
    prefix = {"test": "t10k"}.get(split, split)
    for images in sorted(folder.glob(f"{prefix}-images*idx3-ubyte*")):
        labels = images.with_name(images.name.replace("images", "labels").replace("idx3", "idx1"))
        return Digits(_rgb(_idx(images, dimensions=3)), _idx(labels, dimensions=1).astype(np.int64))
    for text in sorted(folder.glob(f"zip.{split}*")):
        return _usps(text)
    for matlab in sorted(folder.glob(f"{split}_32x32.mat")):
        return _svhn(matlab)
    for archive in sorted(folder.glob(f"*{split}*.tar")):
        return _labelled_tar(archive)
    for listing in sorted(folder.glob(f"*{split}*labels.txt")):
        return _labelled_folder(listing)
    raise DataError(
        f"{folder} holds no digits of the {split} split: put an IDX pair ({prefix}-images-idx3-ubyte.gz, "
        f"{prefix}-labels-idx1-ubyte.gz), USPS text (zip.{split}.gz), SVHN ({split}_32x32.mat) or a tar of PNGs with a "
        "labels.txt there."
    )


def holds_digits(folder: Path) -> bool:
    """Whether a folder holds digits in one of the forms that `read_digits` knows."""
    patterns = ("*-idx3-ubyte*", "zip.*.gz", "*_32x32.mat", "*.tar", "*labels.txt")
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _rgb(grey: Pixels) -> Pixels:
    return np.repeat(grey[..., None], 3, axis=-1)


def _content(path: Path, most: int) -> bytes:
    """The file, decompressed, as far as `most` bytes: a few megabytes of gzip can hold gigabytes of zeros."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(most)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from error


def _idx(path: Path, dimensions: int) -> Pixels:
    head = 4 + 4 * dimensions
    content = _content(path, head)
    if len(content) < head or content[:3] != b"\0\0\x08" or content[3] != dimensions:
        raise DataError(
            f"{path} is not an IDX file of bytes with {dimensions} dimensions: download it again."
        )
    shape = struct.unpack(f">{dimensions}I", content[4:])
    size = math.prod(shape)
    if size > _LARGEST:
        raise DataError(
            f"{path} claims to hold {size} bytes of digits, more than any set of them: download it again."
        )
    values = np.frombuffer(_content(path, head + size + 1), np.uint8, offset=head)
    if values.size != size:
        what = "is cut short" if values.size < size else "holds more than it says"
        raise DataError(f"{path} {what}, {size} bytes of digits: fetch it again.")
    return values.reshape(shape)


def _usps(path: Path) -> Digits:
    table = np.array([line.split() for line in _content(path, _LARGEST).splitlines()], dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 257:
        raise DataError(f"{path} is not a USPS text of 257 numbers a line: download it again.")
    grey = ((table[:, 1:] + 1.0) * 127.5).round().astype(np.uint8).reshape(-1, 16, 16)
    return Digits(_rgb(grey), table[:, 0].astype(np.int64))


def _svhn(path: Path) -> Digits:
    """SVHN's cropped digits: `X [32, 32, 3, N] uint8` and `y [N, 1]`, in which 10 stands for the digit 0."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        stored = loadmat(path, variable_names=["X", "y"])
    except (MatReadError, NotImplementedError, TypeError) as error:
        raise DataError(f"{path} cannot be read as SVHN's MATLAB file ({error}): fetch it again.") from error
    pixels, labels = np.asarray(stored["X"]), np.asarray(stored["y"])
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[2] != 3:
        raise DataError(
            f"{path} holds no colour images of bytes under X: fetch SVHN's train_32x32.mat again."
        )
    return Digits(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels.ravel().astype(np.int64) % 10)


def _labelled_tar(path: Path) -> Digits:
    with tarfile.open(path) as archive:
        files = {Path(member.name).name: archive.extractfile(member) for member in archive if member.isfile()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    listing = next((name for name in contents if name.endswith("labels.txt")), None)
    if listing is None:
        raise DataError(
            f"{path} holds no labels.txt beside its images: add one with a name and a class a line."
        )
    names, labels = _listed(contents[listing].decode())
    images = [np.asarray(Image.open(io.BytesIO(contents[name])).convert("RGB")) for name in names]
    return Digits(np.stack(images), labels)


def _labelled_folder(listing: Path) -> Digits:
    names, labels = _listed(listing.read_text())
    places = (listing.parent, *listing.parent.iterdir())
    folder = next((path for path in places if (path / names[0]).exists()), listing.parent)
    return Digits(np.stack([np.asarray(open_image(folder / name)) for name in names]), labels)


def _listed(text: str) -> tuple[list[str], NDArray[np.int64]]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return [row[0] for row in rows], np.array([int(row[1]) for row in rows], dtype=np.int64)
