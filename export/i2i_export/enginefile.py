"""Engine files on disk: an ONNX graph that keeps the engine contract, and the metadata it carries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from numpy.typing import NDArray

from i2i_export.errors import ExportError
from i2i_runtime.errors import EngineError
from i2i_runtime.files import reason_of, replacing
from i2i_runtime.metadata import FRAME, METADATA_KEY, TRANSLATED, EngineMetadata


@dataclass
class EngineFile:
    """A graph from `frame` uint8 `[1, H, W, 3]` RGB to `translated` of the same kind, and its metadata."""

    model: ir.Model
    metadata: EngineMetadata

    def to_proto(self) -> onnx.ModelProto:
        """The ONNX file's content, with the metadata as JSON under the key `i2i`."""
        self.model.metadata_props.clear()
        self.model.metadata_props[METADATA_KEY] = self.metadata.to_json()
        return ir.to_proto(self.model)

    def to_bytes(self) -> bytes:
        """The same bytes for the same graph and metadata, whatever made them and when."""
        content: bytes = self.to_proto().SerializeToString(deterministic=True)
        return content


def read_model(path: Path) -> onnx.ModelProto:
    """Reads any ONNX file, its outside weights included. Raises ExportError."""
    try:
        model = onnx.load(str(path))
    except FileNotFoundError as error:
        raise ExportError(f"{path} does not exist: name an ONNX file or a run folder.") from error
    except Exception as error:  # protobuf, onnx and the file system each raise their own
        raise ExportError(f"{path} cannot be read as ONNX ({reason_of(error)}): is it complete?") from error
    if not model.graph.node:
        raise ExportError(f"{path} is not an ONNX network (it has no operators): name an .onnx file.")
    return model


def read_engine(path: Path) -> EngineFile:
    """Reads an engine that keeps the contract. Raises ExportError."""
    proto = read_model(path)
    text = next((entry.value for entry in proto.metadata_props if entry.key == METADATA_KEY), None)
    if text is None:
        raise ExportError(
            f"{path} carries no engine metadata: wrap a network made elsewhere with "
            f"`i2i-export adopt {path}` first."
        )
    try:
        metadata = EngineMetadata.from_json(text, origin=str(path))
    except EngineError as error:
        raise ExportError(str(error)) from error
    check_contract(proto, origin=str(path))
    model = ir.from_proto(proto)
    # Weights may also stand among the inputs or come out of Constant nodes; everything here looks for initializers.
    passes.RemoveInitializersFromInputsPass()(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return EngineFile(model, metadata)


def default_style(metadata: EngineMetadata) -> NDArray[np.float32] | None:
    """The style `[1, S]` that an engine takes if the user names none; None if it has none."""
    return None if metadata.style is None else np.asarray([metadata.style.default], dtype=np.float32)


def extra_feeds(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The defaults of an engine's later inputs, those beyond `frame` and `style`; none for any other network."""
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    extras = () if text is None else EngineMetadata.from_json(text, origin="the engine").extra_inputs
    return {extra.name: np.asarray(extra.default, np.float32).reshape(extra.shape) for extra in extras}


def write_engine(engine: EngineFile, path: Path) -> None:
    """Checks the contract and writes the file atomically. Raises ExportError."""
    proto = engine.to_proto()
    check_contract(proto, origin=str(path))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{path} was not written, the ONNX checker refuses the graph: {reason_of(error)}."
        ) from error
    with atomic_file(path) as part:
        part.write_bytes(proto.SerializeToString(deterministic=True))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the final name when the block ends without an error.

    Raises ExportError if the file cannot be written.
    """
    try:
        with replacing(path) as part:
            yield part
    except OSError as error:
        raise ExportError(
            f"{path} cannot be written ({reason_of(error)}): free space or choose another place with -o."
        ) from error


def check_contract(model: onnx.ModelProto, *, origin: str) -> None:
    """Refuses a graph whose inputs, outputs or uint8 tensors break the engine contract. Raises ExportError."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = {entry.name: entry for entry in model.graph.input if entry.name not in weights}
    outputs = {entry.name: entry for entry in model.graph.output}
    for name, entries in ((FRAME, inputs), (TRANSLATED, outputs)):
        if name not in entries:
            raise ExportError(
                f"{origin} breaks the engine contract: it has no tensor `{name}` but {sorted(entries)}."
            )
        tensor = entries[name].type.tensor_type
        dims = tensor.shape.dim
        if tensor.elem_type != onnx.TensorProto.UINT8 or len(dims) != 4 or dims[3].dim_value != 3:
            raise ExportError(f"{origin} breaks the engine contract: `{name}` must be uint8 [1, H, W, 3].")
    for node in model.graph.node:
        touched = [name for name in (FRAME, TRANSLATED) if name in (*node.input, *node.output)]
        if touched and node.op_type != "Cast":
            raise ExportError(
                f"{origin} breaks the engine contract: uint8 `{touched[0]}` meets {node.op_type}, "
                "which TensorRT refuses; only Cast may touch it."
            )
        if any(FRAME in inner.input for inner in nodes_inside(node)):
            raise ExportError(
                f"{origin} breaks the engine contract: a branch of {node.op_type} reads `{FRAME}` itself; "
                "cast it once outside and let the branch read that."
            )


def nodes_inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes of an If's or Loop's graphs, at any depth."""
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield inner
                yield from nodes_inside(inner)
