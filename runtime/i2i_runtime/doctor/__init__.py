"""What this machine can do for a live translation: everything is tried, and a failure does not hide the rest."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from i2i_runtime import opencv
from i2i_runtime.board import read_board
from i2i_runtime.doctor.finding import Finding
from i2i_runtime.doctor.jetson import jetson_findings
from i2i_runtime.doctor.nvidia import nvidia_findings
from i2i_runtime.engines import MODELS
from i2i_runtime.extras import EXTRAS, install_command, missing_of
from i2i_runtime.machine import describe_machine
from i2i_runtime.v4l2 import browsers_list_loopback, device_at, refusal_of_camera

__all__ = ["ENCODERS", "Finding", "examine"]

ENCODERS = (
    "libx264",
    "libx265",
    "libsvtav1",
    "h264_nvenc",
    "hevc_nvenc",
    "h264_qsv",
    "h264_vaapi",
    "h264_v4l2m2m",
)
# Part of an encoder's name -> the hardware it needs, and the command that installs its driver.
_HARDWARE = {
    "nvenc": ("an NVIDIA GPU with an encoder (A100-class cards and Orin Nano have none)", ""),
    "qsv": ("an Intel GPU", "sudo apt install intel-media-va-driver-non-free"),
    "vaapi": ("an Intel or AMD GPU", "sudo apt install mesa-va-drivers"),
    "v4l2m2m": ("an ARM board with a video encoder", ""),
}

# OpenVINO is a dependency on x86 alone.
_X86 = ("x86_64", "AMD64")
_OPENVINO = [("openvino", "openvino", "fastest on x86 processors")] if platform.machine() in _X86 else []


def examine() -> list[Finding]:
    """All findings, in the order they are shown. Takes a few seconds, mostly for the encoders; never raises."""
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("processor", _processor),
        ("OpenCV", _opencv),
        ("Jetson", lambda: jetson_findings(read_board())),
        ("GPU", nvidia_findings),
        ("back end", _back_ends),
        ("camera", _cameras),
        ("encoder", _encoders),
        ("filter", _filters),
        ("screen", _screens),
        ("extra", _extras),
        ("virtual camera", _virtual_camera),
        ("engine", _engines),
    ]
    return [finding for topic, part in parts for finding in _safely(topic, part)]


def _safely(topic: str, part: Callable[[], Iterator[Finding]]) -> list[Finding]:
    findings = []
    try:
        for finding in part():
            findings.append(finding)  # noqa: PERF402 - what was found before a failure is kept
    except Exception as error:  # a broken driver must not hide what else works
        findings.append(Finding(topic, "examination", False, f"{type(error).__name__}: {error}"))
    return findings


def _processor() -> Iterator[Finding]:
    machine = describe_machine()
    features = machine["features"]
    known = (
        ", ".join(str(name) for name in features)
        if isinstance(features, list) and features
        else "no relevant extensions"
    )
    yield Finding("processor", str(machine["processor"]), True, f"{machine['cores']} cores; {known}")
    fast = isinstance(features, list) and {"amx_bf16", "avx512_bf16"} & set(features)
    if platform.machine() in _X86:
        detail = (
            "OpenVINO computes in bf16"
            if fast
            else "this processor does not support bf16; engines run in fp32"
        )
        yield Finding("processor", "bf16", bool(fast), detail)


def _opencv() -> Iterator[Finding]:
    try:
        import cv2
    except ImportError as error:
        sentence = opencv.sentence_of_import_error(error) or str(error)
        yield Finding("OpenCV", "OpenCV", False, sentence.partition(":")[0], opencv.USE_HEADLESS)
        return
    if opencv.has_windows():
        yield Finding("OpenCV", "OpenCV", True, f"{cv2.__version__}, with windows")
    else:
        detail = f"{cv2.__version__}, the headless build: everything works but display://"
        yield Finding("OpenCV", "OpenCV", True, detail)


def _back_ends() -> Iterator[Finding]:
    for module, package, why in (
        *_OPENVINO,
        ("onnxruntime", "onnxruntime", "runs on every processor"),
    ):
        if importlib.util.find_spec(module) is None:
            if module == "openvino" and platform.machine().lower() not in ("x86_64", "amd64"):
                continue  # left out on purpose
            yield Finding("back end", module, False, f"not installed ({why})", f"pip install {package}")
        else:
            yield Finding("back end", module, True, f"{version(package)}, {why}{_computes_on(module)}")


def _computes_on(module: str) -> str:
    """What a library can use besides the processor, as `--device` names it; empty if nothing."""
    if module == "openvino":
        from i2i_runtime.engines.openvino import openvino_devices

        others = [device for device in openvino_devices() if device != "CPU"]
    else:
        import onnxruntime

        names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
        others = [name for name in names if name in ("CUDA", "CoreML")]
    return f"; also on {', '.join(others)}" if others else ""


def _cameras() -> Iterator[Finding]:
    if sys.platform != "linux":
        yield Finding("camera", "list", False, f"cameras cannot be listed on {sys.platform}; try --camera 0")
        return
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        detail = "there is no /dev/video device: plug one in, or give it to the container"
        yield Finding("camera", "Video4Linux", False, detail, "docker run --device /dev/video0 ...")
    for device in devices:
        refusal = refusal_of_camera(device)
        label = Path("/sys/class/video4linux") / device.name / "name"
        name = label.read_text().strip() if label.exists() else "unnamed"
        if refusal is None:
            yield Finding("camera", str(device), True, name)
        elif "usermod" in refusal:
            yield Finding(
                "camera", str(device), False, f"{name}; no permission", "sudo usermod -aG video $USER"
            )


def _filters() -> Iterator[Finding]:
    import av.filter

    from i2i_runtime.media.interlace import FILTER

    if FILTER in av.filter.filters_available:
        yield Finding("filter", FILTER, True, "--deinterlace makes progressive frames of interlaced files")
    else:
        yield Finding("filter", FILTER, False, "this FFmpeg cannot deinterlace", "pip install --upgrade av")


def _encoders() -> Iterator[Finding]:
    import av.logging

    from i2i_runtime.sinks.encoder import refusal_of_encoder

    av.logging.set_level(av.logging.PANIC)
    for name in ENCODERS:
        with _silenced():
            reason = refusal_of_encoder(name)
        needs, driver = next((what for part, what in _HARDWARE.items() if part in name), ("", ""))
        if reason is None:
            yield Finding("encoder", name, True, "encoded a frame of 256x256")
        elif needs:
            fix = driver if Path("/dev/dri").exists() else ""
            yield Finding("encoder", name, False, f"{reason}; needs {needs}", fix)
        else:
            yield Finding("encoder", name, False, reason, "pip install --upgrade av")


@contextmanager
def _silenced() -> Iterator[None]:
    """Silences what encoder libraries print to the terminal."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _screens() -> Iterator[Finding]:
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        detail = "no graphical session, so display:// and screen do not work; mjpeg://@:8080 does"
        yield Finding("screen", "session", False, detail, "xvfb-run i2i-stream ...")
    else:
        yield Finding("screen", "session", True, "display:// and screen can be used")


def _in_project(extra: str) -> str:
    return f"cd PROJECT && {install_command(extra)}"


def _extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        if missing := missing_of(extra):
            yield Finding("extra", extra, False, f"{', '.join(missing)} not installed", _in_project(extra))
        else:
            yield Finding("extra", extra, True, ", ".join(modules))


def _virtual_camera() -> Iterator[Finding]:
    from i2i_runtime.errors import SinkError
    from i2i_runtime.sinks import virtualcam

    try:
        path = virtualcam.find_loopback()
    except SinkError:
        detail = "no loopback device, so other programs cannot use the output as a camera"
        yield Finding("virtual camera", "v4l2loopback", False, detail, virtualcam.INSTALL)
        return
    device = device_at(path)
    if not device.takes_images and not device.gives_images:
        refusal = virtualcam.refusal_of_loopback(path, device) or ""
        yield Finding("virtual camera", str(path), False, f"{device.card} {refusal}", virtualcam.RELOAD)
    elif browsers_list_loopback():
        yield Finding("virtual camera", str(path), True, device.card)
    else:
        detail = (
            f"{device.card} exists, but browsers do not list it: the module was loaded without exclusive_caps"
        )
        yield Finding("virtual camera", str(path), False, detail, virtualcam.RELOAD)


def _engines() -> Iterator[Finding]:
    names = sorted(path.stem for path in MODELS.glob("*.onnx"))
    if names:
        yield Finding("engine", "shipped", True, ", ".join(names))
    else:
        yield Finding(
            "engine", "shipped", False, "this installation includes no engine", "i2i-export RUN -o NAME.onnx"
        )
