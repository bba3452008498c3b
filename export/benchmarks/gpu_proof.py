"""Everything that only a GPU can prove, in one command: `make gpu-proof`.

Numerics and gradients on the device, every kernel at its shapes against eager torch, torch.compile and the copy
bandwidth, whole generators in six ways, and training steps with and without our kernels. What the machine lacks is
left out with the reason. Rows go to `results.jsonl`, the table to the terminal. Exit status 1 where a numeric bound is
broken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import bench_colour
import bench_conv_norm
import bench_norm
import bench_pyramid
import torch
import tyro
from harness import HEADING, Bench, BenchCommand, Call, RedGateError, Row, line, run, run_ungated
from torch import Tensor, nn

TRAINED = ("cyclegan", "unit")


def main() -> int:
    options = tyro.cli(BenchCommand, description=__doc__)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "--device cuda was asked for and torch finds no CUDA device here: install its driver, or leave it out."
        )
        return 1
    rows: list[Row] = []
    skipped: list[str] = []
    red = 0 if device.type == "cuda" else _numerics_in_the_interpreter()
    if device.type != "cuda":
        print(
            "\nNo GPU is at hand: kernels, generators and training steps are not timed, nothing is said about speed."
        )
        return red
    print(HEADING)
    for benches in (bench_norm.benches, bench_pyramid.benches, bench_colour.benches, bench_conv_norm.benches):
        made, complaint = _gated(benches(options), device, options.out)
        rows += made
        red |= complaint is not None
        skipped += [complaint] if complaint else []
    try:
        rows += run_ungated(generator_benches(device) + training_benches(device), device, options.out)
    except ImportError as error:
        skipped.append(f"generators and training steps: {error}")
    print("\n".join(["", HEADING, *map(line, rows), "", *(f"left out: {reason}" for reason in skipped)]))
    return red


def _gated(benches: list[Bench], device: torch.device, out: Path) -> tuple[list[Row], str | None]:
    try:
        return run(benches, device, out), None
    except RedGateError as error:
        return [], str(error)


def _numerics_in_the_interpreter() -> int:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, "-m", "i2i_kernels.numerics"], check=False, env=environment
    ).returncode


def generator_benches(device: torch.device) -> list[Bench]:
    """Each generator at each size: eager, compiled, ours, ours ahead of time, TensorRT; half precision, NHWC."""
    from networks import GENERATORS, SIZES

    ways: dict[str, Callable[[str, tuple[int, int], torch.device], Call]] = {
        "eager channels-last": partial(_in_torch, ours=False, mode=None),
        "torch.compile": partial(_in_torch, ours=False, mode="default"),
        "torch.compile max-autotune": partial(_in_torch, ours=False, mode="max-autotune-no-cudagraphs"),
        "our kernels": partial(_in_torch, ours=True, mode=None),
        "our kernels, AOTInductor": _ahead_of_time,
        "TensorRT": _in_tensorrt,
    }
    return [
        Bench(f"generator {method}", way, size, "float16", partial(make, method, pixels, device))
        for method in GENERATORS
        for size, pixels in SIZES.items()
        for way, make in ways.items()
    ]


def training_benches(device: torch.device) -> list[Bench]:
    """A training step at 256, batch 1: as the trainer runs it, and with our kernels; float32 and bfloat16."""
    from networks import training_step

    from i2i_trainer.methods import METHODS

    return [
        Bench(
            f"training step {method}",
            "our kernels" if ours else "eager",
            "256",
            "bfloat16" if autocast else "float32",
            partial(
                training_step,
                method,
                METHODS[method].config(image_size=256),
                device,
                ours=ours,
                autocast=autocast,
            ),
            capture=False,
        )
        for method in TRAINED
        for autocast in (False, True)
        for ours in (False, True)
    ]


def _half(method: str, pixels: tuple[int, int], device: torch.device, ours: bool) -> tuple[nn.Module, Tensor]:
    from networks import fused, generator, to_channels_last

    network = generator(method)
    network = fused(network) if ours else network
    network = network.to(device, torch.float16)
    to_channels_last(network)
    image = torch.rand(1, 3, *pixels, device=device, dtype=torch.float16) * 2 - 1
    return network, image.contiguous(memory_format=torch.channels_last)


def _in_torch(
    method: str, pixels: tuple[int, int], device: torch.device, *, ours: bool, mode: str | None
) -> Call:
    network, image = _half(method, pixels, device, ours)
    called = network if mode is None else torch.compile(network, mode=mode, dynamic=False)

    def call() -> object:
        with torch.no_grad():
            return called(image)

    return call


def _ahead_of_time(method: str, pixels: tuple[int, int], device: torch.device) -> Call:
    network, image = _half(method, pixels, device, ours=True)
    with torch.no_grad():
        program = torch.export.export(network, (image,))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "generator.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
        loaded = torch._inductor.aoti_load_package(path)
    return lambda: loaded(image)


def _in_tensorrt(method: str, pixels: tuple[int, int], device: torch.device) -> Call:
    import tensorrt as trt

    network, image = _half(method, pixels, device, ours=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "generator.onnx"
        torch.onnx.export(network, (image,), str(path), dynamo=True, input_names=["source"], verbose=False)
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        # Strong typing is a flag up to TensorRT 10 and the only mode from 11 on.
        flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        definition = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = trt.OnnxParser(definition, logger)
        if not parser.parse_from_file(str(path)):
            raise RuntimeError(f"TensorRT does not parse the generator: {parser.get_error(0)}")
        plan = builder.build_serialized_network(definition, builder.create_builder_config())
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    source = image.contiguous()
    translated = torch.empty_like(source)
    addresses = {"source": source, definition.get_output(0).name: translated}
    for name, tensor in addresses.items():
        context.set_tensor_address(name, tensor.data_ptr())

    def call() -> object:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError("TensorRT did not run the generator")
        return translated

    return call


if __name__ == "__main__":
    sys.exit(main())
