"""Which images are a pair, which belong to a split, and what damaged files do not stop."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from i2i_trainer import images
from i2i_trainer.config import TrainConfig
from i2i_trainer.digits import holds_digits, read_digits
from i2i_trainer.errors import DataError
from i2i_trainer.images import frames_of_clip
from i2i_trainer.layouts import Domains, find_domains, has_split


def image(path: Path, grey: int = 100, size: tuple[int, int] = (24, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)
    return path


def test_svhns_matlab_file_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), np.uint8)
    savemat(tmp_path / "train_32x32.mat", {"X": pixels, "y": np.array([[1], [10], [9], [2]], np.uint8)})
    digits = read_digits(tmp_path)
    np.testing.assert_array_equal(digits.images[1], pixels[..., 1])
    assert digits.labels.tolist() == [1, 0, 9, 2]
    assert holds_digits(tmp_path)
    with pytest.raises(DataError, match="no digits of the test split"):
        read_digits(tmp_path, "test")


def test_a_damaged_svhn_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "train_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 40), np.uint8), "y": np.ones((40, 1), np.uint8)})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="again"):
        read_digits(tmp_path)
    path.write_bytes(b"nothing of the sort, but long enough to be looked at" * 9)
    with pytest.raises(DataError, match="again"):
        read_digits(tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 4), np.uint8), "y": np.ones((4, 1), np.uint8)})
    with pytest.raises(DataError, match="no colour images"):
        read_digits(tmp_path)


def clip(path: Path, frames: int = 8) -> Path:
    """Two seconds of an image that grows lighter by 20 levels a frame, four frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i + 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def config(root: Path, **options: object) -> TrainConfig:
    defaults = {"load_size": 20, "image_size": 16, "workers": 0, "flip": False}
    return TrainConfig(data=root, **{**defaults, **options})  # type: ignore[arg-type]


def greys(domains: Domains) -> list[tuple[int, int]]:
    """Mean level of the source and of the target of every pair."""
    both = zip(domains.a, domains.b, strict=True)
    return [(round(float(a.read(20).mean())), round(float(b.read(20).mean()))) for a, b in both]


def test_equal_names_in_different_folders_are_different_images(tmp_path: Path) -> None:
    for place, grey in (("cam1", 10), ("cam2", 200)):
        for domain in ("trainA", "trainB"):
            image(tmp_path / domain / place / "000.png", grey)
    assert greys(find_domains(config(tmp_path), paired=True)) == [(10, 10), (200, 200)]


def test_lists_of_pairs_are_matched_below_the_folder_that_each_list_has_in_common(tmp_path: Path) -> None:
    lines: dict[str, list[str]] = {"A": [], "B": []}
    for place, grey in (("cam1", 10), ("cam2", 200)):
        for split, domain in (("A", "day"), ("B", "night")):
            lines[split].append(f"{domain}/{place}/000.png")
            image(tmp_path / lines[split][-1], grey)
    (tmp_path / "trainA.txt").write_text("\n".join(lines["A"]))
    (tmp_path / "trainB.txt").write_text("\n".join(reversed(lines["B"])))
    assert greys(find_domains(config(tmp_path), paired=True)) == [(10, 10), (200, 200)]


def test_frames_of_clips_are_paired_by_their_whole_time(tmp_path: Path) -> None:
    clip(tmp_path / "trainA" / "drive.mp4")
    clip(tmp_path / "trainB" / "drive.avi")
    domains = find_domains(config(tmp_path, clip_fps=2.0), paired=True)
    assert [p.name for p in domains.a] == [f"drive.mp4@{t / 2:.3f}s" for t in range(4)]
    assert [p.name for p in domains.b] == [f"drive.avi@{t / 2:.3f}s" for t in range(4)]
    assert all(abs(a - b) <= 2 for a, b in greys(domains))


def test_two_images_of_one_name_are_no_pair_of_anything(tmp_path: Path) -> None:
    image(tmp_path / "trainA" / "0001.jpg")
    image(tmp_path / "trainB" / "0001.png")
    assert len(find_domains(config(tmp_path), paired=True).a) == 1
    image(tmp_path / "trainA" / "0001.png")
    with pytest.raises(DataError, match=r"0001\.jpg and 0001\.png of one domain .*: rename or remove one\."):
        find_domains(config(tmp_path), paired=True)
    assert len(find_domains(config(tmp_path)).a) == 2


@pytest.mark.parametrize(
    "folders", [("day", "night"), ("trainA", "trainB"), ("trainA", "trainB", "valA", "valB"), ("train",)]
)
def test_images_of_one_split_are_never_taken_for_those_of_another(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    for folder in folders:
        image(tmp_path / folder / "1.png", size=(40, 20))
    assert not has_split(config(tmp_path), "test")
    with pytest.raises(DataError, match="no images set aside for test"):
        find_domains(config(tmp_path), "test")
    find_domains(config(tmp_path))


def test_a_test_split_alone_is_nothing_to_train_on(tmp_path: Path) -> None:
    for folder in ("testA", "testB", "valA", "valB"):
        image(tmp_path / folder / "1.png")
    assert has_split(config(tmp_path), "test")
    with pytest.raises(DataError, match="make trainA and trainB"):
        find_domains(config(tmp_path))


def test_a_split_needs_both_domains(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA"):
        image(tmp_path / folder / "1.png")
    assert not has_split(config(tmp_path), "test")
    (tmp_path / "testB").mkdir()
    assert not has_split(config(tmp_path), "test")
    image(tmp_path / "testB" / "1.png")
    assert has_split(config(tmp_path), "test")


def test_lists_say_what_belongs_to_every_split(tmp_path: Path) -> None:
    image(tmp_path / "p" / "1.png")
    image(tmp_path / "test" / "1.png", size=(40, 20))
    for domain in "AB":
        (tmp_path / f"train{domain}.txt").write_text("p/1.png\n")
    assert not has_split(config(tmp_path), "test")
    for domain in "AB":
        (tmp_path / f"test{domain}.txt").write_text("test/1.png\n")
    assert has_split(config(tmp_path), "test")


def test_lists_may_name_files_with_blanks(tmp_path: Path) -> None:
    image(tmp_path / "p" / "my photo.png", 10)
    image(tmp_path / "p" / "2.png", 20)
    (tmp_path / "trainA.txt").write_text("p/my photo.png\n")
    (tmp_path / "trainB.txt").write_text("p/2.png 7\n")
    assert greys(find_domains(config(tmp_path))) == [(10, 20)]


def test_a_broken_clip_is_one_unreadable_image(tmp_path: Path) -> None:
    image(tmp_path / "trainA" / "1.png")
    image(tmp_path / "trainB" / "1.png")
    (tmp_path / "trainA" / "bad.mp4").write_bytes(b"\0" * 400)
    domains = find_domains(config(tmp_path))
    assert [p.name for p in domains.a] == ["1.png", "bad.mp4"]
    with pytest.raises(DataError, match=r"bad\.mp4 cannot be read as a clip"):
        domains.a[1].read(20)


def test_no_more_of_a_clip_is_decoded_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    resize = images.resize_short_side

    def noted(*given: Any) -> Image.Image:
        decoded.append(given[2])
        return resize(*given)

    monkeypatch.setattr(images, "resize_short_side", noted)
    frames = frames_of_clip(clip(tmp_path / "clip.mp4"), fps=1000.0, short_side=16, most=3)
    assert [frame.name for frame in frames] == decoded == [f"clip.mp4@{t / 4:.3f}s" for t in range(3)]


def mnist(folder: Path, split: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 4, 4))
    (folder / f"{split}-images-idx3-ubyte").write_bytes(header + bytes(32))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(
        b"\0\0\x08\x01" + (2).to_bytes(4, "big") + bytes([3, 9])
    )
    return folder


def test_digits_of_a_split_need_both_domains(tmp_path: Path) -> None:
    for name in ("mnist", "usps"):
        mnist(tmp_path / name)
    mnist(tmp_path / "mnist", "t10k")
    assert not has_split(config(tmp_path), "test")
    mnist(tmp_path / "usps", "t10k")
    assert has_split(config(tmp_path), "test")
    assert not has_split(config(tmp_path), "val")
    with pytest.raises(DataError, match="no digits of the val split"):
        find_domains(config(tmp_path), "val")


def damaged_tar(listing: bytes | None, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("1.png", content), ("labels.txt", listing)):
            if data is not None:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("zip.train.gz", gzip.compress(b"6.0 1.0\n6.0\n")),
        ("zip.train.gz", gzip.compress(b"six " + b"1.0 " * 256)),
        ("zip.train.gz", gzip.compress(b"6.0 " + b"1.0 " * 256)[:10] + b"\xff" * 30),
        ("train.tar", b"no archive"),
        ("train.tar", damaged_tar(b"1.png 3\n", b"no image")),
        ("train.tar", damaged_tar(b"2.png 3\n", b"")),
        ("train.tar", damaged_tar(b"1.png\n", b"")),
        ("train.tar", damaged_tar(b"1.png three\n", b"")),
        ("train.tar", damaged_tar(b"", b"")),
        ("train_labels.txt", b"1.png 3\n"),
    ],
    ids=[
        *("ragged lines", "a word", "damaged compression", "no archive", "no image", "another name"),
        *("no label", "a worded label", "an empty list", "a list without images"),
    ],
)
def test_damaged_digits_are_told_in_a_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError):
        read_digits(tmp_path)


def test_compressed_digits_are_read_as_far_as_they_say(tmp_path: Path) -> None:
    labels = b"\0\0\x08\x01" + struct.pack(">I", 2) + bytes(2)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    images = tmp_path / "train-images-idx3-ubyte.gz"
    head = b"\0\0\x08\x03" + struct.pack(">III", 2, 28, 28)
    images.write_bytes(gzip.compress(head + bytes(200_000_000)))
    tracemalloc.start()
    with pytest.raises(DataError, match="holds more than it says, 1568 bytes"):
        read_digits(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20_000_000
    images.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2**31, 2**31, 2**31)))
    with pytest.raises(DataError, match="more than any set of them"):
        read_digits(tmp_path)


def test_digits_have_a_label_from_0_to_9_each(tmp_path: Path) -> None:
    labels = mnist(tmp_path) / "train-labels-idx1-ubyte"
    read_digits(tmp_path)
    for wrong in ([3], [3, 10]):
        labels.write_bytes(b"\0\0\x08\x01" + len(wrong).to_bytes(4, "big") + bytes(wrong))
        with pytest.raises(DataError, match="label from 0 to 9"):
            read_digits(tmp_path)


def test_images_have_keys_without_their_suffix(tmp_path: Path) -> None:
    image(tmp_path / "trainA" / "cam.1" / "000.final.png")
    image(tmp_path / "trainB" / "1.png")
    assert [found.key for found in find_domains(config(tmp_path)).a] == ["cam.1/000.final"]
