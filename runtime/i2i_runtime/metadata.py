"""Engine metadata and tensor names: the contract between export (which writes it) and runtime (which reads it).

The JSON is stored under the key `i2i` in the ONNX file's `metadata_props`, and in `<name>.plan.json` beside a plan.
Unknown keys are ignored, so that an old runtime runs newer engines; a higher schema version is refused.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from i2i_runtime.errors import EngineError

SCHEMA_VERSION = 1
# What reading a value of a wrong type or size raises; JSON knows Infinity and nests as deep as somebody likes.
_WRONG = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)
_MOST_VALUES = 1 << 24
"""Numbers in one extra input: 64 MB, far more than any code or mask that an engine has beside its frame."""
METADATA_KEY = "i2i"

FRAME = "frame"
"""The input of every engine: uint8 `[1, H, W, 3]` RGB, full range."""
TRANSLATED = "translated"
"""The output of every engine: uint8, the same shape, RGB, full range."""
STYLE = "style"
"""The optional input of engines with a style code: float32 `[1, S]`."""


@dataclass(frozen=True)
class SizePolicy:
    """The heights and widths an engine takes, in pixels.

    Fixed: `min == max`. Dynamic: any multiple of `stride` with `min <= size <= max` on both axes.
    """

    stride: int = 1
    min_height: int = 1
    max_height: int = 4320
    min_width: int = 1
    max_width: int = 7680

    @classmethod
    def fixed(cls, height: int, width: int) -> SizePolicy:
        return cls(1, height, height, width, width)

    @property
    def is_fixed(self) -> bool:
        return self.min_height == self.max_height and self.min_width == self.max_width


@dataclass(frozen=True)
class StyleSpec:
    """The optional input `style`: float32 `[1, size]`.

    `default` is used when the user names none; `presets` are named codes. `encoder` is the file name, beside the
    engine, of an ONNX network `frame` uint8 `[1, H, W, 3]` -> `style` float32 `[1, size]` that computes the code of a
    reference image, or None.
    """

    size: int
    default: tuple[float, ...]
    presets: dict[str, tuple[float, ...]] = field(default_factory=dict)
    encoder: str | None = None


@dataclass(frozen=True)
class ExtraInput:
    """A later input beyond `frame` and `style`, with the value an old runtime feeds it."""

    name: str
    shape: tuple[int, ...]
    default: tuple[float, ...]


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from."""

    checkpoint_sha256: str = ""
    data: str = ""
    pictures_seen: int = 0
    source_file: str = ""
    step: int = 0
    """The training step of the weights; 0 if unknown."""
    trained_short_side: int = 0
    """Short side in pixels that training images were resized to: the scale at which it was learned; 0 if unknown."""


@dataclass(frozen=True)
class EngineMetadata:
    """The properties of an engine, as stored in its file.

    `direction` reads `day -> night`. `macs` are multiply-adds of one frame at the smallest size in the policy
    (convolutions and linear layers), `macs_per_pixel` the same per output pixel of a frame of 1280x720, or of the
    nearest size. `parity` holds the measured figures of the export gate, for example
    `{"max_abs_255": 1.0, "psnr_db": 61.2}`.
    """

    name: str
    method: str
    direction: str
    size: SizePolicy
    precision: str = "fp32"
    style: StyleSpec | None = None
    extra_inputs: tuple[ExtraInput, ...] = ()
    macs: int = 0
    macs_per_pixel: float = 0.0
    provenance: Provenance = field(default_factory=Provenance)
    licence: str = ""
    parity: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, origin: str) -> EngineMetadata:
        """Parses and validates; `origin` names the file in errors. Raises EngineError."""
        try:
            raw = json.loads(text)
            if not isinstance(raw, dict):
                raise TypeError("not an object")
            version = int(raw["schema_version"])
        except _WRONG as error:
            raise EngineError(
                f"{origin} carries metadata that cannot be read ({error}): export it again with i2i-export."
            ) from error
        if version > SCHEMA_VERSION:
            raise EngineError(
                f"{origin} has metadata schema {version}, this runtime knows {SCHEMA_VERSION}: "
                "update i2i-stream or export the engine again with this version."
            )
        try:
            return _metadata_from_dict(raw)
        except _WRONG as error:
            raise EngineError(
                f"{origin} carries metadata with a missing or wrong field ({error}): "
                "export it again with i2i-export."
            ) from error


def _metadata_from_dict(raw: dict[str, Any]) -> EngineMetadata:
    size = SizePolicy(
        **{
            entry.name: int(raw["size"][entry.name])
            for entry in fields(SizePolicy)
            if entry.name in raw["size"]
        }
    )
    if not (
        0 < size.stride <= 4096
        and 0 < size.min_height <= size.max_height <= 65536
        and 0 < size.min_width <= size.max_width <= 65536
    ):
        raise ValueError(f"size policy {size} is empty")
    style = None
    if raw.get("style") is not None:
        entry = raw["style"]
        style = StyleSpec(
            size=int(entry["size"]),
            default=_floats(entry["default"]),
            presets={str(name): _floats(code) for name, code in dict(entry.get("presets", {})).items()},
            encoder=None if entry.get("encoder") is None else str(entry["encoder"]),
        )
        if any(len(code) != style.size for code in (style.default, *style.presets.values())):
            raise ValueError(f"a style code does not have the {style.size} values that the input takes")
        if style.encoder is not None and any(part in style.encoder for part in ("/", "\\", "\0")):
            raise ValueError("the style encoder must be a bare file name")
    return EngineMetadata(
        name=str(raw["name"]),
        method=str(raw["method"]),
        direction=str(raw["direction"]),
        size=size,
        precision=str(raw.get("precision", "fp32")),
        style=style,
        extra_inputs=tuple(_extra_input(entry) for entry in raw.get("extra_inputs", ())),
        macs=int(raw.get("macs", 0)),
        macs_per_pixel=float(raw.get("macs_per_pixel", 0.0)),
        provenance=_provenance(raw.get("provenance", {})),
        licence=str(raw.get("licence", "")),
        parity={str(k): float(v) for k, v in dict(raw.get("parity", {})).items()},
        notes={str(k): str(v) for k, v in dict(raw.get("notes", {})).items()},
        schema_version=int(raw["schema_version"]),
    )


def _extra_input(raw: dict[str, Any]) -> ExtraInput:
    extra = ExtraInput(
        str(raw["name"]), tuple(int(length) for length in raw["shape"]), _floats(raw["default"])
    )
    count = math.prod(extra.shape)
    if len(extra.shape) > 8 or min(extra.shape, default=1) < 1 or count > _MOST_VALUES:
        raise ValueError(f"the input {extra.name!r} has the impossible shape {extra.shape}")
    if len(extra.default) not in (1, count):
        raise ValueError(
            f"the input {extra.name!r} takes {extra.shape} but its default has {len(extra.default)} values"
        )
    return extra


def _provenance(raw: dict[str, Any]) -> Provenance:
    return Provenance(
        checkpoint_sha256=str(raw.get("checkpoint_sha256", "")),
        data=str(raw.get("data", "")),
        pictures_seen=int(raw.get("pictures_seen", 0)),
        source_file=str(raw.get("source_file", "")),
        step=int(raw.get("step", 0)),
        trained_short_side=int(raw.get("trained_short_side", 0)),
    )


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
