"""Requests for runs, and how they are carried out: from a command, a table or a specification.

Texts of options and settings stay texts here; :mod:`bench.runs.resolve` parses them by the types of what they set.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import UNSET

from bench.errors import UsageError, WordsError
from bench.spec import method_traits
from bench.spec.changed_recipe import name_and_changes
from bench.spec.decode import parse
from bench.spec.near_names import unknown
from bench.spec.option_text import as_seeds, as_text, flag_of, option, pairs, seeds_text
from bench.spec.registry import METHODS
from bench.spec.spec import DEPTH, UNITS, WIDTH, Spec

TABLES = {"settings": "--set", "options": "-p"}
"""Fields that are tables, recipe values and method options, with the option that sets one value."""
SHORT = {"epochs": "train.epochs", "finetune_epochs": "finetune.epochs"}
"""Options and keys that are short for one setting."""
BUDGETS = ("keep_macs", "keep_params", "keep_latency", "latency_ms", "like", "native")
"""Fields that give the budget; they exclude each other."""
WHERE = ("runtime", "batch", "runtime_threads", "latency_table")
"""Fields that say where a budget of milliseconds is to hold, and by which table."""
NUMBERS = {"keep_macs": float, "keep_params": float, "min_keep": int, "round_to": int}
NUMBERS |= {"keep_blocks": float, "min_blocks": int, "keep_latency": float, "latency_ms": float}
NUMBERS |= {"batch": int, "runtime_threads": int}
ALWAYS = ("method", "arch", "dataset", "seeds")
"""Fields that a command always names."""
LIKE = "A_RECORD_WITH_THESE_WIDTHS"
"""Placeholder for the record that ``--like`` named: a specification keeps its widths, not where it was."""


@dataclass(frozen=True)
class RunRequest:
    """One method on one network at one budget, for some seeds, as a user asks for it.

    Attributes:
        method: name, or names joined by ``+``.
        arch: name of a network, ``torchvision:NAME``, ``timm:NAME`` or ``file:PATH:FUNCTION``.
        dataset: name, or ``folder:PATH[@SIZE]``.
        recipe: name or file; None: the data set's.
        settings: recipe values by dotted name, such as ``train.epochs``.
        keep_macs: share of the MACs to keep.
        keep_params: share of the parameters to keep, in place of ``keep_macs``.
        keep_latency: share of the dense network's milliseconds to keep, in place of ``keep_macs``.
        latency_ms: milliseconds of an inference, in place of ``keep_macs``.
        runtime: program in which these are to hold.
        batch: images of a call there.
        runtime_threads: its CPU threads.
        latency_table: file with a table of them, or the hash of one in the folder of records; None: one that is there
            for this network and device, or a new one.
        like: record whose number of units in each site is the budget, in place of a share.
        native: the method chooses its own sparsity, in place of a share.
        ranking: ``global`` or ``layer``; None: the method's own.
        min_keep: units that stay in every site.
        round_to: every width is a multiple of so many channels, or full.
        coupling: ``inner``, or ``full``, which also prunes residual streams.
        units: what is pruned: ``width``, channels; ``depth``, blocks; ``both``.
        keep_blocks: share of the blocks to keep, where both are pruned; None: the square root of the budget decides.
        min_blocks: blocks that stay in every site of blocks; None: one, or what the architecture declares.
        options: method options by name.
        seeds: whole numbers, each once, or a text such as ``0-4``.

    Without any budget (``BUDGETS``) it is the default one. Raises WordsError
    for fields that exclude each other, and for wrong seeds.
    """

    method: str
    arch: str
    dataset: str = "digits"
    recipe: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    keep_macs: float | None = None
    keep_params: float | None = None
    keep_latency: float | None = None
    latency_ms: float | None = None
    runtime: str = "onnxruntime"
    batch: int = 1
    runtime_threads: int = 1
    latency_table: str | None = None
    like: str | None = None
    native: bool = False
    ranking: str | None = None
    min_keep: int = 1
    round_to: int = 1
    coupling: str = "inner"
    units: str = WIDTH
    keep_blocks: float | None = None
    min_blocks: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    seeds: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        for name in TABLES:
            texts = {str(key).strip(): as_text(value).strip() for key, value in getattr(self, name).items()}
            object.__setattr__(self, name, texts)
        object.__setattr__(self, "seeds", as_seeds(self.seeds))
        given = [flag_of(name) for name in BUDGETS if self.asks(name)]
        if len(given) > 1:
            raise WordsError(f"{' and '.join(given)}: give one of them")
        where = [flag_of(name) for name in WHERE if getattr(self, name) != getattr(type(self), name)]
        if where and not self.asks("keep_latency") and not self.asks("latency_ms"):
            raise WordsError(f"{' and '.join(where)}: with --keep-latency or --latency-ms only")
        blocks = [flag_of(name) for name in ("keep_blocks", "min_blocks") if getattr(self, name) is not None]
        steps = ["--round-to"] if self.round_to != 1 else []
        if self.native and (self.ranking is not None or self.min_keep != 1 or blocks or steps):
            options = " and ".join(["--ranking", "--min-keep", *blocks, *steps])
            raise WordsError(f"--native: the method chooses by itself, without {options}")
        if self.coupling not in ("inner", "full"):
            raise WordsError(f"--coupling {self.coupling}: inner or full")
        if self.units not in UNITS:
            raise WordsError(f"--units {self.units}: {' or '.join(UNITS)}")
        if self.like and blocks:
            raise WordsError(f"--like: the record says which blocks stay, without {' and '.join(blocks)}")
        if self.like and steps:
            raise WordsError("--like: the record says how many units stay, without --round-to")
        if self.units == DEPTH and steps:
            raise WordsError("--round-to: with --units depth no widths are pruned")
        if self.units == WIDTH and blocks:
            raise WordsError(f"{' and '.join(blocks)}: blocks are pruned with --units depth or both")
        if self.keep_blocks is not None and self.units != "both":
            raise WordsError("--keep-blocks: with --units both; with depth the budget says how many stay")

    def asks(self, budget: str) -> bool:
        """Whether it gives this one of ``BUDGETS``."""
        return getattr(self, budget) is not None and getattr(self, budget) is not False  # 0 asks for something

    @classmethod
    def from_args(cls, chosen: argparse.Namespace) -> RunRequest:
        """The request of the parsed words of ``bench run``; raises WordsError."""
        values = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(cls)}
        tables = {name: pairs(values[name], flag) for name, flag in TABLES.items()}
        for short, key in SHORT.items():
            if getattr(chosen, short) is not None:
                tables["settings"][key] = str(getattr(chosen, short))
        return cls(**values | tables)

    @classmethod
    def from_table(cls, values: Mapping[str, Any], where: str) -> list[RunRequest]:
        """The requests of a table of a TOML file: one for every combination of the values of its lists, in fixed order.

        Args:
            values: field -> value or list of values; tables hold values or lists too. ``seeds`` stay together.
            where: what an error begins with.

        Raises UsageError for unknown or missing keys, and for invalid values.
        """
        check_table(values, where)
        missing = [key for key in ("method", "arch") if key not in values]
        if missing:
            raise UsageError(f"{where}: {' and '.join(missing)} missing")
        alone = {key: values[key] for key in ("native", "seeds") if key in values}
        axes: list[list[tuple[Any, Any]]]
        names = [f.name for f in dataclasses.fields(cls) if f.name not in (*alone, *TABLES)]
        axes = [[(key, one) for one in _list(values[key])] for key in (*names, *SHORT) if key in values]
        for table in ("options", "settings"):
            axes += [[((table, key), one) for one in _list(v)] for key, v in values.get(table, {}).items()]
        try:
            return [cls(**alone, **_fields(dict(choice))) for choice in itertools.product(*axes)]
        except UsageError as error:
            raise type(error)(f"{where}: {error}") from error

    @classmethod
    def from_spec(cls, spec: Spec, like: str = LIKE) -> RunRequest:
        """The request that resolves to exactly ``spec``, under today's rules.

        Args:
            spec: a specification.
            like: record whose widths are those of the budget, for a budget of widths.

        Raises UsageError where no command makes it: an invalid budget, a file of this machine as a name.
        """
        for text, prefix in ((spec.arch, "file:"), (spec.dataset, "folder:")):
            if text.startswith(prefix) and not re.search(r"#[0-9a-f]{8}$", text):  # or a record could name any file
                raise UsageError(f"{text!r}: a record names such things with the hash of their content")
        recipe, settings = name_and_changes(spec.recipe)
        asked: dict[str, Any] = {"native": spec.budget is None and _prunes(spec.method)}
        if spec.budget is not None:
            asked |= {f.name: getattr(spec.budget, f.name) for f in dataclasses.fields(spec.budget)}
            asked |= {name: None for name in ("keep_blocks", "min_blocks") if asked[name] is UNSET}
            asked["round_to"] = spec.budget.step
            del asked["blocks"]
            asked |= {"runtime_threads": asked.pop("threads"), "latency_table": asked.pop("table")}
            for name in ("keep_latency", "latency_ms", *WHERE):
                if asked[name] is UNSET:
                    del asked[name]
            if asked.pop("widths") is not None:
                asked["like"] = like
            elif not spec.budget.given().keys() & set(BUDGETS):
                raise UsageError("a budget without a share and without widths: no command asks for it")
        return cls(
            spec.method,
            spec.arch,
            spec.dataset,
            recipe,
            settings,
            coupling=spec.coupling,
            units=spec.unit_kinds,
            options=spec.config,
            seeds=(spec.seed,),
            **asked,
        )

    def to_words(self) -> list[str]:
        """The words after ``python -m bench`` that ask for it: what differs from the defaults, and the main names."""
        words = ["run"]
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name in TABLES:
                words += [word for key, text in value.items() for word in option(TABLES[f.name], f"{key}={text}")]
            elif f.name == "seeds":
                words += option("--seeds", seeds_text(value))
            elif value is True:
                words.append(flag_of(f.name))
            elif f.name in ALWAYS or value != f.default:
                words += option(flag_of(f.name), as_text(value))
        return words


@dataclass(frozen=True)
class RunOptions:
    """Where, how and what for a run is carried out; none of it changes the result.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads; None: torch's choice.
        plugins: files that define methods, architectures or data sets.
        out: folder of records, bases and artifacts.
        data_dir: folder of data sets.
        download: fetch data set and weights where they are missing.
        retry: run again where a record is there.
        quiet: no progress.
        plan_sha256: hash of the file with the plan that asks for the run; no command has it as an option.
        replay_of: hash of the record that the run is to confirm; nor is this.
    """

    device: str = "auto"
    threads: int | None = None
    plugins: tuple[str, ...] = ()
    out: Path = Path("results")
    data_dir: Path = Path("data")
    download: bool = False
    retry: bool = False
    quiet: bool = False
    plan_sha256: str | None = None
    replay_of: str | None = None

    def __post_init__(self) -> None:
        for name, kind in (("out", Path), ("data_dir", Path), ("plugins", tuple)):
            object.__setattr__(self, name, kind(getattr(self, name)))

    @classmethod
    def from_args(cls, chosen: argparse.Namespace) -> RunOptions:
        """The options of any command that carries out runs."""
        names = [f.name for f in dataclasses.fields(cls) if f.name != "plugins" and hasattr(chosen, f.name)]
        return cls(plugins=chosen.plugin, **{name: getattr(chosen, name) for name in names})

    def to_words(self) -> list[str]:
        """The words that say so, behind those of the request: what differs from the defaults."""
        words = []
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value == f.default or f.name in ("plan_sha256", "replay_of"):
                continue
            if f.name == "plugins":
                words += [word for file in value for word in option("--plugin", file)]
            else:
                words += [flag_of(f.name)] if value is True else option(flag_of(f.name), as_text(value))
        return words


def check_table(values: Mapping[str, Any], where: str) -> None:
    """Raise UsageError for keys of a table that no request has, and for invalid values; keys may be missing."""
    names = [f.name for f in dataclasses.fields(RunRequest)]
    for key, value in values.items():
        if key in TABLES:
            if not isinstance(value, Mapping):
                raise UsageError(f"{where}: {key} is not a table of values")
            for inner, single in value.items():
                _check_value(f"{key}.{inner}", single, where)
        elif key not in (*names, *SHORT):
            raise unknown(f"key in {where}", key, (*names, *SHORT))
        elif key not in ("seeds", "native"):
            _check_value(key, value, where)
    if not isinstance(values.get("native", False), bool):
        raise UsageError(f"{where}: native is true or false")
    try:
        as_seeds(values.get("seeds", 0))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _check_value(key: str, value: Any, where: str) -> None:
    singles = _list(value)
    if not singles or not all(isinstance(single, str | int | float) for single in singles):
        raise UsageError(f"{where}: {key} = {value!r} is not a value or a list of values")
    if any(isinstance(single, float) and not math.isfinite(single) for single in singles):
        raise UsageError(f"{where}: {key} = {value!r} is not finite")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _fields(choice: Mapping[Any, Any]) -> dict[str, Any]:
    """Single values by key, or by table and key, as the fields of a request."""
    found: dict[str, Any] = {name: {} for name in TABLES}
    for key, value in choice.items():
        if isinstance(key, tuple):
            found[key[0]][key[1]] = value
        elif key not in SHORT:
            found[key] = parse(as_text(value), NUMBERS[key], key) if key in NUMBERS else as_text(value)
    found["settings"] |= {SHORT[key]: value for key, value in choice.items() if key in SHORT}
    return found


def _prunes(method: str) -> bool:
    """Whether a method chooses units, as far as its source says."""
    known = METHODS.entries()
    found = [method_traits.of(name) if name in known else None for name in method.split("+")]
    return any(traits is None or traits.prunes for traits in found)
