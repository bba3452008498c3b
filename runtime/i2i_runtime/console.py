"""Rich's console, with everything that a terminal would obey in names and tags shown as its code."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from i2i_runtime.terminal import printable_lines


class SafeConsole(Console):
    """Prints lines and tables; names of files are not markup, whatever brackets, colons and escapes they contain."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)
