"""Which records belong to one board, and which count: by network and by key, every run once, odd ones listed."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from bench.records.cross_checks import SUITE
from bench.spec.spec import stepless
from leaderboard.reader.extract import COLUMNS, as_record
from leaderboard.reader.extract import Values as Record
from leaderboard.reader.frame import Problem
from leaderboard.reader.model import KEY, REFERENCES
from leaderboard.reader.plan import Plan, seeds_of

_KEY = attrgetter(*KEY)
DATASET, ARCH = map(COLUMNS.index, KEY[:2])
COUPLING = KEY.index("coupling")
Key = tuple[Any, ...]


def by_network(rows: Iterable[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """The rows of each network and data set, which no other's boards depend on, in the order of the boards."""
    parts: dict[Key, list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        parts[row[DATASET], row[ARCH]].append(row)
    return [parts[name] for name in sorted(parts)]


def by_key(rows: Iterable[Sequence[Any]], plans: Sequence[Plan]) -> tuple[dict[Key, list[Record]], list[Problem]]:
    """The records of each board of one network on one data set, in the order of the boards, and the problems."""
    parts: dict[Key, list[Record]] = defaultdict(list)
    loose: list[Record] = []
    problems: list[Problem] = []
    records = [as_record(row) for row in rows]
    owner = owner_of(records)
    asked = seeds_of(plans)
    for r in records:
        if r.submitter != owner:
            r = _of_another(r)
        elif r.seed not in asked.get(r.spec_sha256, (r.seed,)):
            problems.append(Problem(r.file, f"{r.status}, seed {r.seed} is not in the plan: it does not count"))
            continue
        if r.status == "ok":
            parts[_KEY(r)].append(r)
        else:
            loose.append(r)
    _add_unfinished(parts, loose, problems)
    _add_dense(parts)
    ordered = sorted(parts, key=lambda key: (key[-1] != owner, *map(str, key)))
    boards = {key: _once(parts[key], problems) for key in ordered}
    for key in ordered:
        if key[-1] != owner:
            shares = {(r.kind, r.keep_share) for r in boards[key]}
            ours = boards.get((*key[:-1], owner), ())
            boards[key] += [
                r for r in ours if r.name in REFERENCES and (r.kind is None or (r.kind, r.keep_share) in shares)
            ]
    return boards, problems


def _add_dense(parts: dict[Key, list[Record]]) -> None:
    """Boards of steps or milliseconds get the dense rows of the board without, which goes where it has nothing else."""
    plain = {key: (*key[:COUPLING], stepless(key[COUPLING]), *key[COUPLING + 1 :]) for key in parts}
    donors = {other for key, other in plain.items() if other != key and other in parts}
    dense = {key: [r for r in parts[key] if r.track == "dense"] for key in donors}
    for key, other in plain.items():
        if other != key:
            parts[key] += dense.get(other, [])
    for key in donors:
        if len(dense[key]) == len(parts[key]):
            del parts[key]


def owner_of(records: Iterable[Record]) -> str:
    """Whose rows are references and planned: the suite's, where records have submitters."""
    return SUITE if any(r.submitter for r in records) else ""


def _of_another(r: Record) -> Record:
    """The record as one of a row of its submitter's own, which the plan does not know."""
    row = hashlib.sha256(f"{r.submitter}/{r.spec_sha256}".encode()).hexdigest()
    return r._replace(name=f"{r.name} ({r.submitter})", spec_sha256=row)


def whole(value: Any) -> Any:
    """A count as a whole number: pandas has a column with gaps as floats."""
    return int(value) if isinstance(value, float) else value


def _add_unfinished(parts: Mapping[Key, list[Record]], loose: Iterable[Record], problems: list[Problem]) -> None:
    """Runs that did not finish go where they would have belonged, as far as they came."""
    for r in loose:
        mine = _KEY(r)
        homes = [key for key in parts if all(m is None or m == k for m, k in zip(mine, key, strict=True))]
        for key in homes:
            parts[key].append(r)
        if not homes:
            problems.append(Problem(r.file, f"{r.status} ({r.error[:120]}), and no finished run to compare it with"))


def _once(records: Sequence[Record], problems: list[Problem]) -> list[Record]:
    """Every run once: a finished record before others, a replay after its original.

    Results that contradict each other are left out before (``leaderboard.reader.trust.conflicts``).
    """
    runs: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        runs[r.id].append(r)
    kept = []
    for same in runs.values():
        same.sort(key=lambda r: (r.status != "ok", bool(r.replay_of), r.file))
        first = same[0]
        kept.append(first)
        for other in same[1:]:
            what = "a copy of" if other.record_sha256 == first.record_sha256 else "a second record of the run in"
            problems.append(Problem(other.file, f"{what} {first.file}, which stays"))
    return kept
