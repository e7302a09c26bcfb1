"""From record files to rows and frames: one row a record, what cannot be believed left out and named."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from bench.errors import UsageError
from bench.files import write_atomic
from bench.records import fields, schema, store
from bench.spec import decode, digest, recipe, spec
from leaderboard.reader import extract
from leaderboard.reader.extract import COLUMNS
from leaderboard.reader.processes import answer, cores, spread

if TYPE_CHECKING:
    import pandas as pd

CACHE = ".board-cache.json"
"""Next to the records, not one of them: what was read of each file last time. May be deleted at any time."""
CODE = (__file__, *(str(module.__file__) for module in (extract, store, schema, fields, decode, digest, recipe, spec)))
"""The files that read: a cache that others wrote is ignored."""
MANY = 2000
"""Files from which on it pays to read them in several processes."""
AHEAD = 128
"""Files that the disk may be ahead of the reader."""


@dataclass(frozen=True)
class Problem:
    """A record that was left out, or that contradicts another: which file, and why, in one line."""

    file: str
    message: str


@dataclass(frozen=True)
class Found:
    """What a folder of records holds.

    Attributes:
        root: the folder that ``file`` is relative to.
        rows: values in the order of ``COLUMNS``, None where there is none; sorted by file.
        problems: files that are not believed.
        stamps: file -> what changes when the file does.
    """

    root: str
    rows: list[Sequence[Any]]
    problems: tuple[Problem, ...] = ()
    stamps: Mapping[str, list[int]] = field(default_factory=dict)


def load(path: Path | str, cache: bool = True) -> pd.DataFrame:
    """The records at or below ``path``, one row each, sorted by file; see ``COLUMNS``.

    Args:
        path: a folder of records, or one record.
        cache: read and write the file ``CACHE`` in the folder. It holds nothing that is not in the records.

    Returns:
        The frame; ``frame.attrs["problems"]`` is the tuple of :class:`Problem` and ``frame.attrs["root"]`` the
        folder that ``file`` is relative to, as text.

    Raises:
        UsageError: nothing is there.
    """
    import pandas as pd  # slow, and the tables need none

    found = find(path, cache)
    frame = pd.DataFrame.from_records(found.rows, columns=COLUMNS)
    frame.attrs |= {"problems": found.problems, "root": found.root}
    return frame


def of_frame(frame: pd.DataFrame) -> Found:
    """What was found of a frame that :func:`load` made, perhaps with fewer rows; a column at a time is fastest."""
    columns = []
    for name in COLUMNS:
        values, absent = frame[name].tolist(), frame[name].isna()
        columns.append(
            [None if no else value for value, no in zip(values, absent, strict=True)] if absent.any() else values
        )
    return Found(frame.attrs["root"], list(zip(*columns, strict=True)), frame.attrs["problems"])


def find(path: Path | str, cache: bool = True) -> Found:
    """The same as :func:`load` in plain values."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"board {path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    files = store.names(path) if path.is_dir() else [path.name]
    cached, edition = root / CACHE, edition_of(CODE)
    known = recall(cached, edition) if cache and path.is_dir() else {}
    stamps = {file: _stamp(os.path.join(root, file)) for file in files}
    todo = [file for file in files if known.get(file, (None,))[0] != stamps[file]]
    fresh = dict(zip(todo, _read_all(root, todo), strict=True))
    found = {file: (stamps[file], fresh[file] if file in fresh else known[file][1]) for file in files}
    if cache and path.is_dir() and (todo or len(known) != len(files)):
        remember(cached, edition, found)
    rows: list[Sequence[Any]] = [(file, *row) for file, (_, row) in found.items() if isinstance(row, list | tuple)]
    problems = tuple(Problem(file, said) for file, (_, said) in found.items() if isinstance(said, str))
    return Found(str(root), rows, problems, stamps)


def _read_all(root: Path, files: Sequence[str]) -> list[Any]:
    """What :func:`leaderboard.reader.extract.read` says of each file; of many, in processes of their own."""
    if len(files) < MANY:
        return [extract.read(root / file) for file in files]
    size = -(-len(files) // cores())
    parts = [files[k : k + size] for k in range(0, len(files), size)]  # neighbours have the specification in common
    return [row for rows in spread("leaderboard.reader.frame", [str(root)], parts) for row in rows]


def _fetched(files: Sequence[str]) -> Iterator[str]:
    """The files one by one, the disk at work on those that come soon."""
    for file, soon in itertools.zip_longest(files, files[AHEAD:]):
        if soon and hasattr(os, "posix_fadvise"):
            with suppress(OSError):
                handle = os.open(soon, os.O_RDONLY | os.O_NONBLOCK)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_WILLNEED)
                os.close(handle)
        yield file


def _stamp(path: str) -> list[int]:
    """What changes when the file does: the time of change is the kernel's, so that no stored cache can pretend it."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def edition_of(files: Iterable[str]) -> str:
    """Hash of the code in some files."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def recall(file: Path, edition: str) -> dict[str, Any]:
    """What :func:`remember` wrote; empty where that is not there, is damaged or of another edition."""
    if not file.is_file():  # a pipe would be waited for
        return {}
    try:
        found = orjson.loads(file.read_bytes())
        return dict(found["found"]) if found["edition"] == edition else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remember(file: Path, edition: str, found: Mapping[str, Any]) -> None:
    """Keep what was found for the next time."""
    data = orjson.dumps({"edition": edition, "found": found})
    try:
        write_atomic(file, lambda temporary: temporary.write_bytes(data))
    except OSError:  # a folder that cannot be written to is read again every time
        return


if __name__ == "__main__":
    answer(lambda files: list(map(extract.read, _fetched([f"{sys.argv[1]}/{file}" for file in files]))))
