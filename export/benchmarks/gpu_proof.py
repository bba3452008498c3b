"""Everything that only a GPU can prove, in one command that needs neither pip nor a network.

    make gpu-proof                        # or, on a copy of the tree, with what that machine's python3 has:
    PYTHONPATH=kernels:trainer:export:runtime python3 export/benchmarks/gpu_proof.py --out DIR --budget 480

Stages run one after the other in child processes with deadlines, most important first; whatever a stage raises is a
row, and so is a deadline that passed. Each row is appended to DIR/gpu_proof.jsonl when it is made. What a machine lacks
is left out with the reason. Exit status 1 if a row failed. `--rehearse` runs every stage on a machine without a GPU:
kernels in Triton's interpreter or the tests' PTX interpreter, tiny sizes, nothing said about speed.

The standard library alone is imported here: the machine may have torch and triton and little else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proof_rows import ROWS, Proof, first_line

ROOT = Path(__file__).resolve().parents[2]
PATHS = (
    "kernels",
    "trainer",
    "export",
    "runtime",
    "kernels/benchmarks",
    "trainer/benchmarks",
    "export/benchmarks",
)


@dataclass(frozen=True)
class Stage:
    name: str
    seconds: float
    """What it is expected to take, of a budget of 480; what earlier stages leave is added."""
    settles: str
    parts: tuple[str, ...] = ("",)
    """Run at the same time, each in a process of its own; what they time, they time one after the other."""


STAGES = (
    Stage("numerics", 45, "the kernels on silicon", ("norm", "pyramid", "colour", "conv_norm")),
    Stage(
        "pack", 40, "the pack's PTX and cubin with TensorRT's arguments, and nothing written beside outputs"
    ),
    Stage("slots", 30, "device layer, frame slots and graphs on a true driver"),
    Stage("sweep", 100, "the constants of pack/policy.py"),
    Stage("generators", 105, "whole networks: eager, compiled, ours", ("cyclegan", "realtime")),
    Stage("ahead-of-time", 60, "AOTInductor with our kernels inside"),
    Stage("training", 45, "training steps, eager and ours"),
    Stage("sanitizer", 45, "races and memory faults", ("memcheck", "racecheck")),
    Stage("plans", 10, "TensorRT plans, if it is installed"),
)


def run_stage(proof: Proof) -> int:
    """In the child: whatever the stage raises is a row."""
    sys.path[:0] = [str(ROOT / path) for path in PATHS]
    _stub_absent()
    try:
        from gpu_stages import RUN

        RUN[proof.stage](proof)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(where.filename).name}:{where.lineno}"
        proof.row(proof.part or "stage", "failed", f"{first_line(error)} ({place})")
        return 1
    return 0


def _stub_absent() -> None:
    """Libraries that the trainer imports and no stage uses: reading videos and options of commands."""
    for name in ("av", "tyro"):
        if importlib.util.find_spec(name) is None:
            stub = types.ModuleType(name)
            stub.__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
            sys.modules[name] = stub


def run_all(options: argparse.Namespace) -> int:
    """Every stage within the budget; what is left at the end is said."""
    options.out.mkdir(parents=True, exist_ok=True)
    began_wall, began = time.time(), time.monotonic()
    chosen = [stage for stage in STAGES if not options.only or stage.name in options.only.split(",")]
    scale = options.budget / sum(stage.seconds for stage in STAGES)
    for number, stage in enumerate(chosen):
        left = options.budget - (time.monotonic() - began)
        later = scale * sum(other.seconds for other in chosen[number + 1 :])
        allowed = max(left - later, min(left, scale * stage.seconds))
        proofs = [Proof(stage.name, part, options.out, began_wall, options.rehearse) for part in stage.parts]
        if allowed <= 0:
            proofs[0].row("stage", "left out", "the budget is used up")
            continue
        _run_children(proofs, options, allowed)
    rows = [json.loads(line) for line in (options.out / ROWS).read_text(encoding="utf-8").splitlines()]
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("passed", "measured", "left out")
    }
    failed = [row for row in rows if row["status"] == "failed"]
    print(f"\n{len(rows)} rows in {options.out / ROWS}: {counts}, failed: {len(failed)}")
    for row in failed:
        print(f"failed: {row['stage']}: {row['what']}: {row['detail']}")
    return 1 if failed else 0


def _run_children(proofs: Sequence[Proof], options: argparse.Namespace, allowed: float) -> None:
    deadline = time.monotonic() + allowed
    children = [(proof, _start(proof, options)) for proof in proofs]
    for proof, child in children:
        try:
            status = child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(child)
            proof.row(
                proof.part or "stage", "failed", f"not done after {allowed:.0f} s, its rows so far are kept"
            )
            continue
        if status < 0:
            proof.row(proof.part or "stage", "failed", f"its process died of {signal.Signals(-status).name}")


def _start(proof: Proof, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        __file__,
        "--stage",
        proof.stage,
        "--part",
        proof.part,
        "--out",
        str(proof.out),
    ]
    command += ["--began", str(proof.began)] + (["--rehearse"] if proof.rehearse else [])
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(
        [*(str(ROOT / p) for p in PATHS), environment.get("PYTHONPATH", "")]
    )
    # Without the switch, Triton 3.9 warns that contraction will be off by default.
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    if proof.rehearse and proof.stage in ("numerics", "sweep"):
        environment["TRITON_INTERPRET"] = "1"
    if proof.rehearse and proof.stage == "slots":
        environment |= json.loads(options.slots_environment)
    return subprocess.Popen(command, env=environment, start_new_session=True)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The child and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


@contextlib.contextmanager
def _stopped_with_us() -> Iterator[None]:
    """A SIGTERM to the proof ends it as Ctrl-C does, so that children do not outlive it."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> int:
    # argparse, because tyro is one of the libraries that the machine may lack.
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("gpu-proof"), help="folder of the rows and of what is built"
    )
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument(
        "--only", default="", help=f"stages, with commas: {', '.join(s.name for s in STAGES)}"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="run every stage without a GPU, at tiny sizes"
    )
    parser.add_argument("--slots-environment", default="{}", help=argparse.SUPPRESS)
    parser.add_argument("--stage", choices=[stage.name for stage in STAGES], help=argparse.SUPPRESS)
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        return run_stage(
            Proof(options.stage, options.part, options.out, options.began or time.time(), options.rehearse)
        )
    if not options.rehearse and shutil.which("nvidia-smi") is None:
        print(
            "There is no NVIDIA GPU here (no nvidia-smi): run this on a machine with one, or add --rehearse."
        )
        return 1
    with _stopped_with_us():
        return run_all(options)


if __name__ == "__main__":
    sys.exit(main())
