"""Two rows against each other, wherever both are: what the board says about them, and on request single tests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bench.errors import UsageError
from bench.spec.near_names import unknown
from leaderboard.reader.model import ALPHA, PRIMARY, Board, Mean, Row, Table
from leaderboard.reader.numbers import settle
from leaderboard.stats.comparisons import matrix, series
from leaderboard.stats.contrasts import against
from leaderboard.stats.ranking import pairs
from leaderboard.stats.statistics import interval
from leaderboard.stats.verdicts import verdict_text

EXACT = 16
"""Seeds up to which all signs are tried."""


@dataclass(frozen=True)
class Comparison:
    """Row ``a`` less row ``b`` at one budget of one board.

    Attributes:
        seeds: that both have.
        a, b: top-1, per cent, over these seeds.
        mean, half: of the difference in points, with its 95 % interval (None with one seed), as the board has it.
        p_board: as the board corrects it: of a planned comparison with a reference within all of these, else within
            all pairs of ranked rows; None where the board does not test the two.
        verdict: what the board says, about ``subject``; empty where the board has no test.
        subject: ``a`` or ``b``.
        p: paired t test of this one comparison, uncorrected; None with one seed.
        p_exact: two-sided sign-flip permutation test over all 2^n signs; None beyond 16 seeds. With n seeds it cannot
            be below 2 / 2^n, which is 0.0625 for 5.
        cost: training MACs of ``a`` over those of ``b``.
        same: whether both trained for as many epochs.
    """

    board: Board
    table: Table
    seeds: tuple[int, ...]
    a: Mean
    b: Mean
    mean: float
    half: float | None
    p_board: float | None
    verdict: str
    subject: str
    p: float | None
    p_exact: float | None
    cost: float | None
    same: bool

    def __post_init__(self) -> None:
        settle(self, "mean", "half", "p_board", "p", "p_exact", "cost")


def compare(boards: Iterable[Board], a: str, b: str) -> list[Comparison]:
    """All comparisons of two rows, named as on the boards (``l1l2 share=30``) or by the start of their hash.

    Raises UsageError where a name is on no board, or both are never on one together.
    """
    boards = list(boards)
    names = sorted({row.name for board in boards for table in board.tables for row in table.rows})
    specs = {row.spec for board in boards for table in board.tables for row in table.rows}
    for asked in (a, b):
        if asked not in names and not any(_is(spec, asked) for spec in specs):
            raise unknown("row", asked, names)
    found = [
        _compare(board, table, first, second)
        for board in boards
        for table in board.tables
        for first in _named(table, a)
        for second in _named(table, b)
        if first is not second and first.finished.keys() & second.finished.keys()
    ]
    if not found:
        raise UsageError(f"compare {a} {b}: they are never on one board at one budget with a common seed")
    return found


def _is(spec: str, asked: str) -> bool:
    return len(asked) >= 6 and spec.startswith(asked)


def _named(table: Table, asked: str) -> list[Row]:
    exact = [row for row in table.rows if row.name == asked]
    return exact or [row for row in table.rows if _is(row.spec, asked)]


def _compare(board: Board, table: Table, a: Row, b: Row) -> Comparison:
    values, quantum, columns = matrix([series(a, PRIMARY, failed=True), series(b, PRIMARY, failed=True)])
    alone = against(values, 1, None, quantum, least=2)
    seeds = [seed for seed in columns if seed in a.finished and seed in b.finished]
    common = values[:, [columns.index(seed) for seed in seeds]]
    means = [Mean(*interval(row.tolist(), math.sqrt(float(quantum.max())))) for row in common]
    found = Comparison(
        board=board,
        table=table,
        seeds=tuple(seeds),
        a=means[0],
        b=means[1],
        mean=float(alone.mean[0]),
        half=_none(alone.half[0]),
        p_board=None,
        verdict="",
        subject="a",
        p=_none(alone.p[0]),
        p_exact=sign_flip_p((common[0] - common[1]).tolist()),
        cost=a.training_macs / b.training_macs if a.training_macs and b.training_macs else None,
        same=a.epochs == b.epochs,
    )
    return _as_on_board(found, a, b)


def _as_on_board(found: Comparison, a: Row, b: Row) -> Comparison:
    """The comparison with what the board says: of a row and its reference, or of two ranked rows."""
    margins = found.board.terms.margins if found.board.terms else ()
    for subject, sign, row, other in (("a", 1, a, b), ("b", -1, b, a)):
        difference = row.differences.get(other.name)
        if difference is not None and len(found.seeds) == difference.seeds:
            verdict = verdict_text(difference.verdicts, margins)
            return replace(
                found,
                mean=sign * difference.mean,
                half=difference.shown_half,
                p_board=difference.p_holm,
                verdict=verdict,
                subject=subject,
            )
    ranked = [row for row in found.table.rows if row.rank]
    if a.rank and b.rank:
        tests, i, j = pairs(ranked), ranked.index(a), ranked.index(b)
        p = float(tests.p_holm[i, j])
        verdict = "undecided" if not p < ALPHA else "better" if tests.mean[i, j] > 0 else "worse"
        return replace(found, half=float(tests.half[i, j]), p_board=p, verdict=verdict)
    return found


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Exact two-sided p of the permutation test that flips the sign of each paired difference."""
    if not 2 <= len(differences) <= EXACT:
        return None
    exact = [Fraction(difference) for difference in differences]
    sums = Counter({Fraction(0): 1})
    for difference in exact:
        flipped: Counter[Fraction] = Counter()
        for total, ways in sums.items():
            flipped[total + difference] += ways
            flipped[total - difference] += ways
        sums = flipped
    observed = abs(sum(exact, Fraction(0)))
    return sum(ways for total, ways in sums.items() if abs(total) >= observed) / 2 ** len(differences)


def _none(x: float) -> float | None:
    return None if math.isnan(x) else float(x)
