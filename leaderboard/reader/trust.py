"""Whose a record is, and which records count: those that contradict others are left out and listed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.records import cross_checks
from bench.records.cross_checks import SUITE, Finding
from bench.records.method_history import MethodHistory
from bench.records.values import said
from leaderboard.reader.extract import COLUMNS, as_record

FILE, DOUBT = map(COLUMNS.index, ("file", "doubt"))
REFUSED = ("refused", "conflict")
"""Kinds of findings after which a record does not count."""
SUBMITTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
"""Names of submitters: no two look alike, and none is shown as another."""


def submitter_of(file: str, folders: bool) -> str:
    """The submitter of a record, by the first folder that it lies in; empty for one's own.

    Args:
        file: relative to the folder of all records, with ``/``.
        folders: whether that folder has one for each submitter, of which one is the suite's.
    """
    first, slash, _ = file.partition("/")
    return first if slash and folders else ""


def misplaced(file: str) -> str:
    """Why a file lies in no submitter's folder, in a folder that has one for each; empty where it lies in one."""
    first, slash, _ = file.partition("/")
    if not slash:
        return "lies in no submitter's folder"
    if not SUBMITTER.fullmatch(first):
        return f"the submitter {said(first)} is not 1 to 40 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with no mark"
    if first != SUITE and first.lower() == SUITE:
        return f"the submitter {said(first)} is spelled like {SUITE}"
    return ""


def has_folders(root: Path) -> bool:
    """Whether a folder of records has one for each submitter: then one of them is the suite's."""
    return (root / SUITE).is_dir()


def all_records(path: Path) -> Path:
    """The folder of all submitters' records that ``path`` belongs to; ``path`` itself where there is none above."""
    path = path.resolve()
    return next((folder for folder in (path, *path.parents) if has_folders(folder)), path)


def findings(rows: Iterable[Sequence[Any]], root: Path) -> list[Finding]:
    """What is wrong with records compared with each other.

    Args:
        rows: as ``leaderboard.reader.frame.find`` makes them, of all submitters.
        root: the folder that their files are relative to.
    """
    records = [as_record(row) for row in rows]
    history = MethodHistory() if head() else None
    added = history.added(root) if history else {}
    return sorted([*conflicts(records), *cross_checks.check(records, history, added)])


def head() -> str:
    """The newest commit of the suite's repository; empty without one."""
    return MethodHistory().head


def screened(rows: Iterable[Sequence[Any]], found: Iterable[Finding]) -> list[Sequence[Any]]:
    """The rows that count after these findings, those with a doubt marked as such."""
    found = list(found)
    out = {one.file for one in found if one.kind in REFUSED}
    doubts: dict[str, list[str]] = defaultdict(list)
    for one in found:
        if one.kind == "unranked":
            doubts[one.file].append(one.message)
    return [_marked(row, doubts) for row in rows if row[FILE] not in out]


def conflicts(records: Iterable[Any]) -> list[Finding]:
    """Finished records of one run by one submitter: a copy is listed, of different results none counts."""
    runs: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for r in records:
        if r.status == "ok" and not r.replay_of:
            runs[r.submitter, r.id].append(r)
    found = []
    for same in runs.values():
        same.sort(key=lambda r: r.file)
        for r in same:
            others = [o for o in same if _results(o) != _results(r)]
            if others:
                message = f"another result than {others[0].file}: none of them counts"
                found.append(Finding(r.file, "conflict", message))
    return found


def _results(r: Any) -> tuple[Any, ...]:
    """What two records of one run have in common, unless one of them is of another run."""
    numbers = (r.final_wrong_images, r.final_loss, r.final_macs, r.training_macs)
    return (*numbers, r.correct, r.masks, r.network_sha256)


def _marked(row: Sequence[Any], doubts: Mapping[str, list[str]]) -> Sequence[Any]:
    if row[FILE] not in doubts:
        return row
    return (*row[:DOUBT], ", ".join(doubts[row[FILE]]), *row[DOUBT + 1 :])
