"""Published numbers and what was measured of them: target files, means over seeds, verdicts. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import UsageError
from bench.spec.decode import decode, read_toml
from bench.spec.registry import unknown
from bench.spec.request import BUDGETS, RunRequest
from leaderboard.stats.intervals import interval

TARGETS = Path(__file__).parent / "targets"
NEAR = 0.25
"""Shares of units left that differ by more than this part of the one asked for are not the same point."""


Record = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """One published number.

    Attributes:
        quantity: what is compared with it: the test accuracy of a record's dense, pruned or final network, or
            ``curve.val_top1``, the validation accuracy where the share of units left is nearest to ``left``.
        paper: the published accuracy, per cent.
        tolerance: how many points the mean over seeds may differ.
        kind: how the number is known, such as ``PAPER-fig`` (read off a figure).
        where: figure or table.
        left: share of units left that the number belongs to, in (0, 1].
    """

    quantity: Literal["dense.top1", "pruned.top1", "final.top1", "curve.val_top1"]
    paper: float
    tolerance: float
    kind: str
    where: str
    left: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.paper <= 100:
            raise ValueError(f"paper = {self.paper:g} is not per cent")
        if not 0 < self.tolerance < 100:
            raise ValueError(f"tolerance = {self.tolerance:g}: points, above 0 and below 100")
        if self.left is not None and not 0 < self.left <= 1:
            raise ValueError(f"left = {self.left:g} is not a share")
        if self.left is None and self.quantity == "curve.val_top1":
            raise ValueError("curve.val_top1 needs left, the share of units at which")


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, one request, with what was published of them."""

    request: RunRequest
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One target file.

    Attributes:
        description: one line for lists.
        source: the publication.
        reading: how the published values were read, and how exactly.
        notes: where the replay differs from what was published.
        seeds: as on the command line, such as ``0-2``.
        groups: name -> runs and targets.
    """

    name: str
    description: str
    source: str
    reading: str
    notes: str
    seeds: str
    groups: dict[str, Group]


@dataclass(frozen=True)
class Verdict:
    """One target with the mean of its runs; ``measured`` and what follows from it are None when a run lacks it."""

    group: str
    target: Target
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


def claim_names() -> list[str]:
    """Target files that come with the suite."""
    return sorted(file.stem for file in TARGETS.glob("*.toml"))


def load_claim(name: str) -> Claim:
    """The target file called ``name``, or the TOML file at that path.

    Raises UsageError for an unknown name, a missing or unknown key, or a value that cannot be.
    """
    file = Path(name) if name.endswith(".toml") else TARGETS / f"{name}.toml"
    if not file.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"target file {name}: no such file")
        raise unknown("target file", name, claim_names())
    where = f"target file {file.stem}"
    values = read_toml(file, where)
    groups = {}
    for key, group in _table(values.get("groups", {}), f"{where}: groups").items():
        place = f"{where}.{key}"
        rows = _table(group, place).get("targets", [])
        if not isinstance(rows, list):
            raise UsageError(f"{place}: targets is not a list of tables")
        targets = tuple(decode(Target, _table(row, f"{place}.targets"), f"{place}.targets") for row in rows)
        groups[key] = Group(_request({k: v for k, v in group.items() if k != "targets"}, place), targets)
    return decode(Claim, {"name": file.stem, **values, "groups": groups}, where)


def _request(values: Mapping[str, Any], where: str) -> RunRequest:
    """What a group asks for; its budget is given, as the default one is not a publication's."""
    found = RunRequest.from_table(values, where)
    if len(found) > 1:
        raise UsageError(f"{where}: a group is one request, without lists")
    if not any(values.get(key) for key in BUDGETS):
        raise UsageError(f"{where}: give one of native = true, keep_macs and keep_params")
    return found[0]


def curve_of(record: Record) -> dict[float, float]:
    """Share of units left (four digits) -> validation accuracy, per cent, of the last epoch with that share."""
    return {
        round(entry["units_left"], 4): 100 * entry["val_top1"]
        for entry in record["curve"]
        if entry.get("units_left") is not None and entry["val_top1"] is not None
    }


def measured(target: Target, record: Record) -> float | None:
    """What ``record`` says of ``target``, per cent; None when it says nothing."""
    network, metric = target.quantity.split(".")
    if network == "curve":
        points = curve_of(record)
        left = _nearest(points, target.left)
        return None if left is None else points[left]
    if network != "dense" and target.left is not None:
        units = record["structure"]
        if _nearest([units["units_after"] / units["units_before"]], target.left) is None:
            return None
    found = record["metrics"][network]
    return None if found is None else 100 * found[metric]


def judge(name: str, group: Group, records: Sequence[Record], complete: bool) -> Result:
    """Curve and verdicts of a group; no target is measured unless all of its runs are there (``complete``)."""
    verdicts = []
    for target in group.targets:
        values = [measured(target, record) for record in records] if complete else []
        known = [value for value in values if value is not None]
        mean, half = interval(known) if known and len(known) == len(values) else (None, None)
        verdicts.append(Verdict(name, target, mean, half))
    return Result(group, [record["id"] for record in records], complete, mean_curve(records), verdicts)


def mean_curve(records: Sequence[Record]) -> list[Point]:
    """The curve over all runs, from the most to the fewest units."""
    curves = [curve_of(record) for record in records]
    points = []
    for left in sorted({left for curve in curves for left in curve}, reverse=True):
        values = [curve[left] for curve in curves if left in curve]
        points.append(Point(left, *interval(values), len(values)))
    return points


def published_at(group: Group, points: Sequence[Point]) -> dict[float, list[Target]]:
    """Targets by the share of the curve's point that they belong to."""
    found: dict[float, list[Target]] = {}
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


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is not a table of values")
    return value
