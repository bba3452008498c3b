"""What a training run says about itself: losses gathered on the device, `log.jsonl`, the progress on the screen."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from i2i_trainer.checkpoint import write_atomically
from i2i_trainer.config import TrainConfig
from i2i_trainer.errors import DivergedError
from i2i_trainer.heading import duration
from i2i_trainer.method import Losses, Stage
from i2i_trainer.optimise import mean_over_processes

NEVER = 2**62
STEPS_TIMED = 5
"""Steps by which the time that the others take is estimated."""
STEPS_NOT_TIMED = 2
"""The first steps, which load images and draw a sheet."""


class Ledger:
    """Sums losses on the device and reads them once per print; remembers the first step that was not finite."""

    def __init__(self, fabric: Fabric) -> None:
        self._fabric = fabric
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._diverged_at = torch.full((), NEVER, dtype=torch.int64, device=fabric.device)

    def add(self, losses: Losses, step: int) -> None:
        """Takes one micro-batch's losses without waiting for the device."""
        if not losses:
            return
        values = torch.stack([value.detach().float().reshape(()) for value in losses.values()])
        here = torch.where(values.isfinite().all(), NEVER, step)
        self._diverged_at = torch.minimum(self._diverged_at, here)
        for name, value in zip(losses, values.unbind(), strict=True):
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """Mean of every loss since the last reading, over all processes. Raises DivergedError naming the step."""
        self.check()
        if not self._sums:
            return {}
        means = torch.stack([total / self._counts[name] for name, total in self._sums.items()])
        means = mean_over_processes(self._fabric, means)
        read = dict(zip(self._sums, means.tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return read

    def check(self) -> None:
        """Raises DivergedError if any loss so far was not finite, in any process."""
        first = self._diverged_at
        if self._fabric.world_size > 1:
            torch.distributed.all_reduce(first, op=torch.distributed.ReduceOp.MIN)
        if (step := int(first.item())) != NEVER:
            raise DivergedError(f"A loss stopped being a finite number in step {step}")


class Log:
    """`log.jsonl`: one line per print, cut back to the checkpoint when a run is resumed."""

    def __init__(self, path: Path, upto_step: int) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []
        if upto_step and path.is_file():
            # A killed run may have left its last line unfinished; it lies beyond the checkpoint.
            whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            self.rows = [row for row in whole if row["step"] <= upto_step]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())

    def append(self, row: dict[str, Any]) -> None:
        """Adds one line."""
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


class Screen:
    """The lines before the first step, then a progress bar with the losses below it on a terminal.

    Elsewhere, as in a file or a notebook, one line per print.
    """

    def __init__(self, method: str, config: TrainConfig, done: int, shown: bool) -> None:
        self._console = Console(quiet=not shown)
        self._config = config
        self._done = done
        self._timed_from = done
        self._began = time.monotonic()
        self._told: set[str] = set()
        self._live: Live | None = None
        self._losses = Text(style="dim")
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            console=self._console,
        )
        self._task = self._bar.add_task(method, total=config.steps, completed=done, speed="")
        if self._console.is_terminal and shown:
            self._live = Live(Group(self._bar, self._losses), console=self._console)
            self._live.start()

    def head(self, lines: Sequence[str], remarks: Sequence[str]) -> None:
        """Prints what was found and what is going to be done."""
        for line in (*lines, *remarks):
            self.note(line)

    def advance(self, step: int) -> None:
        """Moves the bar; after the first steps, says how long the training takes."""
        self._bar.update(self._task, completed=step)
        if step == self._done + STEPS_NOT_TIMED:
            self._timed_from, self._began = step, time.monotonic()
        if step == self._timed_from + STEPS_TIMED:
            config = self._config
            per_step = 2 * config.batch * config.accumulate
            time_left = duration(self.seconds_left(step))
            self.note(
                f"takes     about {time_left} for {config.steps - step} more steps of {per_step} images"
            )

    def seconds_left(self, step: int) -> float:
        """Time that the rest takes at the speed so far."""
        passed = time.monotonic() - self._began
        return passed / max(1, step - self._timed_from) * (self._config.steps - step)

    def say(self, row: dict[str, Any], stage: Stage | None) -> None:
        """Shows the losses, the speed and the time left of one print."""
        losses = " ".join(f"{name} {value:.4g}" for name, value in row["losses"].items())
        losses += "".join(f"  {name} {value:.4g}" for name, value in row.get("validation", {}).items())
        if stage is not None:
            end = f"/{stage.end}" if stage.end is not None else ""
            losses = f"stage {stage.name} {row['step']}{end}  {losses}"
        speed = f"{row['pictures_per_s']:.1f} images/s"
        if self._live is not None:
            self._bar.update(self._task, speed=speed)
            self._losses.plain = losses
        else:
            left = f"{duration(row['seconds_left'])} left"
            self._console.print(
                f"step {row['step']}/{self._config.steps}  {speed}  {left}  {losses}",
                highlight=False,
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Prints one line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, sentences: Sequence[str]) -> None:
        """Prints sentences; of those that begin alike, up to a colon, the first alone."""
        for sentence in sentences:
            if (beginning := sentence.partition(":")[0]) not in self._told:
                self._told.add(beginning)
                self.note(sentence)

    def close(self) -> None:
        """Leaves the bar on the screen as it stands."""
        if self._live is not None:
            self._live.stop()


class Speed:
    """Images per second between two readings."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._images = 0

    def add(self, images: int) -> None:
        """Counts images that went through a step."""
        self._images += images

    def read(self) -> float:
        """Images per second since the last reading."""
        now = time.monotonic()
        rate = self._images / max(now - self._since, 1e-9)
        self._since, self._images = now, 0
        return rate
