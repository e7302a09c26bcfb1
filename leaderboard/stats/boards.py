"""From the frame to boards: what may stand side by side, compared by seed, ranked where the rules allow it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.reader.extract import COLUMNS, as_record
from leaderboard.reader.extract import Values as Record
from leaderboard.reader.frame import Found, Problem, of_frame
from leaderboard.reader.model import (
    ALPHA,
    CONTROLS,
    CONTROLS_OF,
    KEY,
    LEAST_RANKED,
    REFERENCES,
    Board,
    Difference,
    Row,
    Table,
    TableKind,
)
from leaderboard.stats.rows import (
    TRAINED,
    make_row,
    most_common,
    shares,
    short_of_budget,
    step_seconds,
    why_unranked,
)
from leaderboard.stats.statistics import Array, family, groups, pairwise, ranks, seeds_needed

if TYPE_CHECKING:
    import pandas as pd

_KEY = attrgetter(*KEY)
DATASET, ARCH = map(COLUMNS.index, KEY[:2])
DETERMINED = {
    **{"test_images": "test_sha256", "train_images": "train_sha256"},
    **{"dense_macs": "arch_sha256", "dense_params": "arch_sha256"},
}
"""What a hash decides, for one network on one data set: column -> hash."""
WITH_FOLDS = {"images": "test_sha256", "dense_macs": "arch_sha256", "dense_params": "arch_sha256"}
"""The same where the test fold rotates with the seed."""
ORDER = ("macs", "params", "native", "like")


def build(frame: pd.DataFrame) -> tuple[list[Board], list[Problem]]:
    """All boards of a frame that :func:`leaderboard.load` made, sorted by data set, network and what else differs.

    Also returns the problems: files left out, runs that are there twice, failed runs that belong to no board.
    """
    return boards_of(of_frame(frame))


def boards_of(found: Found) -> tuple[list[Board], list[Problem]]:
    """The same of what :func:`leaderboard.reader.frame.find` found."""
    boards, problems = [], set(found.problems)
    for rows in by_network(found.rows):
        made, told = of_network(rows)
        boards += made
        problems |= set(told)
    return boards, sorted(problems, key=lambda p: (p.file, p.message))


def at(boards: Iterable[Board], keeps: Sequence[float] = ()) -> list[Board]:
    """The boards that have tables, at these budgets only where any are given."""
    if keeps:
        boards = (
            dataclasses.replace(board, tables=tuple(table for table in board.tables if table.keep in keeps))
            for board in boards
        )
    return [board for board in boards if board.tables]


def by_network(rows: Iterable[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """The rows of each network and data set, which no other's boards depend on, in the order of the boards."""
    parts: dict[tuple[Any, ...], list[Sequence[Any]]] = defaultdict(list)
    for row in rows:
        parts[row[DATASET], row[ARCH]].append(row)
    return [parts[name] for name in sorted(parts)]


def of_network(rows: Sequence[Sequence[Any]]) -> tuple[list[Board], list[Problem]]:
    """All boards of one network on one data set, and the problems of its runs."""
    parts: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    loose: list[Record] = []
    problems: list[Problem] = []
    for r in map(as_record, rows):
        if r.status == "ok":
            parts[_KEY(r)].append(r)
        else:
            loose.append(r)
    _add_unfinished(parts, loose, problems)
    problems += _disagreements([r for records in parts.values() for r in records])
    ordered = sorted(parts, key=lambda key: tuple(map(str, key)))
    return [_board(key, _once(parts[key], problems), ordered) for key in ordered], problems


def _disagreements(records: Iterable[Record]) -> list[Problem]:
    """Records of another size than most with the same hash: one of both cannot be, so they make boards of their own."""
    found = []
    by_hash: dict[tuple[str, str, Any], list[Record]] = defaultdict(list)
    for r in records:
        for fact, of in (DETERMINED if r.fold is None else WITH_FOLDS).items():
            by_hash[fact, of, getattr(r, of)].append(r)
    for (fact, of, _), same in by_hash.items():
        sizes = Counter(getattr(r, fact) for r in same)
        if len(sizes) > 1:
            usual = most_common([getattr(r, fact) for r in same])
            found += [
                Problem(r.file, f"{fact} is {_said(own)}, in {sizes[usual]} records of this {of} {_said(usual)}")
                for r in same
                if (own := getattr(r, fact)) not in (usual, None)
            ]
    return found


def _add_unfinished(
    parts: Mapping[tuple[Any, ...], list[Record]], loose: Iterable[Record], problems: list[Problem]
) -> None:
    """Runs that did not finish go where they would have belonged, as far as they came to tell."""
    for r in loose:
        mine = _KEY(r)
        homes = [key for key in parts if all(m is None or m == k for m, k in zip(mine, key, strict=True))]
        for key in homes:
            parts[key].append(r)
        if not homes:
            problems.append(Problem(r.file, f"{r.status} ({r.error[:120]}), and no finished run to put it beside"))


def _said(value: Any) -> str:
    return value if isinstance(value, str) else f"{_whole(value):,}"


def _whole(value: Any) -> Any:
    """A count as a whole number: pandas has a column with gaps as floats."""
    return int(value) if isinstance(value, float) else value


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
    names = {name: str(_whole(value)) for name, value in zip(KEY, key, strict=True)}
    names["recipe"] = ", ".join(sorted({r.recipe for r in records}))
    differs = [name for k, name in enumerate(KEY) if len({other[k] for other in alike}) > 1]
    by_row: dict[str, list[Record]] = defaultdict(list)
    for r in sorted(records, key=lambda r: (r.spec_sha256, r.seed)):
        by_row[r.spec_sha256].append(r)
    budgets: dict[tuple[TableKind, float | None], list[list[Record]]] = defaultdict(list)
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
    return Board(names, tuple(differs), tables, notes)


def _table(kind: TableKind, keep: float | None, free: Sequence[list[Record]], own: Sequence[list[Record]]) -> Table:
    records = [*free, *own]
    done = [[r for r in same if r.status == "ok"] for same in records]
    rows = [make_row(same) for same in records]
    rows = [dataclasses.replace(row, missing=m) for row, m in zip(rows, _missing(rows, len(free)), strict=True)]
    by_name = {row.name: k for k, row in reversed(list(enumerate(rows)))}
    dense, random = by_name.get("dense"), by_name.get("random")
    epochs = expected_epochs(rows)
    steps = [step_seconds(same) for same in done]
    for k, row in enumerate(rows):
        compared = random is not None and row.track == "matched"
        shared, level = shares(records[k], records[random]) if random is not None and compared else ((), "")
        synthetic = any(r.dataset == "synthetic" for r in records[k])
        rows[k] = dataclasses.replace(
            row,
            shares=shared,
            level=level,
            unranked=why_unranked(row, short_of_budget(done[k]), epochs, synthetic),
            step_cost=_over(steps[k], steps[dense] if dense is not None else None),
        )
    one = next((r for same in done for r in same), None)
    return Table(
        kind,
        keep,
        tuple(sorted(compared_rows(rows, kind), key=place)),
        int(one.dense_macs) if one else None,
        int(one.dense_params) if one else None,
    )


def expected_epochs(rows: Sequence[Row]) -> int | None:
    """Epochs that a ranked row of a table must have: those of ``random``, else of most rows with a budget."""
    random = next((row for row in rows if row.name == "random"), None)
    return random.epochs if random else most_common([row.epochs for row in rows if row.track != "dense"])


def compared_rows(rows: Sequence[Row], kind: TableKind) -> list[Row]:
    """The rows of one table with all that follows from each other: costs, differences, ranks, missing controls.

    A row has a rank unless ``unranked`` says why not.
    """
    by_name = {row.name: k for k, row in reversed(list(enumerate(rows)))}
    dense = rows[by_name["dense"]].training_macs if "dense" in by_name else None
    there = {row.name: row.finished.keys() for row in rows}
    seeds = sorted({seed for row in rows for seed in row.finished})
    images = mean_images(rows)
    wrong = np.array([[wrong_of(row, seed, images) for seed in seeds] for row in rows], dtype=float)
    wrong = wrong.reshape(len(rows), -1)
    ranked = dict(_ranks(rows, wrong, [k for k, row in enumerate(rows) if not row.unranked]))
    none = {"rank": None, "group": "", "seeds_needed": None}
    return [
        dataclasses.replace(
            row,
            cost=_over(row.training_macs, dense),
            controls_missing=_controls_missing(row, there),
            differences=differences,
            **ranked.get(k, none),
        )
        for k, (row, differences) in enumerate(zip(rows, _differences(rows, wrong, images, by_name, kind), strict=True))
    ]


def mean_images(rows: Sequence[Row]) -> float:
    """Test images of a run, the mean over all runs: differences are of shares, given in images of so many."""
    sizes = [run.images for row in rows for run in row.finished.values() if run.images]
    return sum(sizes) / len(sizes) if sizes else 1.0


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
    rows: Sequence[Row], wrong: Array, images: float, by_name: Mapping[str, int], kind: TableKind
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
        points = 100 / images
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


def place(row: Row) -> tuple[Any, ...]:
    """Dense first, then by rank, then by accuracy, rows without a mean last."""
    return (row.track != "dense", row.rank is None, row.rank or 0, -_top1(row), row.name, row.spec)


def _top1(row: Row) -> float:
    return row.top1.mean if row.top1 else -math.inf


def wrong_of(row: Row, seed: int, images: float) -> float:
    """Wrong images of a run, as many of ``images`` as they are of its own."""
    run = row.finished.get(seed)
    return math.nan if run is None or run.wrong is None or not run.images else run.wrong * (images / run.images)


def _over(value: float | None, dense: float | None) -> float | None:
    return value / dense if value is not None and dense else None


def _none(x: float) -> float | None:
    return None if math.isnan(x) else x
