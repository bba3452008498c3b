"""A model repository for NVIDIA Triton Inference Server: the engine, its configuration and a client to try it with.

    DIR/NAME/config.pbtxt      the server's model configuration (protobuf text)
    DIR/NAME/1/model.onnx      or model.plan
    DIR/NAME/client.py         translates an image through the server

The server keeps one frame per request (batch 1 is part of the engine contract), so it batches nothing and runs several
instances instead.
"""

from __future__ import annotations

from pathlib import Path

from i2i_export.enginefile import atomic_file, read_engine
from i2i_export.errors import ExportError
from i2i_runtime.engines.tensorrt.manifest import sidecar_path
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import FRAME, STYLE, EngineMetadata, SizePolicy

_PLATFORMS = {".onnx": "onnxruntime_onnx", ".plan": "tensorrt_plan"}


def repository_from_engine(engine: Path, repository: Path) -> Path:
    """Writes the repository's folder for an engine (.onnx) or a plan (.plan with its sidecar) and returns it.

    An older one of the same name is replaced file by file, the configuration last. Raises ExportError.
    """
    platform = _PLATFORMS.get(engine.suffix)
    if platform is None:
        raise ExportError(f"{engine} is neither .onnx nor .plan: the server takes nothing else from here.")
    metadata = read_engine(engine).metadata if engine.suffix == ".onnx" else _metadata_of_plan(engine)
    model = repository / metadata.name
    try:
        content = engine.read_bytes()
    except OSError as error:
        raise ExportError(f"{engine} cannot be read ({error.strerror}): name an existing engine.") from error
    with atomic_file(model / "1" / f"model{engine.suffix}") as part:
        part.write_bytes(content)
    with atomic_file(model / "client.py") as part:
        part.write_text(_client(metadata), encoding="utf-8")
    with atomic_file(model / "config.pbtxt") as part:
        part.write_text(config_from_metadata(metadata, platform), encoding="utf-8")
    return model


def config_from_metadata(metadata: EngineMetadata, platform: str) -> str:
    """The server's configuration as protobuf text (message `inference.ModelConfig`)."""
    image = _dims(metadata.size)
    inputs = [_tensor(FRAME, "TYPE_UINT8", image)]
    if metadata.style is not None:
        inputs.append(_tensor(STYLE, "TYPE_FP32", (1, metadata.style.size)))
    inputs += [_tensor(extra.name, "TYPE_FP32", extra.shape) for extra in metadata.extra_inputs]
    warm = (1, max(metadata.size.min_height, 1), max(metadata.size.min_width, 1), 3)
    return "\n".join(
        [
            f"name: {_quoted(metadata.name)}",
            f"platform: {_quoted(platform)}",
            "max_batch_size: 0",
            *(f"input {entry}" for entry in inputs),
            f"output {_tensor('translated', 'TYPE_UINT8', image)}",
            "instance_group { count: 1 kind: KIND_AUTO }",
            _warm_up(metadata, warm),
            f"parameters {{ key: {_quoted('i2i')} value {{ string_value: {_quoted(metadata.to_json())} }} }}",
            "",
        ]
    )


def _metadata_of_plan(plan: Path) -> EngineMetadata:
    sidecar = sidecar_path(plan)
    try:
        return EngineMetadata.from_json(sidecar.read_text(encoding="utf-8"), origin=str(sidecar))
    except (OSError, EngineError) as error:
        raise ExportError(
            f"{plan} has no readable {sidecar.name} ({error}): build the plan again."
        ) from error


def _dims(size: SizePolicy) -> tuple[int, ...]:
    return (1, size.min_height, size.min_width, 3) if size.is_fixed else (1, -1, -1, 3)


def _tensor(name: str, kind: str, dims: tuple[int, ...]) -> str:
    return f"{{ name: {_quoted(name)} data_type: {kind} dims: [ {', '.join(map(str, dims))} ] }}"


def _warm_up(metadata: EngineMetadata, frame: tuple[int, ...]) -> str:
    """One black frame at start, so that the first real frame does not pay for loading."""
    shapes = {FRAME: ("TYPE_UINT8", frame)}
    if metadata.style is not None:
        shapes["style"] = ("TYPE_FP32", (1, metadata.style.size))
    shapes |= {extra.name: ("TYPE_FP32", extra.shape) for extra in metadata.extra_inputs}
    inputs = " ".join(
        f"inputs {{ key: {_quoted(name)} value {{ data_type: {kind} dims: [ {', '.join(map(str, dims))} ] "
        "zero_data: true } }"
        for name, (kind, dims) in shapes.items()
    )
    return f"model_warmup {{ name: {_quoted('first frame')} batch_size: 0 {inputs} }}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _client(metadata: EngineMetadata) -> str:
    size = metadata.size
    fitting = (
        f"cv2.resize(image, ({size.min_width}, {size.min_height}))  # the engine takes this size alone"
        if size.is_fixed
        else f"cv2.copyMakeBorder(image, 0, -height % {size.stride}, 0, -width % {size.stride}, "
        "cv2.BORDER_REFLECT_101)"
    )
    style = ""
    if metadata.style is not None:
        style = (
            f"style = np.asarray([{list(metadata.style.default)}], np.float32)\n"
            'inputs.append(InferInput("style", list(style.shape), "FP32"))\n'
            "inputs[-1].set_data_from_numpy(style)\n"
        )
    direction = repr(metadata.direction)[1:-1].replace('"', r"\"")
    return f'''"""Translates an image ({direction}) through a running Triton Inference Server.

    pip install "tritonclient[http]" opencv-python
    python client.py SOURCE.jpg TRANSLATED.png [HOST:PORT]
"""

import sys

import cv2
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

image = cv2.cvtColor(cv2.imread(sys.argv[1]), cv2.COLOR_BGR2RGB)
height, width = image.shape[:2]
frame = {fitting}
inputs = [InferInput("frame", [1, *frame.shape], "UINT8")]
inputs[0].set_data_from_numpy(frame[None])
{style}client = InferenceServerClient(sys.argv[3] if len(sys.argv) > 3 else "localhost:8000")
translated = client.infer({metadata.name!r}, inputs).as_numpy("translated")[0][:height, :width]
cv2.imwrite(sys.argv[2], cv2.cvtColor(translated, cv2.COLOR_RGB2BGR))
'''
