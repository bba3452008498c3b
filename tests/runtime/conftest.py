"""Tiny engines and clips, made once for all tests of the runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from i2i_runtime.engines.tensorrt.manifest import PlanManifest, sha256_of, sidecar_path
from i2i_runtime.errors import SourceError
from i2i_runtime.frame import Frame, Image
from i2i_runtime.metadata import METADATA_KEY, EngineMetadata, ExtraInput, SizePolicy, StyleSpec
from i2i_runtime.sources import Source

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real clips that stands beside the project."""
    folder = SHARED / "videos"
    if not folder.is_dir():
        pytest.skip(f"needs the real clips in {folder}, which a clone alone does not have")
    return folder


@pytest.fixture(scope="session")
def odd_images() -> Path:
    folder = SHARED / "odd_images"
    if not folder.is_dir():
        pytest.skip(f"needs the odd images in {folder}, which a clone alone does not have")
    return folder


@dataclass(frozen=True)
class EngineFiles:
    """Paths of engines. `identity` changes nothing, `invert` gives 255 - x, `conv` is a small network of stride 4,
    `heavy` the same with much work, `fixed` takes 48x32 alone, `styled` adds its style (3 numbers) to the colours."""

    identity: Path
    invert: Path
    conv: Path
    heavy: Path
    fixed: Path
    styled: Path


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> EngineFiles:
    folder = tmp_path_factory.mktemp("engines")
    style = StyleSpec(3, (0.0, 0.0, 0.0), {"red": (90.0, 0.0, 0.0)})
    return EngineFiles(
        identity=_save(folder / "identity.onnx", []),
        invert=_save(
            folder / "invert.onnx", [helper.make_node("Sub", ["white", "x"], ["y"])], {"white": 255.0}
        ),
        conv=_save(folder / "conv.onnx", *_conv(16, 2), size=SizePolicy(4, 8, 2048, 8, 2048)),
        heavy=_save(folder / "heavy.onnx", *_conv(64, 6), size=SizePolicy(4, 8, 2048, 8, 2048)),
        fixed=_save(folder / "fixed.onnx", [], size=SizePolicy.fixed(32, 48)),
        styled=_save(
            folder / "styled.onnx",
            [
                helper.make_node("Unsqueeze", ["style", "axes"], ["s"]),
                helper.make_node("Mul", ["s", "gain"], ["g"]),
                helper.make_node("Add", ["x", "g"], ["y"]),
            ],
            {"axes": np.array([2, 3], np.int64)},
            style=style,
            extra_inputs=(ExtraInput("gain", (1,), (1.0,)),),
        ),
    )


@pytest.fixture(scope="session")
def save_engine() -> Callable[..., Path]:
    """Writes an engine with the metadata given, whole or broken on purpose."""
    return _save


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, object] | None = None,
    *,
    size: SizePolicy | None = None,
    style: StyleSpec | None = None,
    extra_inputs: tuple[ExtraInput, ...] = (),
    metadata: str | None = "",
) -> Path:
    """An engine whose nodes turn `x` float `[1, 3, H, W]` into `y`; no node leaves it alone.

    `metadata` replaces the JSON, None leaves it out.
    """
    graph_inputs = [helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, "H", "W", 3])]
    if style is not None:
        graph_inputs.append(helper.make_tensor_value_info("style", TensorProto.FLOAT, [1, style.size]))
    graph_inputs += [
        helper.make_tensor_value_info(entry.name, TensorProto.FLOAT, list(entry.shape))
        for entry in extra_inputs
    ]
    last = "y" if nodes else "x"
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["frame"], ["frame_float"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["frame_float"], ["x"], perm=[0, 3, 1, 2]),
            *nodes,
            helper.make_node("Clip", [last, "zero", "full"], ["clipped"]),
            helper.make_node("Round", ["clipped"], ["rounded"]),
            helper.make_node("Transpose", ["rounded"], ["nhwc"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["nhwc"], ["translated"], to=TensorProto.UINT8),
        ],
        path.stem,
        graph_inputs,
        [helper.make_tensor_value_info("translated", TensorProto.UINT8, [1, "H", "W", 3])],
        [
            numpy_helper.from_array(
                value if isinstance(value, np.ndarray) else np.array(value, np.float32), name
            )
            for name, value in {"zero": 0.0, "full": 255.0, **(constants or {})}.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    if metadata is not None:
        described = EngineMetadata(
            path.stem, "test", "here -> there", size or SizePolicy(), style=style, extra_inputs=extra_inputs
        )
        helper.set_model_props(model, {METADATA_KEY: metadata or described.to_json()})
    onnx.save(model, path)
    return path


def _conv(width: int, depth: int) -> tuple[list[onnx.NodeProto], dict[str, object]]:
    dice = np.random.default_rng(5)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, object] = {}
    last, channels = "x", 3
    for layer in range(depth):
        constants[f"w{layer}"] = dice.normal(0, 0.06, (width, channels, 3, 3)).astype(np.float32)
        stride = 2 if layer < 2 else 1
        nodes.append(
            helper.make_node(
                "Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1], strides=[stride, stride]
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        last, channels = f"r{layer}", width
    constants["head"] = dice.normal(0, 0.05, (48, channels, 1, 1)).astype(np.float32)
    nodes.append(helper.make_node("Conv", [last, "head"], ["residual"]))
    nodes.append(helper.make_node("DepthToSpace", ["residual"], ["grown"], blocksize=4))
    nodes.append(helper.make_node("Add", ["grown", "x"], ["y"]))
    return nodes, constants


@dataclass
class FakeSource(Source):
    """Frames without a device. `fail_at` raises at that frame, `live` and `pause` are as told."""

    count: int = 10
    live: bool = False
    fail_at: int | None = None
    size: tuple[int, int] = (32, 16)
    name: str = "fake"
    wait: Callable[[int], bool] = lambda index: True
    """Called before each frame; False ends the source."""
    closed: bool = False
    given: int = 0

    def __post_init__(self) -> None:
        self.frame_count = self.count

    def read(self) -> Frame | None:
        index = self.given
        if self.closed or index >= self.count or not self.wait(index):
            return None
        if index == self.fail_at:
            raise SourceError("The fake camera lost its image: plug it in.")
        self.given += 1
        return Frame(image(index, *self.size), index, index * 512, Fraction(1, 12800), time.monotonic())

    def close(self) -> None:
        self.closed = True


def image(index: int, width: int, height: int) -> Image:
    """A smooth image that differs from frame to frame."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [64 + 128 * x / width, 64 + 128 * y / height, np.full(x.shape, 64 + index * 7 % 128)]
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.fixture
def fake_source() -> type[FakeSource]:
    return FakeSource


@pytest.fixture(scope="session")
def make_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Encodes a clip with B-frames, an audible track and whatever time stamps are asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def make(
        name: str,
        *,
        pts: list[int],
        time_base: Fraction = Fraction(1, 12800),
        size: tuple[int, int] = (96, 64),
        audio_tracks: int = 0,
        codec: str = "libx264",
        pixel_format: str = "yuv420p",
        options: dict[str, str] | None = None,
        prepare: Callable[[av.container.OutputContainer, av.VideoStream], None] | None = None,
        frame_at: Callable[[int], av.VideoFrame] | None = None,
    ) -> Path:
        path = folder / name
        with av.open(path, "w") as container:
            stream = container.add_stream(codec, rate=25, options=options or {"crf": "23", "bf": "2"})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = *size, pixel_format
            stream.time_base = stream.codec_context.time_base = time_base
            sounds = [container.add_stream("aac", rate=48000) for _ in range(audio_tracks)]
            if prepare is not None:
                prepare(container, stream)
            for index, due in enumerate(pts):
                if frame_at is None:
                    frame = av.VideoFrame.from_ndarray(image(index, *size), "rgb24").reformat(
                        format=pixel_format
                    )
                else:
                    frame = frame_at(index)
                frame.pts, frame.time_base = due, time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            for number, sound in enumerate(sounds):
                _encode_tone(container, sound, 220.0 * (number + 1), float((max(pts) + 512) * time_base))
        return path

    return make


def _encode_tone(
    container: av.container.OutputContainer, stream: av.AudioStream, hertz: float, seconds: float
) -> None:
    total = int(48000 * seconds)
    for begin in range(0, total, 1024):
        samples = (
            np.sin(np.arange(begin, begin + 1024) * hertz * 2 * np.pi / 48000).astype(np.float32)[None] * 0.4
        )
        frame = av.AudioFrame.from_ndarray(np.repeat(samples, 2, axis=0), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 48000, begin
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


@pytest.fixture(scope="session")
def write_tensorrt_plan() -> Callable[..., Path]:
    """Writes a plan of the tensors `frame` and `translated` with its sidecar, whose fields the keywords change."""

    def write(path: Path, size: SizePolicy | None = None, **changes: Any) -> Path:
        content = b"vtrt frame translated"
        path.write_bytes(content)
        manifest = PlanManifest(
            flavour="tensorrt",
            tensorrt_version="10.16.1.11",
            architectures=("sm_89",),
            onnx_file="night.onnx",
            onnx_sha256=sha256_of(b"the engine"),
            plan_sha256=sha256_of(content),
        )
        described = EngineMetadata(
            "night", "cyclegan", "day -> night", size or SizePolicy.fixed(4, 4), precision="fp16"
        )
        sidecar_path(path).write_text(replace(manifest, **changes).to_json(described), encoding="utf-8")
        return path

    return write
