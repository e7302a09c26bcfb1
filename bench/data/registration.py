"""What is known of a data set, and the decorator that registers one."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.data.image_files import Files
from bench.spec.registry import DATASETS

IN_MEMORY_BYTES = 4 * 2**30
"""A data set of files whose images, decoded, are larger than this is streamed."""

Raw = tuple[np.ndarray, np.ndarray]
"""Images ``[N, H, W]`` or ``[N, H, W, C]``, uint8, and labels ``[N]``."""
Normal = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel, on the scale 0..1."""


@dataclass(frozen=True)
class Dataset:
    """A data set: its facts, and how to load one of its parts.

    Attributes:
        name: as in a record.
        shape: channels, height, width.
        classes: number of classes.
        sizes: number of training (validation included) and test images; with folds, of the first.
        load: called with part, folder and whether to download; arrays, or files that are decoded to ``shape``. With
            folds the part is ``all``, and all images are returned, as arrays.
        sha256: hashes of pixels and labels of both parts, where known; with folds one hash, of all and their folds.
        normal: constants that normalise; None: those of the training images.
        resize: files are brought to ``shape``; False: they have it.
        distinct: no image may be in two classes.
        recipe: name of the default recipe.
        by_files: its hashes are those of its files (``bench.data.file_hashes``), not of their pixels.
        folds: parts that take turns as test part, by seed, where none is the official one; 0: one is.
        fold: the test part; None until :meth:`for_seed` says which.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    sizes: tuple[int, int]
    load: Callable[[str, Path, bool], Raw | Files]
    sha256: tuple[str, ...] | None = None
    normal: Normal | None = None
    resize: bool = True
    distinct: bool = False
    recipe: str = ""
    by_files: bool = False
    folds: int = 0
    fold: int | None = None

    def for_seed(self, seed: int) -> Dataset:
        """The same data set, with the test part that a run of this seed has."""
        return dataclasses.replace(self, fold=seed % self.folds) if self.folds else self

    @property
    def streamed(self) -> bool:
        """Whether its images, if they are in files, are decoded as they are needed."""
        return sum(self.sizes) * math.prod(self.shape) > IN_MEMORY_BYTES

    @property
    def shorter(self) -> int | None:
        """Side to which the shorter side of an image in a file is resized before its centre is cut out."""
        side = min(self.shape[1:])
        return None if not self.resize else round(side * 256 / 224) if self.streamed else side


def dataset(
    name: str,
    *,
    shape: tuple[int, int, int],
    classes: int,
    sizes: tuple[int, int],
    sha256: tuple[str, ...] | None = None,
    normal: Normal | None = None,
    recipe: str | None = None,
    by_files: bool = False,
    folds: int = 0,
    **options: Any,
) -> Callable[[Callable], Callable]:
    """Register ``loader(part, folder, download, **options) -> Raw | Files`` as ``name``.

    Args:
        name: on the command line.
        shape: channels, height, width; images in files are brought to it.
        classes: number of classes.
        sizes: number of training (validation included) and test images; checked after loading. With folds, of the
            first.
        sha256: hashes of pixels and labels of both parts where known; checked after loading. With folds one hash.
        normal: constants that normalise, on the scale 0..1; without them, those of the training images.
        recipe: name of the default recipe, a literal; None: the one called as the data set.
        by_files: the hashes are of files, which decoders read differently from version to version, not of pixels.
        folds: for a set without an official test part: every so many-th image of each class tests, the first of them
            being image ``seed % folds``. The loader is called with the part ``all`` and returns all images, as arrays.
        options: passed on, so that one loader can serve several names.
    """

    def decorate(loader: Callable) -> Callable:
        def load(part: str, folder: Path, download: bool) -> Raw | Files:
            return loader(part, folder, download, **options)

        code = inspect.unwrap(loader).__code__
        origin = f"{code.co_filename}:{code.co_firstlineno} ({name})"
        found = Dataset(
            *(name, shape, classes, sizes, load, sha256, normal), recipe=recipe or name, by_files=by_files, folds=folds
        )
        DATASETS.register(name, found, origin)
        return loader

    return decorate


def fold_of_each(labels: Tensor, folds: int) -> Tensor:
    """Int64 ``[N]``: the fold that each image tests in; the images of a class take turns."""
    found = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        found[members] = torch.arange(len(members)) % folds
    return found
