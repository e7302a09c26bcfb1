"""Sweeps: a TOML file that stands for many ``bench run`` commands. Needs no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.errors import UsageError
from bench.spec.decode import read_toml
from bench.spec.registry import unknown

FLAGS = {
    "method": "--method",
    "arch": "--arch",
    "dataset": "--dataset",
    "recipe": "--recipe",
    "keep_macs": "--keep-macs",
    "keep_params": "--keep-params",
    "like": "--like",
    "ranking": "--ranking",
    "min_keep": "--min-keep",
    "coupling": "--coupling",
    "epochs": "--epochs",
    "finetune_epochs": "--finetune-epochs",
}
"""Keys of a block and the options of ``bench run`` that they are; a list stands for each of its values."""
TABLES = {"options": "-p", "settings": "--set"}
"""Keys that are tables: the method's options and the recipe's values."""
OTHERS = ("seeds", "native")
BUDGETS = ("keep_macs", "keep_params", "like", "native")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sweep:
    """One sweep file.

    Attributes:
        name: the file's, without its ending.
        description: one line.
        commands: words after ``python -m bench``, and the seeds, of each command.
    """

    name: str
    description: str
    commands: tuple[tuple[tuple[str, ...], str], ...]


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
    _check(defaults, f"{where}, defaults")
    commands: list[tuple[tuple[str, ...], str]] = []
    for number, block in enumerate(blocks, 1):
        _check(block, f"{where}, runs {number}")
        commands += _commands(_merged(defaults, block), f"{where}, runs {number}")
    return Sweep(path.stem, str(values.get("description", "")), tuple(commands))


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


def _check(values: Mapping[str, Any], where: str) -> None:
    for key, value in values.items():
        if key in TABLES:
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: {key} is not a table of values")
            for inner, single in value.items():
                _check_value(f"{key}.{inner}", single, where)
        elif key in FLAGS:
            _check_value(key, value, where)
        elif key not in OTHERS:
            raise unknown(f"key in {where}", key, (*FLAGS, *TABLES, *OTHERS))
    seeds = _list(values.get("seeds", 0))
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int | str) for seed in seeds):
        raise UsageError(f"{where}: seeds = {values['seeds']!r}: whole numbers, or text such as '0-4'")
    if not isinstance(values.get("native", False), bool):
        raise UsageError(f"{where}: native is true or false")


def _check_value(key: str, value: Any, where: str) -> None:
    singles = value if isinstance(value, list) else [value]
    if not singles or not all(isinstance(single, str | int | float) for single in singles):
        raise UsageError(f"{where}: {key} = {value!r} is not a value or a list of values")
    if any(isinstance(single, float) and not math.isfinite(single) for single in singles):
        raise UsageError(f"{where}: {key} = {value!r} is not finite")


def _commands(values: Mapping[str, Any], where: str) -> list[tuple[tuple[str, ...], str]]:
    """Every combination of the values of lists, as words of a command."""
    missing = [key for key in ("method", "arch") if key not in values]
    if missing:
        raise UsageError(f"{where}: {' and '.join(missing)} missing")
    axes: list[list[tuple[str, ...]]]
    axes = [[(f"{FLAGS[key]}={_text(v)}",) for v in _list(values[key])] for key in FLAGS if key in values]
    for key, flag in TABLES.items():
        axes += [[(flag, f"{inner}={_text(v)}") for v in _list(vs)] for inner, vs in values.get(key, {}).items()]
    fixed = ("--native",) if values.get("native") else ()
    seeds = _list(values.get("seeds", 0))
    text = ",".join(map(_text, seeds))
    return [(("run", *itertools.chain(*choice), *fixed), text) for choice in itertools.product(*axes)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
