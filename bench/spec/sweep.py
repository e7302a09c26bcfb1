"""Sweeps: a TOML file of many requests. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError
from bench.spec.decode import decode, read_toml
from bench.spec.near_names import unknown
from bench.spec.request import BUDGETS, TABLES, RunRequest, check_table

Item = TypeVar("Item")
KEYS = ("description", "plan", "defaults", "runs")
ENDPOINTS = ("top1", "loss", "pruned_top1")
"""What a plan may compare: top-1 and test loss of the final network, top-1 before fine-tuning."""


@dataclass(frozen=True)
class Plan:
    """What a file with runs says before the first of them: which comparisons count (RULES.md, 8).

    Attributes:
        references: methods that every row is compared with.
        margins: differences of top-1, in points, below which two rows count as equal; the smallest first.
        endpoints: what is compared, of ``ENDPOINTS``.
    """

    references: tuple[str, ...] = ("dense", "random", "uniform_thin")
    margins: tuple[float, ...] = (0.5, 1.0)
    endpoints: tuple[str, ...] = ENDPOINTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "margins", tuple(map(float, self.margins)))
        for name in ("references", "margins", "endpoints"):
            value = getattr(self, name)
            if not value or len(set(value)) < len(value):
                raise UsageError(f"plan: {name} = {list(value)}: give at least one, each once")
        for endpoint in self.endpoints:
            if endpoint not in ENDPOINTS:
                raise unknown("endpoint in the plan", endpoint, ENDPOINTS)
        for margin in self.margins:
            if not 0 < margin <= 100:  # so is nan
                raise UsageError(f"plan: a margin of {margin:g} points: above 0 and at most 100")
        object.__setattr__(self, "margins", tuple(sorted(self.margins)))


@dataclass(frozen=True)
class Sweep:
    """One sweep file.

    Attributes:
        name: the file's, without its ending.
        description: one line.
        requests: what it asks for, in the file's order.
        plan: None where the file has none, so that its runs are exploratory.
        sha256: hash of the file.
    """

    name: str
    description: str
    requests: tuple[RunRequest, ...]
    plan: Plan | None = None
    sha256: str = ""

    @property
    def plan_sha256(self) -> str | None:
        """What the records of its runs say of the plan."""
        return None if self.plan is None else self.sha256


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file; raises UsageError for unknown keys, missing ones, and values that cannot be."""
    where = f"sweep {path}"
    values = read_toml(path, where)
    for key in values:
        if key not in KEYS:
            raise unknown(f"key in {where}", key, KEYS)
    defaults, blocks = values.get("defaults", {}), values.get("runs", [])
    if not isinstance(defaults, Mapping):
        raise UsageError(f"{where}: defaults is not a table of values")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, Mapping) for block in blocks):
        raise UsageError(f"{where}: it needs at least one [[runs]]")
    check_table(defaults, f"{where}, defaults")
    requests: list[RunRequest] = []
    for number, block in enumerate(blocks, 1):
        check_table(block, f"{where}, runs {number}")
        requests += RunRequest.from_table(_merged(defaults, block), f"{where}, runs {number}")
    plan = _plan(values["plan"], requests, where) if "plan" in values else None
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Sweep(path.stem, str(values.get("description", "")), tuple(requests), plan, sha256)


def _plan(values: Any, requests: Sequence[RunRequest], where: str) -> Plan:
    """The plan of a file with these requests; raises UsageError."""
    if not isinstance(values, Mapping):
        raise UsageError(f"{where}: plan is not a table of values")
    try:
        plan: Plan = decode(Plan, values, "plan")
    except UsageError as error:
        raise type(error)(f"{where}: {error}") from error
    methods = {request.method for request in requests}
    for name in plan.references:
        if name not in methods:
            raise UsageError(f"{where}: plan: no run of the file has the reference '{name}'")
    return plan


def shard(items: Sequence[Item], text: str) -> list[Item]:
    """Part ``i`` of ``n`` of ``items``, given as ``i/n``; parts are contiguous and differ by one in length at most.

    Raises UsageError.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard {text}: give I/N, such as 1/3, 2/3 and 3/3")
    i, n = int(index), int(count)
    return list(items[(i - 1) * len(items) // n : i * len(items) // n])


def _merged(defaults: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The block with the defaults that it does not change; tables are merged, a budget replaces the default one."""
    own_budget = any(block.get(key) not in (None, False) for key in BUDGETS)
    kept = {key: value for key, value in defaults.items() if not (own_budget and key in BUDGETS)}
    tables = {key: {**kept.get(key, {}), **block.get(key, {})} for key in TABLES if key in kept or key in block}
    return {**kept, **block, **tables}
