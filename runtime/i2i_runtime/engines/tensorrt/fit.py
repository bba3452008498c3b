"""Does a plan fit the machine at hand, and if not, what then: rebuilt from its engine, or refused in one
sentence.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from i2i_runtime.engines.tensorrt.device import DeviceFacts
from i2i_runtime.engines.tensorrt.manifest import TENSORRT, PlanManifest, read_manifest, sha256_of
from i2i_runtime.errors import EngineError
from i2i_runtime.extras import install_command
from i2i_runtime.metadata import EngineMetadata

logger = logging.getLogger(__name__)

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def why_unfit(plan: Path, manifest: PlanManifest, facts: DeviceFacts, tensorrt_version: str) -> str | None:
    """What does not match, in words; None if the plan fits this device and library."""
    if facts.architecture not in manifest.architectures:
        built_for = " and ".join(manifest.architectures)
        return f"it was built for {built_for} and this GPU, {facts.name}, is {facts.architecture}"
    # TensorRT chose its kernels by timing them on that very GPU; TensorRT for RTX chooses them when it loads the plan.
    if manifest.flavour == TENSORRT and manifest.gpu and manifest.gpu != facts.name:
        return f"it was built on {manifest.gpu} and this GPU is {facts.name}"
    if _release(manifest.tensorrt_version) != _release(tensorrt_version):
        return f"it was built by TensorRT {manifest.tensorrt_version} and this machine has {tensorrt_version}"
    if sha256_of(plan.read_bytes()) != manifest.plan_sha256:
        return "its bytes are not those that its sidecar describes, it is damaged or of another build"
    engine = plan.with_name(manifest.onnx_file)
    if engine.is_file() and sha256_of(engine.read_bytes()) != manifest.onnx_sha256:
        return f"{engine.name} beside it has changed since"
    return None


def rebuild_command(plan: Path, engine: Path, flavour: str, metadata: EngineMetadata | None) -> list[str]:
    """The command that builds this plan again for the GPU at hand."""
    command = [
        "i2i-export",
        str(engine),
        "-o",
        str(engine),
        "--plan",
        "--target",
        flavour,
        "--plan-file",
        str(plan),
    ]
    if metadata is not None and metadata.size.is_fixed:
        command += ["--size", f"{metadata.size.max_width}x{metadata.size.max_height}"]
    return command


def run_here(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command of this installation, its progress on our own standard error."""
    beside = Path(sys.executable).with_name(command[0])
    program = str(beside) if beside.exists() else shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(command[0])
    return subprocess.run([program, *command[1:]], stdout=subprocess.DEVNULL, text=True, check=False)


def rebuilt(
    plan: Path,
    metadata: EngineMetadata,
    manifest: PlanManifest,
    reason: str,
    *,
    run: Runner = run_here,
) -> tuple[EngineMetadata, PlanManifest]:
    """Builds the plan again in a process of its own and reads the new sidecar. Raises EngineError.

    Where the engine file is not beside the plan, or export is not installed, the error says what to do.
    """
    engine = plan.with_name(manifest.onnx_file)
    if not engine.is_file():
        raise EngineError(
            f"{plan} does not fit ({reason}): put {manifest.onnx_file}, from which it was built, beside it to have it "
            "rebuilt, or give that file to --engine."
        )
    command = rebuild_command(plan, engine, manifest.flavour, metadata)
    logger.warning("%s does not fit: %s; building it again from %s", plan.name, reason, engine.name)
    try:
        done = run(command)
    except FileNotFoundError as error:
        raise EngineError(
            f"{plan} does not fit ({reason}) and i2i-export is not installed here: "
            f"run `{install_command('export')}` in the project's folder, then `{' '.join(command)}`."
        ) from error
    if done.returncode != 0:
        raise EngineError(
            f"{plan} does not fit ({reason}) and could not be rebuilt: see what `{' '.join(command)}` says."
        )
    return read_manifest(plan)


def _release(version: str) -> tuple[str, ...]:
    """Plans are tied to major, minor and patch; the last number is the build."""
    return tuple(version.split(".")[:3])
