"""Hashes of image files: equal on every machine, while decoded pixels depend on the decoder's version."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bench.data.cache import Cache
from bench.data.image_files import THREADS, Files
from bench.errors import SetupError


def labelled(files: Files, what: str, cache: Cache) -> str:
    """sha256 over label and sha256 of each file, in their order."""
    digest = hashlib.sha256()
    for label, own in zip(files.labels.tolist(), _each(files, what, cache), strict=True):
        digest.update(f"{label} {own.hex()}\n".encode())
    return digest.hexdigest()


def unordered(files: Files, what: str, cache: Cache) -> str:
    """sha256 over the files, whatever their names, order and classes."""
    return hashlib.sha256(b"".join(sorted(_each(files, what, cache)))).hexdigest()


def _each(files: Files, what: str, cache: Cache) -> list[bytes]:
    """sha256 of each file; read again only where one has changed."""
    entry, key = files.entry(f"{what}-hashes"), files.version
    kept = cache.read(entry, key)
    if kept is None:
        with ThreadPoolExecutor(THREADS) as pool:
            found = b"".join(pool.map(whole, map(files.path, range(len(files)))))
        kept = {"hashes": torch.frombuffer(bytearray(found), dtype=torch.uint8).reshape(-1, 32)}
        cache.write(entry, key, kept)
    return _rows(kept["hashes"])


def _rows(hashes: Tensor) -> list[bytes]:
    return [row.tobytes() for row in hashes.numpy()]


def whole(path: str) -> bytes:
    """sha256 of the file at ``path``; raises SetupError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise SetupError(f"{path}: it cannot be read ({error.strerror})") from error
