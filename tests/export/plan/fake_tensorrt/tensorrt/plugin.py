"""As much of `tensorrt.plugin` as registering a plugin touches; nothing that is registered is ever asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
_known: dict[str, set[str]] = {}


def registered() -> set[str]:
    """Plugins with a description, a choice of layouts and a kernel."""
    return {name for name, parts in _known.items() if parts == {"register", "autotune", "aot_impl"}}


def _taking(part: str) -> Callable[[str], Callable[[F], F]]:
    def named(plugin_id: str) -> Callable[[F], F]:
        def keep(function: F) -> F:
            _known.setdefault(plugin_id, set()).add(part)
            return function

        return keep

    return named


register, autotune, aot_impl = _taking("register"), _taking("autotune"), _taking("aot_impl")


class TensorDesc: ...


class KernelLaunchParams: ...


class SymIntExprs: ...


class AutoTuneCombination: ...
