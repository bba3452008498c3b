"""What part of a job is already safe on the disk: closed segments and a line for each.

Beside `video.mp4` a job keeps the folder `.video.mp4.unfinished`: one file per segment and `journal.jsonl`. A line is
appended only after its segment is closed and synced, so a process killed at any point leaves a journal that is correct
(a torn last line is ignored). The first line describes the job; another job does not go on with these segments.
A resumed job encodes the last segment again; the old one stays until the new one is recorded in its place.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from i2i_runtime.errors import UsageError

_FILE = "journal.jsonl"
_SEGMENTS = "[0-9]*.*"


@dataclass(frozen=True)
class Segment:
    """A closed segment; `pts` in the order of its packets, in units of the clip's time base.

    `time_base` is that unit if there is no clip to read it from again; else it is empty.
    """

    file: str
    pts: tuple[int, ...]
    time_base: str = ""


class Journal:
    """The folder of one unfinished job."""

    def __init__(self, output: Path, job: dict[str, str]) -> None:
        self.folder = unfinished_folder(output)
        self.segments: list[Segment] = []
        self._output = output
        self._job = job
        self._replaced: Segment | None = None
        self._resumed = False

    @property
    def frames(self) -> int:
        return sum(len(segment.pts) for segment in self.segments)

    def begin(self) -> None:
        """Starts a new job, deleting what an earlier one left. Raises OSError."""
        self.discard()
        self.folder.mkdir(parents=True)
        self._append({"job": self._job})

    def resume(self) -> None:
        """Takes up the segments of the same job; starts over if there are none. Raises UsageError, OSError."""
        if not self.folder.is_dir():
            self.begin()
            return
        lines = self._lines()
        if not lines and not any(self.folder.glob(_SEGMENTS)):
            self.begin()  # the earlier run ended before it had done anything
            return
        if not lines or lines[0].get("job") != self._job:
            changed = _difference(lines[0].get("job", {}) if lines else {}, self._job)
            raise UsageError(
                f"The unfinished {self._output} was started with {changed}: "
                "use the same options to resume it, or --restart to start over."
            )
        for line in lines[1:]:
            pts = tuple(int(pts) for pts in line["pts"])
            segment = Segment(str(line["file"]), pts, str(line.get("time_base", "")))
            if not (self.folder / segment.file).is_file():
                break
            self.segments.append(segment)
        # The last segment is encoded again: it is the one that a failing disk may have torn, and at least one frame
        # is then read, from which the sink learns what else the source holds.
        if self.segments:
            self._replaced = self.segments.pop()
        self._resumed = True

    @property
    def last_pts(self) -> int | None:
        """The latest of what is recorded; None if nothing is."""
        return max((pts for segment in self.segments[-1:] for pts in segment.pts), default=None)

    @property
    def pace(self) -> int:
        """How much later than the one before it the latest frame was due; at least 1."""
        latest = sorted(pts for segment in self.segments[-2:] for pts in segment.pts)[-2:]
        return max(1, latest[-1] - latest[0]) if latest else 1

    @property
    def idle_s(self) -> float:
        """How long ago the last segment was closed."""
        written = (self.folder / self.segments[-1].file).stat().st_mtime
        return max(0.0, time.time() - written)

    def keep_all(self) -> None:
        """Goes on after the last segment, too, if its frames do not come again."""
        if self._replaced is not None:
            self.segments.append(self._replaced)
            self._replaced = None

    def next_file(self, suffix: str) -> str:
        """The name of the segment that comes next; not that of one which it is to replace."""
        name = f"{len(self.segments):06d}.{suffix}"
        taken = self._replaced is not None and self._replaced.file == name
        return f"{len(self.segments):06d}.again.{suffix}" if taken else name

    def holds_frames(self) -> bool:
        """Whether an earlier job left closed segments that `begin` would throw away."""
        return self.folder.is_dir() and len(self._lines()) > 1

    def record(self, segment: Segment) -> None:
        """Notes a closed segment once it is safe on the disk. Raises OSError."""
        _sync(self.folder / segment.file)
        if self._resumed:
            # Anew, as what a crash tore off the last line would spoil the next.
            self._rewrite([{"job": self._job}, *map(asdict, [*self.segments, segment])])
            self._forget_replaced()
        else:
            self._append(asdict(segment))
        self.segments.append(segment)

    def add_cut(self, segment: Segment | None) -> None:
        """Takes a segment that was cut short, for a file of what is there; it is encoded again later."""
        if self._replaced is not None and (segment is None or len(segment.pts) < len(self._replaced.pts)):
            segment = self._replaced
        if segment is not None and segment.pts:
            self.segments.append(segment)

    def discard(self) -> None:
        """Removes all of it, the journal last: killed on the way, what is left is still correct."""
        for segment in self.folder.glob(_SEGMENTS):
            segment.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _forget_replaced(self) -> None:
        if self._replaced is not None:
            (self.folder / self._replaced.file).unlink(missing_ok=True)
        self._resumed, self._replaced = False, None

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        fresh = self.folder / f"{_FILE}.new"
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.folder / _FILE)

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / _FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[dict[str, Any]]:
        try:
            text = (self.folder / _FILE).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        lines: list[dict[str, Any]] = []
        # A last line torn by a crash was never promised.
        with suppress(ValueError):
            lines.extend(json.loads(line) for line in text.splitlines())
        return lines


def unfinished_folder(output: Path) -> Path:
    """Where the job that writes `output` keeps its segments and its journal."""
    return output.with_name(f".{output.name}.unfinished")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _difference(before: object, now: dict[str, str]) -> str:
    was = before if isinstance(before, dict) else {}
    if not was:
        return "another job, because its journal cannot be read"
    return ", ".join(
        f"{key} {was.get(key, 'unset')}" for key in {**was, **now} if was.get(key) != now.get(key)
    )
