"""Of several forms of one network the one to keep: each is built, run, compared with the engine, and timed.

A form that cannot be built, that does not run or whose image differs is noted and left out; it never ends the build.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import onnx

from i2i_export.errors import ExportError
from i2i_export.plan.builder import BuildBar, FrameProfile, PlanBuilder, pinned_to_size
from i2i_export.plan.child import PluginBuild, build_in_child, translate_in_child
from i2i_export.plan.examine import Examination, latencies_ms, require_same
from i2i_export.plan.forms import Form
from i2i_export.plan.passes import smallest_rewrite
from i2i_export.plan.structure import PlanStructure, structure_from_plan
from i2i_runtime.engines import Engine
from i2i_runtime.engines.tensorrt.api import TensorRT
from i2i_runtime.engines.tensorrt.engine import open_built_plan
from i2i_runtime.engines.tensorrt.manifest import Candidate, PluginRecord
from i2i_runtime.errors import EngineError
from i2i_runtime.metadata import EngineMetadata


@dataclass(frozen=True)
class Built:
    """A form with its plan, and what was found out about it."""

    form: Form
    plan: bytes
    build_s: float
    candidate: Candidate
    plugins: tuple[PluginRecord, ...] = ()


@dataclass
class Selection:
    """Builds forms, runs them, and keeps one; `candidates` says what became of each."""

    trt: TensorRT
    target: str
    builder: PlanBuilder
    profile: FrameProfile
    metadata: EngineMetadata
    origin: str
    examination: Examination | None
    """None on a machine that cannot run the plan."""
    kernel_pack: Path | None
    timing_cache: Path | None
    bar: BuildBar
    candidates: list[Candidate] = field(default_factory=list)

    def fastest(self, forms: Sequence[Form], left_out: Sequence[Candidate]) -> Built:
        """Of all forms that give the engine's image the fastest. Raises ExportError if none does."""
        passed = [built for form in forms if (built := self._attempt(partial(self._build, form), form.name))]
        if not passed:
            raise self._nothing_kept()
        if len(passed) > 1:
            passed = self._timed(passed)
        best = min(passed, key=_latency)
        found = {built.form.name: built.candidate for built in passed}
        self.candidates = [found.get(candidate.form, candidate) for candidate in self.candidates]
        self.candidates += left_out
        self._keep(best)
        return best

    def smallest(self, model: onnx.ModelProto) -> Built:
        """The form with the fewest launches or bytes, counted in the plan; the plain one if its image differs.

        A dynamic network is counted at its usual size. Raises ExportError if neither gives the engine's image.
        """
        counted = FrameProfile(self.profile.usual, self.profile.usual, self.profile.usual)
        fixed_plans: dict[int, tuple[bytes, float]] = {}

        def count(trial: onnx.ModelProto) -> PlanStructure | None:
            start = time.perf_counter()
            pinned = pinned_to_size(trial, *self.profile.usual)
            plan = self.builder.build(pinned, counted, origin=self.origin)
            structure = structure_from_plan(plan)
            if self.profile.is_fixed:
                fixed_plans[id(structure)] = plan, time.perf_counter() - start
            return structure

        found = smallest_rewrite(model, count)
        precision = self.metadata.precision
        plain = Form("plain", model, precision)
        if not found.kept:
            form, is_counted = replace(plain, model=found.model), found.after is not None
        else:
            form, is_counted = Form("rewritten", found.model, precision, rewrites=found.kept), True

        def built() -> Built:
            if is_counted and self.profile.is_fixed:
                return _built(form, *fixed_plans[id(found.after)])
            return self._build(form)

        best = self._attempt(built, form.name)
        if found.kept and best is None:
            best = self._attempt(partial(self._build, plain), plain.name)
        elif found.kept:
            self.candidates.append(_candidate("plain", found.before))
        if best is None:
            raise self._nothing_kept()
        self._keep(best)
        return best

    def _attempt(self, build: Callable[[], Built], name: str) -> Built | None:
        """The form's plan if it is built, runs and gives the engine's image; else a note on why not."""
        candidate, looks = Candidate(name, kept=False), self.examination
        try:
            if looks is not None and looks.obstacle and name != "plain":
                raise ExportError(f"it cannot be compared with the engine: {looks.obstacle}")
            built = build()
            candidate = built.candidate
            if looks is not None:
                images = translate_in_child(self.target, built.plan, self.metadata, looks.frames)
                if looks.obstacle:
                    candidate = replace(candidate, note=f"was not compared with the engine: {looks.obstacle}")
                else:
                    report = looks.compare(name, images)
                    candidate = replace(candidate, psnr_db=round(report.psnr_db, 2))
                    require_same(report)
        except (ExportError, EngineError) as error:
            self.candidates.append(replace(candidate, note=str(error)))
            return None
        self.candidates.append(candidate)
        return replace(built, candidate=candidate)

    def _build(self, form: Form) -> Built:
        start = time.perf_counter()
        if form.plugins is None:
            plan = self.builder.build(form.model, self.profile, origin=self.origin)
            return _built(form, plan, time.perf_counter() - start)
        self.bar.start(form.name, None, 1)
        try:
            job = PluginBuild(
                self.target,
                self.builder.architectures[0],
                form.plugins,
                self.profile.smallest,
                self.profile.usual,
                self.profile.largest,
                None if self.kernel_pack is None else str(self.kernel_pack),
                None if self.timing_cache is None else str(self.timing_cache),
                self.origin,
            )
            plan, records = build_in_child(form.model, job)
        finally:
            self.bar.finish(form.name)
        return replace(_built(form, plan, time.perf_counter() - start), plugins=records)

    def _timed(self, passed: Sequence[Built]) -> list[Built]:
        """The same with their latencies at the usual size."""
        assert self.examination is not None
        openers = [partial(self._open, built.plan) for built in passed]
        times = latencies_ms(openers, self.examination.frames[0])
        return [
            replace(
                built,
                candidate=replace(
                    built.candidate,
                    latency_ms=None if latency is None else round(latency, 4),
                    note="" if latency is not None else "was not timed, it does not fit beside the others",
                ),
            )
            for built, latency in zip(passed, times, strict=True)
        ]

    def _open(self, plan: bytes) -> Engine:
        return open_built_plan(self.trt, self.target, plan, self.metadata)

    def _keep(self, best: Built) -> None:
        self.candidates = [
            replace(candidate, kept=candidate.form == best.form.name) for candidate in self.candidates
        ]

    def _nothing_kept(self) -> ExportError:
        notes = "; ".join(f"{candidate.form}: {candidate.note.rstrip('.')}" for candidate in self.candidates)
        return ExportError(
            f"{self.origin} gives no TensorRT plan ({notes}): run the file itself with "
            f"`i2i-stream --engine {self.origin}`."
        )


def _latency(built: Built) -> float:
    return float("inf") if built.candidate.latency_ms is None else built.candidate.latency_ms


def _built(form: Form, plan: bytes, build_s: float) -> Built:
    return Built(form, plan, build_s, _candidate(form.name, structure_from_plan(plan)))


def _candidate(form: str, structure: PlanStructure | None) -> Candidate:
    if structure is None:
        return Candidate(form, kept=False)
    return Candidate(form, False, structure.launch_count, round(structure.megabytes, 2))
