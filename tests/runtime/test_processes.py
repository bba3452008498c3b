"""No code is taken from the folder that a command is started in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import i2i_export
import i2i_kernels
import i2i_runtime
import i2i_trainer
from i2i_runtime.processes import module_command, script_command

NAMES = ("av", "cv2", "numpy", "json", "runpy", "struct", "pip", "i2i_runtime", "sitecustomize")


def test_files_of_the_current_folder_are_not_imported(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text("open('ran', 'a').write(__name__)\nraise SystemExit(3)\n")
    job = {"uri": "rtmp://127.0.0.1:9/x", "format": "flv", "options": {}, "height": 64, "width": 64}
    job |= {"codec": "libx264", "bitrate": 100_000}
    worker = subprocess.run(
        module_command("i2i_runtime.sinks.push_worker"),
        cwd=tmp_path,
        input=json.dumps(job) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(worker.stdout)["state"] == "finished", "it ran, and got no image"
    loaded = subprocess.run(
        script_command("import cv2, sys; print(cv2.__version__, sys.argv)"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout
    pip = subprocess.run(module_command("pip", "--version"), cwd=tmp_path, capture_output=True, check=False)
    assert pip.returncode != 3
    assert not (tmp_path / "ran").exists()
    # The folder would be used otherwise, so this test can fail.
    subprocess.run([sys.executable, "-m", "i2i_runtime.sinks.push_worker"], cwd=tmp_path, check=False)
    assert (tmp_path / "ran").exists()


def test_no_package_starts_python_in_the_current_folder() -> None:
    for package in (i2i_trainer, i2i_kernels, i2i_export, i2i_runtime):
        assert package.__file__ is not None
        for file in Path(package.__file__).parent.rglob("*.py"):
            text = file.read_text("utf-8")
            assert not re.search(r'sys\.executable,\s*"-m"', text), f"{file} runs `python -m`"
