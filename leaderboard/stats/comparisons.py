"""Rows against their references: the endpoints of runs as values, and differences with verdicts.

A row that the plan does not name has a difference and its interval, no test (RULES.md, 8).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from leaderboard.reader.model import ALPHA, LEAST_RANKED, NO_BUDGET, PRIMARY, Difference, Row, Run, Terms
from leaderboard.stats.contrasts import Contrasts, against
from leaderboard.stats.image_intervals import image_interval, refit_factor
from leaderboard.stats.statistics import Array, holm, seeds_needed
from leaderboard.stats.verdicts import decide

FOLDS = 5
"""Parts of a data set of which each seed tests on another one."""
NEVER = 10**9
"""Common seeds that a row needs for a test where it may have none."""
Cells = Mapping[int, tuple[float, float]]
"""Seed -> value, larger is better, and the variance of rounding to whole images, its unit squared."""
Right = Mapping[int, np.ndarray[tuple[int], np.dtype[np.bool_]]]
"""Seed -> which test images are right."""
Bits = Mapping[str, Right]
"""Start of a specification's hash -> the same, of test images that all seeds share."""


class Series(NamedTuple):
    """What is compared: values by seed, and the seeds that the plan expects; None where the row is exploratory."""

    name: str
    cells: Cells
    expected: Set[int] | None


def _share(count: Callable[[Run], int | None]) -> Callable[[Run], tuple[float, float] | None]:
    def value(run: Run) -> tuple[float, float] | None:
        wrong = count(run)
        return (
            None if wrong is None or not run.images else (100 * (1 - wrong / run.images), (100 / run.images) ** 2 / 12)
        )

    return value


def _loss(run: Run) -> tuple[float, float] | None:
    return (-math.log(run.loss), 0.0) if run.loss else None


VALUES: Mapping[str, Callable[[Run], tuple[float, float] | None]] = {
    "top1": _share(lambda run: run.wrong),
    "pruned_top1": _share(lambda run: run.pruned),
    "loss": _loss,
}
"""Endpoint -> value of a run that finished, larger is better: points of top-1, or the negative logarithm of a loss."""


def series(row: Row, endpoint: str, failed: bool = False) -> Series:
    """The values of a row; none where a run failed, so that it has no mean, unless ``failed`` allows it."""
    value, runs = VALUES[endpoint], row.finished if row.top1 or failed else {}
    cells = {seed: found for seed, run in runs.items() if (found := value(run)) is not None}
    return Series(row.name, cells, row.expected if row.planned else None)


def matrix(rows: Sequence[Series]) -> tuple[Array, Array, list[int]]:
    """Values and variances of rounding ``[rows, seeds]``, NaN and 0 where there is none, and the seeds."""
    seeds = sorted({seed for row in rows for seed in row.cells})
    cells = [[row.cells.get(seed, (math.nan, 0.0)) for seed in seeds] for row in rows]
    array = np.array(cells, dtype=float).reshape(len(rows), len(seeds), 2)
    return array[..., 0], array[..., 1], seeds


def least_seeds(one: Series, other: Series) -> int:
    """Common seeds that a test of two rows needs: all of the plan, and no fewer than the rules ask for."""
    if one.expected is None or other.expected is None:
        return NEVER
    return max(LEAST_RANKED, len(one.expected & other.expected))


def differences(
    rows: Sequence[Series], to: str, margins: Sequence[float] = (), bits: Sequence[Right] = ()
) -> list[Difference | None]:
    """Each row less the row ``to``; None where they have no common seed, or where that row is not there.

    Where any row is planned, the reference has to be, too.

    Args:
        margins: in the unit of the values; without any a verdict is better, worse or undecided.
        bits: for each row, which test images are right by seed; empty where that is not known.
    """
    planned = any(row.expected is not None for row in rows)
    names = [row.name if row.expected is not None or not planned else None for row in rows]
    if to not in names:
        return [None] * len(rows)
    at = names.index(to)
    array, quantum, _ = matrix(rows)
    owners = [row.expected is not None or not planned for row in rows]
    found = against(array, at, owners, quantum, [least_seeds(row, rows[at]) for row in rows])
    words = _words(found, margins)
    smallest = decide(found, 0.0).smallest
    made: list[Difference | None] = []
    for k in range(len(rows)):
        if k == at or not found.seeds[k]:
            made.append(None)
            continue
        tested = found.family[k] >= 0
        difference = Difference(
            *(to, float(found.mean[k]), _none(found.error[k]), _none(found.freedom[k]), _none(found.half[k])),
            *(int(found.seeds[k]), float(found.won[k])),
            images_half=_images_half(found, k, bits[k], bits[at]) if bits else None,
            p=_none(found.p[k]),
            p_holm=_none(found.p_holm[k]),
            smallest=_none(smallest[k]),
            verdicts=words[k] if tested else (),
        )
        made.append(difference)
    return made


def _words(found: Contrasts, margins: Sequence[float]) -> list[tuple[str, ...]]:
    """For each row what holds, one text a margin."""
    if margins:
        decided = [decide(found, margin) for margin in margins]
        return [tuple(", ".join(one.words(k)) for one in decided) for k in range(len(found.mean))]
    only = decide(found, 0.0)
    either = zip(only.better, only.worse, strict=True)
    return [("better" if better else "worse" if worse else "undecided",) for better, worse in either]


def _images_half(found: Contrasts, k: int, row: Right, other: Right) -> float | None:
    """Half of the interval over seeds and images, in points; None without the bits of all common seeds."""
    seeds = sorted(row.keys() & other.keys())
    if len(seeds) < 2 or len(seeds) != found.seeds[k] or len({len(b[s]) for b in (row, other) for s in seeds}) > 1:
        return None
    mine, theirs = (np.stack([bits[seed] for seed in seeds]) for bits in (row, other))
    return 100 * image_interval(mine, theirs, (found.deviation[k] / 100) ** 2, found.freedom[k]).half


def compared(rows: Sequence[Row], terms: Terms | None, kind: str, bits: Bits | None, folds: bool) -> list[Row]:
    """The rows with their differences on all endpoints, and with the seeds that they would need.

    Args:
        kind: of the table; rows without a common budget are compared with dense only.
        bits: which test images each run gets right; None where that is not known.
        folds: whether each seed has test images of its own.
    """
    references = [to for to in (terms or Terms("")).references if to == "dense" or kind not in NO_BUDGET]
    margins = terms.margins if terms else ()
    top1 = [series(row, PRIMARY) for row in rows]
    by_spec = [(bits or {}).get(row.spec, {}) for row in rows]
    found = {to: differences(top1, to, margins, by_spec if bits else ()) for to in references}
    if folds:
        found = {to: [d and replace(d, refit_half=_refit(d)) for d in own] for to, own in found.items()}
    secondary: dict[str, dict[str, list[Difference | None]]] = {}
    for endpoint in terms.endpoints if terms else ():
        if endpoint != PRIMARY:
            values = [series(row, endpoint) for row in rows]
            secondary[endpoint] = {to: differences(values, to) for to in references}
    return [
        replace(
            row,
            differences=_of(found, k),
            secondary={endpoint: own for endpoint, by in secondary.items() if (own := _of(by, k))},
            seeds_needed=_needed(found, k, margins, references),
        )
        for k, row in enumerate(rows)
    ]


def _of(found: Mapping[str, Sequence[Difference | None]], k: int) -> dict[str, Difference]:
    return {to: difference for to, own in found.items() if (difference := own[k]) is not None}


def _refit(difference: Difference) -> float | None:
    return None if difference.half is None else difference.half * refit_factor(FOLDS)


def _needed(
    found: Mapping[str, Sequence[Difference | None]], k: int, margins: Sequence[float], references: Sequence[str]
) -> tuple[int | None, ...]:
    """Seeds that find a true difference of each margin to ``random`` (else the first reference)."""
    to = "random" if "random" in references else references[0]
    difference = found[to][k]
    if difference is None or difference.p is None or not difference.error:
        return ()
    tests = sum(d is not None and d.p is not None for d in found[to])
    deviation = difference.error * math.sqrt(difference.seeds)
    needed = (float(seeds_needed(margin, deviation, ALPHA / tests)) for margin in margins)
    return tuple(None if math.isnan(seeds) else int(seeds) for seeds in needed)


def with_board_p(tables: Sequence[Sequence[dict[str, Difference]]]) -> list[list[dict[str, Difference]]]:
    """Differences of the rows of each table, with p-values corrected over all of them: the family of headlines."""
    every = [d.p for rows in tables for row in rows for d in row.values() if d.p is not None]
    corrected = iter(holm(every).tolist())
    return [
        [{to: d if d.p is None else replace(d, p_board=next(corrected)) for to, d in row.items()} for row in rows]
        for rows in tables
    ]


def _none(x: float) -> float | None:
    return None if math.isnan(x) else float(x)
