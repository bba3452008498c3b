"""The true Python bindings of TensorRT, imported over a stub of its library: does every call that we make
exist?
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from i2i_runtime.engines.tensorrt.api import MODULES
from i2i_runtime.engines.tensorrt.manifest import TENSORRT_RTX

STUB = Path(__file__).parent / "trt_stub"
RELEASES = ("10.3", "10.9", "10.16", "11.4")
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")


def look(module: str, *folder: str, libraries: Path | None = None) -> dict[str, Any]:
    """Runs the comparison in a process of its own: the stub must be found before anything is loaded."""
    environment = dict(os.environ)
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    done = subprocess.run(
        [sys.executable, str(STUB / "look_at_bindings.py"), module, *folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def bindings_folder(release: str, scratch: Path) -> Path | None:
    """Where `tensorrt_bindings` of this release can be imported from: a wheel beside the stub, or
    installed.
    """
    tag = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    for wheel in (STUB / "wheels").glob(f"*bindings-{release}.*{tag}*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(scratch)
        return scratch
    installed = importlib.util.find_spec("tensorrt_bindings")
    if installed is not None and installed.submodule_search_locations:
        folder = Path(installed.submodule_search_locations[0])
        if f'__version__ = "{release}.' in (folder / "__init__.py").read_text(encoding="utf-8"):
            return folder.parent
    return None


@pytest.fixture(scope="module", params=RELEASES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one release's bindings look like next to our protocols."""
    release: str = request.param
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the stub with")
    folder = bindings_folder(release, tmp_path_factory.mktemp(f"bindings_{release}"))
    if folder is None:
        pytest.skip(
            f"TensorRT {release}'s bindings are not here: "
            f"pip download --no-deps -d {STUB / 'wheels'} 'tensorrt-cu12-bindings=={release}.*'"
        )
    libraries = tmp_path_factory.mktemp(f"stub_{release}")
    for name in LIBRARIES:
        target = libraries / f"{name}.so.{release.split('.')[0]}"
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-w", "-o", str(target), str(STUB / "stub.c")], check=True
        )
    found = look("tensorrt_bindings", str(folder), libraries=libraries)
    assert found["version"].startswith(f"{release}.")
    return found


def test_every_class_and_call_that_we_make_exists(report: dict[str, Any]) -> None:
    assert report["differences"] == []


def test_the_fake_has_no_name_that_tensorrt_has_not(report: dict[str, Any]) -> None:
    assert report["invented"] == []


def test_networks_are_strongly_typed(report: dict[str, Any]) -> None:
    assert report["network_flags"] == ["STRONGLY_TYPED"]


def test_a_progress_monitor_and_a_logger_can_be_made(report: dict[str, Any]) -> None:
    assert report["monitor_continues"] is True


def test_plugins_have_what_they_name(report: dict[str, Any]) -> None:
    release = tuple(int(part) for part in report["version"].split(".")[:2])
    assert report["has_aot_plugins"] == (release >= (10, 9))
    assert {"HWC8", "HWC", "LINEAR"} <= set(report["formats"])
    assert {"HALF", "BF16", "FLOAT"} <= set(report["types"])
    assert {"SUM", "PROD", "CEIL_DIV"} <= set(report["dimension_operations"])


def test_contexts_take_memory_from_us(report: dict[str, Any]) -> None:
    assert "USER_MANAGED" in report["strategies"]


def test_precision_flags_are_never_relied_on(report: dict[str, Any]) -> None:
    assert ("FP16" in report["builder_flags"]) == report["version"].startswith("10.")


def test_a_library_that_makes_nothing_is_one_sentence(report: dict[str, Any]) -> None:
    version = report["version"]
    assert report["refusals"]["build"].startswith(f"TensorRT {version} cannot start a build here")
    assert report["refusals"]["run"].startswith(f"TensorRT {version} does not start here")


def test_the_rtx_flavour_has_the_same_calls() -> None:
    module = next((name for name in MODULES[TENSORRT_RTX] if importlib.util.find_spec(name)), None)
    if module is None:
        pytest.skip("TensorRT for RTX is not installed: pip install tensorrt-rtx")
    found = look(module)
    assert found["differences"] == []
    assert found["invented"] == []
    assert not found["has_aot_plugins"]
