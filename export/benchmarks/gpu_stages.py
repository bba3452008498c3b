"""The stages of the proof on a GPU, each run in a process of its own by gpu_proof.py.

`proof.rehearse` runs the same code without a GPU, at tiny sizes. Heavy libraries are imported by the stages that use
them, so that one that is missing costs one stage.
"""

from __future__ import annotations

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proof_rows import Proof, first_line

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("gpu_proof.py")


def numerics(proof: Proof) -> None:
    """Every case of one op against float64, and maps of video frames."""
    import torch

    from i2i_kernels.numerics import broken, cases, frame_cases

    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty returns with NaN
    small = proof.rehearse or os.environ.get("GPU_PROOF_SMALL") == "1"
    chosen = [case for case in cases() + ([] if small else frame_cases()) if case.op == proof.part]
    for case in chosen[:1] if proof.rehearse else chosen:
        try:
            errors = case.run(proof.device)
        except Exception as error:
            proof.row(case.name, "failed", first_line(error))
            continue
        complaints = broken(case, errors)
        said = "; ".join(complaints) or ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
        proof.row(case.name, "failed" if complaints else "passed", said)


def pack(proof: Proof) -> None:
    """The norm kernels of the pack, as text and as machine code, launched by the driver as TensorRT does."""
    import torch
    from packed_norm import PackedNorm

    from i2i_kernels.compile import build_pack, read_entry
    from i2i_kernels.pack.entries import default_entries

    arch = 90 if proof.rehearse else _architecture()
    entries = [(op, variant) for op, variant in default_entries() if op.startswith("norm_")]
    entries = entries[:1] if proof.rehearse else entries
    folder = proof.out / "pack"
    build_pack(folder, entries, [arch])
    sizes = ((1, 256, 64, 64), (2, 80, 45, 67), (1, 64, 256, 256))
    if proof.rehearse:
        from ptx_launcher import launch_on_interpreter as launch

        forms, sizes = ("ptx",), ((1, 32, 9, 7),)
    else:
        from driver_launcher import launch_on_driver as launch

        forms = ("ptx", "cubin")
    for op, variant in entries:
        kernel = read_entry(folder, op, variant, arch)
        for n, c, h, w in sizes:
            size = {"N": n, "C": c, "H": h, "W": w}
            if op == "norm_slab" and h * w > variant.slab_tile:
                continue
            norm = PackedNorm(kernel, size, proof.device)
            for form in forms:
                what = f"{op} {variant.label()} {h}x{w}x{c} {form}"
                try:
                    error, bound = norm.error(launch(kernel, norm.given, size, form))
                except Exception as failure:
                    proof.row(what, "failed", first_line(failure))
                    continue
                proof.row(what, "passed" if error <= bound else "failed", f"{error:.1e} of {bound:.1e}")
    if not proof.rehearse:
        torch.cuda.synchronize()


def _architecture() -> int:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def slots(proof: Proof) -> None:
    """500 frames of three sizes through two threads, fixed and dynamic plans, opened again, the lock free meanwhile."""
    if importlib.util.find_spec("tensorrt") is None:
        import ptx_tensorrt

        sys.modules["tensorrt"] = ptx_tensorrt
    import numpy as np
    import tensorrt as trt

    from i2i_runtime.engines.tensorrt.cuda import find_device_facts
    from i2i_runtime.engines.tensorrt.engine import open_tensorrt
    from i2i_runtime.engines.tensorrt.manifest import PlanManifest, sha256_of, sidecar_path
    from i2i_runtime.metadata import EngineMetadata, SizePolicy

    facts = find_device_facts()
    if facts is None:
        proof.row("device", "failed", "neither cuda-python nor PyCUDA opens the GPU")
        return
    proof.row("device", "passed", f"{facts.name}, {facts.architecture}, driver {facts.driver}")
    sizes = ((32, 48), (16, 16)) if proof.rehearse else ((256, 256), (720, 1280), (512, 768))
    policies = {"fixed": SizePolicy.fixed(*sizes[0]), "dynamic": SizePolicy(8, 8, 2048, 8, 2048)}
    for name, policy in policies.items():
        content = b"vtrt frame translated"
        path = proof.out / f"{name}.plan"
        path.write_bytes(content)
        manifest = PlanManifest(
            flavour="tensorrt",
            tensorrt_version=trt.__version__,
            architectures=(facts.architecture,),
            onnx_file="negative.onnx",
            onnx_sha256=sha256_of(b"none"),
            plan_sha256=sha256_of(content),
            gpu=facts.name,
            driver=facts.driver,
        )
        described = EngineMetadata("negative", "cyclegan", "a -> b", policy, precision="fp16")
        sidecar_path(path).write_text(manifest.to_json(described), encoding="utf-8")
        used = sizes[:1] if name == "fixed" else sizes
        for turn in ("opened", "opened again"):
            engine = open_tensorrt(path, slots=2)
            wrong: list[int] = []

            def work(first: int, engine: Any = engine, used: Any = used, wrong: list[int] = wrong) -> None:
                rng = np.random.default_rng(first)
                for number in range(8 if proof.rehearse else 125):
                    frame = rng.integers(0, 256, (*used[number % len(used)], 3), dtype=np.uint8)
                    if not np.array_equal(engine.infer(frame), 255 - frame):
                        wrong.append(number)

            ticks, done = [0], threading.Event()
            began, cpu = time.monotonic(), time.process_time()
            threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1)]
            counter = threading.Thread(target=_count, args=(ticks, done))
            for thread in (*threads, counter):
                thread.start()
            for thread in threads:
                thread.join()
            done.set()
            counter.join()
            engine.close()
            took = time.monotonic() - began
            said = (
                f"{engine.reason}; {took:.2f} s, {time.process_time() - cpu:.2f} s of processor, "
                f"another thread ticked {ticks[0]} times"
            )
            proof.row(f"{name} {turn}", "failed" if wrong else "passed", f"{len(wrong)} wrong; {said}")


def _count(ticks: list[int], done: threading.Event) -> None:
    while not done.wait(0.001):
        ticks[0] += 1


def sweep(proof: Proof) -> None:
    """Statistics by splits and warps, apply by tiles and warps, coefficients and slab; counters of two maps."""
    from dataclasses import replace
    from functools import partial

    import torch
    from harness import Bench, channels_last

    from i2i_kernels.kind import Kind
    from i2i_kernels.launch import INTERPRETED
    from i2i_kernels.norm import kernel, norm
    from i2i_kernels.pack.policy import SLAB_PIXELS, channel_tile
    from i2i_kernels.pack.recipes import Variant, recipe

    device, kind = proof.device, Kind(activation="relu")
    maps = ((256, 64, 64), (256, 180, 320), (64, 256, 256), (64, 720, 1280))
    splits, tiles, warps = (32, 64, 128, 256, 512, 1024), (1, 2, 4, 8), (4, 8)
    dtype: Any = "float16"
    if proof.rehearse:
        maps, splits, tiles, warps, dtype = ((16, 8, 8),), (8,), (1,), (4,), "float32"
        assert INTERPRETED
    for c, h, w in maps:
        size = {"N": 1, "C": c, "H": h, "W": w}
        x_bytes = c * h * w * (4 if proof.rehearse else 2)
        block_c = channel_tile(1, c, h * w)
        plain = Variant(dtype, kind, block_c=block_c)
        moments = torch.zeros((1, 3, c), device=device)

        def statistics(
            plan: Any, count: int, num_warps: int, shape: Any = (c, h, w), size: Any = size
        ) -> Any:
            x = channels_last((1, *shape), dtype, device)

            def call() -> torch.Tensor:
                made = torch.empty((1, count, 2, shape[0]), device=device)
                launch = kernel.stats_kernel[plan.launch_grid(**size)]
                launch(x, shape[0], shape[1] * shape[2], made, **plan.constants, num_warps=num_warps)
                return made

            return call

        def applied(
            plan: Any, num_warps: int, shape: Any = (c, h, w), size: Any = size, moments: Any = moments
        ) -> Any:
            x = channels_last((1, *shape), dtype, device)

            def call() -> torch.Tensor:
                y = torch.empty_like(x)
                launch = kernel.apply_kernel[plan.launch_grid(**size)]
                launch(x, moments, None, None, None, *shape, y, **plan.constants, num_warps=num_warps)
                return y

            return call

        shape = f"{h}x{w}x{c}"
        for count in splits:
            for num_warps in warps:
                make = partial(
                    statistics, recipe("norm_stats", replace(plain, splits=count)), count, num_warps
                )
                title = f"splits {count}, warps {num_warps}"
                proof.time(Bench("stats", title, shape, dtype, make, x_bytes, inputs=x_bytes), warm_up_s=0.05)
        for count in tiles:
            for num_warps in warps:
                make = partial(
                    applied, recipe("norm_apply", replace(plain, splits=0, tiles=count)), num_warps
                )
                title = f"tiles {count}, warps {num_warps}"
                proof.time(
                    Bench("apply", title, shape, dtype, make, 2 * x_bytes, inputs=x_bytes), warm_up_s=0.05
                )
        impls = ("split", "slab") if h * w <= SLAB_PIXELS else ("split",)
        for impl in impls:
            make = partial(
                lambda impl, shape: partial(norm, channels_last((1, *shape), dtype, device), kind, impl=impl),
                impl,
                (c, h, w),
            )
            bench = Bench("norm", impl, shape, dtype, make, 2 * x_bytes, 3 * x_bytes, x_bytes)
            proof.time(bench, warm_up_s=0.05)
    _counters(proof)


COUNTERS = (
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "gpu__time_duration.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)


def _counters(proof: Proof) -> None:
    """The hardware's own count of bytes and occupancy, free of any error of the harness."""
    if proof.rehearse or shutil.which("ncu") is None:
        proof.row("counters", "left out", "ncu is not run here")
        return
    program = (
        "import torch; from i2i_kernels.norm import instance_norm\n"
        "for c, h, w in ((256, 180, 320), (64, 720, 1280)):\n"
        "    x = torch.randn(1, c, h, w, device='cuda', dtype=torch.float16)\n"
        "    x = x.contiguous(memory_format=torch.channels_last)\n"
        "    instance_norm(x, activation='relu', impl='split')\n"
    )
    command = [
        "ncu",
        "--clock-control",
        "none",
        "--csv",
        "--metrics",
        ",".join(COUNTERS),
        "-k",
        "regex:.*_kernel$",
    ]
    done = subprocess.run(
        [*command, sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    found = list(csv.DictReader(lines))
    if done.returncode or not found:
        proof.row(
            "counters", "left out", f"ncu ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
        )
    for one in found:
        named = [
            one.get(column, "") for column in ("Metric Name", "Metric Value", "Metric Unit", "Grid Size")
        ]
        said = " ".join(named)
        proof.row(f"counters {one.get('Kernel Name')}", "measured", said)


def generators(proof: Proof) -> None:
    """One generator at two sizes: eager with the library's fastest convolutions, ours, torch.compile."""
    from functools import partial

    import torch
    from harness import Bench

    torch.backends.cudnn.benchmark = True
    sizes = {"32x48": (32, 48)} if proof.rehearse else {"512": (512, 512), "720p": (720, 1280)}
    dtype = "float32" if proof.rehearse else "float16"

    def make(pixels: tuple[int, int], ours: bool, mode: str | None) -> Any:
        network, image = _network(proof, proof.part, pixels, ours)
        called = network if mode is None else torch.compile(network, mode=mode, dynamic=False)

        def call() -> object:
            with torch.no_grad():
                return called(image)

        return call

    ways: dict[str, tuple[bool, str | None]] = {
        "eager channels-last, in a graph": (False, None),
        "our kernels, in a graph": (True, None),
    }
    if not proof.rehearse:
        ways["torch.compile, in a graph"] = (False, "default")
    for size, pixels in sizes.items():
        for way, (ours, mode) in ways.items():
            bench = Bench(f"generator {proof.part}", way, size, dtype, partial(make, pixels, ours, mode))
            proof.time(bench, repeats=20)


def _network(proof: Proof, method: str, pixels: tuple[int, int], ours: bool) -> tuple[Any, Any]:
    import torch
    from networks import fused, generator, to_channels_last

    network = generator(method)
    network = fused(network) if ours else network
    dtype = torch.float32 if proof.rehearse else torch.float16
    network = network.to(proof.device, dtype)
    to_channels_last(network)
    image = torch.rand(1, 3, *pixels, device=proof.device, dtype=dtype) * 2 - 1
    return network, image.contiguous(memory_format=torch.channels_last)


def ahead_of_time(proof: Proof) -> None:
    """CycleGAN's generator packaged by AOTInductor: the only engine for a GPU that no TensorRT is at hand for."""
    if proof.rehearse:
        proof.row(
            "cyclegan 512",
            "left out",
            "AOTInductor traces into Triton's launches, which a processor cannot run",
        )
        return
    import torch
    from harness import Bench

    def make() -> Any:
        network, image = _network(proof, "cyclegan", (512, 512), ours=True)
        with torch.no_grad():
            program = torch.export.export(network, (image,))
        path = str(proof.out / "generator.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        loaded = torch._inductor.aoti_load_package(path)
        return lambda: loaded(image)

    call = make()
    proof.time(
        Bench("generator cyclegan", "our kernels, AOTInductor", "512", "float16", lambda: call), repeats=20
    )


def training(proof: Proof) -> None:
    """A step of CycleGAN and UNIT, as the trainer runs it and with our kernels, bfloat16."""
    from functools import partial

    from harness import Bench
    from networks import training_step

    from i2i_trainer.methods import METHODS
    from i2i_trainer.methods.unit import UNITConfig

    small = UNITConfig(image_size=64, width=4, blocks=2, disc_width=4, disc_layers=3)
    configs: dict[str, Any] = {"unit": small}
    if not proof.rehearse:
        configs = {method: METHODS[method].config(image_size=256) for method in ("cyclegan", "unit")}
    for method, config in configs.items():
        for ours in (False, True):
            make = partial(
                training_step, method, config, proof.device, ours=ours, autocast=not proof.rehearse
            )
            impl = "our kernels" if ours else "plain torch"
            dtype = "float32" if proof.rehearse else "bfloat16"
            shape = str(config.image_size)
            proof.time(Bench(f"training step {method}", impl, shape, dtype, make, capture=False), repeats=10)


def sanitizer(proof: Proof) -> None:
    """The norm and pyramid cases under compute-sanitizer: what no interpreter can see."""
    if proof.rehearse or shutil.which("compute-sanitizer") is None:
        proof.row(proof.part, "left out", "compute-sanitizer is not run here")
        return
    for op in ("pyramid", "norm"):
        with tempfile.TemporaryDirectory() as scratch:
            child = [sys.executable, str(PROGRAM), "--stage", "numerics", "--part", op, "--out", scratch]
            tool = ["compute-sanitizer", "--tool", proof.part, "--error-exitcode", "9"]
            environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "GPU_PROOF_SMALL": "1"}
            done = subprocess.run(
                [*tool, *child], capture_output=True, text=True, check=False, env=environment, timeout=120
            )
        said = (done.stdout + done.stderr).strip().splitlines()
        summary = next((line for line in reversed(said) if "SUMMARY" in line), said[-1] if said else "")
        proof.row(f"{proof.part} {op}", "failed" if done.returncode else "passed", summary)


def plans(proof: Proof) -> None:
    """The engine that ships as a plan of whatever TensorRT is installed, through the project's own code."""
    targets = {
        "tensorrt": "tensorrt",
        "tensorrt_rtx": "tensorrt-rtx",
        "tensorrt_rtx_bindings": "tensorrt-rtx",
    }
    found = {target for module, target in targets.items() if importlib.util.find_spec(module) is not None}
    if proof.rehearse or not found:
        proof.row("plans", "left out", "no TensorRT runs here")
        return
    from i2i_export.plan.candidates import plan_from_onnx
    from i2i_runtime.engines.tensorrt.manifest import read_manifest

    engine = ROOT / "runtime/i2i_runtime/models/day2night.onnx"
    for target in sorted(found):
        path: Any = plan_from_onnx(engine, proof.out, target=target, size=(720, 1280))  # type: ignore[arg-type]
        for one in read_manifest(path)[1].candidates:
            said = f"{one.latency_ms} ms, {'kept' if one.kept else 'not kept'} {one.note}"
            proof.row(f"{target} {one.form}", "measured", said)


RUN: dict[str, Callable[[Proof], None]] = {
    "numerics": numerics,
    "pack": pack,
    "slots": slots,
    "sweep": sweep,
    "generators": generators,
    "ahead-of-time": ahead_of_time,
    "training": training,
    "sanitizer": sanitizer,
    "plans": plans,
}
