"""The interval in which the accuracy of one more run of a specification lies."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench.records import store
from bench.records.schema import Finished, finished

FEWEST = 3
"""Other runs that a prediction from their spread needs."""
USUAL, RARE = 0.05, 0.001
"""Shares of honest runs outside of an interval: one that is no error, one that asks for an explanation."""


@dataclass(frozen=True)
class Prediction:
    """Where final top-1 (a share) of one more run of a specification lies in 95 of 100 cases, or another share.

    Attributes:
        runs: other runs that it is made of; 0 where they were too few and it is made of the record's own value.
    """

    low: float
    high: float
    runs: int

    def holds(self, top1: float) -> bool:
        """Whether a value lies inside."""
        return self.low - 1e-12 <= top1 <= self.high + 1e-12

    def __str__(self) -> str:
        basis = (
            f"of {self.runs} other runs of the specification"
            if self.runs
            else f"of the record alone and the size of its test set (fewer than {FEWEST} other runs are next to it)"
        )
        return f"{100 * self.low:.2f} to {100 * self.high:.2f} %, {basis}"


def predict(given: Finished, others: Sequence[Finished], outside: float = USUAL) -> Prediction:
    """The prediction interval for a new run of a finished record's specification.

    Args:
        given: the record.
        others: of other seeds.
        outside: share of honest runs that lie outside of it.

    From ``FEWEST`` other runs on: mean +- t(n - 1) s sqrt(1 + 1/n). With fewer: the record's value +- the error of two
    accuracies on that many test images (binomial, with Agresti and Coull's two hits and two misses added).
    """
    images, own = given.metrics.final.examples, top1(given)
    if len(others) < FEWEST:
        share = (own * images + 2) / (images + 4)
        half = statistics.NormalDist().inv_cdf(1 - outside / 2) * math.sqrt(2 * share * (1 - share) / images)
        return Prediction(max(own - half, 0.0), min(own + half, 1.0), 0)
    from leaderboard.stats.statistics import QUANTUM, student_quantile  # scipy is slow to load

    values = [top1(other) for other in others]
    n, mean = len(values), statistics.fmean(values)
    spread = max(statistics.stdev(values), QUANTUM / images)
    half = student_quantile(n - 1, outside) * spread * math.sqrt(1 + 1 / n)
    return Prediction(max(mean - half, 0.0), min(mean + half, 1.0), n)


def other_seeds(path: Path, given: Finished) -> list[Finished]:
    """Finished runs of the same specification on the same data with other seeds, next to ``path``.

    Where the test fold rotates with the seed, each has test images of its own.
    """
    found: list[Finished] = []
    for file in store.neighbours(path):
        if not store.id_of(file).startswith(f"{given.spec_sha256[:12]}-s"):
            continue
        with suppress(store.RecordError):
            other = store.load(file)
            if finished(other) and _subject(other) == _subject(given) and other.id != given.id:
                found.append(other)
    return found


def _subject(found: Finished) -> tuple[str, str | None]:
    """Specification and images of a run."""
    return found.spec_sha256, found.data.folds_sha256 or found.data.test_sha256


def top1(found: Finished) -> float:
    """Test accuracy of the final network, a share."""
    return float(found.metrics.final.top1)
