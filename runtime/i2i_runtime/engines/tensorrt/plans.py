"""The plan of a portable engine for the GPU at hand: found in the user's cache, or built there once.

A plan is found again by the engine's hash, the size it is pinned to, the GPU and TensorRT's version.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path

from i2i_runtime.engines.tensorrt.api import MODULES, load_tensorrt
from i2i_runtime.engines.tensorrt.cuda import INSTALL, has_nvidia_driver, open_device
from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.fit import Runner, rebuild_command, run_here, why_unfit
from i2i_runtime.engines.tensorrt.manifest import read_manifest, sidecar_path
from i2i_runtime.errors import EngineError
from i2i_runtime.extras import install_command
from i2i_runtime.files import reason_of, sha256_of_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanWanted:
    """Which plan: of which engine file, for which GPU and TensorRT, pinned to `size` (height, width) or as the engine
    is."""

    engine: Path
    facts: DeviceFacts
    flavour: str
    version: str
    size: tuple[int, int] | None = None

    def folder(self) -> Path:
        """The plan's own folder in the user's cache."""
        size = "own-size" if self.size is None else f"{self.size[1]}x{self.size[0]}"
        gpu = re.sub(r"[^A-Za-z0-9]+", "-", self.facts.name).strip("-")
        device = f"{gpu}.{self.facts.architecture}.{self.flavour}-{self.version}"
        key = f"{self.engine.stem}.{sha256_of_file(self.engine)[:16]}.{size}.{device}"
        return user_cache_path("i2i-stream") / "plans" / key


def why_no_plans() -> str:
    """Why no plan can run on this machine, found out without opening anything; empty if one may."""
    if not any(find_spec(module) for modules in MODULES.values() for module in modules):
        return "TensorRT is not installed"
    if not any(find_spec(module) for module in ("cuda", "pycuda")):
        return f"no Python library that reaches the GPU is installed, {INSTALL} installs one"
    return "" if has_nvidia_driver() else "there is no NVIDIA driver"


def plan_wanted(engine: Path, size: tuple[int, int] | None = None) -> PlanWanted:
    """The plan of an engine file for the first GPU, by the first TensorRT that is installed. Raises EngineError."""
    if reason := why_no_plans():
        raise EngineError(reason)
    device = open_device()
    facts = device.facts
    device.close()
    for flavour, modules in MODULES.items():
        if any(find_spec(module) for module in modules):
            return PlanWanted(engine, facts, flavour, load_tensorrt(flavour).__version__, size)
    raise EngineError("TensorRT is not installed")


def cached_plan(wanted: PlanWanted, *, build: bool, run: Runner | None = None) -> Path:
    """The plan in the user's cache, built now if it is not there. Raises EngineError with the reason it is not.

    Several processes may want the same plan: one builds it and the others wait. A build that fails leaves nothing.
    """
    folder = wanted.folder()
    plan = folder / f"{wanted.engine.stem}.plan"
    if _is_there(plan, wanted):
        return plan
    if not build:
        raise EngineError(f"there is no TensorRT plan of {wanted.engine.name} for this GPU yet (--no-build)")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder):
            if not _is_there(plan, wanted):
                _build_into(folder, wanted, run or run_here)
    except OSError as error:
        raise EngineError(f"the plan cannot be kept in {folder.parent} ({reason_of(error)})") from error
    return plan


def build_plan(plan: Path, wanted: PlanWanted, run: Runner | None = None) -> Path:
    """Builds a plan under a name that the user gave and returns it. Raises EngineError."""
    _run(plan, wanted, run or run_here)
    return plan


def _build_into(folder: Path, wanted: PlanWanted, run: Runner) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=".building.", dir=folder.parent))
    try:
        _run(scratch / f"{wanted.engine.stem}.plan", wanted, run)
        shutil.rmtree(folder, ignore_errors=True)  # a plan in it did not fit
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(plan: Path, wanted: PlanWanted, run: Runner) -> None:
    command = rebuild_command(plan, wanted.engine, wanted.flavour, None)
    if wanted.size is not None:
        command += ["--size", f"{wanted.size[1]}x{wanted.size[0]}"]
    logger.warning(
        "building the TensorRT plan of %s for %s, once: this takes seconds to minutes",
        wanted.engine.name,
        wanted.facts.name,
    )
    try:
        done = run(command)
    except FileNotFoundError as error:
        raise EngineError(
            f"a TensorRT plan is built by i2i-export, which is not installed: `{install_command('plan')}` adds it"
        ) from error
    if done.returncode != 0 or not plan.is_file():
        raise EngineError(f"the TensorRT plan could not be built, see what `{' '.join(command)}` says")


def _is_there(plan: Path, wanted: PlanWanted) -> bool:
    """Whether the plan is complete and fits; one that is damaged is built again."""
    if not (plan.is_file() and sidecar_path(plan).is_file()):
        return False
    try:
        return why_unfit(plan, read_manifest(plan)[1], wanted.facts, wanted.version) is None
    except EngineError:
        return False


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Waits while another process builds into this folder; its lock ends with it, however it ends."""
    if sys.platform == "win32":  # without this lock two processes build the same, and either result is right
        yield
        return
    import fcntl

    descriptor = os.open(folder.with_name(f"{folder.name}.lock"), os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("another process builds the same TensorRT plan: waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
