"""Stages that stand between the engine and the sinks."""

from __future__ import annotations

from i2i_runtime.stages.base import Stage

__all__ = ["Stage"]
