"""The rows of the proof on a GPU, written one by one, and what a stage's process knows."""

from __future__ import annotations

import fcntl
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

ROWS = "gpu_proof.jsonl"

Status = Literal["passed", "failed", "measured", "left out"]


@dataclass(frozen=True)
class ProofRow:
    """One line of `gpu_proof.jsonl`."""

    stage: str
    what: str
    status: Status
    detail: str = ""
    measurement: dict[str, Any] = field(default_factory=dict)
    """The fields of the harness's `Row`: times, bandwidth, clocks, device, versions, commit."""
    at_s: float = 0.0
    """Seconds since the proof began."""


@dataclass(frozen=True)
class Proof:
    """What a stage's process knows."""

    stage: str
    part: str
    out: Path
    began: float
    """On the clock of `time.time`."""
    rehearse: bool

    @property
    def device(self) -> Any:
        import torch

        return torch.device("cpu" if self.rehearse else "cuda")

    def row(self, what: str, status: Status, detail: str = "", measurement: Any = None) -> None:
        """Appends a row at once: a process that is killed later has lost nothing."""
        made = {} if measurement is None else asdict(measurement)
        at_s = round(time.time() - self.began, 1)
        text = json.dumps(asdict(ProofRow(self.stage, what, status, detail[:600], made, at_s)))
        with (self.out / ROWS).open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(f"{at_s:6.1f} s  {self.stage}: {what}: {status} {detail[:200]}", flush=True)

    def time(self, bench: Any, *, repeats: int = 50, warm_up_s: float = 0.5) -> None:
        """Measures while no other process of the proof does; an exception of the bench is a row."""
        from harness import timed_row

        if self.rehearse:
            bench = replace(bench, inputs=0)
        what = f"{bench.op} {bench.impl} {bench.shape} {bench.dtype}"
        try:
            with (self.out / ".measuring").open("w") as lock:
                bench.make()()  # what compiles does so before it takes the others' turn
                fcntl.flock(lock, fcntl.LOCK_EX)
                measured = timed_row(bench, self.device, 2 if self.rehearse else repeats, warm_up_s)
        except Exception as error:
            self.row(what, "failed", first_line(error))
            return
        share = "" if measured.copy_share is None else f", {measured.copy_share:.0%} of a copy"
        self.row(what, "measured", f"{measured.median_ms:.4f} ms{share}", measured)


def first_line(error: BaseException) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else ''}"
