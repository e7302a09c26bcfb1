"""``folder:PATH[@SIZE][~MEAN~STD]``: a user's own images, a folder a class, below ``train``, ``test`` (or ``val``)."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path

import torch
from torch import Tensor

from bench.data.cache import Cache
from bench.data.duplicates import require_apart
from bench.data.file_hashes import unordered
from bench.data.image_files import Files, class_folders, inspected
from bench.data.registration import Dataset, Normal
from bench.errors import SetupError, UsageError
from bench.progress import Progress

PREFIX = "folder:"
RECIPES = ("folder_small", "folder_large")
SMALL_SIDE = 64
"""Images up to this side have the first of the recipes by default, larger ones the second."""
FORM = re.compile(
    r"folder:(?P<path>.+?)(?:@(?P<size>[1-9]\d*))?(?:~(?P<normal>[0-9.,]+~[0-9.,]+))?(?:#(?P<content>[0-9a-f]{8}))?"
)
"""PATH as typed, or NAME of a folder in the folder of data sets; resolved names have the content's hash. MEAN and STD
are one number, or one a channel, of pixels in 0..1."""


def resolve(name: str, data_dir: Path) -> tuple[str, Path]:
    """A name as typed -> the name for specification and record, and the folder of data sets that it is in.

    ``folder:PATH[@SIZE][~MEAN~STD]`` becomes ``folder:NAME[@SIZE][~MEAN~STD]#HASH``: nothing in it depends on the place
    of the folder. Names of registered data sets, and resolved ones, stay as they are.
    """
    if not name.startswith(PREFIX):
        return name, data_dir
    path, size, normal, content = _parts(name)
    place = Path(os.path.abspath(Path(path).expanduser())) if "/" in path else data_dir / path
    if content is None:
        content = content_hash(*_listed(place))
    how = (f"@{size}" if size else "") + (f"~{normal}" if normal else "")
    return f"{PREFIX}{place.name}{how}#{content}", place.parent


def find_folder(name: str, data_dir: Path, cache: Cache, progress: Progress) -> Dataset:
    """The data set of the folder named by ``name`` (as typed, or resolved); reads the headers of its files.

    Raises SetupError for a folder that is not there, is not one of images in class folders, has a damaged file, a
    file in both parts, or another content than the name says; UsageError where images differ in size and the name
    gives none.
    """
    name, data_dir = resolve(name, data_dir)
    path, size, normal, content = _parts(name)
    place = data_dir / path
    train, test = _listed(place)
    if content_hash(train, test) != content:
        raise SetupError(
            f"{place} has another content than '{name}' (#{content_hash(train, test)}): "
            "files were added, removed or written; run again, or give the right folder with --data-dir"
        )
    found = torch.cat([inspected(files, what, cache, progress) for files, what in ((train, "train"), (test, "test"))])
    require_apart(train, test, cache)
    height, width = (int(size), int(size)) if size else _common_size(place.name, found[:, :2])
    channels = 1 if bool(found[:, 2].all()) else 3

    def load(part: str, folder: Path, download: bool) -> Files:
        return train if part == "train" else test

    classes, sizes = int(train.labels.max()) + 1, (len(train), len(test))
    shape, recipe = (channels, height, width), RECIPES[max(height, width) > SMALL_SIDE]
    constants = _constants(name, normal, channels) if normal else None
    return Dataset(
        name, shape, classes, sizes, load, normal=constants, resize=size is not None, distinct=True, recipe=recipe
    )


def test_files_sha256(name: str, data_dir: Path) -> str:
    """Hash of the test files of the folder named by ``name``, whatever their names, order and classes."""
    path = _parts(name)[0]
    return unordered(_listed(data_dir / path)[1], "test", Cache(None))


def content_hash(train: Files, test: Files) -> str:
    """8 hexadecimal digits over names and sizes of all files."""
    digest = hashlib.sha256("\0".join((train.content, test.content)).encode())
    return digest.hexdigest()[:8]


def _parts(name: str) -> tuple[str, str | None, str | None, str | None]:
    found = FORM.fullmatch(name)
    if not found:
        raise UsageError(f"data set '{name}': give folder:PATH or folder:PATH@SIZE")
    return found["path"], found["size"], found["normal"], found["content"]


def _constants(name: str, normal: str, channels: int) -> Normal:
    """Mean and deviation of each channel; raises UsageError for numbers that are not of pixels in 0..1."""
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in normal.split("~"))
    except ValueError:
        mean = std = ()
    if not {len(mean), len(std)} <= {1, channels} or max(*mean, *std) > 1 or min(std) == 0:
        raise UsageError(
            f"data set '{name}': mean and deviation ({normal}) are one number or {channels}, separated by commas, of "
            "pixels in 0..1, such as 0.5~0.5"
        )
    return mean * (channels // len(mean)), std * (channels // len(std))


def _listed(place: Path) -> tuple[Files, Files]:
    if not place.is_dir():
        raise SetupError(
            f"{place}: no such folder; give its path as folder:PATH, or the folder that it is in with --data-dir"
        )
    part = "test" if (place / "test").is_dir() else "val"
    if not (place / part).is_dir():
        more = "" if (place / "train").is_dir() else ", and no 'train'"
        raise SetupError(
            f"{place} has neither a folder 'test' nor 'val'{more}: images lie in train/CLASS/ and test/CLASS/ "
            "(or val/CLASS/), with the same classes in both"
        )
    train, classes = class_folders(place, "train")
    test, others = class_folders(place, part)
    if classes != others:
        lone = sorted(set(classes) ^ set(others))[0]
        where, missing = ("train", part) if lone in classes else (part, "train")
        raise SetupError(f"{place}: class '{lone}' is in {where} and not in {missing}; both need the same classes")
    return train, test


def _common_size(name: str, sizes: Tensor) -> tuple[int, int]:
    """Height and width that all images have; raises UsageError where they differ."""
    found = sorted(sizes.unique(dim=0).tolist(), key=math.prod)
    (top, left), (height, width) = found[0], found[-1]
    if len(found) > 1:
        raise UsageError(
            f"folder {name}: its images differ in size, from {left}x{top} to {width}x{height} pixels; give the "
            f"size to resize them to, such as folder:{name}@{min(min(size) for size in found)}"
        )
    return height, width
