"""From the frame to boards: what may stand side by side, compared by seed, ranked where the rules allow it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict, namedtuple
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from operator import attrgetter
from typing import Any

import numpy as np
import pandas as pd

from leaderboard import curves
from leaderboard.frame import Problem
from leaderboard.model import (
    ALPHA,
    CONTROLS,
    CONTROLS_OF,
    LEAST_RANKED,
    REFERENCES,
    Board,
    Difference,
    Row,
    Table,
)
from leaderboard.rows import TRAINED, Record, make_row, most_common, shares, step_seconds, why_unranked
from leaderboard.statistics import Array, family, groups, pairwise, ranks, seeds_needed

KEY = (
    *("dataset", "arch", "recipe_sha256", "coupling", "precision", "rules", "schema", "counter"),
    *("device", "device_type", "threads", "arch_sha256", "train_sha256", "test_sha256"),
)
"""What records of one board have in common (RULES.md, 1); with the device, so that no table mixes latencies."""
_KEY = attrgetter(*KEY)
ORDER = ("macs", "params", "native", "like")


def build(frame: pd.DataFrame) -> tuple[list[Board], list[Problem]]:
    """All boards of a frame that :func:`leaderboard.load` made, sorted by data set, network and what else differs.

    Also returns the problems: files left out, runs that are there twice, failed runs that belong to no board.
    """
    problems = list(frame.attrs["problems"])
    parts: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    loose = []
    for r in _records(frame):
        if r.status == "ok":
            parts[_KEY(r)].append(r)
        else:
            loose.append(r)
    _add_unfinished(parts, loose, problems)
    ordered = sorted(parts, key=lambda key: tuple(map(str, key)))
    alike: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for key in ordered:
        alike[key[:2]].append(key)
    boards = [_board(key, _once(parts[key], problems), alike[key[:2]]) for key in ordered]
    return boards, sorted(set(problems), key=lambda p: (p.file, p.message))


def _records(frame: pd.DataFrame) -> Iterator[Record]:
    """The frame's rows as named tuples, None where they have no value; a column at a time is fastest."""
    columns = []
    for name in frame:
        values, absent = frame[name].tolist(), frame[name].isna()
        columns.append(
            [None if no else value for value, no in zip(values, absent, strict=True)] if absent.any() else values
        )
    make: Any = namedtuple("Record", frame.columns)  # type: ignore[misc]  # mypy wants to read the fields
    return map(make._make, zip(*columns, strict=True))


def _add_unfinished(
    parts: Mapping[tuple[Any, ...], list[Record]], loose: Iterable[Record], problems: list[Problem]
) -> None:
    """Runs that did not finish go where they would have belonged, as far as they came to tell."""
    index: dict[tuple[Any, ...], list[tuple[Any, ...]]] = defaultdict(list)
    for key in parts:
        index[key[:2]].append(key)
    for r in loose:
        mine = _KEY(r)
        homes = [key for key in index[mine[:2]] if all(m is None or m == k for m, k in zip(mine, key, strict=True))]
        for key in homes:
            parts[key].append(r)
        if not homes:
            problems.append(Problem(r.file, f"{r.status} ({r.error[:120]}), and no finished run to put it beside"))


def _once(records: Sequence[Record], problems: list[Problem]) -> list[Record]:
    """Every run once: of several records a finished one stays, of those the one that finished first."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for r in records:
        runs[r.id].append(r)
    kept = []
    for same in runs.values():
        same.sort(key=lambda r: (r.status != "ok", r.finished_at or "", r.record_sha256, r.file))
        kept.append(same[0])
        for other in same[1:]:
            equal = other.record_sha256 == same[0].record_sha256
            agrees = (other.status, other.final_wrong_images) == (same[0].status, same[0].final_wrong_images)
            what = "a copy of" if equal else "a second record of the run in" if agrees else "in conflict with"
            problems.append(Problem(other.file, f"{what} {same[0].file}, which finished first and stays"))
    return kept


def _board(key: tuple[Any, ...], records: Sequence[Record], alike: Sequence[tuple[Any, ...]]) -> Board:
    names = {name: str(value) for name, value in zip(KEY, key, strict=True)}
    names["recipe"] = ", ".join(sorted({r.recipe for r in records}))
    differs = [name for k, name in enumerate(KEY) if len({other[k] for other in alike}) > 1]
    by_row: dict[str, list[Record]] = defaultdict(list)
    for r in sorted(records, key=lambda r: (r.spec_sha256, r.seed)):
        by_row[r.spec_sha256].append(r)
    budgets: dict[tuple[str, float | None], list[list[Record]]] = defaultdict(list)
    free = []
    for same in by_row.values():
        lead = next((r for r in same if r.status == "ok"), same[0])
        if lead.track == "dense":
            free.append(same)
        else:
            budgets[lead.kind, lead.keep_share].append(same)
    if free and not budgets:
        budgets["native", None] = []
    order = sorted(budgets, key=lambda b: (ORDER.index(b[0]), -(b[1] or 0)))
    tables = tuple(_table(kind, keep, free, budgets[kind, keep]) for kind, keep in order)
    matched = sum(table.keep is not None for table in tables)
    notes = ("one budget only: one point is no comparison (RULES.md, 5.3)",) if matched == 1 else ()
    return Board(names, tuple(differs), tables, curves.of_tables(tables), notes)


def _table(kind: Any, keep: float | None, free: Sequence[list[Record]], own: Sequence[list[Record]]) -> Table:
    records = [*free, *own]
    rows = [make_row(same) for same in records]
    by_name = {row.name: k for k, row in reversed(list(enumerate(rows)))}
    extra: list[dict[str, Any]] = [{"missing": missing} for missing in _missing(rows, len(free))]
    dense, random = by_name.get("dense"), by_name.get("random")
    epochs = rows[random].epochs if random is not None else most_common([row.epochs for row in rows[len(free) :]])
    steps = [step_seconds([r for r in same if r.status == "ok"]) for same in records]
    there = {row.name: row.finished.keys() for row in rows}
    for k, row in enumerate(rows):
        compared = random is not None and row.track == "matched"
        shared, level = shares(records[k], records[random]) if random is not None and compared else ((), "")
        synthetic = any(r.dataset == "synthetic" for r in records[k])
        extra[k] |= {
            "shares": shared,
            "level": level,
            "unranked": why_unranked(row, extra[k]["missing"], records[k], epochs, synthetic),
            "cost": _over(row.training_macs, rows[dense].training_macs if dense is not None else None),
            "step_cost": _over(steps[k], steps[dense] if dense is not None else None),
            "controls_missing": _controls_missing(row, there),
        }
    seeds = sorted({seed for row in rows for seed in row.finished})
    wrong = np.array([[_value(row, seed) for seed in seeds] for row in rows], dtype=float).reshape(len(rows), -1)
    for k, differences in enumerate(_differences(rows, wrong, by_name, kind)):
        extra[k]["differences"] = differences
    for k, ranked in _ranks(rows, wrong, [k for k, more in enumerate(extra) if not more["unranked"]]):
        extra[k] |= ranked
    rows = [dataclasses.replace(row, **more) for row, more in zip(rows, extra, strict=True)]
    one = next((r for same in records for r in same if r.status == "ok"), None)
    return Table(
        kind,
        keep,
        tuple(sorted(rows, key=_place)),
        int(one.dense_macs) if one else None,
        int(one.dense_params) if one else None,
    )


def _missing(rows: Sequence[Row], free: int) -> list[tuple[int, ...]]:
    """A seed that more than half of the pruned rows have is missing where it is not."""
    there = [{run.seed for run in row.runs if run.status in TRAINED} for row in rows]
    counts = Counter(seed for seeds in there[free:] for seed in seeds)
    expected = {seed for seed, count in counts.items() if 2 * count > len(rows) - free}
    return [tuple(sorted(expected - seeds)) for seeds in there]


def _controls_missing(row: Row, there: Mapping[str, Set[int]]) -> tuple[str, ...]:
    """Compulsory controls without a finished run for some seed that this row has; ``there``: name -> seeds."""
    if row.track != "matched":
        return ()
    asked = (*CONTROLS, *CONTROLS_OF.get(row.method, ()))
    return tuple(name for name in asked if not row.finished.keys() <= there.get(name, set()))


def _differences(
    rows: Sequence[Row], wrong: Array, by_name: Mapping[str, int], kind: str
) -> list[dict[str, Difference]]:
    """Paired differences to the references; each reference makes one family for Holm's correction."""
    found: list[dict[str, Difference]] = [{} for _ in rows]
    for name in REFERENCES:
        at = by_name.get(name)
        if at is None or rows[at].top1 is None or (name != "dense" and kind not in ("macs", "params")):
            continue
        common = (~np.isnan(wrong[at] - wrong)).sum(axis=1).tolist()
        others = [k for k, row in enumerate(rows) if k != at and row.top1 is not None and common[k]]
        tests = family(wrong[at] - wrong[others], len(others) + 1)
        points = np.array([100 / rows[k].test_images for k in others])
        values = (tests.mean * points, tests.half * points, tests.p, tests.p_holm)
        for k, mean, half, p, p_holm in zip(others, *(value.tolist() for value in values), strict=True):
            found[k][name] = Difference(name, mean, _none(half), common[k], _none(p), _none(p_holm))
    return found


def _ranks(rows: Sequence[Row], wrong: Array, chosen: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Ranks, tie groups and the seeds that would be needed, among the rows that may have them."""
    if not chosen:
        return
    chosen = sorted(chosen, key=lambda k: (-_top1(rows[k]), rows[k].name))
    mine = wrong[chosen]
    better, p = pairwise(mine, LEAST_RANKED)
    pairs = max(len(chosen) * (len(chosen) - 1) // 2, 1)
    behind = family(mine[1:] - mine[0], len(chosen))
    needed = [math.nan, *seeds_needed(behind.mean, behind.deviation, ALPHA / pairs)]
    for k, rank, letters, seeds in zip(chosen, ranks(better, p), groups(p), needed, strict=True):
        yield k, {"rank": rank, "group": letters, "seeds_needed": None if math.isnan(seeds) else int(seeds)}


def _place(row: Row) -> tuple[Any, ...]:
    """Dense first, then by rank, then by accuracy, rows without a mean last."""
    return (row.track != "dense", row.rank is None, row.rank or 0, -_top1(row), row.name, row.spec)


def _top1(row: Row) -> float:
    return row.top1.mean if row.top1 else -math.inf


def _value(row: Row, seed: int) -> float:
    found = row.wrong.get(seed)
    return math.nan if found is None else found


def _over(value: float | None, dense: float | None) -> float | None:
    return value / dense if value is not None and dense else None


def _none(x: float) -> float | None:
    return None if math.isnan(x) else x
