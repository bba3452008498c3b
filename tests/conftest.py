"""What every test relies on (Ctrl-C interrupts, the user's cache is empty), and a stand-in for NVIDIA's driver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

CACHE = pytest.StashKey[Path]()
STRICT_DRIVER = Path(__file__).parent / "runtime" / "strict_driver"


def pytest_configure(config: pytest.Config) -> None:
    """Restores SIGINT, which a shell ignores in what it starts in the background (`nohup make test &`).

    Python installs no handler over an ignored signal and child processes inherit the ignoring, so that a test
    which interrupts itself or a child would wait for ever. Every pytest-xdist worker passes here too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What one run of the tests keeps in the user's cache must not reach another, nor the user.
    os.environ["XDG_CACHE_HOME"] = str(
        config.stash.setdefault(CACHE, Path(tempfile.mkdtemp(prefix="i2i-cache-")))
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


@pytest.fixture(scope="session")
def strict_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a strict stand-in for NVIDIA's driver library, compiled under its name."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to build the strict driver with")
    library = tmp_path_factory.mktemp("strict_driver") / "libcuda.so.1"
    source = STRICT_DRIVER / "driver.c"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-w", "-o", str(library), str(source), "-ldl", "-lpthread"], check=True
    )
    return library.parent
