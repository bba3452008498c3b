"""Files are written complete or not at all, and reasons of libraries fit into a sentence."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from i2i_runtime.files import CLIP_ENDINGS, IMAGE_ENDINGS, reason_of, replacing, sha256_of_file, write_whole
from i2i_runtime.sinks.encoder import CONTAINERS


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")

    def interrupted() -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half of the ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_folder_that_is_missing_is_made_and_one_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "a.bin", b"1")
    assert sha256_of_file(tmp_path / "new" / "a.bin") == hashlib.sha256(b"1").hexdigest()
    with pytest.raises(OSError, match=r"exists|directory"):
        write_whole(tmp_path / "new" / "a.bin" / "b.bin", b"2")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("  first line.\n second"), "first line"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason_is_one_line(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_the_last_line_is_the_reason_below_a_call_stack() -> None:
    assert (
        reason_of(RuntimeError("src/a.cpp:12\nsrc/b.cpp:3\nno such layer.\n"), last=True) == "no such layer"
    )


def test_every_container_that_is_written_is_read_in_a_folder_of_clips() -> None:
    assert set(CONTAINERS) <= CLIP_ENDINGS
    assert not CLIP_ENDINGS & IMAGE_ENDINGS
