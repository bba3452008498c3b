"""The progress line: frames, rate, time left and drops while a job runs."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from i2i_runtime.console import SafeConsole
from i2i_runtime.stats import Progress as Standing


class ProgressLine:
    """A live line on standard error for one job after another; silent if that is not a terminal."""

    def __init__(self, *, silent: bool = False) -> None:
        self.console = SafeConsole(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[standing]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=silent or not self.console.is_terminal,
            refresh_per_second=5,
        )
        self._task: TaskID | None = None
        self._silent = silent

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, name: str) -> None:
        """Starts the line of another job."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(name, total=None, standing="starting")

    def show(self, standing: Standing) -> None:
        """Called by the pipeline several times a second."""
        if self._task is None:
            return
        fps = standing.frames_out / standing.elapsed_s if standing.elapsed_s > 0 else 0.0
        done = standing.skipped + standing.frames_out
        count = f"{done}" if standing.total is None else f"{done}/{standing.total}"
        if standing.skipped and not standing.frames_in:
            line = f"{count} frames  skipping frames that are done"
        else:
            line = f"{count} frames  {fps:.1f} fps  {standing.dropped} dropped  age {standing.age_ms:.0f} ms"
        self._bar.update(self._task, completed=done + standing.dropped, total=standing.total, standing=line)

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._silent:
            self.console.print(Text(line), soft_wrap=True)
