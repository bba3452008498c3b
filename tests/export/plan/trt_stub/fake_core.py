"""A fake of TensorRT's compiled core, just large enough for NVIDIA's own quick-plugin Python to run on.

Dimension expressions are evaluated at once, for one concrete shape. This is not TensorRT: it shows that our
plugin definitions pass NVIDIA's validation and what they answer, not that a builder accepts them.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)


class TensorFormat(enum.IntEnum):
    LINEAR, CHW2, HWC8, CHW4, CHW16, CHW32, DHWC8, CDHW32, HWC, DLA_LINEAR, DLA_HWC4, HWC16, DHWC = range(13)


class DimensionOperation(enum.Enum):
    SUM, PROD, MAX, MIN, SUB, EQUAL, LESS, FLOOR_DIV, CEIL_DIV = range(9)


class QuickPluginCreationRequest(enum.Enum):
    UNKNOWN, PREFER_JIT, PREFER_AOT, STRICT_JIT, STRICT_AOT = range(5)


class PluginFieldType(enum.Enum):
    FLOAT16, FLOAT32, FLOAT64, INT8, INT16, INT32, CHAR, DIMS, UNKNOWN, BF16, INT64, FP8 = range(12)


class TensorRTPhase(enum.Enum):
    BUILD, RUNTIME = range(2)


class PluginArgType(enum.Enum):
    INT = 0


class PluginArgDataType(enum.Enum):
    INT8, INT16, INT32 = range(3)


class IDimensionExpr:
    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return False

    def get_constant_value(self) -> int:
        return self.value


class IExprBuilder:
    _OPERATIONS: ClassVar[dict[DimensionOperation, Callable[[int, int], int]]] = {
        DimensionOperation.SUM: lambda a, b: a + b,
        DimensionOperation.PROD: lambda a, b: a * b,
        DimensionOperation.SUB: lambda a, b: a - b,
        DimensionOperation.MAX: max,
        DimensionOperation.MIN: min,
        DimensionOperation.FLOOR_DIV: lambda a, b: a // b,
        DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
    }

    def constant(self, value: int) -> IDimensionExpr:
        return IDimensionExpr(value)

    def operation(self, operation: Any, first: IDimensionExpr, second: IDimensionExpr) -> IDimensionExpr:
        return IDimensionExpr(self._OPERATIONS[operation](first.value, second.value))


class ISymExpr:
    type: Any
    dtype: Any
    expr: Any


class DimsExprs(list[Any]):
    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Dims(tuple[int, ...]):
    MAX_DIMS = 8

    def __new__(cls, extents: Any = ()) -> Dims:
        return super().__new__(cls, extents if not isinstance(extents, int) else (0,) * extents)


class PluginTensorDesc:
    def __init__(self) -> None:
        self.type, self.format, self.dims, self.scale = DataType.FLOAT, TensorFormat.LINEAR, Dims(), 1.0


class DynamicPluginTensorDesc:
    def __init__(self, extents: tuple[int, ...]) -> None:
        self.desc = PluginTensorDesc()
        self.desc.dims = self.min = self.max = self.opt = Dims(extents)


class PluginField:
    def __init__(self, name: str, data: Any, type: Any) -> None:
        self.name, self.data, self.type = name, data, type


class Registry:
    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str = "") -> bool:
        key = (creator.name, "1", namespace)
        assert key not in self.creators, "TensorRT refuses a second creator of the same name"
        self.creators[key] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[name, version, namespace]


class Logger:
    WARNING = 1

    def log(self, severity: int, message: str) -> None:
        """Silent."""


def install(plugin_package: Path) -> types.ModuleType:
    """Puts the fake in place of `tensorrt`, with NVIDIA's `tensorrt.plugin` from this folder on top of it."""
    fake = types.ModuleType("tensorrt")
    for name, value in globals().items():
        if isinstance(value, type) and value.__module__ == __name__:
            setattr(fake, name, value)
    for name in (
        *("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickRuntime"),
        *("IPluginV3QuickAOTBuild", "IPluginCreatorV3Quick", "ITensor"),
    ):
        setattr(fake, name, type(name, (), {}))
    registry = Registry()
    members: dict[str, Any] = {
        "__path__": [str(plugin_package.parent)],
        "PluginFieldCollection": list,
        "PluginFieldCollection_": list,
        "get_plugin_registry": lambda: registry,
        "float32": DataType.FLOAT,
        "float16": DataType.HALF,
        "int32": DataType.INT32,
        "registry": registry,
    }
    for name, value in members.items():
        setattr(fake, name, value)
    sys.modules["tensorrt"] = fake
    return fake
