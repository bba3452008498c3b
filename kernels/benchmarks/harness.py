"""How everything here is timed: first the op's numerics, then rotating inputs and outputs past the cache.

Times on a CUDA device are taken with device events around the replays of a graph that holds one call per input set,
after a warm-up, with the replays in the queue before the first begins, so that no launch is in them. On a CPU they are
wall times. Each row is written when it is made, with the clocks it was made at.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"

HERE_IS_A_GPU = torch.cuda.is_available()

Call = Callable[[], object]


@dataclass(frozen=True)
class BenchCommand:
    """Times one op on one device and appends the rows to a file."""

    device: str = "cuda" if HERE_IS_A_GPU else "cpu"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16" if HERE_IS_A_GPU else "float32"
    shapes: int = 6
    """How many of the op's shapes, from the smallest."""
    out: Path = RESULTS


class RedGateError(RuntimeError):
    """The op's numerics do not hold on this device, so its speed says nothing."""


@dataclass(frozen=True)
class Bench:
    """One thing to time: `make` returns a call on fresh inputs of its own."""

    op: str
    impl: str
    shape: str
    dtype: str
    make: Callable[[], Call]
    moved: int = 0
    """Bytes that must move, every tensor counted once."""
    passes: int = 0
    """The same, every read of a tensor counted, for a cache that holds none of it; 0 if that is `moved`."""
    inputs: int = 0
    """Bytes of one input set; as many sets are made as leave the cache three times; 0 makes one set."""
    capture: bool = True
    """Replay from a CUDA graph; a training step draws random numbers on the host and cannot."""


@dataclass(frozen=True)
class Row:
    """One measurement, one line of `results.jsonl`. Times are of one call."""

    op: str
    impl: str
    shape: str
    dtype: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    gb_s: float | None
    """Bytes that must move, each once, over the median; what an implementation moves besides is its own loss."""
    copy_share: float | None
    """`gb_s` over the bandwidth of a plain copy, measured in the same run."""
    graphed: bool
    """Replayed from a CUDA graph; False if the calls could not be captured, or on a CPU."""
    device: str
    driver: str
    versions: str
    commit: str
    when: str
    gb_s_of_passes: float | None = None
    """With every pass over a tensor counted; above the memory's bandwidth if a second read hits the cache."""
    sm_mhz: int | None = None
    memory_mhz: int | None = None
    """Clocks right after the measurement."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    graphed: bool


def require_green(op: str, device: torch.device) -> None:
    """Runs the op's cases against float64 on the device (on a CPU in Triton's interpreter).

    Raises RedGateError if a bound is broken.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0" if device.type == "cuda" else "1"}
    command = [sys.executable, "-m", "i2i_kernels.numerics", "--device", device.type, "--op", op]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RedGateError(f"{op} is not timed, its numerics do not hold here: {done.stderr.strip()[-600:]}")


WARM_UP_S = 0.5
"""Of load before the first measurement of a process: an idle GPU runs at a fraction of its clock."""

LEAST_MS = 1.0
"""Of work between two events."""

SLEEP_CYCLES = 2_000_000
"""The device waits about a millisecond, while the replays that are timed queue up behind it."""


def measure(bench: Bench, device: torch.device, repeats: int = 50, warm_up_s: float = WARM_UP_S) -> Timing:
    """Times the call over as many input sets as it takes to leave the cache."""
    if device.type == "cuda":
        # torch.compile gives up on a function after eight shapes, and would then time eager code under its name.
        torch.compiler.reset()
    calls = [bench.make() for _ in range(_input_sets(bench.inputs, device))]
    for call in (*calls, *calls):
        call()
    if device.type != "cuda":
        return _summary([_wall_ms(calls) for _ in range(repeats)], len(calls), graphed=False)
    torch.cuda.synchronize()
    graph = _captured(calls) if bench.capture else None
    run = graph.replay if graph is not None else lambda: [call() for call in calls]
    until = time.monotonic() + warm_up_s
    while time.monotonic() < until:
        run()
        torch.cuda.synchronize()
    replays = max(1, math.ceil(LEAST_MS / max(_device_ms(run, 1), 1e-3)))
    samples = [_device_ms(run, replays) / replays for _ in range(repeats)]
    return _summary(samples, len(calls), graphed=graph is not None)


@cache
def copy_bandwidth(device: torch.device) -> float:
    """GB/s read plus written of a plain copy past the cache."""
    elements = 2**28 if device.type == "cuda" else 2**25
    source, target = (torch.ones(elements, dtype=torch.uint8, device=device) for _ in range(2))
    timing = measure(Bench("copy", "", "", "", lambda: lambda: target.copy_(source)), device)
    return 2 * elements / timing.median_ms / 1e6


def channels_last(shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """A random image `[N, C, H, W]`."""
    values = torch.randn(shape, device=device).to(getattr(torch, dtype))
    return values.contiguous(memory_format=torch.channels_last)


def command(benches: Sequence[Bench], device: torch.device, out: Path) -> int:
    """The end of every bench script: the table, and exit status 1 if the gate is red."""
    print(HEADING)
    try:
        run(benches, device, out)
    except RedGateError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(benches: Sequence[Bench], device: torch.device, out: Path = RESULTS) -> list[Row]:
    """Gates, times, prints and appends. A bench that fails to run is printed with its reason and left out."""
    for op in dict.fromkeys(bench.op for bench in benches):
        require_green(op, device)
    return run_ungated(benches, device, out)


def run_ungated(benches: Sequence[Bench], device: torch.device, out: Path = RESULTS) -> list[Row]:
    """`run` for what has no cases of its own: whole networks, whose kernels were gated before."""
    print(f"copy bandwidth: {copy_bandwidth(device):.0f} GB/s on {device_name(device)}")
    rows = []
    for bench in benches:
        try:
            row = timed_row(bench, device)
        except Exception as error:  # Triton and torch.compile raise what they like; the next bench may run.
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"{bench.op} {bench.impl} {bench.shape} {bench.dtype}: left out, {reason[:200]}")
            continue
        print(line(row), flush=True)
        with out.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
    return rows


def timed_row(bench: Bench, device: torch.device, repeats: int = 50, warm_up_s: float = WARM_UP_S) -> Row:
    """Measures; whatever the bench raises passes through."""
    timing = measure(bench, device, repeats, warm_up_s)
    clocks = _clocks() if device.type == "cuda" else (None, None)
    once = bench.moved / timing.median_ms / 1e6 if bench.moved else None
    passes = bench.passes / timing.median_ms / 1e6 if bench.passes else once
    return Row(
        bench.op,
        bench.impl,
        bench.shape,
        bench.dtype,
        timing.median_ms,
        timing.p20_ms,
        timing.p80_ms,
        None if once is None else round(once, 2),
        None if once is None else round(once / copy_bandwidth(device), 3),
        timing.graphed,
        *machine(device),
        gb_s_of_passes=None if passes is None else round(passes, 2),
        sm_mhz=clocks[0],
        memory_mhz=clocks[1],
    )


HEADING = "| op | impl | shape | dtype | median ms | p20 | p80 | GB/s | of copy |\n" + "|---" * 9 + "|"


def line(row: Row) -> str:
    """The row as a line under HEADING."""
    speed = "-" if row.gb_s is None else f"{row.gb_s:.0f}"
    share = "-" if row.copy_share is None else f"{row.copy_share:.0%}"
    times = f"{row.median_ms:.4f} | {row.p20_ms:.4f} | {row.p80_ms:.4f}"
    return f"| {row.op} | {row.impl} | {row.shape} | {row.dtype} | {times} | {speed} | {share} |"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture and thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def machine(device: torch.device) -> tuple[str, str, str, str, str]:
    """Where a row was made: device, driver, versions, commit and time."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = _first_line(query) if device.type == "cuda" else ""
    versions = f"torch {torch.__version__}, triton {triton}"
    # A copy of the tree on another machine has no history: I2I_COMMIT tells it.
    commit = os.environ.get("I2I_COMMIT") or _first_line(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    )
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return device_name(device), driver, versions, commit, when


def _first_line(command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        said = []
    return said[0].strip() if said else "unknown"


def _clocks() -> tuple[int | None, int | None]:
    """Of the multiprocessors and of the memory, in MHz."""
    found = _first_line(["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits"])
    numbers = [int(part) for part in found.split(",") if part.strip().isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (None, None)


def _input_sets(inputs: int, device: torch.device) -> int:
    cache_bytes = 2**25
    if device.type == "cuda":
        cache_bytes = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 2**26))
    return max(1, min(256, -(-3 * cache_bytes // inputs))) if inputs else 1


def _captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            # Results that live until the end have memory of their own: the outputs rotate as the inputs do.
            kept = [call() for call in calls]
    except RuntimeError:
        # A backward pass or a library may refuse capture; its eager time is still a time.
        torch.cuda.synchronize()
        return None
    del kept
    return graph


def _device_ms(run: Callable[[], object], replays: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(SLEEP_CYCLES)
    start.record()
    for _ in range(replays):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _wall_ms(calls: Sequence[Call]) -> float:
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) * 1e3


def _summary(samples: list[float], calls: int, *, graphed: bool) -> Timing:
    each = [sample / calls for sample in samples]
    fifths = statistics.quantiles(each, n=5)
    return Timing(round(statistics.median(each), 5), round(fifths[0], 5), round(fifths[3], 5), graphed)
