"""Compares a true TensorRT module with `i2i_runtime.engines.tensorrt.api`; prints what differs, as JSON.

python look_at_bindings.py MODULE [FOLDER-OF-THE-MODULE]
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

from i2i_export.errors import ExportError
from i2i_export.plan.builder import BuildBar, PlanBuilder
from i2i_runtime.engines.tensorrt import api
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.loaded import LoadedPlan
from i2i_runtime.errors import EngineError

FAKE = Path(__file__).parents[1] / "fake_tensorrt" / "tensorrt" / "__init__.py"
CLASSES = {
    "Builder": "Builder",
    "BuilderConfig": "IBuilderConfig",
    "CudaEngine": "ICudaEngine",
    "ExecutionContext": "IExecutionContext",
    "Network": "INetworkDefinition",
    "NetworkTensor": "ITensor",
    "OnnxParser": "OnnxParser",
    "OptimizationProfile": "IOptimizationProfile",
    "ParserError": "ParserError",
    "Runtime": "Runtime",
    "TimingCache": "ITimingCache",
}
RTX_ONLY = {
    "RuntimeCache": "IRuntimeCache",
    "RuntimeConfig": "IRuntimeConfig",
    "RtxContext": "IExecutionContext",
    "RtxEngine": "ICudaEngine",
}
RTX_MEMBERS = {"num_compute_capabilities", "set_compute_capability"}


def members(protocol: type) -> dict[str, Any]:
    """Methods and attributes that the protocol itself names."""
    methods = {name: value for name, value in vars(protocol).items() if inspect.isfunction(value)}
    return {**dict.fromkeys(protocol.__annotations__), **methods}


def overloads(documentation: str, method: str) -> list[list[tuple[str, bool]]]:
    """(name, has a default) of each parameter but self, for each signature in pybind's documentation."""
    found = []
    for inside in re.findall(rf"\b{method}\((self: .*?|)\) ->", documentation):
        parts = [part.strip() for part in re.split(r",\s*(?=\w+:)", inside)][1:]
        found.append([(part.split(":")[0], "=" in part) for part in parts])
    return found


def takes(wanted: list[str], signature: list[tuple[str, bool]]) -> bool:
    """Whether a call with these positional arguments fits."""
    named = [name for name, _ in signature]
    return named[: len(wanted)] == wanted and all(default for _, default in signature[len(wanted) :])


def differences(trt: Any, *, is_rtx: bool) -> list[str]:
    found = []
    for protocol, name in {**CLASSES, **(RTX_ONLY if is_rtx else {})}.items():
        true = getattr(trt, name, None)
        if true is None:
            found.append(f"{name} is missing")
            continue
        for member, function in members(getattr(api, protocol)).items():
            if member.startswith("_") or (member in RTX_MEMBERS and not is_rtx):
                continue
            if not hasattr(true, member):
                found.append(f"{name}.{member} is missing")
            elif function is not None:
                wanted = list(inspect.signature(function).parameters)[1:]
                known = overloads(getattr(true, member).__doc__ or "", member)
                if not any(takes(wanted, signature) for signature in known):
                    found.append(f"{name}.{member}({', '.join(wanted)}) is none of {known}")
    return found


def invented(trt: Any) -> list[str]:
    """Public classes and members that our fake of `tensorrt` has and the true module has not."""
    found = []
    tree = ast.parse(FAKE.read_text(encoding="utf-8"))
    for made in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        true = getattr(trt, made.name, None)
        if true is None:
            found.append(made.name)
            continue
        named = [node.name for node in made.body if isinstance(node, ast.FunctionDef)]
        fields = [node.target for node in made.body if isinstance(node, ast.AnnAssign)]
        named += [target.id for target in fields if isinstance(target, ast.Name)]
        found += [
            f"{made.name}.{name}" for name in named if not name.startswith("_") and not hasattr(true, name)
        ]
    return found


def refusals(trt: Any, flavour: str) -> dict[str, str]:
    """What our code says where this machine can start neither a build nor a runtime."""
    said = {}
    try:
        builder = PlanBuilder(trt, flavour, ("sm_89",), timing_cache=None, bar=BuildBar(None))
        builder.build(None, None, origin="x.onnx")  # type: ignore[arg-type]
    except ExportError as error:
        said["build"] = str(error)
    facts = DeviceFacts("No GPU", "sm_89", "13.0", 0, 0, shares_memory=False)
    device = type("NoDevice", (), {"facts": facts})()
    try:
        LoadedPlan(trt, flavour, b"vtrt", device, origin="x.plan")
    except EngineError as error:
        said["run"] = str(error)
    return said


def main() -> None:
    module, *folder = sys.argv[1:]
    sys.path[:0] = folder
    trt = importlib.import_module(module)
    is_rtx = "rtx" in module
    monitor = api.progress_monitor(trt, lambda *_: None, lambda *_: True, lambda *_: None)
    monitor.phase_start("build", None, 2)
    report = {
        "version": trt.__version__,
        "differences": differences(trt, is_rtx=is_rtx),
        "invented": invented(trt),
        "network_flags": list(PlanBuilder(trt, "x", (), timing_cache=None, bar=BuildBar(None)).network_flags),
        "monitor_continues": monitor.step_complete("build", 1),
        "has_aot_plugins": hasattr(trt, "QuickPluginCreationRequest"),
        "strategies": list(trt.ExecutionContextAllocationStrategy.__members__),
        "formats": list(trt.TensorFormat.__members__),
        "types": list(trt.DataType.__members__),
        "builder_flags": list(trt.BuilderFlag.__members__),
        "dimension_operations": list(trt.DimensionOperation.__members__) if not is_rtx else [],
        "refusals": {} if is_rtx else refusals(trt, "tensorrt"),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
