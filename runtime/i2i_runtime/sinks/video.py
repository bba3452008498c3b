"""A video file, written in closed segments that are joined as they come, so that nothing done is ever lost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock

import av.error

from i2i_runtime.errors import SinkError, UsageError
from i2i_runtime.files import reason_of, refusal_of_target, same_file, sync_folder
from i2i_runtime.frame import Frame
from i2i_runtime.sinks.base import Sink, SinkOptions
from i2i_runtime.sinks.copies import choose_copies
from i2i_runtime.sinks.encoder import CONTAINERS, choose_codec, choose_encoding, choose_segments, keeps_fields
from i2i_runtime.sinks.journal import Journal, is_unfinished
from i2i_runtime.sinks.lock import OutputLock
from i2i_runtime.sinks.remux import Assembly
from i2i_runtime.sinks.segments import SegmentWriter
from i2i_runtime.sinks.stamp import put_stamp, read_stamp
from i2i_runtime.sinks.stored import StoredFrames
from i2i_runtime.sinks.trial import refusal_of_file

SEGMENT_FRAMES = 240
_PATIENCE_S = 1.0


@dataclass(frozen=True)
class _Output:
    """What writes the file, from the image to the joined segments; decided once, from the first frame."""

    frames: StoredFrames
    segments: SegmentWriter
    assembly: Assembly


class VideoSink(Sink):
    """Encodes frames with the times, colour, rotation and pixel shape of the clip they come from.

    Segments always end after the same number of frames, whether or not a job was interrupted: a resumed job gives
    the same images as one that was not. The file appears under its name only when it is complete; an unfinished job
    leaves `NAME.partial.EXT`, which plays, and its segments, with which `resume` continues.
    """

    resumable = True
    done = 0

    def __init__(self, path: Path, options: SinkOptions) -> None:
        self.name = str(path)
        self._path = path
        self._options = options
        if path.suffix.lower() not in CONTAINERS:
            raise UsageError(
                f"{path} does not have the suffix of a video that can be written: use one of "
                f"{', '.join(CONTAINERS)}, or a folder for images."
            )
        # An interrupted job leaves the partial file.
        for target in (path, self._partial):
            if (refusal := refusal_of_target(target, options.kept)) is not None:
                raise UsageError(f"{target} {refusal}: choose another --output.")
        self._codec, self._notes = choose_codec(path, options)
        self._journal = Journal(path, options.job)
        try:
            self._lock = OutputLock(path)
            try:
                self._begin()
            except BaseException:
                self._lock.release()
                raise
        except OSError as error:
            raise self._failure(error) from error
        self._notes += [self._lock.note] if self._lock.note else []
        self.done = self._journal.frames
        self._live = False
        self._recorded_to = self._journal.last_pts
        self._ended_early = False
        self._output: _Output | None = None
        self._finished = False
        self._working = Lock()

    def _begin(self) -> None:
        """Opens the journal: that of a new job, or of the unfinished one that is resumed."""
        options = self._options
        if options.resume:
            if self._path.exists() and not is_unfinished(self._path):
                raise UsageError(
                    f"{self._path} exists and is not the output of this job (its input, engine or options were "
                    "others, or an earlier version wrote it): omit --resume to write it again, or choose another "
                    "--output."
                )
            self._journal.resume()
        elif self._journal.holds_frames() and not options.restart:
            raise UsageError(
                f"{self._path} has an unfinished job: use --resume to continue it or --restart to start over."
            )
        else:
            self._journal.begin()

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def keep_all(self) -> None:
        self._journal.keep_all()
        self.done = self._journal.frames
        self._live, self._recorded_to = True, self._journal.last_pts

    def end_early(self) -> None:
        self._ended_early = True

    def write(self, translated: Frame, source: Frame) -> None:
        with self._working:
            self._write(translated, source)

    def _write(self, translated: Frame, source: Frame) -> None:
        if not self._live and self._recorded_to is not None and translated.pts <= self._recorded_to:
            return  # a replay that had dropped frames repeats what is recorded
        if self._output is None:
            self._output = self._open(translated, source)
        output = self._output
        frame = output.frames.stored(translated, source)
        try:
            output.segments.add(frame)
            if output.segments.frames == SEGMENT_FRAMES:
                output.segments.close()
            output.assembly.join_next()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error

    def _open(self, translated: Frame, source: Frame) -> _Output:
        """Decides how the whole file is written, from its first frame."""
        clip = source.clip
        if clip is not None and same_file(self._path, clip.path):
            raise SinkError(f"{self._path} would overwrite its own source: choose another --output.")
        encoding = choose_encoding(self._codec, self._options, translated, source)
        shift = self._gap(translated)
        time_base = str(encoding.time_base) if clip is None else ""
        marked = clip is not None and self._codec == "libx264" and keeps_fields(clip, translated)
        if clip is not None and clip.fields is not None and not marked:
            self._notes.append(f"{self._path.name} is not marked as interlaced, though its source is")
        segments, container = choose_segments(self._codec), CONTAINERS[self._path.suffix.lower()]
        try:
            copies = None if clip is None else choose_copies(clip, container)
        except (av.error.FFmpegError, OSError) as error:
            raise self._failure(error) from error
        if (why := refusal_of_file(encoding, segments, container, copies)) is not None:
            raise SinkError(
                f"{self._path}: a {self._path.suffix} file cannot hold {self._codec} ({why}): "
                "use another suffix, or another --codec."
            )
        return _Output(
            StoredFrames(self.name, encoding, shift),
            SegmentWriter(self._journal, encoding, segments, time_base),
            Assembly(self._journal, container, copies, encoding.time_base, self._joined),
        )

    def _gap(self, first: Frame) -> int:
        """By how much times are shifted, so that a live recording continues where an earlier run left it."""
        if not self._live or self._recorded_to is None:
            return 0
        due = self._recorded_to + self._journal.pace
        self._notes.append(
            f"the recording was interrupted after {float(due * first.time_base):.1f} s, and the "
            f"{self._journal.idle_s:.0f} s from then until it continued are missing"
        )
        return due - first.pts

    def finish(self) -> None:
        with self._working:
            self._finish()

    def _finish(self) -> None:
        output = self._output
        if output is None:
            raise SinkError(
                f"Nothing was written to {self._path}, because the input had no frames{self._how_to_resume()}."
            )
        try:
            output.segments.close()
            self._notes += output.assembly.finish(whole=not (self._options.cut or self._ended_early))
            if self._ended_early and not self._live:
                self._notes.append(
                    f"{self._path.name} ends where the job was ended, before the end of its input"
                )
            if output.frames.dropped_alpha:
                self._notes.append(
                    f"the alpha channel was dropped, because {self._codec} cannot hold one: "
                    "--codec prores_ks in a .mov or --codec ffv1 in a .mkv keeps it"
                )
            if self._options.stamp is not None and (self._live or not self._ended_early):
                put_stamp(output.assembly.target, self._options.stamp)
            with output.assembly.target.open("rb") as file:
                os.fsync(file.fileno())
            output.assembly.target.replace(self._path)
            # Its name must be on the disk before the segments are gone.
            sync_folder(self._path.parent)
            if self._options.resume or self._options.restart:
                self._partial.unlink(missing_ok=True)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error
        self._finished = True
        self._journal.discard()
        self._lock.release()

    def close(self) -> None:
        # A user may give up while a slow disk still takes the last of it: what is recorded stays then.
        if self._working.acquire(timeout=_PATIENCE_S):
            try:
                self._close()
            finally:
                self._lock.release()
                self._working.release()

    def _close(self) -> None:
        if self._finished:
            return
        self._finished = True
        output = self._output
        if not self._journal.holds_frames() and (output is None or output.segments.frames == 0):
            self._journal.discard()
            return
        assembly = self._recorded() if output is None else output.assembly
        if assembly is None:
            return
        try:
            # A cut segment is not part of a resumed job: it plays in the partial file and is encoded again.
            self._journal.add_cut(None if output is None else output.segments.end())
            assembly.finish(whole=False)
            assembly.target.replace(self._partial)
        except (av.error.FFmpegError, OSError, ValueError, SinkError):
            # The job has failed already, with an error of its own; what was recorded stays.
            assembly.close()

    def _recorded(self) -> Assembly | None:
        """What an earlier run recorded, if this one failed before its first frame: a camera may be gone for good."""
        if self._partial.exists():
            return None
        self._journal.keep_all()
        base = self._journal.segments[-1].time_base if self._journal.segments else ""
        container = CONTAINERS[self._path.suffix.lower()]
        return Assembly(self._journal, container, None, Fraction(base), self._joined) if base else None

    @property
    def _joined(self) -> Path:
        return self._journal.folder / f"whole{self._path.suffix}"

    @property
    def _partial(self) -> Path:
        return self._path.with_name(f"{self._path.stem}.partial{self._path.suffix}")

    def _how_to_resume(self) -> str:
        return "; use --resume to continue it" if self._journal.holds_frames() else ""

    def _failure(self, error: Exception) -> SinkError:
        return SinkError(
            f"{self._path} cannot be written ({reason_of(error)}): "
            f"check that the folder exists, is writable and has free space{self._how_to_resume()}."
        )


def is_complete(target: Path, stamp: bytes) -> bool:
    """Whether this video is the finished output of the job that `stamp` describes."""
    try:
        return target.is_file() and read_stamp(target) == stamp and not is_unfinished(target)
    except OSError:
        return False
