"""A fake of the module `tensorrt` that also builds; its only network gives the negative of a frame.

It is TensorRT in no way. The runtime half is that of `tests/runtime/strict_driver/fake`; this adds a builder whose
plans remember which form of the network they were built from. FAKE_FORMS says, as JSON, what a form does: `unbuilt`
gives no plan, `crash-in-build` and `crash-in-run` kill the process, `garbage` translates half of the frame, and
`refuses-capture` and `allocates` do what the runtime half does.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import onnx

_RUNTIME = Path(__file__).parents[4] / "runtime" / "strict_driver" / "fake" / "tensorrt.py"
_spec = importlib.util.spec_from_file_location("strict_tensorrt", _RUNTIME)
assert _spec is not None
assert _spec.loader is not None
_strict: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_strict)

__version__ = os.environ.get("FAKE_VERSION", "10.16.1.11")
ILogger = _strict.ILogger
ExecutionContextAllocationStrategy = _strict.ExecutionContextAllocationStrategy

_WISHES: dict[str, str] = json.loads(os.environ.get("FAKE_FORMS", "{}"))
_MARK = b" #"


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class IProgressMonitor:
    pass


class ITensor:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class INetworkDefinition:
    def __init__(self) -> None:
        self.num_inputs = 1
        self.form = ""
        self.frame = ITensor(())

    def get_input(self, index: int) -> ITensor:
        return self.frame


class ITimingCache:
    def __init__(self, known: bytes) -> None:
        self.known = known

    def serialize(self) -> bytes:
        return b"timings"


class IBuilderConfig:
    progress_monitor: Any = None

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        return cache.known in (b"", b"timings")


class Builder:
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        wish = _WISHES.get(network.form, "")
        if wish == "crash-in-build":
            os.kill(os.getpid(), signal.SIGSEGV)
        if wish == "unbuilt":
            self._logger.log(ILogger.Severity.ERROR, "Error Code 10: no tactic was found")
            return None
        return b"vtrt frame translated" + _MARK + network.form.encode()


class OnnxParser:
    num_errors = 0

    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        self._network = network

    def parse(self, model: bytes) -> bool:
        plugin = importlib.import_module("tensorrt.plugin")
        graph = onnx.load_from_string(model).graph
        dims = graph.input[0].type.tensor_type.shape.dim
        self._network.frame = ITensor(tuple(dim.dim_value or -1 for dim in dims))
        plugins = {f"{node.domain}::{node.op_type}" for node in graph.node if node.domain}
        assert plugins <= plugin.registered(), "a plugin must be registered before it is parsed"
        kinds = {node.op_type for node in graph.node}
        if any(name.startswith("i2i::conv_norm") for name in plugins):
            self._network.form = "convolution plugins"
        elif plugins:
            is_wide = not any(name.startswith("i2i::norm_slab") for name in plugins)
            self._network.form = "wide plugins" if is_wide else "plugins"
        else:
            self._network.form = "plain" if "InstanceNormalization" in kinds else "rewritten"
        return True


class IExecutionContext(_strict.IExecutionContext):  # type: ignore[misc]
    def _run(self, stream: int) -> bool:
        wish = self._engine.wish
        if wish == "crash-in-run":
            os.kill(os.getpid(), signal.SIGSEGV)
        _strict._WISHES.clear()
        _strict._WISHES[wish] = ""
        ran: bool = super()._run(stream)
        return ran

    @property
    def _bytes(self) -> int:
        whole: int = super()._bytes
        return whole // 2 if self._engine.wish == "garbage" else whole


class ICudaEngine(_strict.ICudaEngine):  # type: ignore[misc]
    wish = ""

    def create_execution_context(self, strategy: Any) -> IExecutionContext | None:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        return IExecutionContext(self)


class Runtime(_strict.Runtime):  # type: ignore[misc]
    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        names, _, form = serialized_engine.partition(_MARK)
        engine = ICudaEngine(self, names.decode().split()[1:])
        engine.wish = _WISHES.get(form.decode(), "")
        return engine
