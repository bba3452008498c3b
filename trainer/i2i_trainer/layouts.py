"""Where the images of the two domains lie: every folder layout that users of the field expect, recognised.

Layouts, tried in this order (`SPLIT` is train, val or test):

    lists          SPLITA.txt, SPLITB.txt with one file name a line, relative to the root
    unpaired       SPLITA/ SPLITB/ | SPLIT/A/ SPLIT/B/ | images_a/ images_b/ | two folders named like the domains
    paired         SPLIT/ with side-by-side images, or any of the two-folder forms with equal names below the folder
    digits         two folders with IDX, USPS or labelled PNG files
    class-folders  SPLIT/<class>/ or <class>/, three classes or more (two are two domains, unless asked for by name)
    single         one folder of images, both domains alike

Images that lie under no split's name are those of train, except digits, whose files name their split themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from i2i_trainer.config import TrainConfig
from i2i_trainer.digits import holds_digits, read_digits
from i2i_trainer.errors import DataError
from i2i_trainer.images import (
    CLIP_SUFFIXES,
    IMAGE_SUFFIXES,
    ArrayImage,
    ImageFile,
    TrainingImage,
    UnreadableImage,
    frames_of_clip,
    white_of,
)

DEFAULT_DOMAINS = ("A", "B")
SPLITS = ("train", "val", "test")
SPLIT_FOLDER = re.compile(rf"({'|'.join(SPLITS)})[AB]?")
"""Folders that hold a split, or one domain of it, and are no domain or class themselves."""
Folders = tuple[tuple[Path, str], tuple[Path, str]]
UNLABELLED_FOLDER, UNLABELLED = "unlabelled", -1
"""Among class folders: images of no known class, for semi-supervised training, and the label they get."""


@dataclass(frozen=True)
class Domains:
    """The images of the source and the target domain.

    Paired: `b[i]` is the counterpart of `a[i]`. `labels_*` index `classes`, if the layout has classes.
    """

    layout: str
    names: tuple[str, str]
    a: Sequence[TrainingImage]
    b: Sequence[TrainingImage]
    paired: bool = False
    classes: tuple[str, ...] = ()
    labels_a: Sequence[int] | None = None
    labels_b: Sequence[int] | None = None
    white: tuple[int, int] = (65535, 65535)
    """The value of white in the 16-bit images of a and of b."""

    def swapped(self) -> Domains:
        """The same images with source and target exchanged."""
        return replace(
            self,
            names=(self.names[1], self.names[0]),
            a=self.b,
            b=self.a,
            labels_a=self.labels_b,
            labels_b=self.labels_a,
            white=(self.white[1], self.white[0]),
        )


def find_domains(config: TrainConfig, split: str = "train", paired: bool = False) -> Domains:
    """Images of one split under `config.data`. `paired` asks for counterparts. Raises DataError in one sentence."""
    if not config.data.is_dir():
        raise DataError(f"--data {config.data} is not a folder: name the folder that holds the images.")
    return _found(config, split, paired)


def has_split(config: TrainConfig, split: str, paired: bool = False) -> bool:
    """Whether the folder holds images of both domains set aside under this name (`test`, `val`)."""
    try:
        _found(config, split, paired, decode=False)
    except DataError:
        return False
    return True


def _found(config: TrainConfig, split: str, paired: bool, decode: bool = True) -> Domains:
    named = config.domains != DEFAULT_DOMAINS
    names = (config.domains[1], config.domains[0]) if config.swap and named else config.domains
    finder = _Finder(config.data, split, replace(config, domains=names), decode)
    found = finder.find(config.layout, paired or config.layout == "paired")
    found = found.swapped() if config.swap else found
    return _with_white(found, config.white) if decode else found


def _with_white(domains: Domains, given: tuple[int, int]) -> Domains:
    """The same images, their 16-bit files read by the range that they use."""
    white = tuple(
        value or white_of([image.path for image in images if isinstance(image, ImageFile)])
        for images, value in zip((domains.a, domains.b), given, strict=True)
    )
    a, b = (
        [replace(image, white=value) if isinstance(image, ImageFile) else image for image in images]
        for images, value in zip((domains.a, domains.b), white, strict=True)
    )
    return replace(domains, a=a, b=b, white=(white[0], white[1]))


@dataclass(frozen=True)
class _Finder:
    root: Path
    split: str
    config: TrainConfig
    decode: bool = True
    """Off: clips stand as files, to see where images lie without the time and memory of decoding."""

    def find(self, layout: str, paired: bool) -> Domains:
        if layout == "lists" or (layout == "auto" and self._has_lists()):
            return self._matched(self._lists(), paired)
        if layout == "digits":
            return self._digits()
        if layout == "class-folders":
            return self._class_folders()
        if layout == "single":
            return self._single()
        folders = self._two_folders()
        if folders is not None:
            if layout == "auto" and all(holds_digits(folder) for folder, _ in folders):
                return self._digits()
            (a, name_a), (b, name_b) = folders
            domains = Domains("unpaired", (name_a, name_b), self._images(a), self._images(b))
            return self._matched(domains, paired)
        halves = self._side_by_side()
        if halves is not None and layout in ("auto", "paired", "unpaired"):
            if layout == "auto" and not paired and not _may_be_pairs(halves.a):
                raise DataError(
                    f"--data {self.root} holds plain images of one domain: make a folder for each of two domains, "
                    "or add --layout paired if each image is a pair side by side."
                )
            return halves
        if layout == "auto" and not paired and self._many_classes():
            return self._class_folders()
        raise DataError(self._nothing_found())

    def _two_folders(self) -> Folders | None:
        own = self._folders_of_split()
        if own is not None:
            return own
        shared = self._folders_of_root()
        if shared is None or self.split == "train" or all(holds_digits(folder) for folder, _ in shared):
            return shared
        return None

    def _folders_of_split(self) -> Folders | None:
        """The two folders whose path names the split."""
        root, split = self.root, self.split
        name_a, name_b = self.config.domains
        forms = [
            (root / f"{split}A", root / f"{split}B"),
            (root / split / "A", root / split / "B"),
            (root / split / name_a, root / split / name_b),
            (root / split / "images_a", root / split / "images_b"),
            (root / name_a / split, root / name_b / split),
        ]
        return self._first_of(forms) or self._only_two(root / split)

    def _folders_of_root(self) -> Folders | None:
        """The two folders in the root, with nothing said of a split."""
        root = self.root
        name_a, name_b = self.config.domains
        forms = [
            (root / name_a, root / name_b),
            (root / "images_a", root / "images_b"),
            (root / "a", root / "b"),
        ]
        return self._first_of(forms) or self._only_two(root)

    def _first_of(self, forms: Sequence[tuple[Path, Path]]) -> Folders | None:
        name_a, name_b = self.config.domains
        for a, b in forms:
            if a.is_dir() and b.is_dir():
                return (a, name_a), (b, name_b)
            if (a.is_dir() or b.is_dir()) and (name_a, name_b) == DEFAULT_DOMAINS:
                there, missing = (a, b) if a.is_dir() else (b, a)
                raise DataError(
                    f"{there} is there but its partner {missing} is missing: add the other domain."
                )
        return None

    def _only_two(self, parent: Path) -> Folders | None:
        named = [folder for folder in _named_folders(parent) if self._fruitful(folder)]
        if len(named) != 2 or self.config.domains != DEFAULT_DOMAINS:
            return None
        return (named[0], named[0].name), (named[1], named[1].name)

    def _parents(self) -> tuple[Path, ...]:
        """Where images or class folders of the split lie: under its name, those of train in the root too."""
        own = self.root / self.split
        return (own, self.root) if self.split == "train" else (own,)

    def _fruitful(self, folder: Path) -> bool:
        return holds_digits(folder) or bool(files_under(folder))

    def _images(self, folder: Path) -> list[TrainingImage]:
        images = self._read_in(files_under(folder), folder)
        if not images:
            raise DataError(f"{folder} holds no image and no clip: put the domain's images there.")
        return images

    def _read_in(self, files: Sequence[Path], folder: Path) -> list[TrainingImage]:
        """The images of files below a domain's folder; a clip that cannot be read stands as one unreadable."""
        images: list[TrainingImage] = []
        for path in files:
            suffix = path.suffix.lower()
            plain = path.with_suffix("") if suffix in IMAGE_SUFFIXES | CLIP_SUFFIXES else path
            key = plain.relative_to(folder).as_posix()
            if suffix not in CLIP_SUFFIXES or not self.decode:
                images.append(ImageFile(path, key=key))
                continue
            try:
                frames = frames_of_clip(path, self.config.clip_fps, self.config.load_size)
            except DataError as error:
                images.append(UnreadableImage(path.name, str(error), key))
                continue
            images += [replace(frame, key=key + frame.name.removeprefix(path.name)) for frame in frames]
        broken = [image.reason for image in images if isinstance(image, UnreadableImage)]
        if broken and len(broken) == len(images):
            raise DataError(broken[0])
        return images

    def _matched(self, domains: Domains, paired: bool) -> Domains:
        """With `paired`, only the images whose keys occur in both domains, in one order."""
        if not paired:
            return domains
        sources, partners = _by_key(domains.a), _by_key(domains.b)
        pairs = [(image, partners[key]) for key, image in sources.items() if key in partners]
        if not pairs:
            raise DataError(
                f"No image under {self.root} has a counterpart of the same name in the other domain: "
                "name the pairs alike, or put each pair side by side into one image."
            )
        return replace(
            domains, layout="paired", paired=True, a=[a for a, _ in pairs], b=[b for _, b in pairs]
        )

    def _side_by_side(self) -> Domains | None:
        for folder in self._parents():
            files = [path for path in _children(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
            if files:
                return Domains(
                    "paired",
                    self.config.domains,
                    [ImageFile(path, "left") for path in files],
                    [ImageFile(path, "right") for path in files],
                    paired=True,
                )
        return None

    def _has_lists(self) -> bool:
        """Whether lists say what belongs to the split; where they do so for train, they do for every split."""
        return any(finder._list_files() is not None for finder in (self, replace(self, split="train")))

    def _list_files(self) -> tuple[Path, Path] | None:
        for suffix in ("A.txt", "_a.txt", "_A.txt"):
            a = self.root / f"{self.split}{suffix}"
            b = self.root / f"{self.split}{suffix.replace('A', 'B').replace('_a', '_b')}"
            if a.is_file() and b.is_file():
                return a, b
        return None

    def _lists(self) -> Domains:
        files = self._list_files()
        if files is None:
            raise DataError(
                f"{self.root} holds no {self.split}A.txt with {self.split}B.txt: write both, one file name a line."
            )
        a, b = (self._listed(listing) for listing in files)
        return Domains("lists", self.config.domains, a, b)

    def _listed(self, listing: Path) -> list[TrainingImage]:
        paths = [self._path_of_line(line) for line in listing.read_text().splitlines() if line.strip()]
        if not paths:
            raise DataError(f"{listing} names no image: write one file name a line.")
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise DataError(
                f"{listing} names {missing}, which does not exist: names are relative to {self.root}."
            )
        return self._read_in(paths, Path(os.path.commonpath([path.parent for path in paths])))

    def _path_of_line(self, line: str) -> Path:
        """The file that a line names; a list may say more about it after a blank, and a name may hold blanks."""
        root = self.root.absolute()
        whole, first = root / line.strip(), root / line.split()[0]
        return first if first.is_file() and not whole.is_file() else whole

    def _classes(self) -> list[Path]:
        for parent in self._parents():
            folders = _named_folders(parent)
            if len(folders) >= 2:
                return folders
        return []

    def _many_classes(self) -> bool:
        return len(self._classes()) >= 3

    def _class_folders(self) -> Domains:
        folders = self._classes()
        if not folders:
            raise DataError(
                f"{self.root} holds no class folders for {self.split}: make one folder of images per class."
            )
        images: list[TrainingImage] = []
        labels: list[int] = []
        classes = tuple(folder.name for folder in folders if folder.name != UNLABELLED_FOLDER)
        for folder in folders:
            members = self._images(folder)
            images += members
            label = UNLABELLED if folder.name == UNLABELLED_FOLDER else classes.index(folder.name)
            labels += [label] * len(members)
        return Domains(
            "class-folders",
            self.config.domains,
            images,
            images,
            classes=classes,
            labels_a=labels,
            labels_b=labels,
        )

    def _digits(self) -> Domains:
        folders = self._two_folders()
        if folders is None:
            raise DataError(
                f"{self.root} does not say which digits are source and target: give --domains with the names of two "
                "of its folders."
            )
        (folder_a, name_a), (folder_b, name_b) = folders
        a, b = read_digits(folder_a, self.split), read_digits(folder_b, self.split)
        return Domains(
            "digits",
            (name_a, name_b),
            [ArrayImage(f"{name_a} {i}", pixels, nearest=True) for i, pixels in enumerate(a.images)],
            [ArrayImage(f"{name_b} {i}", pixels, nearest=True) for i, pixels in enumerate(b.images)],
            classes=tuple("0123456789"),
            labels_a=a.labels.tolist(),
            labels_b=b.labels.tolist(),
        )

    def _single(self) -> Domains:
        folders = [folder for folder in self._parents() if folder.is_dir()]
        if not folders:
            raise DataError(self._nothing_found())
        images = self._images(folders[0])
        return Domains("single", self.config.domains, images, images)

    def _nothing_found(self) -> str:
        split, (a, b) = self.split, self.config.domains
        if split != "train":
            return (
                f"--data {self.root} holds no images set aside for {split} in both domains: make {split}A and "
                f"{split}B, or take the images of another split."
            )
        return (
            f"--data {self.root} holds no images in a known layout: make {split}A and {split}B, or folders "
            f"{a} and {b}, or {split} with pairs side by side, or name the layout with --layout."
        )


def _may_be_pairs(images: Sequence[TrainingImage]) -> bool:
    """Whether the first half that can be read is no narrower than a square, as no half of a plain image is."""
    for image in images:
        with suppress(DataError):
            height, width = image.read(64).shape[:2]
            return bool(20 * width >= 19 * height)
    return True


def files_under(folder: Path) -> list[Path]:
    """Image and clip files in and below a folder, sorted, hidden ones left out."""
    known = IMAGE_SUFFIXES | CLIP_SUFFIXES
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in known and path.is_file() and not path.name.startswith(".")
    )


def _children(folder: Path) -> list[Path]:
    return (
        sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []
    )


def _named_folders(folder: Path) -> list[Path]:
    """Folders that may be domains or classes by their names."""
    return [path for path in _children(folder) if path.is_dir() and not SPLIT_FOLDER.fullmatch(path.name)]


def _by_key(images: Sequence[TrainingImage]) -> dict[str, TrainingImage]:
    found: dict[str, TrainingImage] = {}
    for image in images:
        if image.key in found:
            raise DataError(
                f"{found[image.key].name} and {image.name} of one domain are both called {image.key}, so "
                "which of them has the counterpart is unclear: rename or remove one."
            )
        found[image.key] = image
    return found
