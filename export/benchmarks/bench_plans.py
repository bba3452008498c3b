"""The table of plans by method and architecture: launches, megabytes, size and build time, without a GPU.

    python export/benchmarks/bench_plans.py --out export/benchmarks/plans.jsonl
    python export/benchmarks/bench_plans.py --table export/benchmarks/plans.jsonl

Each method's generator gets random weights (structure does not depend on them), is exported, turned to half
precision and built by TensorRT for RTX. Builds are timed in seconds of the wall and of the processor, because
the machine may be busy with other things; the plugin forms are counted by `i2i_export.plan.plugin_cost`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from i2i_export.enginefile import EngineFile, read_engine, write_engine
from i2i_export.frames import fit_all, read_frames
from i2i_export.parity import ParityError
from i2i_export.plan.builder import BuildBar, FrameProfile, PlanBuilder
from i2i_export.plan.candidates import plan_from_onnx
from i2i_export.plan.plugin_cost import structure_with_plugins
from i2i_export.plan.structure import structure_from_plan
from i2i_export.plugins.lowering import network_with_plugins
from i2i_export.precision.half import half_from_engine
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_runtime.engines.tensorrt.api import load_tensorrt
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX, read_manifest
from i2i_runtime.errors import I2IError
from i2i_runtime.metadata import Provenance, SizePolicy
from i2i_trainer.methods import METHODS

_UNTRANSLATING = ("unit-digits", "distill")
"""Methods without a generator of their own for images of free size."""


@dataclass(frozen=True)
class Options:
    """Build plans of every method and store a row for each, or print the stored rows as a table."""

    out: Path = Path("export/benchmarks/plans.jsonl")
    """Rows are appended here."""
    methods: tuple[str, ...] = tuple(name for name in METHODS if name not in _UNTRANSLATING)
    architectures: tuple[str, ...] = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
    size: int = 256
    """Height and width, where the method does not fix its own."""
    table: Path | None = None
    """Print these rows as Markdown and do nothing else."""


def engine_of(method: str, size: int) -> EngineFile:
    """A half-precision engine of the method's first direction with random weights."""
    entry = METHODS[method]
    torch.manual_seed(0)
    network = entry.method(entry.config())
    inference = network.inference(network.directions()[0])
    height, width = inference.fixed_size or (size, size)
    origin = Origin(method, method, "source -> target", Provenance())
    engine = engine_from_inference(inference, SizePolicy.fixed(height, width), origin)
    spec = engine.metadata.style
    style = None if spec is None else np.asarray([spec.default], np.float32)
    try:
        return half_from_engine(engine, fit_all(read_frames(None, 1), [(height, width)]), style)[0]
    except ParityError as error:
        print(f"{method} stays fp32: {error}", file=sys.stderr)
        return engine


def rows_of(method: str, options: Options, folder: Path) -> list[dict[str, object]]:
    """One row per architecture; the plugin forms are counted for the first."""
    path = folder / f"{method}.onnx"
    write_engine(engine_of(method, options.size), path)
    rows = []
    for index, architecture in enumerate(options.architectures):
        start, cpu = time.perf_counter(), time.process_time()
        plan = plan_from_onnx(path, target="tensorrt-rtx", arch=architecture)
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        metadata, manifest = read_manifest(plan)
        row: dict[str, object] = {
            "method": method,
            "architecture": architecture,
            "size": f"{metadata.size.max_width}x{metadata.size.max_height}",
            "precision": metadata.precision,
            "giga_macs": round(metadata.macs / 1e9, 2),
            "forms": {form.form: [form.launches, form.megabytes] for form in manifest.candidates},
            "kept": next(form.form for form in manifest.candidates if form.kept),
            "rewrites": list(manifest.rewrites),
            "plan_megabytes": round(plan.stat().st_size / 1e6, 2),
            "command_wall_s": round(wall_s, 2),
            "command_cpu_s": round(cpu_s, 2),
            "last_build_s": manifest.build_s,
            "tensorrt": manifest.tensorrt_version,
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        }
        if index == 0:
            row["plugin_forms"] = plugin_forms(path, architecture)
        rows.append(row)
    return rows


def plugin_forms(path: Path, architecture: str) -> dict[str, list[float]]:
    """Launches and megabytes with our kernels, counted."""
    trt = load_tensorrt(TENSORRT_RTX)
    builder = PlanBuilder(trt, TENSORRT_RTX, (architecture,), timing_cache=None, bar=BuildBar(None))
    fixed = FrameProfile((1, 1), (1, 1), (1, 1))
    counted = {}
    for name, convolutions in (("plugins", False), ("convolution plugins", True)):
        network = network_with_plugins(read_engine(path).to_proto(), convolutions=convolutions)
        if network is None:
            continue
        structure = structure_with_plugins(
            network,
            lambda model: structure_from_plan(
                builder.build(model, fixed, origin=str(path), channels_last=True)
            ),
        )
        if structure is not None:
            counted[name] = [structure.launch_count, round(structure.megabytes, 2)]
    return counted


def table_of(rows: list[dict[str, object]]) -> str:
    """Markdown: one line per method from its newest rows, the cells for sm_89, the time over all architectures."""
    lines = [
        "| method | size | GMAC | plain | rewritten | with plugins | with convolution plugins | plan MB | "
        "command, CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    newest = {(str(row["method"]), str(row["architecture"])): row for row in rows}
    for method in sorted({method for method, _ in newest}):
        mine = [row for (name, _), row in newest.items() if name == method]
        first = newest[method, "sm_89"]
        counted = next((row["plugin_forms"] for row in mine if "plugin_forms" in row), {})
        forms, plugins = dict(first["forms"]), dict(counted)  # type: ignore[call-overload]
        cells = [forms.get("plain"), forms.get("rewritten"), plugins.get("plugins")]
        cells.append(plugins.get("convolution plugins"))
        spent = [float(str(row["command_cpu_s"])) for row in mine]
        lines.append(
            f"| {method} | {first['size']} {first['precision']} | {first['giga_macs']} | "
            + " | ".join(f"{cell[0]}, {cell[1]:.0f} MB" if cell else "-" for cell in cells)
            + f" | {first['plan_megabytes']} | {min(spent):.1f} to {max(spent):.1f} ({len(mine)} architectures) |"
        )
    return "\n".join(lines)


def main() -> int:
    options = tyro.cli(Options, prog="bench_plans.py")
    if options.table is not None:
        print(table_of([json.loads(line) for line in options.table.read_text().splitlines()]))
        return 0
    failed = 0
    for method in options.methods:
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows = rows_of(method, options, Path(folder))
            except I2IError as error:
                print(f"{method}: {error}", file=sys.stderr)
                failed += 1
                continue
        with options.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{method}: {len(rows)} plans", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
