"""Layouts, odd images, clips and the order of samples."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from i2i_trainer.config import TrainConfig
from i2i_trainer.data import ImageBatches, preview_batch
from i2i_trainer.digits import read_digits
from i2i_trainer.errors import DataError, OptionError
from i2i_trainer.images import ImageFile, frames_of_clip, open_image
from i2i_trainer.layouts import Domains, find_domains, has_split


def image(
    path: Path, colour: tuple[int, int, int] = (200, 100, 50), size: tuple[int, int] = (24, 20)
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def config(root: Path, **options: object) -> TrainConfig:
    defaults = {"load_size": 20, "image_size": 16, "workers": 0, "flip": False}
    return TrainConfig(data=root, **{**defaults, **options})  # type: ignore[arg-type]


def names(domains: Domains) -> tuple[list[str], list[str]]:
    return [p.name for p in domains.a], [p.name for p in domains.b]


@pytest.mark.parametrize(
    ("folder_a", "folder_b", "found"),
    [
        ("trainA", "trainB", ("A", "B")),
        ("train/A", "train/B", ("A", "B")),
        ("images_a", "images_b", ("A", "B")),
        ("train/images_a", "train/images_b", ("A", "B")),
        ("a", "b", ("A", "B")),
        ("day", "night", ("day", "night")),
        ("train/summer", "train/winter", ("summer", "winter")),
    ],
)
def test_two_folders_in_every_spelling(
    tmp_path: Path, folder_a: str, folder_b: str, found: tuple[str, str]
) -> None:
    image(tmp_path / folder_a / "deep" / "1.png")
    image(tmp_path / folder_b / "2.jpg")
    domains = find_domains(config(tmp_path))
    assert names(domains) == (["1.png"], ["2.jpg"])
    assert domains.names == found
    assert not domains.paired
    swapped = find_domains(config(tmp_path, swap=True))
    assert names(swapped) == (["2.jpg"], ["1.png"])
    assert swapped.names == found[::-1]
    # What the loop records names the domains as exchanged; resuming finds the same again.
    assert names(find_domains(config(tmp_path, swap=True, domains=swapped.names))) == names(swapped)


def test_named_domains_are_picked_from_many(tmp_path: Path) -> None:
    for name in ("apple", "facebook", "twitter"):
        image(tmp_path / name / f"{name}.png")
    domains = find_domains(config(tmp_path, domains=("twitter", "apple")))
    assert names(domains) == (["twitter.png"], ["apple.png"])


def test_class_folders_give_labels(tmp_path: Path) -> None:
    for name in ("cat", "dog", "wild"):
        image(tmp_path / "train" / name / f"{name}.png")
    domains = find_domains(config(tmp_path))
    assert domains.classes == ("cat", "dog", "wild")
    assert domains.labels_a == [0, 1, 2]
    (tmp_path / "train" / "wild" / "wild.png").unlink()
    (tmp_path / "train" / "wild").rmdir()
    assert find_domains(config(tmp_path)).layout == "unpaired"
    assert find_domains(config(tmp_path, layout="class-folders")).classes == ("cat", "dog")


def test_unlabelled_images_belong_to_no_class(tmp_path: Path) -> None:
    for name in ("cat", "unlabelled", "wild", "dog"):
        image(tmp_path / "train" / name / f"{name}.png")
    domains = find_domains(config(tmp_path))
    assert domains.classes == ("cat", "dog", "wild")
    named = {p.name: label for p, label in zip(domains.a, domains.labels_a or (), strict=True)}
    assert named == {"cat.png": 0, "dog.png": 1, "wild.png": 2, "unlabelled.png": -1}


def test_side_by_side_images_are_pairs(tmp_path: Path) -> None:
    both = np.zeros((20, 48, 3), np.uint8)
    both[:, :24], both[:, 24:] = (255, 0, 0), (0, 0, 255)
    (tmp_path / "train").mkdir()
    Image.fromarray(both).save(tmp_path / "train" / "1.png")
    domains = find_domains(config(tmp_path), paired=True)
    assert domains.paired
    raw = ImageBatches(domains, config(tmp_path, batch=3)).read(0)
    assert raw.a.shape == (3, 16, 16, 3)
    assert raw.a.flatten(0, 2).tolist() == [[255, 0, 0]] * (3 * 16 * 16)
    assert raw.b.flatten(0, 2).tolist() == [[0, 0, 255]] * (3 * 16 * 16)


def test_plain_images_are_not_taken_for_pairs_unasked(tmp_path: Path) -> None:
    """A stranger's folder of photographs: its left and right halves are no two domains."""
    Image.fromarray(np.zeros((90, 160, 3), np.uint8)).save(tmp_path / "photo.png")
    with pytest.raises(DataError, match=r"plain images of one domain.*--layout paired"):
        find_domains(config(tmp_path))
    assert find_domains(config(tmp_path, layout="paired")).paired
    Image.fromarray(np.zeros((80, 160, 3), np.uint8)).save(tmp_path / "photo.png")
    assert find_domains(config(tmp_path)).paired, "two squares side by side are a pair in any method"


def test_pairs_are_found_by_stem_and_cut_alike(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("1", "2", "3"):
        noise = random.integers(0, 255, (30, 40, 3), dtype=np.uint8)
        for domain in ("trainA", "trainB"):
            (tmp_path / domain).mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / domain / f"{name}.png")
    image(tmp_path / "trainB" / "alone.png")
    domains = find_domains(config(tmp_path, flip=True), paired=True)
    assert names(domains) == (["1.png", "2.png", "3.png"], ["1.png", "2.png", "3.png"])
    raw = ImageBatches(domains, config(tmp_path, flip=True, batch=8)).read(0)
    assert torch.equal(raw.a, raw.b)
    for name in ("1", "2", "3"):
        (tmp_path / "trainB" / f"{name}.png").unlink()
    with pytest.raises(DataError, match="counterpart of the same name"):
        find_domains(config(tmp_path), paired=True)


def test_lists(tmp_path: Path) -> None:
    image(tmp_path / "pool" / "1.png")
    image(tmp_path / "pool" / "2.png")
    (tmp_path / "trainA.txt").write_text("pool/1.png\n\n")
    (tmp_path / "trainB.txt").write_text("pool/2.png\n")
    assert names(find_domains(config(tmp_path))) == (["1.png"], ["2.png"])
    (tmp_path / "trainB.txt").write_text("pool/3.png\n")
    with pytest.raises(DataError, match=r"trainB.txt names .*3.png, which does not exist"):
        find_domains(config(tmp_path))


def test_single_folder_when_asked(tmp_path: Path) -> None:
    image(tmp_path / "1.png")
    assert names(find_domains(config(tmp_path, layout="single"))) == (["1.png"], ["1.png"])


def test_splits_are_found(streets: Path) -> None:
    assert find_domains(config(streets)).layout == "unpaired"  # four folders, and no classes
    assert len(find_domains(config(streets)).a) == 6
    assert has_split(config(streets), "test")
    assert not has_split(config(streets), "val")
    assert len(find_domains(config(streets), "test", paired=True).a) == 3


def test_sentences_for_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        find_domains(config(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="known layout"):
        find_domains(config(tmp_path))
    (tmp_path / "trainA").mkdir()
    with pytest.raises(DataError, match=r"partner .*trainB is missing"):
        find_domains(config(tmp_path))
    (tmp_path / "trainB").mkdir()
    with pytest.raises(DataError, match=r"trainA holds no image"):
        find_domains(config(tmp_path))


def test_contradicting_options_name_the_flag() -> None:
    for options, named in (
        ({"load_size": 64, "image_size": 128}, "--load-size 64"),
        ({"batch": 0}, "--batch is 0"),
        ({"ema": 1.0}, "--ema"),
        ({"domains": ("day", "day")}, "--domains"),
    ):
        with pytest.raises(OptionError, match=named):
            TrainConfig(**options)


def test_batches_depend_on_their_number_alone(streets: Path) -> None:
    options = config(streets, batch=4, flip=True, seed=3)
    domains = find_domains(options)
    whole = ImageBatches(domains, options)
    stream = ImageBatches(domains, options).from_number(5, workers=3)
    ahead = [next(stream) for _ in range(4)]
    stream.close()
    for number, raw in enumerate(ahead, start=5):
        halves = [ImageBatches(domains, options, rank, world=2).read(number) for rank in (0, 1)]
        assert torch.equal(raw.a, whole.read(number).a)
        assert torch.equal(raw.a, torch.cat([half.a for half in halves]))
        assert torch.equal(raw.b, torch.cat([half.b for half in halves]))
    other = ImageBatches(domains, replace(options, seed=4)).read(5)
    assert not torch.equal(other.a, ahead[0].a)


def test_every_image_is_seen_once_per_round_of_unequal_domains(tmp_path: Path) -> None:
    for i in range(5):
        image(tmp_path / "trainA" / f"{i}.png", (i, 0, 0))
    for i in range(3):
        image(tmp_path / "trainB" / f"{i}.png", (i, 0, 0))
    options = config(tmp_path, batch=15)
    raw = ImageBatches(find_domains(options), options).read(0)
    assert torch.bincount(raw.a[:, 0, 0, 0].int()).tolist() == [3] * 5
    assert torch.bincount(raw.b[:, 0, 0, 0].int()).tolist() == [5] * 3
    assert preview_batch(find_domains(options), options, 7).b.shape == (7, 16, 16, 3)


def test_batch_for_a_method_is_in_range(streets: Path) -> None:
    options = config(streets, batch=2)
    batch = ImageBatches(find_domains(options), options).read(0).to_device(torch.device("cpu"))
    assert batch.a.shape == (2, 3, 16, 16)
    assert batch.a.is_contiguous(memory_format=torch.channels_last)
    assert -1 <= batch.a.min() < batch.a.max() <= 1


@pytest.mark.parametrize("bad", ["bad.png", "bad.mp4"])
def test_what_cannot_be_read_is_named_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str
) -> None:
    image(tmp_path / "trainA" / "good.png", (9, 9, 9))
    (tmp_path / "trainA" / bad).write_bytes(b"neither image nor clip")
    image(tmp_path / "trainB" / "1.png")
    options = config(tmp_path, batch=6)
    batches = ImageBatches(find_domains(options), options)
    assert set(batches.read(0).a.flatten().tolist()) == {9}
    batches.read(1)
    assert batches.unreadable == 1
    assert "".join(capsys.readouterr().err.split()).count(f"{bad}cannotberead") == 1


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    for side in "AB":
        (tmp_path / f"train{side}").mkdir()
        (tmp_path / f"train{side}" / "bad.png").write_bytes(b"not an image")
    options = config(tmp_path, batch=6)
    with pytest.raises(DataError, match="None of the 1 images"):
        ImageBatches(find_domains(options), options).read(0)


def test_a_pair_with_an_unreadable_half_is_passed_over(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        image(tmp_path / "trainA" / name, (int(name[0]), 0, 0))
    image(tmp_path / "trainB" / "1.png", (7, 7, 7))
    (tmp_path / "trainB" / "2.png").write_bytes(b"not an image")
    options = config(tmp_path, batch=4)
    raw = ImageBatches(find_domains(options, paired=True), options).read(0)
    assert set(raw.a[..., 0].flatten().tolist()) == {1}
    assert set(raw.b.flatten().tolist()) == {7}


def test_odd_modes_become_rgb(tmp_path: Path) -> None:
    made = {
        "grey.png": (Image.new("L", (8, 8), 77), (77, 77, 77)),
        "sixteen.png": (Image.fromarray(np.full((8, 8), 0x8080, np.uint16)), (128, 128, 128)),
        "clear.png": (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (255, 255, 255)),
        "half.png": (Image.new("RGBA", (8, 8), (0, 0, 0, 128)), (127, 127, 127)),
        "grey_clear.png": (Image.new("LA", (8, 8), (10, 0)), (255, 255, 255)),
        "palette.gif": (Image.new("RGB", (8, 8), (255, 0, 0)).convert("P"), (255, 0, 0)),
        "print.jpg": (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), (0, 0, 0)),
        "bits.png": (Image.new("1", (8, 8), 1), (255, 255, 255)),
        "float.tif": (Image.new("F", (8, 8), 0.5), (128, 128, 128)),
    }
    for name, (odd, expected) in made.items():
        odd.save(tmp_path / name)
        read = np.asarray(open_image(tmp_path / name))
        assert read.shape == (8, 8, 3), name
        assert np.abs(read.astype(int) - expected).max() <= 1, name


def test_real_odd_images(real_data: Path) -> None:
    refused = set()
    upright = np.asarray(open_image(real_data / "odd_images" / "exif_Landscape_1.jpg"), np.float64)
    for path in sorted((real_data / "odd_images").iterdir()):
        try:
            read = ImageFile(path).read(64)
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017 (which files fail is asserted below)
            refused.add(path.name)
            continue
        assert min(read.shape[:2]) == 64
        assert read.dtype == np.uint8
        if path.name.startswith("exif"):
            whole = np.asarray(open_image(path), np.float64)
            assert whole.shape == upright.shape
            assert np.abs(whole - upright).mean() < 6, path.name
    assert refused == {"broken.png", "broken_data_stream.png", "truncated_image.png", "truncated_jpeg.jpg"}


def test_slivers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too thin"):
        ImageFile(image(tmp_path / "sliver.png", size=(400, 2))).read(16)


def test_clips_are_sources_of_images(tmp_path: Path) -> None:
    clip = tmp_path / "trainA" / "clip.mp4"
    clip.parent.mkdir()
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for i in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 8 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    image(tmp_path / "trainB" / "1.png")
    frames = frames_of_clip(clip, fps=2.0, short_side=12)
    assert [frame.name.split("@")[1] for frame in frames] == [f"{t / 2:.3f}s" for t in range(6)]
    assert [round(float(frame.pixels.mean()) / 40) for frame in frames] == list(range(6))
    assert frames[0].pixels.shape == (12, 16, 3)
    assert len(find_domains(config(tmp_path)).a) == 6
    clip.write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as a clip"):
        find_domains(config(tmp_path))


def test_rotated_clips_stand_upright(real_data: Path) -> None:
    # Seen to be upright by eye; the stored images are 568x320 throughout, turned by the player.
    expected = {0: (0, (32, 57)), 90: (-1, (57, 32)), 180: (2, (32, 57)), 270: (1, (57, 32))}
    for angle, (turns, shape) in expected.items():
        clip = real_data / "videos" / f"decord__video_{angle}.mov"
        upright = frames_of_clip(clip, 1.0, 32)[0].pixels
        with av.open(str(clip)) as container:
            stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert upright.shape[:2] == shape
        turned = np.ascontiguousarray(np.rot90(stored, turns))
        small = Image.fromarray(turned).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(small).astype(float) - upright).mean() < 3


def test_digits_of_every_form(tmp_path: Path) -> None:
    grey = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    mnist, usps = tmp_path / "mnist", tmp_path / "usps"
    mnist.mkdir()
    usps.mkdir()
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in grey.shape)
    with gzip.open(mnist / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + grey.tobytes())
    with gzip.open(mnist / "train-labels-idx1-ubyte.gz", "wb") as file:
        file.write(b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes([7, 8, 9]))
    with gzip.open(usps / "zip.train.gz", "wb") as file:
        file.write(("6.0 " + " ".join(["-1.0", "1.0"] * 128) + "\n").encode())
    read = read_digits(mnist)
    assert np.array_equal(read.images[..., 0], grey)
    assert read.labels.tolist() == [7, 8, 9]
    assert read_digits(usps).images[0, 0, :2, 0].tolist() == [0, 255]
    options = config(tmp_path, load_size=8, image_size=8, batch=3)
    domains = find_domains(options)
    assert (domains.layout, domains.names) == ("digits", ("mnist", "usps"))
    raw = ImageBatches(domains, options).read(0)
    assert sorted(raw.labels_a.tolist() if raw.labels_a is not None else []) == [7, 8, 9]
    assert raw.a.shape == (3, 8, 8, 3)
    with pytest.raises(DataError, match="no digits of the test split"):
        read_digits(mnist, "test")
    (usps / "zip.train.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match="fetch it again"):
        read_digits(usps)


def test_real_digits(real_data: Path) -> None:
    usps = read_digits(real_data / "digits" / "usps")
    assert usps.images.shape == (7291, 16, 16, 3)
    assert np.bincount(usps.labels).tolist() == [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    assert read_digits(real_data / "digits" / "mnist_m").images.shape == (1000, 32, 32, 3)
    found = find_domains(TrainConfig(data=real_data / "digits", domains=("mnist_m", "usps")))
    assert (len(found.a), len(found.b), found.layout) == (1000, 7291, "digits")


@pytest.mark.parametrize(
    ("largest", "white"), [(200, 255), (1000, 1023), (4000, 4095), (9000, 16383), (60_000, 65535)]
)
def test_deep_images_are_read_by_the_range_that_they_use(tmp_path: Path, largest: int, white: int) -> None:
    data = tmp_path / "data"
    for domain, level in (("day", largest), ("night", 60_000)):
        (data / domain).mkdir(parents=True)
        for number in range(3):  # the first two are darker than the range
            pixels = np.full((20, 24), level if number == 2 else level // 8, np.uint16)
            Image.fromarray(pixels).save(data / domain / f"{number}.png")
    domains = find_domains(config(data))
    assert domains.white == (white, 65535)
    levels = [int(each.read(20).mean()) for each in domains.a]
    expected = [round(255 * (largest // 8) / white)] * 2 + [round(255 * largest / white)]
    assert levels == pytest.approx(expected, abs=1)
    assert domains.swapped().white == (65535, white)
    # What a run recorded counts, whatever a split happens to hold.
    again = find_domains(config(data, white=(16383, 65535)))
    assert again.white == (16383, 65535)
    assert int(again.a[2].read(20).mean()) == pytest.approx(min(255, 255 * largest / 16383), abs=1)
    with pytest.raises(OptionError, match="--white"):
        config(data, white=(70_000, 0))
