"""From record files to rows and frames: one row a record, what cannot be believed left out and named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench.errors import UsageError
from bench.files import write_atomic
from bench.records import consistency, cross_checks, method_history, pack, schema, store, training_checks, values
from bench.spec import decode, digest, recipe, spec
from leaderboard.reader import extract, trust
from leaderboard.reader.extract import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

CACHE, CROSS_CACHE = ".board-cache.json", ".board-cross-cache.json"
"""Next to the records, none of them: what was read of each file last time, and what was found wrong between them. May
be deleted at any time."""
_MODULES = (
    cross_checks,
    method_history,
    trust,
    extract,
    store,
    pack,
    schema,
    values,
    consistency,
    training_checks,
    decode,
    digest,
    recipe,
    spec,
)
CODE = (__file__, *(str(module.__file__) for module in _MODULES))
"""The files that read: a cache that others wrote is ignored."""


@dataclass(frozen=True)
class Problem:
    """A record that was left out, or that contradicts another: which file, and why, in one line.

    Attributes:
        kind: ``refused``, ``conflict``, ``flagged`` or ``unranked`` of ``bench verify``; empty for any other.
    """

    file: str
    message: str
    kind: str = ""

    @property
    def refused(self) -> bool:
        """Whether ``bench board`` and ``bench verify`` end with exit code 1 for it."""
        return self.kind in trust.REFUSED


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
        path: a folder of records and packs, or one of them.
        cache: read and write the file ``CACHE`` in the folder. It holds nothing that is not in the records.

    Returns:
        The frame, without records that level 2 of ``bench verify`` refuses; ``frame.attrs["problems"]`` is the tuple
        of :class:`Problem` and ``frame.attrs["root"]`` the folder that ``file`` is relative to, as text.

    Raises:
        UsageError: nothing is there.
    """
    import pandas as pd  # slow, and the tables need none

    found = find(path, cache, screened=True)
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


def find(path: Path | str, cache: bool = True, screened: bool = False) -> Found:
    """What :func:`load` returns, in plain values; not ``screened``: with records that contradict others."""
    path = Path(path)
    if not path.exists():
        raise UsageError(f"board {path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    files = store.names(path) if path.is_dir() else [path.name]
    cached, edition = root / CACHE, edition_of(CODE)
    known = recall(cached, edition) if cache and path.is_dir() else {}
    found = {}
    for file in files:
        stamp = _stamp(os.path.join(root, file))
        there = known.get(file)
        found[file] = there if there and there[0] == stamp else (stamp, _read(root, file))
    if cache and path.is_dir() and found != known:
        remember(cached, edition, found)
    rows: list[Sequence[Any]] = []
    problems, stamps, folders = [], {}, path.is_dir() and trust.has_folders(path)
    for file, (stamp, records) in found.items():
        submitter, misplaced = trust.submitter_of(file, folders), trust.misplaced(file) if folders else ""
        for name, row in records:
            stamps[name] = stamp
            if misplaced or isinstance(row, str):
                problems.append(Problem(name, misplaced or str(row), "refused"))
            else:
                rows.append((name, submitter, "", "", *row))
    if screened and rows:
        wrong = _findings(rows, root, edition, stamps, cache and path.is_dir())
        rows = trust.screened(rows, wrong)
        problems += [Problem(one.file, one.message, one.kind) for one in wrong]
    return Found(str(root), rows, tuple(problems), stamps)


def _findings(rows: Sequence[Sequence[Any]], root: Path, edition: str, stamps: Any, cache: bool) -> list[trust.Finding]:
    """What is wrong between records; known until a file, the code or the repository changes."""
    content = msgspec.json.encode([edition, trust.head(), sorted(stamps.items())])
    key = hashlib.sha256(content).hexdigest()
    known = recall(root / CROSS_CACHE, key) if cache else {}
    if not known:
        known = {"all": trust.findings(rows, root)}
        if cache:
            remember(root / CROSS_CACHE, key, known)
    return [trust.Finding(*one) for one in known["all"]]


def _read(root: Path, file: str) -> list[tuple[str, tuple[Any, ...] | str]]:
    """Name and row of each record in a file, or why it is not believed; in a pack the name is ``PACK#ID``."""
    found: list[tuple[str, tuple[Any, ...] | str]] = []
    try:
        if not pack.is_pack(file):
            return [(file, extract.read(store.content(os.path.join(root, file))))]
        for name, line in pack.lines(root / file):
            found.append((f"{file}#{name}", extract.read(line)))
    except store.RecordError as error:
        found.append((file, str(error).removeprefix(f"record {os.path.join(root, file)}: ")))
    except (OSError, ValueError) as error:
        found.append((file, f"damaged: {getattr(error, 'strerror', None) or error}"))
    return found


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
        found = msgspec.json.decode(file.read_bytes())
        return dict(found["found"]) if found["edition"] == edition else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def remember(file: Path, edition: str, found: Mapping[str, Any]) -> None:
    """Keep what was found for the next time."""
    data = msgspec.json.encode({"edition": edition, "found": found})
    try:
        write_atomic(file, lambda temporary: temporary.write_bytes(data))
    except OSError:  # a folder that cannot be written to is read again every time
        return
