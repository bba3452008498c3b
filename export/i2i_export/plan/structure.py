"""What a TensorRT for RTX plan costs per frame, read from the text inside the plan itself.

A plan of TensorRT for RTX holds a readable description of every tensor (shape, type, strides) and of every
kernel launch with its inputs and outputs. From it the price of a network's structure can be counted without a
GPU: how many kernels start per frame, and how many bytes they read and write. The text is not a documented
interface, so everything here answers None when it is not found, and only tools and tests may depend on it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

_TYPE_BYTES = {
    "bool": 1,
    "int8": 1,
    "uint8": 1,
    "fp8": 1,
    "half": 2,
    "bfloat": 2,
    "bfloat16": 2,
    "int32": 4,
    "float": 4,
    "int64": 8,
}
_EVENTS = frozenset({"signal", "wait"})
"""Order between two streams: they start nothing."""

_DYNAMIC = 'region="shape_system_hmem"'

_TENSOR = re.compile(
    r'^  (?:sub_)?tensor=\{ .*?dims=\{ ([^}]*)\}.*? name="([^"]+)".*? type=(\w+)', re.MULTILINE
)
_STATEMENT = re.compile(
    r'^  (\w+)=\{ name="?([^\s"]+)"?(.*?)(?=^  \w+=\{|^ label|^\}|\Z)', re.MULTILINE | re.DOTALL
)
_INPUTS = re.compile(r"\b(?:input_args|input)=\{([^}]*)\}")
_OUTPUTS = re.compile(r"\b(?:output_args|output)=\{([^}]*)\}")
_QUOTED = re.compile(r'"([^"]+)"')


@dataclass(frozen=True)
class Launch:
    """One kernel start: the plan's word for its kind, its name, and the tensor bytes it reads plus writes."""

    kind: str
    name: str
    megabytes: float

    @property
    def is_convolution(self) -> bool:
        return self.kind in ("corrltn", "deconvolution")


@dataclass(frozen=True)
class PlanStructure:
    """Every launch of one frame, in order. Megabytes are 10^6 bytes, weights included."""

    launches: tuple[Launch, ...]

    @property
    def launch_count(self) -> int:
        return len(self.launches)

    @property
    def megabytes(self) -> float:
        return sum(launch.megabytes for launch in self.launches)

    @property
    def convolution_megabytes(self) -> float:
        return sum(launch.megabytes for launch in self.launches if launch.is_convolution)

    def kinds(self) -> dict[str, int]:
        """Launches by name, the most frequent first; convolutions are one kind."""
        names = Counter("convolution" if launch.is_convolution else launch.name for launch in self.launches)
        return dict(names.most_common())

    def is_smaller_than(self, other: PlanStructure) -> bool:
        """Fewer launches or fewer bytes, and not more of the other (half a per cent of bytes is noise)."""
        if self.launch_count > other.launch_count or self.megabytes > other.megabytes * 1.005:
            return False
        return self.launch_count < other.launch_count or self.megabytes < other.megabytes * 0.995


def structure_from_plan(plan: bytes) -> PlanStructure | None:
    """Reads the launches of a fixed-size RTX plan; None if the text is missing or the sizes are open.

    A plan with dynamic height and width computes its tensor sizes when it runs, so it has no byte count.
    """
    text = _graph_text(plan)
    descriptors, found, program = text.partition("\nmain {\n")
    if not found or _DYNAMIC in descriptors:
        return None
    sizes: dict[str, int] = {}
    for dims, name, kind in _TENSOR.findall(descriptors):
        if kind not in _TYPE_BYTES or not all(dim.isdigit() for dim in dims.split()):
            return None
        sizes[name] = math.prod(int(dim) for dim in dims.split()) * _TYPE_BYTES[kind]
    end = program.find("\n}")
    launches = []
    for kind, name, rest in _STATEMENT.findall(program[:end] if end >= 0 else program):
        if kind in _EVENTS:
            continue
        touched = _names(_INPUTS, rest), _names(_OUTPUTS, rest)
        byte_count = sum(sizes.get(tensor, 0) for side in touched for tensor in side)
        launches.append(Launch(kind, name, byte_count / 1e6))
    return PlanStructure(tuple(launches)) if launches else None


def _graph_text(plan: bytes) -> str:
    tensors = plan.find(b"descriptors {\n")
    if tensors < 0:
        return ""
    return plan[plan.rfind(b"header {", 0, tensors) :].decode("latin1")


def _names(pattern: re.Pattern[str], statement: str) -> set[str]:
    match = pattern.search(statement)
    return set(_QUOTED.findall(match[1])) if match else set()
