"""Fixtures of the trainer's tests: a folder of rendered streets, and options small enough for a CPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from i2i_trainer.methods.cyclegan import CycleGANConfig
from i2i_trainer.scenes import write_scenes

REAL_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums in one order, and no fight over cores between the tests' workers."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images beside the project; the test skips where it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real images are not at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`trainA`, `trainB` with 6 streets each by day and by night, and 3 true pairs in `testA`, `testB`."""
    root = tmp_path_factory.mktemp("streets")
    write_scenes(root, count=6, size=(40, 56), held_out=3)
    return root


@pytest.fixture
def tiny(streets: Path, tmp_path: Path) -> CycleGANConfig:
    """CycleGAN on 16x16 crops: a step takes milliseconds."""
    return CycleGANConfig(
        data=streets,
        out=tmp_path / "run",
        width=4,
        blocks=1,
        disc_width=4,
        disc_layers=1,
        image_size=16,
        load_size=20,
        batch=2,
        steps=4,
        decay_from=2,
        pool=3,
        workers=0,
        log_every=2,
        sample_every=100,
        checkpoint_every=2,
        device="cpu",
    )


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """Environment for a process of its own: one thread, no colour."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
