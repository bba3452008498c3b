"""Small networks, frames and graphs that several tests of the export room share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from i2i_export.enginefile import EngineFile
from i2i_export.frames import read_frames
from i2i_export.parity import cpu_session
from i2i_export.run.trace import Origin, engine_from_inference
from i2i_export.sizes import dynamic_size
from i2i_runtime.frame import Image
from i2i_runtime.metadata import EngineMetadata, ExtraInput, Provenance, SizePolicy
from i2i_trainer.method import Inference
from i2i_trainer.methods import METHODS

Array = NDArray[Any]
Network = Callable[..., ir.Model]
Row = tuple[str, list[str], str, dict[str, Any]]
"""A node: operator, inputs, outputs, attributes."""
Run = Callable[[ir.Model, Array], Array]

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


class Painter(Inference):
    """One of every block that the methods use: reflection, IN, residual, AdaIN, doubling with a 5x5, tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = 4
        self.style_size = 4
        self.default_style = (0.5, -1.0, 0.25, 0.0)
        self.presets = {"warm": (1.0, 1.0, 0.0, 0.0)}
        self.notes = {"dropout": "off"}
        self.front = nn.Conv2d(3, 8, 7, padding=3, padding_mode="reflect")
        self.down = nn.Conv2d(8, 16, 4, stride=2, padding=1, padding_mode="reflect")
        self.body = nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect")
        self.adaptive = nn.Linear(4, 32)
        self.up = nn.Conv2d(16, 8, 5, padding=2, padding_mode="reflect")
        self.back = nn.Conv2d(8, 3, 7, padding=3, padding_mode="reflect")

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        if style is None:
            style = torch.tensor([self.default_style])
        x = F.relu(F.instance_norm(self.front(image)))
        x = F.relu(F.instance_norm(self.down(x)))
        scale, shift = self.adaptive(style).chunk(2, dim=1)
        x = x + F.instance_norm(self.body(x)) * scale[:, :, None, None] + shift[:, :, None, None]
        x = F.relu(self.up(F.interpolate(x, scale_factor=2.0)))
        painted: Tensor = torch.tanh(self.back(x))
        return painted


class Plain(Inference):
    """A real-time translator in little: no norms, zero padding, one style."""

    def __init__(self) -> None:
        super().__init__()
        self.stride = 2
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, image: Tensor, style: Tensor | None = None) -> Tensor:
        brightened: Tensor = image + 0.2 * self.layers(image)
        return brightened.clamp(-1, 1)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order(request: pytest.FixtureRequest) -> None:
    """Every test draws the same numbers, whichever tests ran before it in this process."""
    if hasattr(request.module, "RANDOM"):
        request.module.RANDOM = np.random.default_rng(3)


@pytest.fixture(scope="session")
def inference_from_method() -> Callable[[str], Inference]:
    """A method's `small` preset with random weights, ready for export."""

    def make(name: str) -> Inference:
        entry = METHODS[name]
        torch.manual_seed(0)
        method = entry.method(entry.config(**entry.config.presets.get("small", {}))).eval()
        inference = method.inference(method.directions()[0]).eval()
        # Networks start with biases of 0 and norms that do nothing: an export that lost them would pass unseen.
        with torch.no_grad():
            for parameter in inference.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return inference

    return make


@pytest.fixture(scope="session")
def origin() -> Origin:
    return Origin(
        "little", "painter", "day -> night", Provenance(checkpoint_sha256="00ff", data="streets"), "MIT"
    )


@pytest.fixture(scope="session")
def painter() -> Inference:
    torch.manual_seed(3)
    return Painter().eval()


@pytest.fixture(scope="session")
def plain() -> Inference:
    torch.manual_seed(3)
    return Plain().eval()


@pytest.fixture(scope="session")
def painter_engine(painter: Inference, origin: Origin) -> EngineFile:
    """The painter with dynamic size and the style as input; copy it before changing it."""
    return engine_from_inference(painter, dynamic_size(4), origin)


@pytest.fixture(scope="session")
def plain_engine(plain: Inference, origin: Origin) -> EngineFile:
    return engine_from_inference(plain, dynamic_size(2), origin)


@pytest.fixture(scope="session")
def street() -> list[Image]:
    """Two moments of the rendered street, `[360, 640, 3]`."""
    return read_frames(None, 2)


@pytest.fixture(scope="session")
def network() -> Network:
    """Builds a graph from `x` float32 `[1, C, H, W]` to `y` out of (op, inputs, outputs, attributes) rows."""

    def build(
        rows: Sequence[Row],
        weights: Mapping[str, Array],
        channels: int,
        *,
        height: int | str = "height",
        width: int | str = "width",
        opset: int = 18,
    ) -> ir.Model:
        nodes = [
            helper.make_node(op, inputs, output.split(), **attributes)
            for op, inputs, output, attributes in rows
        ]
        image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, channels, height, width])
        result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * 4)
        tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
        graph = helper.make_graph(nodes, "graph", [image], [result], tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(model)
        return ir.from_proto(model)

    return build


@pytest.fixture(scope="session")
def run() -> Run:
    """Runs a graph of `network` on an array under ONNX Runtime."""

    def once(model: ir.Model, x: Array) -> Array:
        result: Array = cpu_session(ir.to_proto(model)).run(None, {"x": x})[0]
        return result

    return once


@pytest.fixture(scope="session")
def written_engine() -> Callable[..., EngineFile]:
    """Builds an engine for 64x64 around rows that make `out` of `image`, levels `[1, 3, 64, 64]`."""

    def build(
        rows: list[Row],
        weights: dict[str, Any],
        extras: tuple[ExtraInput, ...] = (),
    ) -> EngineFile:
        whole: list[Row] = [
            ("Cast", ["frame"], "wide", {"to": onnx.TensorProto.FLOAT}),
            ("Transpose", ["wide"], "image", {"perm": [0, 3, 1, 2]}),
            *rows,
            ("Clip", ["out", "black", "white"], "clipped", {}),
            ("Round", ["clipped"], "rounded", {}),
            ("Transpose", ["rounded"], "last", {"perm": [0, 2, 3, 1]}),
            ("Cast", ["last"], "translated", {"to": onnx.TensorProto.UINT8}),
        ]
        weights = {**weights, "black": np.asarray(0, np.float32), "white": np.asarray(255, np.float32)}
        kind, dims = onnx.TensorProto.UINT8, [1, 64, 64, 3]
        graph = helper.make_graph(
            [
                helper.make_node(op, inputs, [output], **attributes)
                for op, inputs, output, attributes in whole
            ],
            "written",
            [
                helper.make_tensor_value_info("frame", kind, dims),
                *(helper.make_tensor_value_info(e.name, onnx.TensorProto.FLOAT, e.shape) for e in extras),
            ],
            [helper.make_tensor_value_info("translated", kind, dims)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        size = SizePolicy.fixed(64, 64)
        metadata = EngineMetadata("written", "adopted", "a -> b", size=size, extra_inputs=extras)
        return EngineFile(ir.from_proto(model), metadata)

    return build


@pytest.fixture(scope="session")
def data() -> Path:
    """The real data beside the project."""
    if not DATA.is_dir():
        pytest.skip(f"the real data is not there: {DATA}")
    return DATA
