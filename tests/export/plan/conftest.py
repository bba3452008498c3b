"""Small networks as engine files, and a builder of TensorRT for RTX plans that needs no GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from i2i_export.plan.builder import BuildBar, FrameProfile, PlanBuilder
from i2i_export.plan.structure import PlanStructure, structure_from_plan
from i2i_runtime.engines.tensorrt.api import MODULES, load_tensorrt
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata, SizePolicy


class NetworkWriter:
    """Writes a network with random weights; every method returns the name of its result."""

    def __init__(self, dtype: type = np.float16, seed: int = 0) -> None:
        self.dtype = dtype
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(seed)

    def weight(self, array: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(array), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def __call__(self, op_type: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = f"{op_type}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [out or f"t_{name}"], name=name, **attributes))
        return out or f"t_{name}"

    def convolution(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, pad: int = 0
    ) -> str:
        weight = self._random.standard_normal((outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2)
        bias = self._random.standard_normal(outputs) * 0.1
        values = self.weight(weight.astype(self.dtype)), self.weight(bias.astype(self.dtype))
        return self("Conv", x, *values, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def transposed(self, x: str, inputs: int, outputs: int) -> str:
        weight = self._random.standard_normal((inputs, outputs, 3, 3)) / np.sqrt(inputs * 4)
        values = self.weight(weight.astype(self.dtype)), self.weight(np.zeros(outputs, self.dtype))
        return self(
            "ConvTranspose",
            x,
            *values,
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1] * 4,
            output_padding=[1, 1],
        )

    def cut(self, x: str, axis: int, start: int, stop: int) -> str:
        ends = [self.weight(np.array([value], np.int64)) for value in (start, stop, axis)]
        return self("Slice", x, *ends)

    def norm(self, x: str, channels: int, *, affine: bool = False) -> str:
        scale, bias = np.ones(channels), np.zeros(channels)
        if affine:
            scale, bias = self._random.standard_normal((2, channels))
        values = self.weight(scale.astype(self.dtype)), self.weight(bias.astype(self.dtype))
        return self("InstanceNormalization", x, *values, epsilon=1e-5)

    def mix(self, x: str, channels: int) -> str:
        """A share of instance norm and the rest of layer norm, written out in float32."""

        def centred(x: str, axes: list[int]) -> str:
            over = self.weight(np.array(axes, np.int64))
            gap = self("Sub", x, self("ReduceMean", x, over))
            spread = self("ReduceMean", self("Mul", gap, gap), over)
            safe = self("Add", spread, self.weight(np.asarray(1e-5, np.float32)))
            return self("Mul", gap, self("Reciprocal", self("Sqrt", safe)))

        wide = self("Cast", x, to=TensorProto.FLOAT)
        share = np.linspace(0, 1, channels, dtype=np.float32).reshape(-1, 1, 1)
        own = self("Mul", centred(wide, [2, 3]), self.weight(share))
        whole = self("Mul", centred(wide, [1, 2, 3]), self.weight(1 - share))
        return self("Cast", self("Add", own, whole), to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))

    def reflection(self, x: str, pad: int) -> str:
        return self("Pad", x, self.weight(np.array([0, 0, pad, pad] * 2, np.int64)), mode="reflect")

    def doubled(self, x: str) -> str:
        scales = self.weight(np.array([1, 1, 2, 2], np.float32))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self("Resize", x, "", scales, mode="nearest", **how)

    def engine(
        self,
        body: Callable[[NetworkWriter, str], str],
        height: int | str,
        width: int | str,
        *,
        float_end: bool = False,
    ) -> onnx.ModelProto:
        """Wraps a network on `[1, 3, H, W]` in [-1, 1] into the engine contract; a size may be a symbol.

        With `float_end` the image is written in float32, as half-precision engines do.
        """
        element = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))

        def number(value: float) -> str:
            return self.weight(np.asarray(value, self.dtype))

        x = self("Transpose", self("Cast", "frame", to=element), perm=[0, 3, 1, 2])
        x = self("Sub", self("Mul", x, number(1 / 127.5)), number(1))
        y = body(self, x)
        if float_end:
            self.dtype, y = np.float32, self("Cast", y, to=TensorProto.FLOAT)
        y = self("Mul", self("Add", y, number(1)), number(127.5))
        y = self("Round", self("Clip", y, number(0), number(255)))
        self("Cast", self("Transpose", y, perm=[0, 2, 3, 1]), out="translated", to=TensorProto.UINT8)
        ends = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, [1, height, width, 3])
            for name in ("frame", "translated")
        ]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def resnet(blocks: int = 9, width: int = 64, *, pad: str = "reflect", norms: bool = True) -> Any:
    """CycleGAN's generator (Zhu et al., arXiv 1703.10593): two halvings, residual blocks, two doublings."""

    def body(net: NetworkWriter, x: str) -> str:
        def padded(x: str, by: int) -> tuple[str, int]:
            return (net.reflection(x, by), 0) if pad == "reflect" else (x, by)

        def block(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
            if stride == 1:
                x, by = padded(x, kernel // 2)
            else:
                by = 1
            x = net.convolution(x, inputs, outputs, kernel, stride, by)
            return net.norm(x, outputs) if norms else x

        x = net("Relu", block(x, 3, width, 7))
        for channels in (width, width * 2):
            x = net("Relu", block(x, channels, channels * 2, 3, stride=2))
        for _ in range(blocks):
            inner = net("Relu", block(x, width * 4, width * 4, 3))
            x = net("Add", x, block(inner, width * 4, width * 4, 3))
        for channels in (width * 4, width * 2):
            x = net.transposed(x, channels, channels // 2)
            x = net("Relu", net.norm(x, channels // 2) if norms else x)
        x, by = padded(x, 3)
        return net("Tanh", net.convolution(x, width, 3, 7, 1, by))

    return body


def student(blocks: int = 6, width: int = 64, stride: int = 4) -> Any:
    """The real-time student: pixel-unshuffle, norm-free zero-padded residual blocks, pixel-shuffle."""

    def body(net: NetworkWriter, x: str) -> str:
        x = net("SpaceToDepth", x, blocksize=stride)
        x = net("Relu", net.convolution(x, 3 * stride**2, width, 3, pad=1))
        for _ in range(blocks):
            inner = net("Relu", net.convolution(x, width, width, 3, pad=1))
            x = net("Relu", net("Add", x, net.convolution(inner, width, width, 3, pad=1)))
        x = net.convolution(x, width, 3 * stride**2, 3, pad=1)
        return net("Tanh", net("DepthToSpace", x, blocksize=stride, mode="CRD"))

    return body


def upsampler(*, reflected: bool, width: int = 32) -> Any:
    """Nearest-neighbour doubling before a 3x3 convolution."""

    def body(net: NetworkWriter, x: str) -> str:
        x = net.doubled(net("Relu", net.convolution(x, 3, width, 3, stride=2, pad=1)))
        x = net.convolution(
            net.reflection(x, 1) if reflected else x, width, width, 3, pad=0 if reflected else 1
        )
        return net("Tanh", net.convolution(net("Relu", x), width, 3, 3, pad=1))

    return body


def mixing(width: int = 32) -> Any:
    """NICE-GAN's and U-GAT-IT's norms in little: mixes of instance and layer norm, one scaled at run time."""

    def body(net: NetworkWriter, x: str) -> str:
        x = net("Relu", net.mix(net.convolution(x, 3, width, 3, pad=1), width))
        style = net("GlobalAveragePool", x)
        inner = net.convolution(net.reflection(x, 1), width, width, 3)
        inner = net("Add", net("Mul", net.mix(inner, width), style), style)
        x = net("Add", x, inner)
        return net("Tanh", net.convolution(net.reflection(x, 1), width, 3, 3))

    return body


def sloped(spread: float = 0.0, width: int = 16) -> Any:
    """An activation with a slope per channel, as CoGAN has it with all of them equal."""

    def body(net: NetworkWriter, x: str) -> str:
        slopes: np.ndarray = np.linspace(0.25 - spread, 0.25 + spread, width).reshape(-1, 1, 1)
        x = net("PRelu", net.convolution(x, 3, width, 3, pad=1), net.weight(slopes.astype(net.dtype)))
        return net("Tanh", net.convolution(x, width, 3, 3, pad=1))

    return body


def live(width: int = 16, stride: int = 4, pad: int = 4) -> Any:
    """The trainer's real-time network: a gain and a bias per position, applied to the unshuffled image."""

    def body(net: NetworkWriter, x: str) -> str:
        depth = 3 * stride**2
        order = np.arange(depth, dtype=np.int64).reshape(-1, 3).T.reshape(-1)
        positions = net("Gather", net("SpaceToDepth", x, blocksize=stride), net.weight(order), axis=1)
        x = net("Pad", positions, net.weight(np.array([0, 0, pad, pad] * 2, np.int64)), mode="edge")
        x = net("Relu", net.convolution(x, depth, width, 1))
        x = net("Relu", net.convolution(x, width, width, 3, pad=1))
        x = net.convolution(x, width, 6, 1)
        for axis in (2, 3):
            x = net.cut(x, axis, pad - 1, 1 - pad)
        weight = net.weight(
            (np.random.default_rng(5).standard_normal((depth, 3, 3, 3)) / 5).astype(net.dtype)
        )
        gain, bias = (net("Conv", net.cut(x, 1, start, start + 3), weight) for start in (0, 3))
        x = net("Add", net("Mul", positions, gain), bias)
        return net("DepthToSpace", x, blocksize=stride, mode="CRD")

    return body


@pytest.fixture
def network() -> type[NetworkWriter]:
    return NetworkWriter


@pytest.fixture
def bodies() -> dict[str, Any]:
    """The networks by name: each takes its options and returns what `NetworkWriter.engine` takes."""
    known = (resnet, student, upsampler, mixing, sloped, live)
    return {network.__name__: network for network in known}


@pytest.fixture
def write_engine_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model as `NAME.onnx` with the metadata of an engine."""

    def write(model: onnx.ModelProto, size: SizePolicy, name: str = "night", precision: str = "fp16") -> Path:
        metadata = EngineMetadata(name, "cyclegan", "day -> night", size, precision=precision)
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, metadata.to_json()
        path = tmp_path / f"{name}.onnx"
        onnx.save(model, str(path))
        return path

    return write


@pytest.fixture(scope="session")
def rtx() -> Any:
    """TensorRT for RTX, where it is installed."""
    if not any(importlib.util.find_spec(module) for module in MODULES[TENSORRT_RTX]):
        pytest.skip("TensorRT for RTX is not installed: pip install tensorrt-rtx")
    return load_tensorrt(TENSORRT_RTX)


@pytest.fixture
def build(rtx: Any) -> Callable[..., bytes]:
    """Builds an RTX plan of a model, fixed at its own size unless told otherwise."""

    def build(
        model: onnx.ModelProto,
        arch: str = "sm_89",
        profile: FrameProfile | None = None,
        *,
        channels_last: bool = False,
    ) -> bytes:
        builder = PlanBuilder(rtx, TENSORRT_RTX, (arch,), timing_cache=None, bar=BuildBar(None))
        fixed = FrameProfile((1, 1), (1, 1), (1, 1))
        return builder.build(
            model, profile or fixed, origin="the test's network", channels_last=channels_last
        )

    return build


@pytest.fixture
def count(build: Callable[..., bytes]) -> Callable[[onnx.ModelProto], PlanStructure | None]:
    """The structure of the RTX plan of a model."""
    return lambda model: structure_from_plan(build(model))


@pytest.fixture
def negative(network: Any, bodies: Any, write_engine_file: Callable[..., Path]) -> Path:
    """An engine that gives the negative of a frame, as the fake does; its norms and convolutions count for nothing."""
    resnet = bodies["resnet"](1, 16)

    def body(net: NetworkWriter, x: str) -> str:
        nothing = net("Mul", resnet(net, x), net.weight(np.zeros(1, net.dtype)))
        return net("Sub", nothing, x)

    return write_engine_file(network().engine(body, 64, 64, float_end=True), SizePolicy.fixed(64, 64))


@pytest.fixture
def fake_gpu(strict_driver: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that sees a fake TensorRT, which builds too, on the strict driver."""
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    folder = tmp_path_factory.mktemp("gpu")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(strict_driver),
        "PYTHONPATH": str(Path(__file__).parent / "fake_tensorrt"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "STRICT_CUDA_REPORT": str(folder / "report.jsonl"),
    }
