"""The errors that a user of export can cause: one sentence each, printed by the command (exit code 1)."""

from __future__ import annotations

from rich.table import Table

from i2i_runtime.errors import I2IError


class ExportError(I2IError):
    """A network that cannot become an engine, or an engine that cannot become what was asked for."""

    table: Table | None = None
    """Figures to show above the sentence."""


class ForeignNetworkError(ExportError):
    """A network from elsewhere that `i2i-export adopt` cannot wrap, or not without being told more."""


class CalibrationError(ExportError):
    """Too few or unusable frames to calibrate int8 with."""
