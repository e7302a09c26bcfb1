"""What a board says, in words: how many methods are better, worse or equivalent, both directions in each sentence.

A sentence names reference, seeds, correction and the difference that would have been found, and accepts no null
hypothesis: what is not significant is not said to be equal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.spec.wording import plural
from leaderboard.reader.model import ALPHA, PRIMARY, Board, Difference, Row, Table, Terms
from leaderboard.stats.advice import JUDGED
from leaderboard.stats.curves import of_board

NAMES = {
    "dense": "the dense network",
    "random": "random units",
    "uniform_thin": "a thin network trained from scratch",
}
"""How the references are called in a sentence."""
ORDER = ("random", "uniform_thin", "dense")
SHARES = {"macs": "MACs", "params": "parameters", "latency": "milliseconds"}
"""What a budget is a share of."""


@dataclass(frozen=True)
class Count:
    """How the methods (no controls) compare with a reference.

    Attributes:
        judged: (name, difference) of the methods that were tested, best first.
        comparisons: tests that were corrected for together.
        board: whether these are all of the board.
    """

    to: str
    judged: tuple[tuple[str, Difference], ...]
    comparisons: int
    board: bool

    def clear(self, sign: int) -> list[tuple[str, Difference]]:
        """Those that are significantly better (1) or worse (-1)."""
        found = [(name, d) for name, d in self.judged if sign * d.mean > 0]
        return [(name, d) for name, d in found if ((d.p_board if self.board else d.p_holm) or 0.0) < ALPHA]

    @property
    def equivalent(self) -> int:
        """How many are equivalent within the largest margin."""
        return sum("equivalent" in d.verdicts[-1] for _, d in self.judged if d.verdicts)

    @property
    def found(self) -> float:
        """True difference that half of these tests find with 80 % power."""
        return statistics.median(d.smallest or math.nan for _, d in self.judged)


def count(rows: Iterable[tuple[Row, Difference | None]], to: str, comparisons: int, board: bool = False) -> Count:
    """Methods of a table, or over all budgets, against the reference ``to``."""
    judged = [(row.name, d) for row, d in rows if d and d.p is not None and not row.control and row.track in JUDGED]
    return Count(to, tuple(sorted(judged, key=lambda one: (-one[1].mean, one[0]))), comparisons, board)


def short(table: Table) -> str:
    """A budget in a sentence: ``keep 0.5``, of the MACs unless it says otherwise."""
    return table.title.removesuffix(" of the MACs")


def sentences(board: Board) -> list[str]:
    """What the tables show in which methods are alike in size: over all budgets first, then one by one."""
    tables = [table for table in board.tables if table.kind not in ("native", "like")]
    if board.terms is None:
        return [_nothing(board, tables)]
    references = [to for to in ORDER if to in board.terms.references]
    said = [_overall(found) for found in _headlines(board, references) if found.judged]
    for table in tables:
        for to in references:
            found = [row.differences.get(to) for row in table.rows]
            comparisons = sum(d is not None and d.p is not None for d in found)
            counted = count(zip(table.rows, found, strict=True), to, comparisons)
            if counted.judged:
                said.append(_at_budget(table, counted, board.terms))
    return said or ["No verdicts: fewer than 5 seeds in common, or seeds of the plan are missing."]


def _headlines(board: Board, references: Sequence[str]) -> list[Count]:
    """The methods over all budgets, corrected over all comparisons of the board."""
    pooled = [(curve.points[0].row, curve.pooled.get(PRIMARY, {})) for curve in of_board(board)]
    comparisons = sum(d.p is not None for _, found in pooled for d in found.values())
    return [count([(row, found.get(to)) for row, found in pooled], to, comparisons, True) for to in references]


def _overall(found: Count) -> str:
    better, worse = found.clear(1), found.clear(-1)
    most = f" ({better[0][0]}: {math.exp(-better[0][1].mean):.2f} times as many)" if better else ""
    most_errors = f" ({worse[-1][0]}: {math.exp(-worse[-1][1].mean):.2f} times as many)" if worse else ""
    holm = f"Holm's correction over the {found.comparisons} comparisons of the board"
    return (
        f"Over all budgets {_of(better, found)} significantly fewer errors than {NAMES[found.to]}{most}, "
        f"{_some(worse)} significantly more{most_errors} ({_seeds(found)}, {holm}; a method that makes "
        f"{math.exp(-found.found):.2f} times as many errors would have been found with 80 % power)."
    )


def _at_budget(table: Table, found: Count, terms: Terms) -> str:
    share = f"At {100 * (table.keep or 0):g} % of the {SHARES.get(table.kind, '')}"
    share = f"At {table.keep:g} ms" if table.kind == "ms" else share
    share = "With all units kept" if table.kind == "training" else share
    groups = {"better": found.clear(1), "worse": found.clear(-1)}
    first, second = sorted(groups, key=lambda word: -len(groups[word]))
    lead = groups["better"][0] if groups["better"] else None
    most = f" ({lead[0]} by {lead[1].mean:.2f} points)" if lead else ""
    within = plural(terms.margins[-1], "point")
    directions = (
        f"{_of(groups[first], found, 'is', 'are')} significantly {first} than {NAMES[found.to]}{_cost(table, found)}"
        f"{most * (first == 'better')}, {_some(groups[second], 'is', 'are')} significantly {second}"
        f"{most * (second == 'better')}"
    )
    power = f"a difference of {found.found:.2f} points would have been found with 80 % power"
    return (
        f"{share} {directions}, {_some(range(found.equivalent), 'is', 'are')} shown to be equivalent within "
        f"{within} ({_seeds(found)}, Holm's correction over {found.comparisons} rows; {power})."
    )


def _cost(table: Table, found: Count) -> str:
    """What the reference costs, where that is not what the methods cost."""
    costs = {row.name: row.cost for row in table.rows if row.cost}
    methods = [costs[name] for name, _ in found.judged if name in costs]
    if found.to not in costs or not methods:
        return ""
    times = costs[found.to] / statistics.median(methods)
    return "" if found.to == "dense" or abs(times - 1) < 0.05 else f" at {times:.2g} times the training cost"


def _seeds(found: Count) -> str:
    seeds = sorted({d.seeds for _, d in found.judged})
    return f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds"


def _of(some: Sequence[object], found: Count, one: str = "makes", more: str = "make") -> str:
    """``3 of 26 methods are``."""
    n = len(found.judged)
    return f"{len(some) or 'none'} of {n} method{'s' * (n > 1)} {one if len(some) < 2 else more}"


def _some(some: Sequence[object], one: str = "makes", more: str = "make") -> str:
    return f"none {one}" if not some else f"{len(some)} {one if len(some) == 1 else more}"


def _nothing(board: Board, tables: Sequence[Table]) -> str:
    """Why a board without a plan says nothing."""
    if any(row.track in JUDGED and not row.control for table in tables for row in table.rows):
        return "Exploratory: no plan names these rows, so there are no verdicts (bench board --plan FILE)."
    if any(table.kind == "native" for table in board.tables):
        return "Methods chose their own sparsity here; they differ in size, so they are not ranked."
    return "There are only controls here."


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; a word that all begin with is there once: ``keep 0.75, 0.5 and 0.25``."""
    parts = [word.partition(" ") for word in words]
    if len(words) > 1 and all(space and first == parts[0][0] for first, space, _ in parts):
        return f"{parts[0][0]} {listed([rest for _, _, rest in parts])}"
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
