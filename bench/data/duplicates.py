"""Duplicate images: in two classes, or in the training and the test part."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bench.data.cache import Cache
from bench.data.file_hashes import whole
from bench.data.image_files import THREADS, Files
from bench.errors import SetupError

COMPARED = 4096
"""Bytes at the end of files of one size that are compared before all of them are."""


def require_one_class_each(files: Files, pixels: Tensor) -> None:
    """Raise SetupError when two files of different classes are the same image."""
    seen: dict[bytes, int] = {}
    labels = files.labels.tolist()
    for index, image in enumerate(pixels.numpy()):
        other = seen.setdefault(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), index)
        if labels[other] != labels[index]:
            raise SetupError(
                f"{files.path(other)} and {files.path(index)} are the same image in two classes; delete one"
            )


def require_apart(train: Files, test: Files, cache: Cache) -> None:
    """Raise SetupError when a file of the test part is in the training part too, byte for byte."""
    entry, key = train.entry("apart"), f"{train.version} {test.version}"
    kept = cache.read(entry, key)
    pairs = _equal(train, test) if kept is None else kept["pairs"].tolist()
    if kept is None:
        cache.write(entry, key, {"pairs": torch.tensor(pairs, dtype=torch.int64)})
    if pairs:
        (first, second), more = pairs[0], f", and {len(pairs) - 1} more of {len(test)} test files are training files"
        raise SetupError(
            f"{test.path(second)} is the same file as {train.path(first)}{more * (len(pairs) > 1)}: "
            "a test image must not be trained on; delete one of each"
        )


def _equal(train: Files, test: Files) -> list[list[int]]:
    """Indices of equal files, ``[pairs, 2]``: each test file that is a training file, with the first of these."""
    chosen: list[Sequence[int]] = [range(len(train)), range(len(test))]
    keys: list[list[int | bytes]] = [[], []]
    with ThreadPoolExecutor(THREADS) as pool:
        steps: tuple[Callable[[str], int | bytes], ...] = (_size, _tail, whole)
        for step in steps:  # each compares the files that were equal in the step before
            keys = [
                list(pool.map(step, map(files.path, some))) for files, some in zip((train, test), chosen, strict=True)
            ]
            both = set(keys[0]).intersection(keys[1])
            chosen = [
                [k for k, key in zip(*part, strict=True) if key in both] for part in zip(chosen, keys, strict=True)
            ]
            keys = [[key for key in part if key in both] for part in keys]
    first = dict(zip(reversed(keys[0]), reversed(chosen[0]), strict=True))
    return [[first[key], k] for key, k in zip(keys[1], chosen[1], strict=True)]


def _size(path: str) -> int:
    return os.path.getsize(path)


def _tail(path: str) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, _size(path) - COMPARED))
        return hashlib.sha256(file.read()).digest()
