"""Memory that keeps the machine's rules: aligned, inside its buffer, shared words ordered by barriers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from ptx.program import PtxError

Lanes = npt.NDArray[Any]
"""One value per program and thread, `[programs, threads]`."""

NOBODY, MANY = -1, -2


@dataclass
class Buffer:
    """One tensor in global memory."""

    name: str
    base: int
    data: npt.NDArray[np.uint8]
    writable: bool


@dataclass
class GlobalMemory:
    """Tensors at addresses far from each other; whatever touches the space between them is out of bounds."""

    buffers: list[Buffer] = field(default_factory=list)

    def place(self, name: str, array: npt.NDArray[Any], *, writable: bool, misaligned: int = 0) -> int:
        """Copies an array into a buffer of its own and returns its address, a multiple of 256 plus `misaligned`."""
        base = (len(self.buffers) + 1) << 36
        content = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8).copy()
        self.buffers.append(Buffer(name, base + misaligned, content, writable))
        return base + misaligned

    def read_back(self, name: str, dtype: Any, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        (buffer,) = (b for b in self.buffers if b.name == name)
        array: npt.NDArray[Any] = buffer.data.view(dtype).reshape(shape)
        return array

    def load(self, address: Lanes, active: Lanes, size: int, count: int) -> list[Lanes]:
        """`count` numbers of `size` bytes per lane, 0 in lanes that are not active."""
        buffer, first = self._find(address, active, size, count, store=False)
        numbers = buffer.data.view(f"u{size}")
        at = np.where(active, first, 0)
        return [np.where(active, numbers[at + i], 0).astype(f"u{size}") for i in range(count)]

    def store(self, address: Lanes, active: Lanes, size: int, values: list[Lanes]) -> None:
        buffer, first = self._find(address, active, size, len(values), store=True)
        numbers = buffer.data.view(f"u{size}")
        for i, value in enumerate(values):
            numbers[first[active] + i] = np.broadcast_to(value, active.shape)[active]

    def _find(
        self, address: Lanes, active: Lanes, size: int, count: int, *, store: bool
    ) -> tuple[Buffer, Lanes]:
        """The buffer that holds every active lane's address, and the index of the first number in it."""
        used = address[active].astype(np.int64)
        if not used.size:
            return Buffer("nothing", 0, np.zeros(64, np.uint8), True), np.zeros(address.shape, np.int64)
        if (used % (size * count)).any():
            worst = int(used[used % (size * count) != 0][0])
            raise PtxError(f"address {worst:#x} is not aligned to {size * count} bytes")
        low, high = int(used.min()), int(used.max()) + size * count
        for buffer in self.buffers:
            if buffer.base <= low < buffer.base + len(buffer.data):
                if high > buffer.base + len(buffer.data):
                    past = high - buffer.base - len(buffer.data)
                    raise PtxError(f"{buffer.name} is accessed {past} bytes past its end")
                if store and not buffer.writable:
                    raise PtxError(f"{buffer.name} is an input and is written")
                return buffer, (address.astype(np.int64) - buffer.base) // size
        raise PtxError(f"address {low:#x} is in no tensor")


class SharedMemory:
    """Of each program, `[programs, words]`, with who touched each word since the last barrier."""

    def __init__(self, programs: int, size: int) -> None:
        self.words = np.full((programs, max(1, -(-size // 4))), 0xFFFFFFFF, np.uint32)
        self.size = size
        self.writer = np.full(self.words.shape, NOBODY)
        self.reader = np.full(self.words.shape, NOBODY)

    def of(self, programs: Lanes) -> SharedMemory:
        """A copy of some programs' memory."""
        part = SharedMemory(0, self.size)
        part.words, part.writer, part.reader = (a[programs] for a in (self.words, self.writer, self.reader))
        return part

    def barrier(self) -> None:
        self.writer[:] = NOBODY
        self.reader[:] = NOBODY

    def load(self, address: Lanes, active: Lanes, count: int) -> list[Lanes]:
        """`count` 32-bit words per lane."""
        program, thread, word = self._find(address, active, count)
        loaded = []
        for i in range(count):
            self._check(self.writer[program, word + i], thread, "reads what another thread wrote")
            known = self.reader[program, word + i]
            self.reader[program, word + i] = np.where((known == NOBODY) | (known == thread), thread, MANY)
            result = np.zeros(active.shape, np.uint32)
            result[active] = self.words[program, word + i]
            loaded.append(result)
        return loaded

    def store(self, address: Lanes, active: Lanes, values: list[Lanes]) -> None:
        program, thread, word = self._find(address, active, len(values))
        for i, value in enumerate(values):
            given = np.broadcast_to(value, active.shape)[active]
            self._check(self.reader[program, word + i], thread, "writes what another thread read")
            # Threads may write one word together if they write the same: that is how a replicated value is kept.
            other = self.writer[program, word + i]
            differs = self.words[program, word + i] != given
            self._check(np.where(differs, other, NOBODY), thread, "writes what another thread wrote")
            self.words[program, word + i] = given
            self.writer[program, word + i] = np.where((other == NOBODY) | (other == thread), thread, MANY)
            if (self.words[program, word + i] != given).any():
                raise PtxError("two threads write one shared word differently in one instruction")

    def _find(self, address: Lanes, active: Lanes, count: int) -> tuple[Lanes, Lanes, Lanes]:
        program, thread = np.nonzero(active)
        used = address[active].astype(np.int64)
        if (used % (4 * count)).any():
            raise PtxError(f"a shared address is not aligned to {4 * count} bytes")
        if used.size and int(used.max()) + 4 * count > self.size:
            raise PtxError(f"shared memory of {self.size} bytes is accessed at {int(used.max())}")
        return program, thread, used // 4

    @staticmethod
    def _check(other: Lanes, thread: Lanes, what: str) -> None:
        wrong = (other != NOBODY) & (other != thread)
        if wrong.any():
            raise PtxError(
                f"thread {int(thread[wrong][0])} {what} in shared memory, and no barrier lies between"
            )
