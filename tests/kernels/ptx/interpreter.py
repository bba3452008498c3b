"""Runs a kernel's PTX on a processor: every thread of a block in lockstep, many blocks at a time.

It knows what the norm kernels use and refuses the rest. Values are kept as bits, as registers are; float32 arithmetic
rounds once per instruction, approximate division and roots are exact. Checked: alignment, bounds, writes to inputs,
shared words that no barrier orders, branches on which the threads of a block disagree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ptx.memory import GlobalMemory, Lanes, SharedMemory
from ptx.program import Instruction, Program, PtxError

BLOCKS_AT_ONCE = 32
SHARED_SYMBOL = "global_smem"

_BITS = {"8": "u1", "16": "u2", "32": "u4", "64": "u8"}
_KINDS = {"f": "f", "s": "i", "u": "u", "b": "u"}
_WIDTH = {"%p": "?", "%rs": "u2", "%r": "u4", "%rd": "u8"}

_ARITHMETIC: dict[str, Callable[..., Lanes]] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": np.fmin,
    "max": np.fmax,
    "neg": np.negative,
    "abs": np.abs,
    "not": np.bitwise_not,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "rcp": lambda a: 1 / a,
    "ex2": np.exp2,
}
_COMPARISONS: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def dtype_of(word: str) -> Any:
    """`s32` to int32; `b` types are unsigned."""
    if word == "pred":
        return np.dtype(bool)
    return np.dtype(_KINDS[word[0]] + str(int(word[1:]) // 8))


@dataclass
class Blocks:
    """Some blocks that are at the same instruction."""

    at: int
    index: Lanes
    """`[blocks, 3]`"""
    registers: dict[str, Lanes]
    shared: SharedMemory

    def part(self, chosen: Lanes, at: int) -> Blocks:
        registers = {name: value[chosen] for name, value in self.registers.items()}
        return Blocks(at, self.index[chosen], registers, self.shared.of(chosen))


def run(
    program: Program,
    memory: GlobalMemory,
    arguments: Sequence[int],
    grid: tuple[int, int, int],
    shared: int,
) -> None:
    """Launches the grid. Raises PtxError, naming the instruction, if the text breaks a rule."""
    if len(arguments) != len(program.parameters):
        raise PtxError(
            f"{program.name} takes {len(program.parameters)} arguments, {len(arguments)} were given"
        )
    parameters = dict(zip(program.parameters, arguments, strict=True))
    every = np.array(list(product(*(range(extent) for extent in grid))), np.uint32)
    for first in range(0, len(every), BLOCKS_AT_ONCE):
        index = every[first : first + BLOCKS_AT_ONCE]
        pending = [Blocks(0, index, {}, SharedMemory(len(index), shared))]
        while pending:
            pending += _Run(program, memory, parameters, pending.pop()).until_they_part()


class _Run:
    """The way of some blocks until they end or take different branches."""

    def __init__(
        self, program: Program, memory: GlobalMemory, parameters: dict[str, int], blocks: Blocks
    ) -> None:
        self.program, self.memory, self.parameters, self.blocks = program, memory, parameters, blocks
        self.shape = len(blocks.index), program.threads

    def until_they_part(self) -> list[Blocks]:
        blocks = self.blocks
        while blocks.at < len(self.program.instructions):
            instruction = self.program.instructions[blocks.at]
            try:
                if instruction.words[0] == "ret":
                    return []
                if instruction.words[0] == "bra":
                    if (parts := self._branch(instruction)) is not None:
                        return parts
                    continue
                with np.errstate(all="ignore"):
                    self._step(instruction)
            except PtxError as error:
                raise PtxError(f"{self.program.name}, `{instruction.text}`: {error}") from None
            blocks.at += 1
        return []

    def _branch(self, instruction: Instruction) -> list[Blocks] | None:
        """The parted blocks, or None if all went one way."""
        blocks, target = self.blocks, self.program.labels[instruction.operands[0][0]]
        taken = self._active(instruction)
        if (taken.any(1) != taken.all(1)).any():
            raise PtxError("the threads of a block disagree on a branch")
        goes: Lanes = np.asarray(taken.all(1))
        if goes.all() or not goes.any():
            blocks.at = target if goes.all() else blocks.at + 1
            return None
        return [blocks.part(goes, target), blocks.part(~goes, blocks.at + 1)]

    def _active(self, instruction: Instruction) -> Lanes:
        if not instruction.guard:
            return np.ones(self.shape, bool)
        guard = np.broadcast_to(self._register(instruction.guard), self.shape)
        return ~guard if instruction.negated else guard

    def _register(self, name: str) -> Lanes:
        if name not in self.blocks.registers:
            raise PtxError(f"{name} is read before it is written")
        return self.blocks.registers[name]

    def _value(self, name: str, dtype: Any) -> Lanes:
        """An operand as numbers of `dtype`, `[blocks, threads]`."""
        dtype = np.dtype(dtype)
        if name == "%tid.x":
            bits: Lanes = np.arange(self.shape[1], dtype=np.uint32)[None, :]
        elif axis := re.fullmatch(r"%ctaid\.([xyz])", name):
            bits = self.blocks.index[:, "xyz".index(axis.group(1)), None]
        elif name.startswith("%"):
            bits = self._register(name)
        elif name == SHARED_SYMBOL:
            bits = np.zeros((1, 1), np.uint32)
        elif re.fullmatch(r"0[fF][0-9a-fA-F]{8}", name):
            bits = np.full((1, 1), int(name[2:], 16), np.uint32)
        elif re.fullmatch(r"-?\d+|0x[0-9a-fA-F]+", name):
            bits = np.full((1, 1), int(name, 0)).astype(f"i{max(1, dtype.itemsize)}")
        else:
            raise PtxError(f"the operand {name} is not known")
        if dtype.kind == "b":
            return np.broadcast_to(bits.astype(bool), self.shape)
        if bits.dtype.itemsize != dtype.itemsize:
            raise PtxError(f"{name} has {8 * bits.dtype.itemsize} bits, {8 * dtype.itemsize} are read")
        return np.broadcast_to(bits, self.shape).view(dtype)

    def _write(self, instruction: Instruction, name: str, value: Lanes) -> None:
        """Keeps the value's bits where the guard allows."""
        prefix = re.match(r"%[a-z]+", name)
        width = np.dtype(_WIDTH[prefix.group(0)] if prefix else "u4")
        value = np.ascontiguousarray(np.broadcast_to(value, self.shape))
        if value.dtype.itemsize != width.itemsize:
            raise PtxError(f"{name} has {8 * width.itemsize} bits, {8 * value.dtype.itemsize} are written")
        bits = value.view(width)
        if instruction.guard:
            bits = np.where(self._active(instruction), bits, self._register(name))
        self.blocks.registers[name] = bits

    def _step(self, instruction: Instruction) -> None:
        head, words = instruction.words[0], instruction.words
        if head in ("ld", "st"):
            self._move_memory(instruction)
        elif head in ("ldmatrix", "stmatrix"):
            self._move_matrices(instruction)
        elif head == "bar":
            self.blocks.shared.barrier()
        elif head == "mov":
            self._move(instruction)
        elif head == "shfl":
            self._shuffle(instruction)
        elif head == "cvt":
            self._convert(instruction)
        elif head == "setp":
            self._write(instruction, instruction.operands[0][0], self._compared(instruction))
        elif head == "selp":
            _, a, b, chosen = (o[0] for o in instruction.operands)
            kind = dtype_of(words[-1])
            chosen_lanes = self._value(chosen, bool)
            self._write(
                instruction,
                instruction.operands[0][0],
                np.where(chosen_lanes, self._value(a, kind), self._value(b, kind)),
            )
        else:
            self._write(instruction, instruction.operands[0][0], self._computed(instruction))

    def _compared(self, instruction: Instruction) -> Lanes:
        _, comparison, kind = instruction.words
        _, a, b = (o[0] for o in instruction.operands)
        if comparison not in _COMPARISONS:
            raise PtxError(f"the comparison {comparison} is not known")
        return _COMPARISONS[comparison](self._value(a, dtype_of(kind)), self._value(b, dtype_of(kind)))

    def _computed(self, instruction: Instruction) -> Lanes:
        words, names = instruction.words, [o[0] for o in instruction.operands[1:]]
        if words[-1] == "f32x2":
            return self._in_pairs(words[0], names)
        if words[-2:] in (["f32", "f16"], ["f32", "bf16"]):
            return self._widened(words, names)
        kind = dtype_of(words[-1])
        if words[0] in ("shl", "shr"):
            amount = self._value(names[1], np.uint32).astype(kind)
            return _ARITHMETIC[words[0]](self._value(names[0], kind), amount)
        if words[0] == "bfe":
            value, start, length = (self._value(n, np.uint32) for n in names)
            return (value >> start) & ((np.uint32(1) << length) - np.uint32(1))
        if words[0] in ("mul", "mad") and "wide" in words:
            wide = np.dtype(f"{kind.kind}8")
            result: Lanes = self._value(names[0], kind).astype(wide) * self._value(names[1], kind).astype(
                wide
            )
            return result + self._value(names[2], wide) if words[0] == "mad" else result
        values = [self._value(name, kind) for name in names]
        if words[0] == "mul":
            return values[0] * values[1]
        if words[0] == "mad":
            return values[0] * values[1] + values[2]
        if kind.kind == "f" and words[0] in ("fma", "div"):
            return _float(words[0], values)
        if words[0] in ("div", "rem"):
            # C truncates towards zero.
            quotient = np.trunc(values[0].astype(np.float64) / values[1]).astype(kind)
            return quotient if words[0] == "div" else values[0] - quotient * values[1]
        if words[0] not in _ARITHMETIC:
            raise PtxError(f"the opcode {instruction.opcode} is not known")
        return _ARITHMETIC[words[0]](*values).astype(kind)

    def _in_pairs(self, operation: str, names: list[str]) -> Lanes:
        """Two float32 numbers per register, as architectures from sm_100 on have them."""
        values = [np.ascontiguousarray(self._value(name, np.uint64)).view(np.float32) for name in names]
        return _float(operation, values).view(np.uint64)

    def _widened(self, words: list[str], names: list[str]) -> Lanes:
        """Every operand but the last is a half."""
        halves = [_wide(self._value(name, np.uint16), words[-1]) for name in names[:-1]]
        return _float(words[0], [*halves, self._value(names[-1], np.float32)])

    def _convert(self, instruction: Instruction) -> None:
        words, (target, *sources) = instruction.words, instruction.operands
        to, of = words[-2], words[-1]
        if to in ("f16x2", "bf16x2"):
            high, low = (_narrow(self._value(s[0], np.float32), to[:-2]) for s in sources)
            packed = (high.astype(np.uint32) << 16) | low
            self._write(instruction, target[0], packed)
            return
        if to in ("f16", "bf16"):
            self._write(instruction, target[0], _narrow(self._value(sources[0][0], np.float32), to))
            return
        source = sources[0][0]
        is_half = of in ("f16", "bf16")
        value = _wide(self._value(source, np.uint16), of) if is_half else self._value(source, dtype_of(of))
        self._write(instruction, target[0], value.astype(dtype_of(to)))

    def _move(self, instruction: Instruction) -> None:
        (targets, sources), kind = instruction.operands, dtype_of(instruction.words[-1])
        if len(targets) > 1:
            whole = self._value(sources[0], kind)
            each = np.dtype(f"u{kind.itemsize // len(targets)}")
            for i, target in enumerate(targets):
                self._write(instruction, target, (whole >> kind.type(8 * each.itemsize * i)).astype(each))
        elif len(sources) > 1:
            part = np.dtype(f"u{kind.itemsize // len(sources)}")
            total = np.zeros(self.shape, kind)
            for i, source in enumerate(sources):
                total |= self._value(source, part).astype(kind) << kind.type(8 * part.itemsize * i)
            self._write(instruction, targets[0], total)
        else:
            self._write(instruction, targets[0], self._value(sources[0], kind))

    def _shuffle(self, instruction: Instruction) -> None:
        target, source, mask, clamp, members = (o[0] for o in instruction.operands)
        if "bfly" not in instruction.words or (clamp, members) != ("31", "-1"):
            raise PtxError("only whole warps that exchange by butterfly are known")
        value = self._value(source, np.uint32)
        lanes = np.arange(self.shape[1]) ^ int(mask, 0)
        self._write(instruction, target, value[:, lanes])

    def _move_matrices(self, instruction: Instruction) -> None:
        """8 x 8 matrices of 16 bits: eight lanes name the rows of each, every lane has one word of a row."""
        if "trans" in instruction.words or "shared" not in instruction.words or instruction.guard:
            raise PtxError("only plain matrices in shared memory are known")
        is_load = instruction.words[0] == "ldmatrix"
        places, (address,) = instruction.operands if is_load else reversed(instruction.operands)
        lanes = np.arange(self.shape[1])
        rows = self._value(address, np.uint32)
        everybody = np.ones(self.shape, bool)
        for matrix, place in enumerate(places):
            owner = lanes // 32 * 32 + 8 * matrix + lanes % 32 // 4
            at = (rows[:, owner] + 4 * (lanes % 4)).astype(np.uint32)
            if is_load:
                self._write(instruction, place, self.blocks.shared.load(at, everybody, 1)[0])
            else:
                self.blocks.shared.store(at, everybody, [self._value(place, np.uint32)])

    def _move_memory(self, instruction: Instruction) -> None:
        words = instruction.words
        space, kind = words[1], dtype_of(words[-1])
        is_load = words[0] == "ld"
        places = instruction.operands[0 if is_load else 1]
        (address,) = instruction.operands[1 if is_load else 0]
        if space == "param":
            number = np.full((1, 1), self.parameters[address]).astype(f"u{kind.itemsize}")
            self._write(instruction, places[0], number)
            return
        base, _, offset = address.partition("+")
        active = self._active(instruction)
        if space == "shared":
            at: Lanes = self._value(base.strip(), np.uint32) + np.uint32(int(offset or "0", 0))
        elif space == "global":
            at = self._value(base.strip(), np.uint64) + np.uint64(int(offset or "0", 0))
        else:
            raise PtxError(f"the space {space} is not known")
        if space == "shared" and kind.itemsize < 4:
            raise PtxError("shared memory is accessed by words of 32 bits")
        words_each = kind.itemsize // 4 if space == "shared" else 1
        if is_load:
            loaded = (
                _joined(self.blocks.shared.load(at, active, words_each * len(places)), words_each)
                if space == "shared"
                else self.memory.load(at, active, kind.itemsize, len(places))
            )
            for place, value in zip(places, loaded, strict=True):
                self._write(instruction, place, value)
            return
        values = [self._value(place, np.dtype(f"u{kind.itemsize}")) for place in places]
        if space == "shared":
            self.blocks.shared.store(at, active, _split(values, words_each))
        else:
            self.memory.store(at, active, kind.itemsize, values)


def _joined(words: list[Lanes], each: int) -> list[Lanes]:
    """32-bit words to numbers of one or two of them, the low one first."""
    if each == 1:
        return words
    shift = np.uint64(32)
    return [
        low.astype(np.uint64) | (high.astype(np.uint64) << shift)
        for low, high in zip(words[::2], words[1::2], strict=True)
    ]


def _split(numbers: list[Lanes], each: int) -> list[Lanes]:
    if each == 1:
        return numbers
    return [(n >> np.uint64(32 * half)).astype(np.uint32) for n in numbers for half in (0, 1)]


def _float(operation: str, values: list[Lanes]) -> Lanes:
    if operation == "fma":
        a, b, c = (value.astype(np.float64) for value in values)
        return (a * b + c).astype(np.float32)
    if operation == "div":
        return np.asarray(values[0] / values[1])
    if operation == "mul":
        return np.asarray(values[0] * values[1])
    if operation not in _ARITHMETIC:
        raise PtxError(f"the operation {operation} of float32 is not known")
    return _ARITHMETIC[operation](*values)


def _wide(bits: Lanes, of: str) -> Lanes:
    """The bits of a half to float32."""
    bits = np.ascontiguousarray(bits)
    if of == "f16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def _narrow(value: Lanes, to: str) -> Lanes:
    """float32 to the bits of a half, rounded to the nearest even."""
    if to == "f16":
        return value.astype(np.float16).view(np.uint16)
    word = np.uint32
    wide = np.ascontiguousarray(value).view(word)
    return ((wide + word(0x7FFF) + ((wide >> word(16)) & word(1))) >> word(16)).astype(np.uint16)
