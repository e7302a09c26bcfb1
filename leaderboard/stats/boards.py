"""From the frame to boards: a table for each budget, rows compared by seed, with verdicts where a plan names them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from bench.records.bits import unpack
from leaderboard.reader.extract import Values as Record
from leaderboard.reader.frame import Found, Problem, of_frame
from leaderboard.reader.latency_files import Latencies, Setting
from leaderboard.reader.model import KEY, Board, Row, Table, TableKind
from leaderboard.reader.plan import Plan
from leaderboard.stats.comparisons import Bits, with_board_p
from leaderboard.stats.copies import collapsed
from leaderboard.stats.grouping import Key, by_key, by_network, whole
from leaderboard.stats.ranking import compared_rows, expected_epochs, place
from leaderboard.stats.rows import doubt, make_row, shares, short_of_budget, step_seconds, why_unranked
from leaderboard.stats.speeds import in_words, settings, speeds

if TYPE_CHECKING:
    import pandas as pd

ORDER = get_args(TableKind)
NO_PLAN = (
    "exploratory: no plan names these rows, so they have means and intervals, no verdicts and no ranks (--plan FILE)"
)
ONE_BUDGET = "one budget only: one point is no comparison (RULES.md, 5.3)"


def build(
    frame: pd.DataFrame, plans: Sequence[Plan] = (), latencies: Latencies | None = None
) -> tuple[list[Board], list[Problem]]:
    """All boards of a frame that :func:`leaderboard.load` made, sorted by data set, network and what else differs.

    Also returns the problems: files left out, runs that are there twice, failed runs that belong to no board.

    Args:
        plans: which rows have verdicts, ranks and marks; without one all rows are exploratory. A board has the terms of
            the plan that names most of its rows.
        latencies: what was measured of their networks.
    """
    return boards_of(of_frame(frame), plans, latencies)


def boards_of(
    found: Found, plans: Sequence[Plan] = (), latencies: Latencies | None = None
) -> tuple[list[Board], list[Problem]]:
    """The same of what :func:`leaderboard.reader.frame.find` found."""
    boards, problems = [], set(found.problems)
    for rows in by_network(found.rows):
        made, own = of_network(rows, plans, latencies)
        boards += made
        problems |= set(own)
    return boards, sorted(problems, key=lambda p: (p.file, p.message))


def at(boards: Iterable[Board], keeps: Sequence[float] = ()) -> list[Board]:
    """The boards that have tables, at these budgets only where any are given; a part of a board has no headlines."""
    if keeps:
        boards = (
            dataclasses.replace(board, tables=tuple(map(_alone, (t for t in board.tables if t.keep in keeps))))
            for board in boards
        )
    return [board for board in boards if board.tables]


def _alone(table: Table) -> Table:
    """The table without p-values that are corrected over others."""
    rows = [
        dataclasses.replace(
            row, differences={to: dataclasses.replace(d, p_board=None) for to, d in row.differences.items()}
        )
        for row in table.rows
    ]
    return dataclasses.replace(table, rows=tuple(rows))


def of_network(
    rows: Sequence[Sequence[Any]], plans: Sequence[Plan] = (), latencies: Latencies | None = None
) -> tuple[list[Board], list[Problem]]:
    """All boards of one network on one data set, and the problems of its runs."""
    parts, problems = by_key(rows, plans)
    owner = next(iter(parts), ("",))[-1]  # of the first board; those of others have references from it
    alike = {key: [other for other in parts if other[-1] in (owner, key[-1])] for key in parts}
    makers = [_Maker(key, alike[key], plans, latencies) for key in parts]
    return [maker.board(records) for maker, records in zip(makers, parts.values(), strict=True)], problems


def other_plan(records: Sequence[Record], plan: Plan) -> list[str]:
    """A note where runs that a plan names say that another one asked for them: it may have been made after them."""
    own = [r.plan_sha256 for r in records if r.plan_sha256 and r.seed in plan.seeds.get(r.spec_sha256, ())]
    others = sorted({sha256 for sha256 in own if sha256 != plan.terms.sha256})
    named = ", ".join(sha256[:12] for sha256 in others)
    count = sum(sha256 in others for sha256 in own)
    return [f"{count} of the runs were made under another plan than this one: {named} (RULES.md, 8.2)"] * bool(others)


class _Maker:
    """Makes one board."""

    def __init__(self, key: Key, alike: Sequence[Key], plans: Sequence[Plan], latencies: Latencies | None) -> None:
        self.key = {name: str(whole(value)) for name, value in zip(KEY, key, strict=True)}
        self.differs = tuple(name for k, name in enumerate(KEY) if len({other[k] for other in alike}) > 1)
        self.plans, self.latencies = plans, latencies
        self.settings: Sequence[Setting] = settings(latencies, self.key["arch_sha256"])
        self.plan: Plan | None = None

    def board(self, records: Sequence[Record]) -> Board:
        """The board of the records of one key."""
        names = self.key | {"recipe": " or ".join(sorted({r.recipe for r in records}))}
        by_row: dict[str, list[Record]] = defaultdict(list)
        for r in sorted(records, key=lambda r: (r.spec_sha256, r.seed)):
            by_row[r.spec_sha256].append(r)
        best = max(self.plans, key=lambda plan: len(plan.seeds.keys() & by_row), default=None)
        self.plan = best if best and not best.seeds.keys().isdisjoint(by_row) else None
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
        tables = [self.table(kind, keep, [*free, *budgets[kind, keep]]) for kind, keep in order]
        notes = [ONE_BUDGET] if sum(table.keep is not None for table in tables) == 1 else []
        notes += other_plan(records, self.plan) if self.plan else [NO_PLAN]
        timed = in_words(self.settings) if any(row.speeds for table in tables for row in table.rows) else ""
        terms = self.plan.terms if self.plan else None
        return Board(names, self.differs, headlines(tables), tuple(notes), terms, timed)

    def table(self, kind: TableKind, keep: float | None, groups: Sequence[list[Record]]) -> Table:
        """The table of one budget; ``groups``: the records of each specification, by seed."""
        seeds = self.plan.seeds if self.plan else {}
        terms = self.plan.terms if self.plan else None
        planned = [own for own in groups if own[0].spec_sha256 in seeds]
        same = [*collapsed(planned), *collapsed([own for own in groups if own[0].spec_sha256 not in seeds])]
        records = [copies[0] for copies in same]
        done = [[r for r in own if r.status == "ok"] for own in records]
        rows = [make_row(copies, seeds.get(copies[0][0].spec_sha256)) for copies in same]
        random = next((k for k, row in enumerate(rows) if row.name == "random"), None)
        dense = next((k for k, row in enumerate(rows) if row.name == "dense"), None)
        epochs = expected_epochs(rows)
        steps = [step_seconds(own) for own in done]
        pruned = next((own[0].coupling for own in groups), None)
        for k, row in enumerate(rows):
            compared = random is not None and row.track == "matched"
            shared, level = shares(records[k], records[random]) if random is not None and compared else ((), "")
            synthetic = any(r.dataset == "synthetic" for r in records[k])
            base = steps[dense] if dense is not None else None
            own = steps[k]
            rows[k] = dataclasses.replace(
                row,
                shares=shared,
                level=level,
                unranked=why_unranked(row, short_of_budget(done[k]), epochs, synthetic) or doubt(done[k]),
                step_cost=own / base if own is not None and base else None,
                speeds=speeds(done[k], self.settings, self.latencies),
            )
        one = next((r for own in done for r in own), None)
        return Table(
            kind,
            keep,
            tuple(sorted(compared_rows(rows, kind, terms, pruned, *_bits(rows, done)), key=place)),
            int(one.dense_macs) if one else None,
            int(one.dense_params) if one else None,
        )


def headlines(tables: Iterable[Table]) -> tuple[Table, ...]:
    """The tables with p-values that are corrected over all of them."""
    tables = list(tables)
    corrected = with_board_p([[row.differences for row in table.rows] for table in tables])
    return tuple(
        dataclasses.replace(
            table,
            rows=tuple(dataclasses.replace(row, differences=found) for row, found in zip(table.rows, own, strict=True)),
        )
        for table, own in zip(tables, corrected, strict=True)
    )


def _bits(rows: Sequence[Row], done: Sequence[Sequence[Record]]) -> tuple[Bits | None, bool]:
    """Which test images each run gets right, None where the seeds have different ones; and whether they have."""
    if any(r.fold is not None for own in done for r in own):
        return None, True
    found: Mapping[str, Any] = {
        row.spec: {r.seed: unpack(r.correct, int(r.test_images)) for r in own if r.correct}
        for row, own in zip(rows, done, strict=True)
    }
    return (found if any(found.values()) else None), False
