"""The rows of one table with all that follows from each other: costs, differences, ranks, missing controls."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from leaderboard.reader.controls import CONTROLS_OF, controls_of
from leaderboard.reader.model import PRIMARY, Row, TableKind, Terms
from leaderboard.stats.comparisons import Bits, compared, least_seeds, matrix, series
from leaderboard.stats.contrasts import Contrasts, all_pairs
from leaderboard.stats.rows import most_common
from leaderboard.stats.statistics import groups
from leaderboard.stats.verdicts import rank_ranges


def expected_epochs(rows: Sequence[Row]) -> int | None:
    """Epochs that a ranked row of a table must have: those of ``random``, else of most rows with a budget."""
    planned = [row for row in rows if row.planned] or rows
    random = next((row for row in planned if row.name == "random"), None)
    return random.epochs if random else most_common([row.epochs for row in planned if row.track != "dense"])


def compared_rows(
    rows: Sequence[Row],
    kind: TableKind,
    terms: Terms | None,
    pruned: str | None,
    bits: Bits | None = None,
    folds: bool = False,
) -> list[Row]:
    """The rows of one table in their order; a row has a rank unless ``unranked`` says why not.

    Args:
        rows: without what follows from each other.
        kind, terms, pruned: of the table, of the plan, coupling and kinds of units of the board.
        bits, folds: see :func:`leaderboard.stats.comparisons.compared`.
    """
    dense = next((row.training_macs for row in rows if row.name == "dense"), None)
    there = {row.name: row.finished.keys() for row in rows}
    ranked = dict(_ranks(rows, [k for k, row in enumerate(rows) if not row.unranked]))
    none = {"rank": None, "group": ""}
    return [
        dataclasses.replace(
            row,
            cost=row.training_macs / dense if row.training_macs is not None and dense else None,
            controls_missing=_controls_missing(row, there, pruned),
            **ranked.get(k, none),
        )
        for k, row in enumerate(compared(rows, terms, kind, bits, folds))
    ]


def pairs(rows: Sequence[Row]) -> Contrasts:
    """All pairs of some planned rows: differences in points, and p-values of one family."""
    top1 = [series(row, PRIMARY) for row in rows]
    array, quantum, _ = matrix(top1)
    return all_pairs(array, quantum, np.array([[least_seeds(a, b) for b in top1] for a in top1]))


def place(row: Row) -> tuple[Any, ...]:
    """Dense first, then the ranked rows, then the others, each by accuracy; rows without a mean last.

    Rows that keep every unit are in the order of their training MACs.
    """
    if row.track == "training":
        return True, True, math.inf if row.training_macs is None else row.training_macs, row.name, row.spec
    return row.track != "dense", row.rank is None, -_top1(row), row.name, row.spec


def _controls_missing(row: Row, there: Mapping[str, Set[int]], pruned: str | None) -> tuple[str, ...]:
    """Compulsory controls without a finished run for some seed that this row has.

    Args:
        row: of the table.
        there: name -> seeds.
        pruned: coupling and kinds of units of the board.
    """
    if row.track != "matched":
        return ()
    asked = (*controls_of(pruned), *CONTROLS_OF.get(row.method, ()))
    return tuple(name for name in asked if not row.finished.keys() <= there.get(name, set()))


def _ranks(rows: Sequence[Row], chosen: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rank ranges and letters among the rows that may have them."""
    if chosen:
        chosen = sorted(chosen, key=lambda k: (-_top1(rows[k]), rows[k].name))
        found = pairs([rows[k] for k in chosen])
        letters = groups(np.nan_to_num(found.p_holm, nan=1.0))
        for k, rank, group in zip(chosen, rank_ranges(found.mean, found.p_holm), letters, strict=True):
            yield k, {"rank": rank, "group": group}


def _top1(row: Row) -> float:
    return row.top1.mean if row.top1 else -math.inf
