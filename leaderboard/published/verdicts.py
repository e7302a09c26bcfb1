"""What was measured of published numbers: means over seeds, curves, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.schema import Finished, Quality
from leaderboard.published.publications import Group, PublishedTarget

NEAR = 0.25
"""Shares of kept units that differ by more than this part of the wanted one are not the same point."""


@dataclass(frozen=True)
class Verdict:
    """One target with the mean of its runs; ``measured`` and what follows from it are None when a run lacks it."""

    group: str
    target: PublishedTarget
    measured: float | None
    half_width: float | None

    @property
    def difference(self) -> float | None:
        """Measured less published, in points."""
        return None if self.measured is None else self.measured - self.target.paper

    @property
    def outcome(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if self.difference is None:
            return "not measured"
        return "met" if abs(self.difference) <= self.target.tolerance + 1e-9 else "missed"


@dataclass(frozen=True)
class Point:
    """Mean validation accuracy (per cent) at one share of units left, with its interval and number of seeds."""

    left: float
    mean: float
    half_width: float | None
    seeds: int


@dataclass(frozen=True)
class Result:
    """A group with what its runs gave; ``complete`` says whether all of them finished."""

    group: Group
    runs: list[str]
    complete: bool
    curve: list[Point]
    verdicts: list[Verdict]


def curve_of(record: Finished) -> dict[float, float]:
    """Share of units left (four digits) -> validation accuracy, per cent, of the last epoch with that share."""
    curve = record.curve
    if curve is None or curve.units_left is None:
        return {}
    epochs = zip(curve.units_left, curve.val_top1, strict=True)
    return {round(left, 4): 100 * top1 for left, top1 in epochs if left is not None and top1 is not None}


def measured(target: PublishedTarget, record: Finished) -> float | None:
    """What ``record`` says of ``target``, per cent; None when it says nothing."""
    network, metric = target.quantity.split(".")
    if network == "curve":
        points = curve_of(record)
        left = _nearest(points, target.left)
        return None if left is None else points[left]
    if network != "dense" and target.left is not None:
        units = record.structure
        if _nearest([units.units_after / units.units_before], target.left) is None:
            return None
    found: Quality | None = getattr(record.metrics, network)
    return None if found is None else 100 * float(getattr(found, metric))


def judge(name: str, group: Group, records: Sequence[Finished], complete: bool) -> Result:
    """Curve and verdicts of a group; no target is measured unless all of its runs are there (``complete``)."""
    from leaderboard.stats.statistics import interval  # scipy is slow to load

    verdicts = []
    for target in group.targets:
        values = [measured(target, record) for record in records] if complete else []
        known = [value for value in values if value is not None]
        mean, half = interval(known) if known and len(known) == len(values) else (None, None)
        verdicts.append(Verdict(name, target, mean, half))
    return Result(group, [record.id for record in records], complete, mean_curve(records), verdicts)


def mean_curve(records: Sequence[Finished]) -> list[Point]:
    """The curve over all runs, from the most to the fewest units."""
    from leaderboard.stats.statistics import interval  # scipy is slow to load

    curves = [curve_of(record) for record in records]
    points = []
    for left in sorted({left for curve in curves for left in curve}, reverse=True):
        values = [curve[left] for curve in curves if left in curve]
        points.append(Point(left, *interval(values), len(values)))
    return points


def published_at(group: Group, points: Sequence[Point]) -> dict[float, list[PublishedTarget]]:
    """Targets by the share of the curve's point that they belong to."""
    found: dict[float, list[PublishedTarget]] = {}
    for target in group.targets:
        left = _nearest([point.left for point in points], target.left)
        if left is not None:
            found.setdefault(left, []).append(target)
    return found


def _nearest(shares: Sequence[float] | Mapping[float, Any], left: float | None) -> float | None:
    if left is None or not shares:
        return None
    found = min(shares, key=lambda share: abs(share - left))
    return found if abs(found - left) <= NEAR * left else None
