"""What every test relies on: Ctrl-C means an interrupt; and a stand-in for NVIDIA's driver for those of two rooms."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

STRICT_DRIVER = Path(__file__).parent / "runtime" / "strict_driver"


def pytest_configure() -> None:
    """Restores SIGINT, which a shell ignores in what it starts in the background (`nohup make test &`).

    Python installs no handler over an ignored signal and child processes inherit the ignoring, so that a test
    which interrupts itself or a child would wait for ever. Every pytest-xdist worker passes here too.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
