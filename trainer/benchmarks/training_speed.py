"""Images per second and peak memory of training, through our loop and through a plain one.

    python trainer/benchmarks/training_speed.py --device cpu --size 64

The plain loop is what people write first: a torch DataLoader that decodes with PIL, float32, NCHW, `loss.item()` every
step; its networks and steps are the same. Both run in turn in processes of their own, `rounds` times; a row of
`training_speed.jsonl` holds every round, and the medians.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from i2i_trainer.config import Precision, TrainConfig
from i2i_trainer.method import Batch, Losses, Method, Update
from i2i_trainer.methods import METHODS, Entry
from i2i_trainer.scenes import render, scene_from_seed

ROWS = Path(__file__).with_name("training_speed.jsonl")
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measure the speed of training, side by side with a plain loop."""

    methods: tuple[str, ...] = ("unit", "cyclegan", "munit")
    size: int = 64
    """Side of the training crop; the images in the folder are 4:3 and half again as high."""
    batch: int = 1
    steps: int = 20
    """Measured steps of a round, after three to warm up."""
    rounds: int = 3
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "32"
    """Precision of our loop; the plain one is always float32."""
    preset: str = ""
    """Preset of the methods; empty measures the published networks."""
    threads: int = 1
    """Processor threads of torch."""


def main(options: Options) -> None:
    console = Console()
    title = f"{options.size}x{options.size}, {options.device}"
    table = Table("method", "loop", "images/s", "images/processor s", "peak memory", title=title)
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder), options.size)
        for name in options.methods:
            rounds: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
            for _ in range(options.rounds):
                for loop, results in rounds.items():
                    results.append(_in_own_process(loop, name, Path(folder), options))
            row = _row(name, options, rounds)
            with ROWS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            for loop in rounds:
                figures = row[loop]
                speeds = (f"{figures[key]:.2f}" for key in ("pictures_per_s", "pictures_per_processor_s"))
                table.add_row(name, loop, *speeds, f"{figures['peak_mb']:.0f} MB")
    console.print(table)


def _row(name: str, options: Options, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    medians = {
        loop: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for loop, results in rounds.items()
    }
    git = ["git", "-C", str(ROWS.parent), "rev-parse", "--short", "HEAD"]
    return {
        "method": name,
        "options": {key: value for key, value in vars(options).items() if key != "methods"},
        **medians,
        "ratio": medians["ours"]["pictures_per_s"] / medians["plain"]["pictures_per_s"],
        "ratio_processor": medians["ours"]["pictures_per_processor_s"]
        / medians["plain"]["pictures_per_processor_s"],
        "rounds": rounds,
        "command": "python trainer/benchmarks/training_speed.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        "machine": _device_name(options.device),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _write_images(folder: Path, size: int) -> None:
    shape = (size * 3 // 2, size * 2)
    for domain, night in (("trainA", False), ("trainB", True)):
        (folder / domain).mkdir()
        for seed in range(16):
            image = render(scene_from_seed(seed + 100 * night), shape, night)
            Image.fromarray(image).save(folder / domain / f"{seed}.jpg", quality=92)


def _in_own_process(loop: str, name: str, folder: Path, options: Options) -> dict[str, float]:
    task = json.dumps({"loop": loop, "name": name, "folder": str(folder), "options": vars(options)})
    command = [sys.executable, __file__, "--measure", task]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{loop} loop of {name} failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(task: dict[str, Any]) -> dict[str, float]:
    """One round in this process: images per second of the measured steps, and the peak memory in MB."""
    options = Options(**{**task["options"], "methods": tuple(task["options"]["methods"])})
    torch.set_num_threads(options.threads)
    entry = METHODS[task["name"]]
    preset = entry.config.presets[options.preset] if options.preset else {}
    config = replace(
        entry.config(),
        **{
            **preset,
            "data": Path(task["folder"]),
            "image_size": options.size,
            "load_size": options.size + options.size // 8,
            "batch": options.batch,
            "steps": WARM_UP + options.steps,
            "device": options.device,
            "sample_every": 10**9,
            "checkpoint_every": 10**9,
        },
    )
    spent = _ours(task["name"], config, options) if task["loop"] == "ours" else _plain(task["name"], config)
    images = 2 * options.batch * options.steps
    peak = (
        torch.cuda.max_memory_allocated() / 1e6
        if options.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    )
    return {
        "pictures_per_s": images / spent.seconds,
        "pictures_per_processor_s": images / spent.processor_s,
        "peak_mb": peak,
    }


class Spent(NamedTuple):
    """Time of the measured steps on the clock, and on this process's processors (loader processes not counted)."""

    seconds: float
    processor_s: float


def timed(method: type[Method], steps: int, spent: list[Spent]) -> type[Method]:
    """The method with a clock from its first step after the warm-up to the end of its last, loading and all."""

    class Timed(method):  # type: ignore[valid-type,misc]
        def __init__(self, config: TrainConfig) -> None:
            super().__init__(config)
            self.steps_done = 0
            self.started = (0.0, 0.0)

        def step(self, batch: Batch, update: Update) -> Losses:
            if self.steps_done == WARM_UP:
                self.started = _now()
            losses: Losses = super().step(batch, update)
            self.steps_done += 1
            if self.steps_done == steps:
                clock, processor = _now()
                spent.append(Spent(clock - self.started[0], processor - self.started[1]))
            return losses

    return Timed


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic(), time.process_time()


def _ours(name: str, config: TrainConfig, options: Options) -> Spent:
    from i2i_trainer.loop import train

    spent: list[Spent] = []
    METHODS["timed"] = Entry(METHODS[name].config, timed(METHODS[name].method, config.steps, spent))
    with tempfile.TemporaryDirectory() as out:
        train("timed", replace(config, out=Path(out) / "run", precision=options.precision))
    return spent[0]


class _Folder(torch.utils.data.Dataset[Tensor]):
    """A folder of images, decoded, resized, cropped and mirrored with PIL every time."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        self.paths = sorted(folder.iterdir())
        self.config = config

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.paths[index]).convert("RGB")
        factor = self.config.load_size / min(image.size)
        width, height = (round(side * factor) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        side = self.config.image_size
        left, top = (int(torch.randint(space - side + 1, ())) for space in (width, height))
        image = image.crop((left, top, left + side, top + side))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


def _endless(folder: Path, config: TrainConfig) -> Iterator[Tensor]:
    loader = torch.utils.data.DataLoader(
        _Folder(folder, config), config.batch, shuffle=True, num_workers=config.workers, drop_last=True
    )
    while True:
        yield from loader


class _PlainUpdate:
    """Backward and a step of the optimiser, as people write it."""

    last_micro_batch = True

    def __init__(self, method: Method) -> None:
        self.step = 0
        self._method = method
        self._optimisers = method.optimisers()

    def __call__(
        self, optimiser: str, loss: Tensor, *, retain_graph: bool = False, clip_norm: float = 0.0
    ) -> None:
        self._method.zero_grad()
        loss.backward(retain_graph=retain_graph)  # type: ignore[no-untyped-call]
        self._optimisers[optimiser].step()


def _plain(name: str, config: TrainConfig) -> Spent:
    torch.manual_seed(config.seed)
    spent: list[Spent] = []
    method = timed(METHODS[name].method, config.steps, spent)(config).to(config.device)
    update = _PlainUpdate(method)

    pairs = zip(
        _endless(config.data / "trainA", config), _endless(config.data / "trainB", config), strict=False
    )
    while not spent:
        a, b = next(pairs)
        losses = method.step(Batch(a.to(config.device), b.to(config.device)), update)
        update.step += 1
        printed = {key: value.item() for key, value in losses.items()}
        assert printed
    return spent[0]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(json.loads(sys.argv[2]))))
    else:
        main(tyro.cli(Options, description=Options.__doc__))
