"""A job as it is run: itself, or for a folder of clips one job per clip, one after another."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from i2i_runtime.errors import I2IError, UsageError
from i2i_runtime.files import CLIP_ENDINGS, IMAGE_ENDINGS, folded, is_sidecar, same_file
from i2i_runtime.job import Job, Outcome, Translation, files_read, files_written
from i2i_runtime.media.animation import is_animated
from i2i_runtime.media.images import image_paths
from i2i_runtime.progress import ProgressLine
from i2i_runtime.report import check_json_target, write_json
from i2i_runtime.run import run_job, stamp_of_job
from i2i_runtime.sinks.encoder import CONTAINERS
from i2i_runtime.sinks.images import takes_images
from i2i_runtime.sinks.video import is_complete
from i2i_runtime.terminal import printable
from i2i_runtime.uri import Uri


@dataclass(frozen=True)
class Batch:
    """`parts` are the jobs of a folder of clips, empty for any other input; `remark` says what is left out."""

    job: Job
    parts: tuple[Job, ...] = ()
    remark: str = ""


def batch_from_job(job: Job) -> Batch:
    """Splits a folder of clips; clips are written into the output folder under their own names.

    The images of such a folder come last, as one more job. Raises UsageError if the clips need another output.
    """
    source = job.input
    clips = clips_of(source.path) if source.scheme == "file" else []
    passed = _passed_over(source.path) if source.scheme == "file" else []
    remark = f"neither videos nor images, so not translated: {', '.join(passed)}" if passed else ""
    if not clips:
        return Batch(job, remark=remark)
    has_images = bool(image_paths(source.location))
    if len(clips) == 1 and not has_images and not source.path.is_dir():
        return Batch(replace(job, input=Uri.of_path(clips[0])))
    folder = job.target
    if folder is None or folder.suffix:
        if not has_images:
            what = "is a folder of clips" if source.path.is_dir() else "names several clips"
            raise UsageError(f"{source.path} {what}: give one folder as --output.")
        names = ", ".join(clip.name for clip in clips)
        remark = (
            f"only the images in {source.path} are translated: its clips ({names}) need a folder as --output"
        )
        return Batch(job, remark=remark)
    if any(same_file(clip.parent, folder) for clip in clips):
        raise UsageError(f"{folder} contains the clips themselves: choose another folder as --output.")
    parts = [
        replace(job, input=Uri.of_path(clip), outputs=(Uri.of_path(target),), report=None)
        for clip, target in zip(clips, _targets(folder, clips), strict=True)
    ]
    if has_images:
        options = replace(job.sink, resume=False)
        parts.append(replace(job, outputs=(Uri.of_path(folder),), sink=options, report=None))
    return Batch(job, tuple(parts), remark)


def run_batch(translation: Translation, batch: Batch, progress: ProgressLine) -> Outcome:
    """Runs all jobs; one that fails does not stop the others. Raises KeyboardInterrupt, I2IError for a single job."""
    engine = translation.engine
    progress.say(
        printable(
            f"{engine.metadata.name} ({engine.metadata.direction}) runs on {engine.backend}: {engine.reason}"
        )
    )
    if batch.remark:
        progress.say(batch.remark)
    if batch.parts:
        return _run_parts(translation, batch, progress)
    if _is_done(translation, batch.job):
        return Outcome(0, f"{batch.job.target} is already complete; omit --resume to write it again")
    progress.begin(batch.job.input.shown)
    return run_job(translation, batch.job, progress)


def _run_parts(translation: Translation, batch: Batch, progress: ProgressLine) -> Outcome:
    if batch.job.report is not None:
        read = [
            kept for part in batch.parts for kept in (*files_read(translation, part), *files_written(part))
        ]
        check_json_target(batch.job.report, read)
    failures: list[str] = []
    reports: list[dict[str, Any]] = []
    for number, part in enumerate(batch.parts, 1):
        path = part.input.path
        title = f"{number}/{len(batch.parts)} {printable(path.name)}"
        if _is_done(translation, part):
            progress.say(f"{title}: already complete")
            continue
        progress.begin(title)
        try:
            outcome = run_job(translation, part, progress)
        except I2IError as error:
            failures.append(f"{path.name}: {error}")
            reports.append({"input": str(path), "outcome": "failed", "error": str(error)})
        else:
            reports.append(outcome.report)
            progress.say(f"{title}: {outcome.sentence}")
            if outcome.exit_code != 0:
                failures.append(f"{path.name}: damaged, {len(outcome.report['losses'])} losses")
    report = {"clips": reports, "failures": failures, "remark": batch.remark}
    if batch.job.report is not None:
        write_json(batch.job.report, report)
    finished = f"{len(batch.parts) - len(failures)} of {len(batch.parts)} items finished"
    sentence = "\n".join([finished, *(f"failed: {printable(text)}" for text in failures)])
    return Outcome(1 if failures else 0, sentence, report)


def _is_done(translation: Translation, job: Job) -> bool:
    """Whether a job that is to be resumed has finished before: its only output is a video of this very job."""
    target = job.target
    if not job.sink.resume or target is None or takes_images(str(target)):
        return False
    return is_complete(target, stamp_of_job(translation, job))


def clips_of(place: Path) -> list[Path]:
    """The video files of a folder or glob, in the order of their names; none if it is neither."""
    if place.is_dir():
        found = list(place.iterdir())
    elif not place.exists() and glob.has_magic(str(place)):
        found = [Path(name) for name in glob.glob(str(place), recursive=True)]
    else:
        return []
    return sorted(path for path in found if _is_clip(path))


def _is_clip(path: Path) -> bool:
    if is_sidecar(path) or not path.is_file():
        return False
    return path.suffix.lower() in CLIP_ENDINGS or is_animated(path)


def _passed_over(folder: Path) -> list[str]:
    """The names of the files of a folder that are neither videos nor images, without hidden ones."""
    if not folder.is_dir():
        return []
    media = CLIP_ENDINGS | IMAGE_ENDINGS
    others = [path for path in folder.iterdir() if path.is_file() and path.suffix.lower() not in media]
    return sorted(path.name for path in others if not path.name.startswith(".") and not is_sidecar(path))


def _targets(folder: Path, clips: Sequence[Path]) -> list[Path]:
    """The outputs of the clips: under their own names if that container is written, else as MP4, each name once."""
    own = [clip.suffix.lower() in CONTAINERS for clip in clips]
    wished = [clip.name if kept else f"{clip.stem}.mp4" for clip, kept in zip(clips, own, strict=True)]
    taken: set[str] = set()
    targets: dict[Path, Path] = {}
    # Clips that keep their name come first, because others can take another.
    for clip, kept, name in sorted(zip(clips, own, wished, strict=True), key=lambda one: not one[1]):
        alone = sum(folded(other) == folded(name) for other in wished) == 1
        if not kept and not alone:
            name = f"{clip.name}.mp4"
        # Two names that differ in case are one on some file systems.
        while folded(name) in taken:
            name = f"{Path(name).stem}_{Path(name).suffix}"
        taken.add(folded(name))
        targets[clip] = folder / name
    return [targets[clip] for clip in clips]
