"""What the runtime streams, the trainer trains on: both read files of the same endings."""

from __future__ import annotations

from i2i_runtime.files import CLIP_ENDINGS, IMAGE_ENDINGS
from i2i_trainer.images import CLIP_SUFFIXES, IMAGE_SUFFIXES


def test_runtime_and_trainer_read_the_same_files() -> None:
    assert IMAGE_SUFFIXES == IMAGE_ENDINGS
    assert CLIP_SUFFIXES == CLIP_ENDINGS
