"""ONNX Runtime: on the processor the back end that runs everywhere, and the reference for the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.engines import contract
from i2i_runtime.errors import EngineError
from i2i_runtime.files import reason_of
from i2i_runtime.frame import Image
from i2i_runtime.machine import usable_cores
from i2i_runtime.metadata import FRAME, METADATA_KEY, TRANSLATED

_ELEMENT = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}


class OnnxRuntimeEngine:
    """A portable engine in an `onnxruntime.InferenceSession`."""

    def __init__(
        self,
        path: Path,
        reason: str = "chosen by the caller",
        threads: int | None = None,
        slots: int = 1,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        contract.refuse_text(path)
        session = _open_session(path, threads, provider)
        try:
            described = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
            inputs, outputs = (
                {entry.name: _ELEMENT.get(entry.type, entry.type) for entry in entries}
                for entries in (session.get_inputs(), session.get_outputs())
            )
        except UnicodeDecodeError as error:
            raise _unreadable(path, error) from error
        self.metadata = contract.parse_metadata(described, path)
        contract.check_interface(path, self.metadata, inputs, outputs)
        on_processor = provider == "CPUExecutionProvider"
        self.slots = contract.granted_slots(self.metadata, slots) if on_processor else 1
        if self.slots > 1:
            # Frames at the same time: each on its own threads, so that none waits for another.
            session = _open_session(path, max(1, (threads or usable_cores()) // self.slots), provider)
        self._session = session
        self._defaults = contract.default_inputs(self.metadata)
        where = "" if on_processor else f" {provider.removesuffix('ExecutionProvider').lower()}"
        self.backend = f"onnxruntime{where} {self.metadata.precision}"
        self.reason = reason

    def infer(self, image: Image, style: NDArray[np.float32] | None = None) -> Image:
        height, width = image.shape[:2]
        padded, given = contract.prepare(self.metadata, image, style)
        feeds = {**self._defaults, **given, FRAME: padded[None]}
        try:
            (translated,) = self._session.run([TRANSLATED], feeds)
        except Exception as error:
            raise EngineError(
                f"The engine {self.metadata.name} failed on a {width}x{height} image ({reason_of(error)}): "
                "try --size with a smaller one, or another --backend."
            ) from error
        return np.ascontiguousarray(
            contract.cropped(translated, padded.shape, height, width, self.metadata.name)
        )

    def close(self) -> None:
        del self._session


def _open_session(path: Path, threads: int | None, provider: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[provider])
    # onnxruntime raises one class per status code, without a common base.
    except Exception as error:
        raise _unreadable(path, error) from error
    if provider not in session.get_providers():  # it falls back to the processor without an error
        raise EngineError(
            f"ONNX Runtime could not start its {provider} for {path}: check that its libraries and the driver belong "
            "together, or name --device cpu."
        )
    return session


def _unreadable(path: Path, error: Exception) -> EngineError:
    return EngineError(
        f"{path} cannot be loaded by ONNX Runtime ({reason_of(error)}): "
        "the file is damaged, not an ONNX model, or uses an unsupported version."
    )
