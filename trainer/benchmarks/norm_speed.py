"""Milliseconds of a norm's forward and backward on a processor, against the library's own layer.

    python trainer/benchmarks/norm_speed.py

The trainer's norms pick a kernel on a GPU; on a processor that choice must cost nothing. Both sides run in turn,
`rounds` times, and a row of `norm_speed.jsonl` holds their medians, and the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from i2i_trainer.norms import AdaptiveInstanceNorm, InstanceNorm, per_channel

ROWS = Path(__file__).with_name("norm_speed.jsonl")
SHAPES = ((1, 64, 128, 128), (1, 256, 64, 64), (4, 64, 64, 64), (4, 256, 16, 16))


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the norms on a processor."""

    rounds: int = 200
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    table = Table("norm", "N x C x H x W", "library ms", "ours ms", "ratio")
    for n, c, h, w in SHAPES:
        scale, shift = torch.randn(n, c), torch.randn(n, c)
        norm, adaptive = InstanceNorm(c), AdaptiveInstanceNorm(c)
        pairs: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
            "InstanceNorm": (F.instance_norm, norm),
            "AdaptiveInstanceNorm": (
                partial(_library_adain, scale=scale, shift=shift),
                partial(adaptive, scale=scale, shift=shift),
            ),
        }
        for name, (library, ours) in pairs.items():
            x = torch.randn(n, c, h, w).contiguous(memory_format=torch.channels_last).requires_grad_()
            rounds = [_round(library, ours, x, i % 2 == 1) for i in range(options.rounds + 2)][2:]
            theirs, own = (statistics.median(column) for column in zip(*rounds, strict=True))
            ratio = statistics.median(b / a for a, b in rounds)
            row = {
                "norm": name,
                "shape": [n, c, h, w],
                "library_ms": theirs,
                "ours_ms": own,
                "ratio": ratio,
                "options": asdict(options),
                "command": f"python trainer/benchmarks/norm_speed.py --rounds {options.rounds}",
                "commit": subprocess.run(
                    ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
                ).stdout.strip(),
                "machine": platform.processor() or platform.machine(),
                "torch": torch.__version__,
                "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            }
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            table.add_row(name, f"{n} x {c} x {h} x {w}", f"{theirs:.2f}", f"{own:.2f}", f"{ratio:.2f}")
    Console().print(table)


def _library_adain(x: Tensor, *, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x) * per_channel(scale) + per_channel(shift)


def _round(
    library: Callable[[Tensor], Tensor], ours: Callable[[Tensor], Tensor], x: Tensor, ours_first: bool
) -> tuple[float, float]:
    """Milliseconds of both; they take turns in going first, since the second finds the caches warm or full."""
    if ours_first:
        own = _milliseconds(ours, x)
        return _milliseconds(library, x), own
    return _milliseconds(library, x), _milliseconds(ours, x)


def _milliseconds(norm: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Processor time of one forward and backward: wall time would measure the machine's other work."""
    dy = torch.ones_like(x)
    start = time.process_time()
    torch.autograd.grad(norm(x), x, dy)
    return 1000 * (time.process_time() - start)


if __name__ == "__main__":
    main(tyro.cli(Options))
