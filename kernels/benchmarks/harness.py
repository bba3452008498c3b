"""How everything here is timed: first the op's numerics, then rotating inputs past the cache, then rows to a file.

Times on a CUDA device are taken with device events around the replay of a graph that holds one call per input set, so
that no launch from Python is in them. On a CPU they are wall times.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
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
    """One thing to time: `make` returns a call on fresh inputs of its own; `moved` counts the bytes it must move."""

    op: str
    impl: str
    shape: str
    dtype: str
    make: Callable[[], Call]
    moved: int = 0
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
    """Bytes that must move over the median; what an implementation moves besides is its own loss."""
    copy_share: float | None
    """`gb_s` over the bandwidth of a plain copy, measured in the same run."""
    graphed: bool
    """Replayed from a CUDA graph; False where the calls could not be captured, or on a CPU."""
    device: str
    driver: str
    versions: str
    commit: str
    when: str


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    graphed: bool


def require_green(op: str, device: torch.device) -> None:
    """Runs the op's cases against float64 on the device (on a CPU in Triton's interpreter).

    Raises RedGateError where a bound is broken.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "0" if device.type == "cuda" else "1"}
    command = [sys.executable, "-m", "i2i_kernels.numerics", "--device", device.type, "--op", op]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RedGateError(f"{op} is not timed, its numerics do not hold here: {done.stderr.strip()[-600:]}")


def measure(bench: Bench, device: torch.device, repeats: int = 50) -> Timing:
    """Times the call over as many input sets as it takes to leave the cache."""
    if device.type == "cuda":
        # torch.compile gives up on a function after eight shapes, and would then time eager code under its name.
        torch.compiler.reset()
    calls = [bench.make() for _ in range(_input_sets(bench.moved, device))]
    for call in (*calls, *calls):
        call()
    if device.type != "cuda":
        return _summary([_wall_ms(calls) for _ in range(repeats)], len(calls), graphed=False)
    torch.cuda.synchronize()
    graph = _captured(calls) if bench.capture else None
    run = graph.replay if graph is not None else lambda: [call() for call in calls]
    run()
    return _summary([_device_ms(run) for _ in range(repeats)], len(calls), graphed=graph is not None)


def copy_bandwidth(device: torch.device) -> float:
    """GB/s read plus written of a plain copy past the cache."""
    elements = 2**28 if device.type == "cuda" else 2**25
    source, target = (torch.ones(elements, dtype=torch.uint8, device=device) for _ in range(2))
    timing = measure(Bench("copy", "", "", "", lambda: lambda: target.copy_(source), 2 * elements), device)
    return 2 * elements / timing.median_ms / 1e6


def channels_last(shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """A random image `[N, C, H, W]`."""
    values = torch.randn(shape, device=device).to(getattr(torch, dtype))
    return values.contiguous(memory_format=torch.channels_last)


def command(benches: Sequence[Bench], device: torch.device, out: Path) -> int:
    """The end of every bench script: the table, and exit status 1 where the gate is red."""
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
    bandwidth = copy_bandwidth(device)
    print(f"copy bandwidth: {bandwidth:.0f} GB/s on {device_name(device)}")
    rows = []
    for bench in benches:
        try:
            timing = measure(bench, device)
        except (RuntimeError, ImportError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            print(f"{bench.op} {bench.impl} {bench.shape} {bench.dtype}: left out, {reason[:200]}")
            continue
        speed = bench.moved / timing.median_ms / 1e6 if bench.moved else None
        row = Row(
            bench.op,
            bench.impl,
            bench.shape,
            bench.dtype,
            timing.median_ms,
            timing.p20_ms,
            timing.p80_ms,
            None if speed is None else round(speed, 2),
            None if speed is None else round(speed / bandwidth, 3),
            timing.graphed,
            *machine(device),
        )
        print(line(row), flush=True)
        rows.append(row)
    with out.open("a") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    return rows


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
    commit = _first_line(["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"])
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return device_name(device), driver, versions, commit, when


def _first_line(command: list[str]) -> str:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    except FileNotFoundError:
        said = []
    return said[0].strip() if said else "unknown"


def _input_sets(moved: int, device: torch.device) -> int:
    cache = 2**25
    if device.type == "cuda":
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 2**26))
    return max(1, min(64, -(-2 * cache // moved))) if moved else 1


def _captured(calls: Sequence[Call]) -> torch.cuda.CUDAGraph | None:
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for call in calls:
                call()
    except RuntimeError:
        # A backward pass or a library may refuse capture; its eager time is still a time.
        torch.cuda.synchronize()
        return None
    return graph


def _device_ms(run: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
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
