"""What a difference decides: better, worse, equivalent or non-inferior within a margin, or nothing.

Two families of 5 % a (table, reference, endpoint): whether there is a difference (Holm), and whether it lies within
the margin. Both at once are possible: worse, by less than the margin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtrinc, stdtr, stdtrit

from leaderboard.reader.model import ALPHA
from leaderboard.stats.contrasts import Contrasts, Flags
from leaderboard.stats.statistics import POWER, Array

WORDS = ("better", "worse", "equivalent", "non-inferior")
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Verdicts:
    """Verdicts on differences, arrays of their shape; False and NaN where there was no test.

    Attributes:
        margin: in the unit of the differences.
        p_low, p_high: one-sided, of a difference above -margin and below margin, corrected (:func:`decide`).
        better, worse: the two-sided test of no difference is significant.
        equivalent: above -margin and below margin.
        noninferior: above -margin.
        smallest: true difference that this design finds with 80 % power at the first step of Holm's correction.
    """

    margin: float
    p_low: Array
    p_high: Array
    better: Flags
    worse: Flags
    equivalent: Flags
    noninferior: Flags
    smallest: Array

    @property
    def decided(self) -> Flags:
        """Better, worse or equivalent; non-inferior alone decides nothing."""
        return self.better | self.worse | self.equivalent

    def words(self, k: int | tuple[int, ...]) -> tuple[str, ...]:
        """All that holds of one difference, the strongest first; ``("undecided",)`` where nothing does."""
        every = zip(WORDS, (self.better, self.worse, self.equivalent, self.noninferior), strict=True)
        found = tuple(word for word, holds in every if holds[k])
        if "equivalent" in found or "better" in found:
            found = tuple(word for word in found if word != "non-inferior")
        return found or (UNDECIDED,)


def verdict_text(verdicts: Sequence[str], margins: Sequence[float]) -> str:
    """Verdicts of all margins as one text: ``worse, equivalent within 1``, the least margin that holds; empty of none.

    Without margins it is the first verdict.
    """
    words = [set(verdict.split(", ")) for verdict in verdicts]
    found = [word for word in WORDS[:2] if words and word in words[0]]
    for word in WORDS[2:]:
        within = [margin for own, margin in zip(words, margins, strict=False) if word in own]
        if within:
            found.append(f"{word} within {within[0]:g}")
            break
    return ", ".join(found) or (UNDECIDED if verdicts else "")


def decide(contrasts: Contrasts, margin: float) -> Verdicts:
    """Verdicts of every difference, each corrected within its family.

    A margin asks two one-sided questions of each difference (Schuirmann 1987): is it above -margin, is it below
    margin? At most one of the two null hypotheses of a difference is true, so that Holm's correction multiplies by
    the number of differences that still have an open question (Shaffer 1986, eq. 1): no false claim of either kind
    with 95 %, at the price of Holm's correction for one.
    """
    error, freedom = contrasts.error, contrasts.freedom
    tested = contrasts.family >= 0
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.where(tested, stdtr(freedom, -(contrasts.mean + margin) / error), np.nan)
        high = np.where(tested, stdtr(freedom, (contrasts.mean - margin) / error), np.nan)
    tests = np.zeros(low.shape)
    for one in np.unique(contrasts.family[tested]):
        mine = contrasts.family == one
        low[mine], high[mine] = shaffer(low[mine], high[mine])
        tests[mine] = np.count_nonzero(mine)
    clear = contrasts.p_holm < ALPHA
    return Verdicts(
        margin,
        low,
        high,
        better=clear & (contrasts.mean > 0),
        worse=clear & (contrasts.mean < 0),
        equivalent=(low < ALPHA) & (high < ALPHA),
        noninferior=low < ALPHA,
        smallest=np.where(tested, smallest_found(error, freedom, np.maximum(tests, 1)), np.nan),
    )


def shaffer(low: Array, high: Array) -> tuple[Array, Array]:
    """Adjusted p-values of pairs of hypotheses of which at most one is true (Shaffer 1986); no NaN."""
    p = np.concatenate([low, high])
    order = np.argsort(p, kind="stable")
    pair = order % len(low)
    second = np.zeros(len(p), dtype=bool)  # the later one of its pair, which closes it
    second[len(p) - 1 - np.unique(pair[::-1], return_index=True)[1]] = True
    still_open = len(low) - np.cumsum(second) + second
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * still_open), 1.0)
    return adjusted[: len(low)], adjusted[len(low) :]


def smallest_found(error: ArrayLike, freedom: ArrayLike, tests: ArrayLike) -> Array:
    """True difference that a two-sided t test at 5 % over ``tests`` finds with 80 % power, in the unit of ``error``."""
    limit = stdtrit(freedom, 1 - ALPHA / 2 / np.asarray(tests, dtype=float))
    return np.asarray(error, dtype=float) * nctdtrinc(freedom, 1 - POWER, limit)


def rank_ranges(mean: Array, p: Array) -> list[tuple[int, int]]:
    """For each row: 1 and the rows significantly better, to all rows less those significantly worse.

    Args:
        mean: ``[rows, rows]``, row i less row j; p: adjusted, NaN where not tested (:func:`contrasts.all_pairs`).
    """
    clear = p < ALPHA
    best = 1 + np.count_nonzero(clear & (mean < 0), axis=1)
    worst = len(p) - np.count_nonzero(clear & (mean > 0), axis=1)
    return list(zip(best.tolist(), worst.tolist(), strict=True))


def order_shown(ranges: list[tuple[int, int]]) -> bool:
    """Whether any two rows have different ranges."""
    return len(set(ranges)) > 1
