"""Packs: many records in one file, one line each, sorted by id.

A pack is gzip with a fixed time stamp, so that equal records make equal bytes. Needs no torch.
"""

from __future__ import annotations

import functools
import gzip
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from bench.errors import UsageError
from bench.files import write_atomic

SUFFIX = ".jsonl.gz"
LARGEST = 16 * 2**20
"""Most bytes of a line."""
_ID = re.compile(rb'"id":"([0-9a-f]{12}-s[0-9]+)","job":')
"""In a line with sorted keys; within a text the quotes would be escaped, and no inner table has these two keys."""


def is_pack(name: Path | str) -> bool:
    """Whether a file is a pack of records, by its name."""
    return str(name).endswith(SUFFIX)


def split(path: Path | str) -> tuple[Path, str]:
    """``PACK#ID`` as file and id; the id is empty for any other path."""
    file, sign, name = str(path).rpartition("#")
    return (Path(file), name) if sign and file.endswith(SUFFIX) else (Path(path), "")


def lines(file: Path) -> Iterator[tuple[str, bytes]]:
    """Id and line of each entry; a line without an id has its number, from 1, in place of it.

    Raises ValueError where the file is damaged, OSError.
    """
    last = name = ""
    try:
        with open(file, "rb", opener=_no_pipe) as raw, gzip.open(raw) as unpacked:
            if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
                raise ValueError("not a file")
            for number, line in enumerate(iter(lambda: unpacked.readline(LARGEST + 1), b""), 1):
                if len(line) > LARGEST or not line.strip():
                    raise ValueError(f"line {number} is empty, or longer than {LARGEST:,} bytes")
                found = _ID.search(line)
                name = found[1].decode() if found else str(number)
                if found and name <= last:
                    raise ValueError(f"line {number} is {name}, after {last}: a pack is sorted, and has each id once")
                last = name if found else last
                yield name, line
            if not name:
                raise ValueError("has no record")
    except (EOFError, zlib.error) as error:
        raise ValueError(f"not a whole gzip file ({error})") from error


def _no_pipe(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def names(file: Path) -> list[str]:
    """Ids in a pack; of a damaged one, ``damaged`` is the last, which nobody can read."""
    found = []
    try:
        found = list(_of(file))
    except (ValueError, OSError):
        found = ["damaged"]
    return found


def line(file: Path, name: str) -> bytes:
    """One line of a pack; raises ValueError, OSError, KeyError."""
    found = _of(file).get(name)
    if found is None:
        raise KeyError(f"no record of that id in {file.name}")
    return found


def _of(file: Path) -> Mapping[str, bytes]:
    facts = file.stat()
    return _lines(file, facts.st_mtime_ns, facts.st_size, facts.st_ino)


@functools.lru_cache(maxsize=2)
def _lines(file: Path, *stamp: int) -> Mapping[str, bytes]:
    return dict(lines(file))


def write(file: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write a pack of ids and lines; raises UsageError where an id appears twice with other lines."""
    packed: dict[str, bytes] = {}
    for name, text in entries:
        if packed.setdefault(name, text) != text:
            raise UsageError(f"pack {file}: two records of {name}; pack one of them")
    data = gzip.compress(b"".join(packed[name] for name in sorted(packed)), 9, mtime=0)
    write_atomic(file, lambda temporary: temporary.write_bytes(data))
