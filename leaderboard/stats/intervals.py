"""Intervals of few runs: for their mean, and for one more run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.records import store

Record = Mapping[str, Any]


T975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t, 97.5 %, for 1 to 30 degrees of freedom (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half width of its 95 % interval (Student's t; a little too wide beyond 31 values); None for one."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return mean, None
    return mean, T975[min(n - 1, len(T975)) - 1] * statistics.stdev(values) / math.sqrt(n)


QUANTUM = math.sqrt(1 / 12)
"""Least standard deviation that is believed, in test images: what rounding to whole images makes."""


FEWEST = 3
"""Other runs that a prediction from their spread needs."""


Z975 = 1.96


@dataclass(frozen=True)
class Prediction:
    """Where final top-1 (a share) of one more run of a specification lies in 95 of 100 cases.

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
            else f"of the record alone and the size of its test set (fewer than {FEWEST} other runs lie other_seeds it)"
        )
        return f"{100 * self.low:.2f} to {100 * self.high:.2f} %, {basis}"


def predict(given: Record, others: Sequence[Record]) -> Prediction:
    """The prediction interval for a new run of a finished record's specification.

    From ``FEWEST`` other runs on: mean +- t(n - 1) s sqrt(1 + 1/n). With fewer: the record's value +- the error of two
    accuracies on that many test images (binomial, with Agresti and Coull's two hits and two misses added).
    """
    images, own = given["metrics"]["final"]["examples"], top1(given)
    if len(others) < FEWEST:
        share = (own * images + 2) / (images + 4)
        half = Z975 * math.sqrt(2 * share * (1 - share) / images)
        return Prediction(max(own - half, 0.0), min(own + half, 1.0), 0)
    values = [top1(other) for other in others]
    n, mean = len(values), statistics.fmean(values)
    spread = max(statistics.stdev(values), QUANTUM / images)
    half = T975[min(n - 1, len(T975)) - 1] * spread * math.sqrt(1 + 1 / n)
    return Prediction(max(mean - half, 0.0), min(mean + half, 1.0), n)


def other_seeds(path: Path, given: Record) -> list[Record]:
    """Finished runs of the same specification on the same test images with other seeds, in the folder of ``path``."""
    found: list[Record] = []
    for file in sorted(path.parent.glob(f"{given['spec_sha256'][:12]}-s*.json")):
        try:
            other = store.load(file)
        except store.RecordError:
            continue
        same = all(other[key] == given[key] for key in ("status", "spec_sha256"))
        if same and other["id"] != given["id"] and other["data"]["test_sha256"] == given["data"]["test_sha256"]:
            found.append(other)
    return found


def top1(found: Record) -> float:
    """Test accuracy of the final network, a share."""
    return float(found["metrics"]["final"]["top1"])
