"""Which row of a table to take, and which rows are shown to be near dense: what a reader with a budget asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from leaderboard.reader.model import Difference, Row, Table, Terms

NEAR = ("better", "equivalent", "non-inferior")
"""Verdicts against dense that say: not worse by more than the margin."""
JUDGED = ("matched", "training")
"""Tracks whose rows are alike in size, so that accuracy decides between them and dense."""


class Advice(NamedTuple):
    """The row to take at a budget.

    Attributes:
        row: the cheapest in training of those that are not significantly worse than the best one; of some that cost
            the same to two digits, as tables print them, the best.
        best: the ranked row with the highest mean.
        margin: the smallest within which ``row`` is shown to be no worse than dense; None where it is not shown.
    """

    row: Row
    best: Row
    margin: float | None


def of_table(table: Table, terms: Terms | None) -> Advice | None:
    """The advice of a table; None without a plan, ranked rows or their costs.

    Rows that are shown to be no worse than dense within a margin of the plan go before those that are not.
    """
    ranked = [row for row in table.rows if row.rank is not None and row.top1 is not None]
    if terms is None or not ranked:
        return None
    best = max(ranked, key=_mean)
    fit = [row for row in ranked if set(row.group) & set(best.group) and row.cost is not None]
    near = [row for row in fit if margin_of(row, terms.margins) is not None]
    if not fit:
        return None
    row = min(near or fit, key=lambda row: (round(row.cost or 0.0, 2), -_mean(row), row.name))
    return Advice(row, best, margin_of(row, terms.margins))


def near_dense(table: Table, terms: Terms | None) -> list[tuple[float, list[Row]]]:
    """For each margin of the plan the rows that are shown to be no worse than dense within it, best first."""
    return [
        (margin, [row for row in table.rows if row.track in JUDGED and _holds(row.differences.get("dense"), k)])
        for k, margin in enumerate(terms.margins if terms else ())
    ]


def margin_of(row: Row, margins: Sequence[float]) -> float | None:
    """The smallest margin within which a row is shown to be no worse than dense; None where there is none."""
    return next((m for k, m in enumerate(margins) if _holds(row.differences.get("dense"), k)), None)


def _holds(difference: Difference | None, k: int) -> bool:
    words = difference.verdicts[k].split(", ") if difference and k < len(difference.verdicts) else []
    return any(word in NEAR for word in words)


def _mean(row: Row) -> float:
    return row.top1.mean if row.top1 else 0.0
