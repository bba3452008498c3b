"""What part of a job is already safe on the disk: closed segments and a line for each.

Beside `video.mp4` a job keeps the folder `.video.mp4.unfinished`: one file per segment and `journal.jsonl`. A line is
appended only after its segment is closed and synced, so a process killed at any point leaves a journal that is correct
(a torn last line is ignored). The first line describes the job; another job does not go on with these segments.
A resumed job encodes the last segment again; the old one stays until the new one is recorded in its place.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from i2i_runtime.errors import UsageError
from i2i_runtime.files import same_file, sync_folder

_FILE = "journal.jsonl"
_SEGMENT = re.compile(r"[0-9]{6}(\.again)?\.(nut|mov|matroska)")
_OWN_FILES = re.compile(rf"{_SEGMENT.pattern}|{re.escape(_FILE)}(\.new)?|whole\.[a-z0-9]+")
_LARGEST_PTS = 2**63


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
        """Starts a new job, deleting what an earlier one left. Raises OSError, UsageError for a foreign folder."""
        self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._append({"job": self._job})
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def resume(self) -> None:
        """Takes up the segments of the same job; starts over if there are none. Raises UsageError, OSError."""
        if not self._is_there():
            self.begin()
            return
        lines = self._lines()
        if not lines and not any(_SEGMENT.fullmatch(path.name) for path in self.folder.iterdir()):
            self.begin()  # the earlier run ended before it had done anything
            return
        recorded = lines[0].get("job") if lines and isinstance(lines[0], dict) else None
        if not _is_same_job(recorded, self._job):
            raise UsageError(
                f"The unfinished {self._output} was started with {_difference(recorded, self._job)}: "
                "use the same options to resume it, or --restart to start over."
            )
        for number, line in enumerate(lines[1:], 2):
            segment = self._segment_from_line(line, number)
            if not (self.folder / segment.file).is_file():
                break
            self.segments.append(segment)
        # The last segment is encoded again: it is the one that a failing disk may have torn, and at least one frame
        # is then read, from which the sink learns what else the source holds.
        if self.segments:
            self._replaced = self.segments.pop()
        self._resumed = True

    def _segment_from_line(self, line: object, number: int) -> Segment:
        """The segment that a line of the journal records. Raises UsageError for a line that no job wrote."""
        segment = _segment_of(line)
        after = self.last_pts
        if segment is None or (after is not None and min(segment.pts) <= after):
            raise UsageError(
                f"The journal of the unfinished {self._output} is damaged (line {number} of "
                f"{self.folder / _FILE} was not written by a job): use --restart to start over."
            )
        return segment

    def _is_there(self) -> bool:
        """Whether the folder exists. Raises UsageError if it, or a file in it, is a link or of another user."""
        try:
            status = self.folder.lstat()
        except FileNotFoundError:
            return False
        wrong = _foreign(status, self.folder.parent)
        if wrong is None:
            for path in self.folder.iterdir():
                if _OWN_FILES.fullmatch(path.name) and not stat.S_ISREG(path.lstat().st_mode):
                    wrong = f"holds {path.name}, which is not a file"
        if wrong is not None:
            raise UsageError(
                f"{self.folder} {wrong}, so it is not the unfinished job of {self._output}: "
                "remove it, or choose another --output."
            )
        return True

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
        return self._is_there() and len(self._lines()) > 1

    def record(self, segment: Segment) -> None:
        """Notes a closed segment once it is safe on the disk. Raises OSError."""
        _sync(self.folder / segment.file)
        sync_folder(self.folder)
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
        """Removes what jobs wrote, the journal last: killed on the way, what is left is still correct.

        Raises UsageError for a folder that is a link or of another user.
        """
        if not self._is_there():
            return
        own = [path for path in self.folder.iterdir() if _OWN_FILES.fullmatch(path.name)]
        for path in sorted(own, key=lambda path: path.name == _FILE):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()  # it stays if it holds anything else

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
        sync_folder(self.folder)

    def _append(self, line: dict[str, Any]) -> None:
        with (self.folder / _FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _lines(self) -> list[Any]:
        try:
            text = (self.folder / _FILE).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        lines: list[Any] = []
        # A last line torn by a crash was never promised.
        with suppress(ValueError, RecursionError):
            lines.extend(json.loads(line) for line in text.splitlines())
        return lines


def unfinished_folder(output: Path) -> Path:
    """Where the job that writes `output` keeps its segments and its journal."""
    return output.with_name(f".{output.name}.unfinished")


def is_unfinished(output: Path) -> bool:
    """Whether a job left a journal for `output`."""
    return (unfinished_folder(output) / _FILE).exists()


def _segment_of(line: object) -> Segment | None:
    """The segment in a decoded line; None if a value is missing or of a kind that no job writes."""
    if not isinstance(line, dict):
        return None
    file, pts, base = line.get("file"), line.get("pts"), line.get("time_base", "")
    if not (isinstance(file, str) and _SEGMENT.fullmatch(file) and isinstance(base, str)):
        return None
    if not isinstance(pts, list) or not pts or len(set(map(str, pts))) != len(pts):
        return None
    if not all(type(value) is int and abs(value) < _LARGEST_PTS for value in pts):
        return None
    if base:
        try:
            if Fraction(base) <= 0:
                return None
        except (ValueError, ZeroDivisionError):
            return None
    return Segment(file, tuple(pts), base)


def _foreign(status: os.stat_result, beside: Path) -> str | None:
    """Why what has this status is not a folder that a job of this user made; None if it is."""
    if stat.S_ISLNK(status.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(status.st_mode):
        return "is not a folder"
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        # Network and FAT file systems give every file one owner, whoever made it.
        with tempfile.TemporaryFile(dir=beside) as probe:
            if os.fstat(probe.fileno()).st_uid != status.st_uid:
                return "belongs to another user"
    return None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_same_job(recorded: object, now: dict[str, str]) -> bool:
    return isinstance(recorded, dict) and not _differing(recorded, now)


def _differing(was: dict[str, Any], now: dict[str, str]) -> Sequence[str]:
    """The entries that differ. Another spelling of the input's path does not, nor what was not recorded earlier."""
    unrecorded = {"deinterlace": "False", "input_files": now.get("input_files")}
    before = {key: value for key, value in unrecorded.items() if key in now} | was
    differing = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if "input" in differing and _is_same_input(before.get("input"), now.get("input", "")):
        differing.remove("input")
    return differing


def _is_same_input(was: object, now: str) -> bool:
    kind = "replay:" if now.startswith("replay:") else ""
    path = Path(now.removeprefix(kind))
    return isinstance(was, str) and path.is_file() and same_file(Path(was.removeprefix(kind)), path)


def _difference(before: object, now: dict[str, str]) -> str:
    was = before if isinstance(before, dict) else {}
    if not was:
        return "another job, because its journal cannot be read"
    return ", ".join(f"{key} {was.get(key, 'unset')}" for key in _differing(was, now))
