"""From the text of `--style` to the style code that the engine takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from i2i_runtime.errors import EngineError, UsageError
from i2i_runtime.files import reason_of
from i2i_runtime.metadata import FRAME, STYLE, EngineMetadata


def style_from_text(text: str, metadata: EngineMetadata, engine_path: Path) -> NDArray[np.float32]:
    """float32 `[1, S]` from a preset's name, numbers with commas, `random:SEED`, or a reference image.

    Raises UsageError and EngineError, SourceError if the image cannot be read.
    """
    spec = metadata.style
    if spec is None:
        raise EngineError(f"The engine {metadata.name} has no style input: leave out --style.")
    if text in spec.presets:
        return np.asarray([spec.presets[text]], np.float32)
    if text.startswith("random:"):
        seed = text.removeprefix("random:")
        if not seed.isdecimal():
            raise UsageError(f"--style {text} needs a whole number as its seed, for example random:7.")
        return np.random.default_rng(int(seed)).standard_normal((1, spec.size)).astype(np.float32)
    if Path(text).is_file():
        return _style_from_image(Path(text), spec.size, spec.encoder, engine_path)
    try:
        code = np.asarray([[float(value) for value in text.split(",")]], np.float32)
    except ValueError:
        presets = ", ".join(sorted(spec.presets)) or "none"
        raise UsageError(
            f"--style {text} is neither a preset ({presets}), nor {spec.size} numbers with commas, "
            "nor random:SEED, nor an image file."
        ) from None
    if code.shape != (1, spec.size) or not np.isfinite(code).all():
        raise UsageError(f"--style takes {spec.size} finite numbers and was given {code.size}: {text}")
    return code


def _style_from_image(image: Path, size: int, encoder: str | None, engine_path: Path) -> NDArray[np.float32]:
    if encoder is None:
        raise EngineError(
            "This engine has no style encoder for reference images: give a preset, numbers or random:SEED."
        )
    path = engine_path.with_name(encoder)
    if not path.is_file():
        raise EngineError(
            f"The style encoder {path} is missing: it belongs beside the engine, copy it there."
        )
    import onnxruntime

    from i2i_runtime.media.images import read_image

    pixels = read_image(image).pixels
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (code,) = session.run([STYLE], {FRAME: pixels[None]})
    except Exception as error:  # onnxruntime's errors share no base class
        raise EngineError(
            f"The style encoder {path} failed on {image} ({reason_of(error)}): "
            "export the engine again, or try another image."
        ) from error
    if code.shape != (1, size):
        raise EngineError(
            f"The style encoder {path} returned {code.shape} instead of {(1, size)}: export it again."
        )
    return np.asarray(code, np.float32)
