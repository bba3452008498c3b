"""Which build of OpenCV is installed, and what to do if it does not load.

`opencv-python` has windows and needs X11's libraries, which a minimal system or a slim container lacks;
`opencv-python-headless` of the same version needs none and has no windows.

    python -m i2i_runtime.opencv     puts the headless build in the place of one that does not load (make does it)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from i2i_runtime.processes import module_command, script_command

WITH_WINDOWS = "opencv-python"
HEADLESS = "opencv-python-headless"
USE_HEADLESS = f"{sys.executable} -m i2i_runtime.opencv"


def sentence_of_import_error(error: ImportError) -> str | None:
    """What, why and how to fix it, if `error` comes from loading OpenCV; None for any other import."""
    if error.name is None or error.name.partition(".")[0] != "cv2":
        return None
    library = str(error).partition(":")[0]
    if library.startswith("lib"):
        return (
            f"OpenCV does not load because this machine lacks {library}: install the library (Debian, Ubuntu: "
            f"`sudo apt install libgl1 libglib2.0-0`), or change to the build without windows: `{USE_HEADLESS}`."
        )
    install = f"{sys.executable} -m pip install --force-reinstall --no-deps {WITH_WINDOWS}"
    return f"OpenCV does not load ({error}): install it again with `{install}`."


def has_windows() -> bool:
    """Whether the OpenCV that is installed was built with a window library. Raises ImportError."""
    import cv2

    lines = cv2.getBuildInformation().splitlines()
    return not any(line.split()[:2] == ["GUI:", "NONE"] for line in lines)


def main() -> int:
    """Changes the build if the one with windows does not load; exit code 1 if neither does."""
    before = _failure()
    if before is None:
        return 0
    try:
        wanted = f"{HEADLESS}=={version(WITH_WINDOWS)}"
    except PackageNotFoundError:
        wanted = HEADLESS
    print(f"OpenCV with windows does not load here ({before}): installing {wanted}.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # The other build is removed only when its successor is at hand: both own the same files.
        done = _pip("download", "--no-deps", "-d", folder, wanted) and _pip("uninstall", "-y", WITH_WINDOWS)
        done = done and _pip("install", "--no-deps", *map(str, Path(folder).iterdir()))
    after = _failure() if done else "pip failed"
    if after is not None:
        print(f"{HEADLESS} could not be installed ({after}): install OpenCV by hand.", file=sys.stderr)
    return 0 if after is None else 1


def _failure() -> str | None:
    """Why OpenCV does not load, found in a process of its own; None if it loads."""
    result = subprocess.run(script_command("import cv2"), capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def _pip(*arguments: str) -> bool:
    command = module_command("pip", "-q", "--disable-pip-version-check", *arguments)
    return subprocess.run(command, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
