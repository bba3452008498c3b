"""Work on one form in a process of its own: a crash, a hang or a broken GPU context costs that form alone.

`build_in_child` compiles our kernels, registers them as plugins and builds the plan; `translate_in_child` runs a plan
on frames. The child is `python -m i2i_export.plan.child VERB FOLDER`; the folder holds the job and gets the result.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from i2i_export.enginefile import default_style
from i2i_export.errors import ExportError
from i2i_export.plan.builder import BuildBar, FrameProfile, PlanBuilder
from i2i_export.plan.forms import PluginKind, plugin_networks
from i2i_export.plugins.register import compile_kernels, plugin_records, register_plugins
from i2i_runtime.engines.tensorrt.api import load_tensorrt
from i2i_runtime.engines.tensorrt.engine import open_built_plan
from i2i_runtime.engines.tensorrt.manifest import PluginRecord
from i2i_runtime.errors import I2IError
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata
from i2i_runtime.processes import module_command

_SILENCE_S = 300.0
"""After this many seconds without an answer, two frames will never come."""

_NETWORK, _JOB, _PLAN, _PLUGINS, _ERROR = "network.onnx", "job.json", "plan", "plugins.json", "error.txt"
_FRAMES, _TRANSLATED = "frames.npz", "translated.npz"


@dataclass(frozen=True)
class PluginBuild:
    """How a form with plugins is built; sizes are (height, width)."""

    target: str
    architecture: str
    kind: PluginKind
    smallest: tuple[int, int]
    usual: tuple[int, int]
    largest: tuple[int, int]
    kernel_pack: str | None
    timing_cache: str | None
    origin: str


def build_in_child(model: onnx.ModelProto, job: PluginBuild) -> tuple[bytes, tuple[PluginRecord, ...]]:
    """The plan of a network with our kernels, and what they are. Raises ExportError, also if the process dies."""
    with tempfile.TemporaryDirectory(prefix="i2i-export-") as name:
        folder = Path(name)
        (folder / _NETWORK).write_bytes(model.SerializeToString())
        (folder / _JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
        _run("build", folder, None)
        records = json.loads((folder / _PLUGINS).read_text(encoding="utf-8"))
        return (folder / _PLAN).read_bytes(), tuple(PluginRecord(**record) for record in records)


def translate_in_child(
    target: str, plan: bytes, metadata: EngineMetadata, frames: Sequence[Image]
) -> list[Image]:
    """What a plan makes of frames `[H, W, 3] uint8`, one after the other. Raises ExportError."""
    with tempfile.TemporaryDirectory(prefix="i2i-export-") as name:
        folder = Path(name)
        (folder / _PLAN).write_bytes(plan)
        (folder / _JOB).write_text(
            json.dumps({"target": target, "metadata": metadata.to_json()}), encoding="utf-8"
        )
        np.savez(folder / _FRAMES, *frames)
        _run("translate", folder, _SILENCE_S)
        with np.load(folder / _TRANSLATED) as translated:
            return [translated[key] for key in translated.files]


def _run(verb: str, folder: Path, limit_s: float | None) -> None:
    command = module_command("i2i_export.plan.child", verb, str(folder))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"its process did not respond for {limit_s:.0f} s") from error
    if done.returncode == 0:
        return
    if (folder / _ERROR).exists():
        raise ExportError((folder / _ERROR).read_text(encoding="utf-8"))
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    raise ExportError(f"its process ended by {_cause(done.returncode)} ({last[:200]})")


def _cause(returncode: int) -> str:
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def main(arguments: Sequence[str]) -> int:
    verb, folder = arguments[0], Path(arguments[1])
    try:
        if verb == "build":
            _build(folder)
        else:
            _translate(folder)
    except I2IError as error:
        (folder / _ERROR).write_text(str(error), encoding="utf-8")
        return error.exit_code
    return 0


def _build(folder: Path) -> None:
    job = PluginBuild(**json.loads((folder / _JOB).read_text(encoding="utf-8")))
    profile = FrameProfile(*(_pair(size) for size in (job.smallest, job.usual, job.largest)))
    network = plugin_networks(onnx.load(str(folder / _NETWORK)))[job.kind]
    kernels = compile_kernels(network, job.architecture, Path(job.kernel_pack) if job.kernel_pack else None)
    register_plugins(network, kernels)
    with BuildBar(None) as bar:
        builder = PlanBuilder(
            load_tensorrt(job.target),
            job.target,
            (job.architecture,),
            timing_cache=Path(job.timing_cache) if job.timing_cache else None,
            bar=bar,
        )
        plan = builder.build(network.model, profile, origin=job.origin)
    (folder / _PLAN).write_bytes(plan)
    records = [asdict(record) for record in plugin_records(kernels)]
    (folder / _PLUGINS).write_text(json.dumps(records), encoding="utf-8")


def _pair(size: Sequence[int]) -> tuple[int, int]:
    height, width = size
    return height, width


def _translate(folder: Path) -> None:
    job = json.loads((folder / _JOB).read_text(encoding="utf-8"))
    metadata = EngineMetadata.from_json(job["metadata"], origin="the plan just built")
    with np.load(folder / _FRAMES) as given:
        frames = [given[key] for key in given.files]
    engine = open_built_plan(
        load_tensorrt(job["target"]), job["target"], (folder / _PLAN).read_bytes(), metadata
    )
    try:
        style = default_style(metadata)
        np.savez(folder / _TRANSLATED, *(engine.infer(frame, style) for frame in frames))
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
