"""PTX text as instructions: what the interpreter runs and the structure budget counts."""

from __future__ import annotations

import re
from dataclasses import dataclass


class PtxError(Exception):
    """The text breaks a rule of the machine, or uses something this reader does not know."""


@dataclass(frozen=True)
class Instruction:
    """`@%p1 ld.global.v4.b32 {...}, [...]` taken apart."""

    text: str
    opcode: str
    """`ld.global.v4.b32`"""
    operands: tuple[tuple[str, ...], ...]
    """One entry per operand, several names where braces group them; an address without its brackets."""
    guard: str = ""
    """The predicate register, empty if there is none."""
    negated: bool = False

    @property
    def words(self) -> list[str]:
        """`["ld", "global", "v4", "b32"]`"""
        return self.opcode.split(".")


@dataclass(frozen=True)
class Program:
    """One kernel."""

    name: str
    parameters: tuple[str, ...]
    """Names in order."""
    wide: tuple[bool, ...]
    """Per parameter, whether it is 64 bits (a pointer) and not 32."""
    threads: int
    """Of `.reqntid`."""
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    """Index of the instruction that follows each label."""

    def loops(self) -> list[list[Instruction]]:
        """Bodies of the innermost loops, from their label to the branch back."""
        spans = [
            (self.labels[i.operands[0][0]], at)
            for at, i in enumerate(self.instructions)
            if i.words[0] == "bra" and self.labels[i.operands[0][0]] <= at
        ]
        inner = [s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
        return [list(self.instructions[first : last + 1]) for first, last in inner]


def parse(ptx: str) -> Program:
    """The only kernel of a text. Raises PtxError if there is none."""
    text = re.sub(r"//[^\n]*", "", ptx)
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)\s*(.*?)\{(.*)\}", text, re.DOTALL)
    if entry is None:
        raise PtxError("the text has no entry")
    threads = re.search(r"\.reqntid (\d+)", entry.group(3))
    if threads is None:
        raise PtxError("the entry does not state its threads")
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for statement in entry.group(4).split(";"):
        rest = statement.strip()
        while label := re.match(r"(\$[\w$]+):\s*", rest):
            labels[label.group(1)] = len(instructions)
            rest = rest[label.end() :]
        # A brace of its own opens or closes a scope of registers, which have unique names here.
        rest = rest.lstrip("{} \n\t")
        if rest and not rest.startswith("."):
            instructions.append(_instruction(" ".join(rest.split())))
    lines = [line for line in entry.group(2).split(",") if line.strip()]
    return Program(
        entry.group(1),
        tuple(line.split()[-1] for line in lines),
        tuple("64" in line.split()[1] for line in lines),
        int(threads.group(1)),
        tuple(instructions),
        labels,
    )


def _instruction(text: str) -> Instruction:
    match = re.fullmatch(r"(?:@(!?)(%\w+) )?([\w.]+)(.*)", text)
    if match is None:
        raise PtxError(f"this is not an instruction: {text}")
    operands = [_operand(part) for part in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,]+", match.group(4))]
    return Instruction(text, match.group(3), tuple(operands), match.group(2) or "", match.group(1) == "!")


def _operand(part: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in part.strip("{}[] ").split(","))
