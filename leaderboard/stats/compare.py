"""Two rows against each other, wherever both are: difference by seed, two tests, seeds needed, cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from bench.errors import UsageError
from bench.spec.near_names import unknown
from leaderboard.reader.model import ALPHA, Board, Mean, Row, Table
from leaderboard.reader.numbers import settle
from leaderboard.stats.boards import mean_images, wrong_of
from leaderboard.stats.statistics import QUANTUM, family, holm, interval, seeds_needed

EXACT = 16
"""Seeds up to which all signs are tried."""


@dataclass(frozen=True)
class Comparison:
    """Row ``a`` less row ``b`` at one budget of one board.

    Attributes:
        seeds: that both have.
        a, b: top-1, per cent, over these seeds.
        mean, half: of the difference in points, with its 95 % interval (None with one seed).
        p: paired t test of this one comparison, uncorrected; None with one seed.
        p_holm: corrected over all comparisons of the two rows (Holm); None likewise.
        p_exact: two-sided sign-flip permutation test over all 2^n signs; None beyond 16 seeds. With n seeds it cannot
            be below 2 / 2^n, which is 0.0625 for 5.
        seeds_needed: paired seeds that find a difference such as this with 80 % power; None beyond 1,000 or at zero.
        cost: training MACs of ``a`` over those of ``b``.
        same: whether both trained for as many epochs.
        on_board: whether the board, which corrects over all of its rows, finds them significantly different; None
            where it does not compare the two.
    """

    board: Board
    table: Table
    seeds: tuple[int, ...]
    a: Mean
    b: Mean
    mean: float
    half: float | None
    p: float | None
    p_exact: float | None
    seeds_needed: int | None
    cost: float | None
    same: bool
    p_holm: float | None = None
    on_board: bool | None = None

    def __post_init__(self) -> None:
        settle(self, "mean", "half", "p", "p_exact", "cost", "p_holm")

    @property
    def verdict(self) -> str:
        """In words, after the correction over all comparisons of the two rows, and whether the board says the same."""
        if self.p_holm is None:
            return "one seed: no verdict"
        if self.p_holm >= ALPHA:
            return "not significantly different"
        better = "a is better" if self.mean > 0 else "b is better"
        return f"{better} in these tests, not significantly on the board" if self.on_board is False else better


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
    pairs = [
        _compare(board, table, first, second)
        for board in boards
        for table in board.tables
        for first in _named(table, a)
        for second in _named(table, b)
        if first is not second
    ]
    found = [comparison for comparison in pairs if comparison is not None]
    if not found:
        raise UsageError(f"compare {a} {b}: they are never on one board at one budget with a common seed")
    adjusted = holm([math.nan if c.p is None else c.p for c in found])
    return [replace(c, p_holm=None if math.isnan(p) else float(p)) for c, p in zip(found, adjusted, strict=True)]


def _on_board(a: Row, b: Row) -> bool | None:
    """Whether the board finds two rows significantly different: by its references, or by the letters of its ranks."""
    for row, other in ((a, b), (b, a)):
        if other.name in row.differences:
            return row.differences[other.name].clear
    return not set(a.group) & set(b.group) if a.group and b.group else None


def _is(spec: str, asked: str) -> bool:
    return len(asked) >= 6 and spec.startswith(asked)


def _named(table: Table, asked: str) -> list[Row]:
    exact = [row for row in table.rows if row.name == asked]
    return exact or [row for row in table.rows if _is(row.spec, asked)]


def _compare(board: Board, table: Table, a: Row, b: Row) -> Comparison | None:
    mine, theirs = a.wrong, b.wrong
    seeds = [s for s in sorted(mine.keys() & theirs.keys()) if mine[s] is not None and theirs[s] is not None]
    if not seeds:
        return None
    size = mean_images([a, b])
    wrong = np.array([[wrong_of(row, seed, size) for seed in seeds] for row in (a, b)])
    images = wrong[1] - wrong[0]
    points, test = 100 / size, family(images[None], 2)
    half, p = test.half[0], test.p[0]
    needed = float(seeds_needed(*test.mean, *test.deviation)) if len(seeds) > 1 and images.any() else math.nan
    return Comparison(
        board=board,
        table=table,
        seeds=tuple(seeds),
        a=_mean(list(wrong[0]), size),
        b=_mean(list(wrong[1]), size),
        mean=float(images.mean()) * points,
        half=None if math.isnan(half) else float(half) * points,
        p=None if math.isnan(p) else float(p),
        p_exact=sign_flip_p(images),
        seeds_needed=None if math.isnan(needed) else int(needed),
        cost=a.training_macs / b.training_macs if a.training_macs and b.training_macs else None,
        same=a.epochs == b.epochs,
        on_board=_on_board(a, b),
    )


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


def _mean(wrong: Sequence[float], n: float) -> Mean:
    mean, half = interval(wrong, QUANTUM)
    return Mean(100 * (1 - mean / n), None if half is None else 100 * half / n)
