"""Tiny data for the whole way from images to translated frames."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from i2i_trainer.scenes import write_scenes


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """No fight over cores between the tests' workers."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rendered streets by day and by night, and two true pairs for the evaluation."""
    root = tmp_path_factory.mktemp("streets")
    write_scenes(root, count=4, size=(64, 80), held_out=2)
    return root


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of noise in the format of MNIST, with labels."""
    root = tmp_path_factory.mktemp("digits")
    pixels = np.random.default_rng(3).integers(0, 256, (8, 28, 28), np.uint8)
    headers = {
        "images-idx3": struct.pack(">4i", 2051, *pixels.shape),
        "labels-idx1": struct.pack(">2i", 2049, 8),
    }
    bodies = {"images-idx3": pixels.tobytes(), "labels-idx1": bytes(range(8))}
    for domain in ("mnist", "usps"):
        (root / domain).mkdir()
        for kind, header in headers.items():
            (root / domain / f"train-{kind}-ubyte").write_bytes(header + bodies[kind])
    return root


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of the commands: one thread, plain text."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
