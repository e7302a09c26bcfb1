"""Published numbers, one TOML file a publication: accuracies, and runs to repeat with what is expected of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.errors import UsageError
from bench.spec.decode import decode, read_toml
from bench.spec.near_names import unknown
from bench.spec.request import BUDGETS, RunRequest

FILES = Path(__file__).parent / "files"


@dataclass(frozen=True)
class PublishedAccuracy:
    """One published accuracy. It is shown in a list of its own: never averaged, ranked or subtracted with others.

    Attributes:
        method: our name of the method; the paper's, where the suite has none.
        arch, dataset: our names.
        variant: which of the method's ways, with its training.
        pruned_percent: published top-1 of the pruned network.
        base_percent: of the dense one; None where the source gives none.
        deviation, base_deviation: published standard deviations, points; None where there is none.
        speedup: MACs of the dense over those of the pruned network, as the source counts; None where it says
            otherwise how much was pruned (then ``note`` does).
        counter: who counted.
        physical: whether the source's channels are really removed; None where that is not known.
        physical_speedup: ``speedup`` recomputed for channels that are really removed (convolutions and linear
            layers); None where nobody did.
        runs: how many, such as ``3 runs``.
        selection: which epoch's accuracy it is.
        where: table, figure or file of the publication.
        note: what else a reader must know.
        source: of its file, with ``where``; set by :func:`load`.
    """

    method: str
    arch: str
    dataset: str
    pruned_percent: float
    variant: str = ""
    base_percent: float | None = None
    deviation: float | None = None
    base_deviation: float | None = None
    speedup: float | None = None
    counter: str = "the source's own"
    physical: bool | None = None
    physical_speedup: float | None = None
    runs: str = "not stated"
    selection: Literal["last epoch", "best on test", "not stated"] = "not stated"
    where: str = ""
    note: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("method", "arch", "dataset", "counter", "runs"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty")
        for name, least, most in (
            *(("pruned_percent", 0, 100), ("base_percent", 0, 100)),
            *(("deviation", 0, 50), ("base_deviation", 0, 50)),
            *(("speedup", 1, 1000), ("physical_speedup", 1, 1000)),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise ValueError(f"{name} = {value:g} is not within {least} to {most}")


@dataclass(frozen=True)
class PublishedTarget:
    """One published number that a group of runs is compared with.

    Attributes:
        quantity: what is compared with it: the test accuracy of a record's dense, pruned or final network, or
            ``curve.val_top1``, the validation accuracy where the share of kept units is nearest to ``left``.
        paper: the published accuracy, per cent.
        tolerance: how many points the mean over seeds may differ.
        kind: how the number is known, such as ``PAPER-fig`` (read off a figure).
        where: figure or table.
        left: share of kept units that the number belongs to, in (0, 1].
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
    targets: tuple[PublishedTarget, ...] = ()


@dataclass(frozen=True)
class Publication:
    """One file.

    Attributes:
        source: the publication.
        description: of the groups, one line for lists.
        reading: how the published values of the groups were read, and how exactly.
        notes: where repeating the groups differs from what was published.
        seeds: of the groups, as on the command line, such as ``0-2``.
        groups: name -> runs and targets.
    """

    name: str
    source: str
    accuracies: tuple[PublishedAccuracy, ...] = ()
    description: str = ""
    reading: str = ""
    notes: str = ""
    seeds: str = ""
    groups: dict[str, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError("source is empty")
        for name in ("description", "reading", "notes", "seeds") if self.groups else ():
            if not getattr(self, name):
                raise ValueError(f"{name} missing: it has groups of runs")
        for one in self.accuracies:
            if self.accuracies.count(one) > 1:
                raise ValueError(f"{one.method} on {one.arch}, {one.pruned_percent:g} % is there twice")


def names() -> list[str]:
    """The files that come with the suite."""
    return sorted(file.stem for file in FILES.glob("*.toml"))


def repeatable() -> list[Publication]:
    """Those of them whose runs can be repeated."""
    return [publication for publication in map(load, names()) if publication.groups]


def accuracies() -> list[PublishedAccuracy]:
    """All accuracies that come with the suite, by method."""
    return sorted((one for name in names() for one in load(name).accuracies), key=lambda one: one.method.lower())


def load(name: str) -> Publication:
    """The publication called ``name``, or the TOML file at that path.

    Raises UsageError for an unknown name, a missing or unknown key, or a value that cannot be.
    """
    file = Path(name) if name.endswith(".toml") else FILES / f"{name}.toml"
    if not file.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"publication {name}: no such file")
        raise unknown("publication", name, [publication.name for publication in repeatable()])
    where = f"publication {file.stem}"
    values = read_toml(file, where)
    rows = [decode(PublishedAccuracy, row, place) for row, place in _tables(values, "accuracies", where)]
    groups = {}
    for key, group in _table(values.get("groups", {}), f"{where}: groups").items():
        place = f"{where}.{key}"
        targets = tuple(decode(PublishedTarget, row, at) for row, at in _tables(_table(group, place), "targets", place))
        groups[key] = Group(_request({k: v for k, v in group.items() if k != "targets"}, place), targets)
    return _with_sources(
        decode(Publication, {"name": file.stem, **values, "accuracies": rows, "groups": groups}, where)
    )


def _request(values: Mapping[str, Any], where: str) -> RunRequest:
    """What a group asks for; its budget is given, as the default one is not a publication's."""
    found = RunRequest.from_table(values, where)
    if len(found) > 1:
        raise UsageError(f"{where}: a group is one request, without lists")
    if not any(values.get(key) for key in BUDGETS):
        raise UsageError(f"{where}: give one of native = true, keep_macs and keep_params")
    return found[0]


def _with_sources(found: Publication) -> Publication:
    rows = (
        dataclasses.replace(row, source=", ".join(filter(None, (found.source, row.where)))) for row in found.accuracies
    )
    return dataclasses.replace(found, accuracies=tuple(rows))


def _tables(values: Mapping[str, Any], key: str, where: str) -> list[tuple[Mapping[str, Any], str]]:
    """The tables of a list, each with its place; an empty list where there is none."""
    rows = values.get(key, [])
    if not isinstance(rows, list):
        raise UsageError(f"{where}: {key} is not a list of tables")
    return [(_table(row, f"{where}: {key}[{k}]"), f"{where}: {key}[{k}]") for k, row in enumerate(rows)]


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is not a table of values")
    return value
