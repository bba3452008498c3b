"""What stands beside a TensorRT plan in `<name>.plan.json`: the contract between the plan builder and the
runtime.

The file is the engine's own metadata (`EngineMetadata`, same keys) with one key more, `plan`. A plan is a
cache for one kind of device: the fields say for which, so that a runtime can tell in words why a plan does
not fit. Unknown keys are ignored; a higher schema version is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import EngineMetadata

PLAN_SCHEMA_VERSION = 1
PLAN_KEY = "plan"

TENSORRT: Final = "tensorrt"
TENSORRT_RTX: Final = "tensorrt-rtx"
FLAVOURS = (TENSORRT, TENSORRT_RTX)


@dataclass(frozen=True)
class PluginRecord:
    """A kernel that the plan carries: its plugin id `namespace::name` and the SHA-256 of its PTX text."""

    name: str
    ptx_sha256: str


@dataclass(frozen=True)
class Candidate:
    """One form of the network that was built, and what was found; None where it could not be found out.

    `form` is a name such as `plain`, `rewritten` or `plugins`. Launches and megabytes per frame are read from the
    plan's own text (TensorRT for RTX only). The latency is the median on the device that built it; the PSNR is that of
    the worse of two frames there, against the ONNX engine.
    """

    form: str
    kept: bool
    launches: int | None = None
    megabytes: float | None = None
    latency_ms: float | None = None
    psnr_db: float | None = None
    note: str = ""


@dataclass(frozen=True)
class PlanManifest:
    """Which device and library a plan was built for, from what, and how.

    `architectures` reads `("sm_89",)`; a plan of TensorRT for RTX may name several. `gpu` and `driver` are
    empty when it was built without a GPU. `onnx_file` is a bare file name, looked for beside the plan.
    """

    flavour: str
    tensorrt_version: str
    architectures: tuple[str, ...]
    onnx_file: str
    onnx_sha256: str
    plan_sha256: str
    gpu: str = ""
    driver: str = ""
    builder_flags: tuple[str, ...] = ()
    rewrites: tuple[str, ...] = ()
    plugins: tuple[PluginRecord, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    build_s: float = 0.0
    schema_version: int = PLAN_SCHEMA_VERSION

    def to_json(self, engine: EngineMetadata) -> str:
        """The sidecar's text: the engine's metadata, and this under the key `plan`."""
        return json.dumps({**json.loads(engine.to_json()), PLAN_KEY: asdict(self)}, indent=1, sort_keys=True)


def sidecar_path(plan: Path) -> Path:
    """`day2night.plan` -> `day2night.plan.json`."""
    return plan.with_name(plan.name + ".json")


def sha256_of(content: bytes) -> str:
    """Lower-case hex digest."""
    return hashlib.sha256(content).hexdigest()


def read_manifest(plan: Path) -> tuple[EngineMetadata, PlanManifest]:
    """Reads `<plan>.json`. Raises EngineError."""
    path = sidecar_path(plan)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(
            f"{plan} has no readable {path.name} beside it, which says what the plan was built for: "
            "copy both files, or build the plan again with `i2i-export ENGINE.onnx --plan`."
        ) from error
    engine = EngineMetadata.from_json(text, origin=str(path))
    try:
        raw = json.loads(text)[PLAN_KEY]
        version = int(raw["schema_version"])
        if version > PLAN_SCHEMA_VERSION:
            raise EngineError(
                f"{path} has plan schema {version}, this runtime knows {PLAN_SCHEMA_VERSION}: "
                "update i2i-stream or build the plan again with this version."
            )
        return engine, _manifest_from_dict(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"{path} does not describe a plan (missing or wrong field: {error}): "
            "build the plan again with `i2i-export ENGINE.onnx --plan`."
        ) from error


def _manifest_from_dict(raw: dict[str, Any]) -> PlanManifest:
    onnx_file = str(raw["onnx_file"])
    # The name becomes an argument of a command.
    if any(part in onnx_file for part in ("/", "\\", "\0")) or onnx_file[:1] in ("", ".", "-"):
        raise ValueError("onnx_file must be a bare file name")
    if raw["flavour"] not in FLAVOURS:
        raise ValueError(f"flavour {raw['flavour']!r} is none of {', '.join(FLAVOURS)}")
    return PlanManifest(
        flavour=str(raw["flavour"]),
        tensorrt_version=str(raw["tensorrt_version"]),
        architectures=_texts(raw["architectures"]),
        onnx_file=onnx_file,
        onnx_sha256=str(raw["onnx_sha256"]),
        plan_sha256=str(raw["plan_sha256"]),
        gpu=str(raw.get("gpu", "")),
        driver=str(raw.get("driver", "")),
        builder_flags=_texts(raw.get("builder_flags", ())),
        rewrites=_texts(raw.get("rewrites", ())),
        plugins=tuple(PluginRecord(**_known(PluginRecord, entry)) for entry in raw.get("plugins", ())),
        candidates=tuple(Candidate(**_known(Candidate, entry)) for entry in raw.get("candidates", ())),
        build_s=float(raw.get("build_s", 0.0)),
        schema_version=int(raw["schema_version"]),
    )


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError("a list was expected, not text")
    return tuple(str(value) for value in values)


def _known(kind: type, raw: dict[str, Any]) -> dict[str, Any]:
    names = {entry.name for entry in fields(kind)}
    return {name: value for name, value in raw.items() if name in names}
