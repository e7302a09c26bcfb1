"""Sweeps: a TOML file of many requests. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError
from bench.spec.decode import read_toml
from bench.spec.near_names import unknown
from bench.spec.request import BUDGETS, TABLES, RunRequest, check_table

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sweep:
    """One sweep file.

    Attributes:
        name: the file's, without its ending.
        description: one line.
        requests: what it asks for, in the file's order.
    """

    name: str
    description: str
    requests: tuple[RunRequest, ...]


def load_sweep(path: Path) -> Sweep:
    """Read a sweep file; raises UsageError for unknown keys, missing ones, and values that cannot be."""
    where = f"sweep {path}"
    values = read_toml(path, where)
    for key in values:
        if key not in ("description", "defaults", "runs"):
            raise unknown(f"key in {where}", key, ("description", "defaults", "runs"))
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
    return Sweep(path.stem, str(values.get("description", "")), tuple(requests))


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
