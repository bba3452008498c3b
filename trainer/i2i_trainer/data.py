"""Batches of training images, addressed by number: batch 1,000 is the same whatever ran before it.

Every domain is shuffled and cycled on its own, so unequal domains need no rule and pairs of unpaired images are
random in every method. Order, crop and mirroring of the n-th sample come from (seed, domain, n) alone, which makes a
resumed run exact and the result independent of threads and processes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from i2i_trainer.config import TrainConfig, batch_share
from i2i_trainer.errors import DataError
from i2i_trainer.images import Pixels, TrainingImage
from i2i_trainer.layouts import Domains
from i2i_trainer.method import Batch

CROP_STREAMS = (0, 1)
ORDER_STREAMS = (2, 3)


class RawBatch(NamedTuple):
    """One micro-batch as bytes: images `[N, S, S, 3] uint8 RGB`, labels `[N] int64` or None."""

    a: Tensor
    b: Tensor
    labels_a: Tensor | None
    labels_b: Tensor | None

    def to_device(self, device: torch.device) -> Batch:
        """The batch for a method: `[N, 3, S, S] float32` in [-1, 1], channels-last in memory."""
        return Batch(
            a=tensor_from_bytes(self.a, device),
            b=tensor_from_bytes(self.b, device),
            labels_a=None if self.labels_a is None else self.labels_a.to(device, non_blocking=True),
            labels_b=None if self.labels_b is None else self.labels_b.to(device, non_blocking=True),
        )


def tensor_from_bytes(pixels: Tensor, device: torch.device) -> Tensor:
    """`[N, H, W, 3] uint8` -> `[N, 3, H, W] float32` in [-1, 1] on the device, channels-last in memory."""
    if device.type == "cuda":
        pixels = pixels.pin_memory()
    return pixels.to(device, non_blocking=True).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


class Shelf:
    """The images of one domain: reads, keeps what fits in memory, and skips what cannot be read.

    An unreadable image is named once, counted in `unreadable`, and replaced by the next one of the order.
    """

    def __init__(
        self, images: Sequence[TrainingImage], short_side: int, cache_bytes: int, announce: bool = True
    ) -> None:
        self.images = images
        self._announce = announce
        self.unreadable: dict[int, str] = {}
        self._short_side = short_side
        self._room = cache_bytes
        self._kept: dict[int, Pixels] = {}
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Pixels | None:
        """Image `[H, W, 3] uint8 RGB`, shorter side resized; None if it cannot be read."""
        with self._lock:
            if index in self._kept:
                return self._kept[index]
            if index in self.unreadable:
                return None
        try:
            pixels = self.images[index].read(self._short_side)
        except DataError as error:
            with self._lock:
                if index not in self.unreadable:
                    self.unreadable[index] = str(error)
                    if self._announce:
                        Console(stderr=True).print(f"Skipped: {error}", highlight=False, markup=False)
            return None
        with self._lock:
            if self._room >= pixels.nbytes and index not in self._kept:
                self._kept[index] = pixels
                self._room -= pixels.nbytes
        return pixels


class ImageBatches:
    """Micro-batches of one process, by number.

    `config.batch` counts all processes; this one takes its `rank`-th part of `world`, so that the processes
    together see what one process would.
    """

    def __init__(self, domains: Domains, config: TrainConfig, rank: int = 0, world: int = 1) -> None:
        if not domains.a or not domains.b:
            missing = domains.names[0] if not domains.a else domains.names[1]
            raise DataError(f"Domain {missing} of {config.data} has no images: add some.")
        self._domains = domains
        self._config = config
        share = batch_share(config, world)
        self._slots = range(rank * share, (rank + 1) * share)
        half_cache = config.cache_mb * 1_000_000 // 2
        self._shelves = (
            Shelf(domains.a, config.load_size, half_cache),
            Shelf(domains.b, config.load_size, half_cache),
        )

    @property
    def unreadable(self) -> int:
        """Images skipped so far because they could not be read."""
        return sum(len(shelf.unreadable) for shelf in self._shelves)

    def read(self, number: int) -> RawBatch:
        """Micro-batch `number` of this process. Raises DataError if a domain has nothing readable."""
        samples = [number * self._config.batch + slot for slot in self._slots]
        both = [self._pair(n) for n in samples]
        domains = self._domains
        return RawBatch(
            a=torch.from_numpy(np.stack([pixels for (pixels, _), _ in both])),
            b=torch.from_numpy(np.stack([pixels for _, (pixels, _) in both])),
            labels_a=_labels(domains.labels_a, [index for (_, index), _ in both]),
            labels_b=_labels(domains.labels_b, [index for _, (_, index) in both]),
        )

    def from_number(self, number: int, workers: int) -> Generator[RawBatch, None, None]:
        """Micro-batches `number`, `number + 1`, ... without end, read ahead by `workers` threads."""
        if workers == 0:
            while True:
                yield self.read(number)
                number += 1
        with ThreadPoolExecutor(workers, thread_name_prefix="images") as pool:
            ahead: list[Future[RawBatch]] = [pool.submit(self.read, number + i) for i in range(2 * workers)]
            number += len(ahead)
            try:
                while True:
                    yield ahead.pop(0).result()
                    ahead.append(pool.submit(self.read, number))
                    number += 1
            finally:
                pool.shutdown(cancel_futures=True)

    def _pair(self, n: int) -> tuple[tuple[Pixels, int], tuple[Pixels, int]]:
        seed = self._config.seed
        shelf_a, shelf_b = self._shelves
        crop_a = np.random.default_rng((seed, CROP_STREAMS[0], n))
        if self._domains.paired:
            index_a, (pixels_a, pixels_b) = _first_readable(self._shelves, n, seed, ORDER_STREAMS[0])
            if pixels_b.shape != pixels_a.shape:
                raise DataError(
                    f"{shelf_a.images[index_a].name} and its counterpart differ in shape "
                    f"({_size(pixels_a)} and {_size(pixels_b)} at the same short side): cut them alike."
                )
            index_b, crop_b = index_a, np.random.default_rng((seed, CROP_STREAMS[0], n))
        else:
            index_a, (pixels_a,) = _first_readable((shelf_a,), n, seed, ORDER_STREAMS[0])
            index_b, (pixels_b,) = _first_readable((shelf_b,), n, seed, ORDER_STREAMS[1])
            crop_b = np.random.default_rng((seed, CROP_STREAMS[1], n))
        return (self._augmented(pixels_a, crop_a), index_a), (self._augmented(pixels_b, crop_b), index_b)

    def _augmented(self, pixels: Pixels, random: np.random.Generator) -> Pixels:
        """A random square of `image_size`, mirrored half of the time if the config says so."""
        side = self._config.image_size
        top = int(random.integers(pixels.shape[0] - side + 1))
        left = int(random.integers(pixels.shape[1] - side + 1))
        crop = pixels[top : top + side, left : left + side]
        return crop[:, ::-1] if self._config.flip and random.random() < 0.5 else crop


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _labels(labels: Sequence[int] | None, indices: list[int]) -> Tensor | None:
    return None if labels is None else torch.tensor([labels[index] for index in indices])


def _first_readable(
    shelves: tuple[Shelf, ...], n: int, seed: int, stream: int
) -> tuple[int, tuple[Pixels, ...]]:
    """Sample n of an endless shuffled order, or the next one that all shelves can read, and its images."""
    length = len(shelves[0])
    epoch, place = divmod(n, length)
    order = _order(length, epoch, seed, stream)
    for index in (*order[place:].tolist(), *order[:place].tolist()):
        pixels = tuple(found for shelf in shelves if (found := shelf.read(index)) is not None)
        if len(pixels) == len(shelves):
            return index, pixels
    reason = next(iter(shelves[0].unreadable.values()), "its counterparts are unreadable.")
    raise DataError(f"None of the {length} images of a domain can be read: {reason}")


@lru_cache(maxsize=8)
def _order(length: int, epoch: int, seed: int, stream: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, stream, epoch)).permutation(length)


def preview_batch(domains: Domains, config: TrainConfig, count: int) -> RawBatch:
    """`count` images of both domains, spread over the folders and cut in the middle; repeated if there are fewer."""
    sides = []
    for images, labels in ((domains.a, domains.labels_a), (domains.b, domains.labels_b)):
        spread = range(0, len(images), max(1, len(images) // count))
        squares, kept = squares_from_images(
            [images[i] for i in spread], config.image_size, count, announce=False
        )
        chosen = [k % len(kept) for k in range(count)]
        found = _labels(labels, [spread[kept[k]] for k in chosen])
        sides.append((torch.from_numpy(squares[chosen]), found))
    (a, labels_a), (b, labels_b) = sides
    return RawBatch(a, b, labels_a, labels_b)


def squares_from_images(
    images: Sequence[TrainingImage], side: int, most: int | None = None, announce: bool = True
) -> tuple[Pixels, list[int]]:
    """Middles `[N, side, side, 3] uint8 RGB` of the images that can be read, at most `most`, and their indices.

    The shorter side is resized to `side`; `announce` names the unreadable. Raises DataError if none can be read.
    """
    shelf = Shelf(images, side, cache_bytes=0, announce=announce)
    squares: list[Pixels] = []
    kept: list[int] = []
    for index in range(len(images)):
        if len(kept) == most:
            break
        if (pixels := shelf.read(index)) is not None:
            squares.append(_middle(pixels, side))
            kept.append(index)
    if not kept:
        raise DataError(f"None of the {len(images)} images of a domain can be read.")
    return np.stack(squares), kept


def _middle(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]
