"""The advice of a table in one sentence, and why there is none."""

from __future__ import annotations

from collections import Counter

from bench.spec.wording import plural
from leaderboard.reader.model import Board, Table
from leaderboard.stats.advice import of_table

CALLED = {
    "dense": "",
    "random": " (random units)",
    "uniform_thin": " (a thin network trained from scratch)",
    "uniform_thin_long": " (a thin network trained from scratch for longer)",
}


def advice(board: Board, table: Table) -> str:
    """One sentence on what to take at this budget; empty for tables without a common budget."""
    if table.keep is None:
        return ""
    found = of_table(table, board.terms)
    if found is None:
        return f"No advice: {_why(board, table)}."
    row, best, margin = found
    mean = f"top-1 {row.top1.mean:.2f} %" if row.top1 else ""
    named = f"{row.name}{CALLED.get(row.method, '')}"
    cost = f"{mean} at {row.cost:.2f} times the training cost of dense"
    than = "the best" + ("" if row is best else f" ({best.name})")
    if margin is not None:
        points = plural(margin, "point")
        return f"Take {named}: {cost}, not significantly worse than {than}, shown to be at most {points} below dense."
    return f"Cheapest of those not significantly worse than {than}: {named}, {cost}; not shown to be equal to dense."


def _why(board: Board, table: Table) -> str:
    """The reason that most of the rows are not ranked for."""
    reasons = Counter(row.unranked for row in table.rows if row.unranked and row.track == "matched")
    if board.terms is None or not reasons:
        return "no plan names these rows" if board.terms is None else "no row is ranked"
    return f"no row is ranked ({max(sorted(reasons), key=lambda why: reasons[why])})"
