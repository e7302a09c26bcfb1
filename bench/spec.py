"""What is asked for: recipes and run specifications, their hashes, and how text becomes values."""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bench import RULES
from bench.errors import UsageError
from bench.registry import METHODS, unknown

RECIPES = Path(__file__).parent / "recipes"
BUDGET_TOLERANCE = 0.005
"""Share of the dense cost that a ranked row may lie below its budget (RULES.md, 5.2)."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training: epochs, peak learning rate, and how it moves.

    ``schedule``: ``constant``; ``cosine`` or ``linear`` to zero; ``step`` divides by 10 at ``drops``;
    ``onecycle`` rises from lr/25 over the first 30 % and falls to lr/250,000, both as cosines (the defaults of
    torch's OneCycleLR; momentum stays constant).
    ``drops``: shares of the steps after the warm-up, used by ``step`` only.
    ``warmup``: share of the steps over which the rate first rises linearly.
    ``patience``: end a phase when the validation loss has not fallen for so many epochs; the weights of the last
    epoch stay. 0: train all epochs.
    """

    epochs: int
    lr: float
    schedule: Literal["constant", "cosine", "linear", "step", "onecycle"] = "cosine"
    warmup: float = 0.0
    patience: int = 0
    drops: tuple[float, ...] = (0.5, 0.75)


@dataclass(frozen=True)
class Recipe:
    """Everything that training needs and a method does not choose: SGD, batch, augmentation, precision."""

    name: str
    train: Stage
    finetune: Stage
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    augment: Literal["none", "shift", "crop_flip", "resized_crop"] = "none"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    recalibrate: int = 20  # training batches that re-estimate batch norm after slicing, for every method alike
    latency_batch: int = 256  # the larger of the two batch sizes latency is measured at

    def __post_init__(self) -> None:
        for stage in (self.train, self.finetune):
            _within("epochs", stage.epochs, 0)
            _within("lr", stage.lr, 0)
            _within("warmup", stage.warmup, 0, 1)
            _within("patience", stage.patience, 0)
            for share in stage.drops:
                _within("drops", share, 0, 1)
        for name in ("batch_size", "latency_batch"):
            _within(name, getattr(self, name), 1)
        for name in ("weight_decay", "recalibrate"):
            _within(name, getattr(self, name), 0)
        for name in ("momentum", "label_smoothing"):
            _within(name, getattr(self, name), 0, 1)
        if self.nesterov and not self.momentum:
            raise UsageError("recipe: nesterov needs momentum above 0; add --set nesterov=false")

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the values that differ from this class's defaults (so that a new field renames nothing)."""
        return digest(non_default(self, skip=("name", "latency_batch")))


@dataclass(frozen=True)
class Budget:
    """What a method may keep.

    Attributes:
        keep_macs: share of the dense network's MACs, in (0, 1], or None.
        keep_params: share of the dense network's parameters, in (0, 1], or None.
        ranking: ``global`` compares units over all sites, ``layer`` keeps the same share in every site; None
            leaves it to the method.
        min_keep: units that stay in every site, whatever their scores.
        widths: units to keep in each site, in the sites' order, instead of a share: another record's profile.
    """

    keep_macs: float | None = None
    keep_params: float | None = None
    ranking: str | None = None
    min_keep: int = 1
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("keep_macs", "keep_params"):
            share = getattr(self, name)
            if share is None:
                continue
            if not 0 < share <= 1:
                option = "--" + name.replace("_", "-")
                raise UsageError(f"{option} {share:g}: give the share to keep, above 0 and at most 1")
            object.__setattr__(self, name, float(share))  # 1 and 1.0 are one specification
        if self.keep_macs is not None and self.keep_params is not None:
            raise UsageError("--keep-macs and --keep-params: give one of them")
        if self.widths is not None:
            if self.keep_macs is not None or self.keep_params is not None:
                raise UsageError("a budget of widths has no share: give --like without --keep-macs or --keep-params")
            object.__setattr__(self, "widths", tuple(self.widths))  # JSON has lists only
        if self.ranking not in (None, "global", "layer"):
            raise UsageError(f"--ranking {self.ranking}: global or layer")
        if self.min_keep < 1:
            raise UsageError(f"--min-keep {self.min_keep}: at least 1, a site without units is no network")

    @property
    def keep(self) -> float:
        """The share asked for, 1 when nothing is."""
        return next((k for k in (self.keep_macs, self.keep_params) if k is not None), 1.0)

    def __str__(self) -> str:
        if self.widths is not None:
            return f"widths {'-'.join(map(str, self.widths))}"
        what = "params" if self.keep_params is not None else "MACs"
        return f"{self.keep:g} of the {what}"


@dataclass(frozen=True)
class Spec:
    """One run: method and its configuration, architecture, data set, recipe, budget, coupling, seed."""

    method: str
    arch: str
    dataset: str
    recipe: Recipe
    budget: Budget | None
    seed: int = 0
    coupling: str = "inner"
    config: Mapping[str, Any] = field(default_factory=dict)  # only what differs from the method's defaults
    rules: str = RULES

    def __post_init__(self) -> None:
        config = {key: tuple(v) if isinstance(v, list) else v for key, v in self.config.items()}
        object.__setattr__(self, "config", config)  # JSON has lists only

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the non-default part, without the seed."""
        return digest(
            {
                "method": self.method,
                "config": dict(self.config),
                "arch": self.arch,
                "dataset": self.dataset,
                "recipe_sha256": self.recipe.sha256,
                "budget": non_default(self.budget) if self.budget else None,
                "coupling": self.coupling,
                "rules": self.rules,
            }
        )

    @property
    def id(self) -> str:
        """Name of the run: 12 hexadecimal digits of its hash, and the seed."""
        return f"{self.sha256[:12]}-s{self.seed}"

    def base_id(self, **known: str | int | None) -> str:
        """Name of the dense network this run starts from or is compared with.

        ``known`` is what else decides its numbers and is known once a run begins (see :class:`bench.pipeline.Run`):
        the same architecture's name may come to mean another network, and another device rounds otherwise. Without
        it, runs with equal names share a base on equal machines.
        """
        recipe = non_default(self.recipe, skip=("name", "finetune", "recalibrate", "latency_batch"))
        key = {"recipe": recipe, "rules": self.rules, "known": known}
        return f"{component(self.arch)}-{component(self.dataset)}-{digest(key)[:12]}-s{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Everything, for the record: as JSON holds it, so lists in place of tuples."""
        values = dataclasses.asdict(self) | {"config": dict(self.config), "recipe_sha256": self.recipe.sha256}
        return dict(json.loads(canonical(values)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Spec:
        """The inverse of :meth:`as_dict`; raises UsageError for keys or values that cannot be."""
        values = {k: v for k, v in values.items() if k != "recipe_sha256"}
        return decode(cls, values, "specification")


def recipe_names() -> list[str]:
    """Recipes that come with the suite."""
    return sorted(file.stem for file in RECIPES.glob("*.toml"))


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """The recipe called ``name`` (or the TOML file at that path), with ``overrides`` such as ``train.epochs``.

    Raises UsageError for an unknown name, key or value.
    """
    file = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not file.is_file():
        if name.endswith(".toml"):
            raise UsageError(f"recipe {name}: no such file")
        raise unknown("recipe", name, recipe_names())
    values = read_toml(file, f"recipe {file}")
    values.pop("description", None)
    return decode_with(Recipe, {"name": file.stem, **values}, overrides or {}, f"recipe {file.stem}")


def read_toml(file: Path, where: str) -> dict[str, Any]:
    """The values of a TOML file; raises UsageError in one line that begins with ``where``."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: {error}") from error


def decode(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Build a (nested) dataclass from plain values; unknown and missing keys and wrong types are UsageErrors."""
    hints, fields = _hints(cls), _fields(cls)
    made = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown(f"key in {where}", key, fields)
        nested = _nested(hints[key])
        if nested and isinstance(value, Mapping):
            value = decode(nested, value, f"{where}.{key}")
        elif not _fits(value, hints[key]):
            raise UsageError(f"{where}: {key} = {value!r} is not {_type_name(hints[key])}")
        made[key] = float(value) if hints[key] is float else tuple(value) if isinstance(value, list) else value
    missing = [
        n
        for n, f in fields.items()
        if n not in made and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UsageError(f"{where}: {', '.join(missing)} missing")
    try:
        return cls(**made)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error


def decode_with(cls: type, values: Mapping[str, Any], texts: Mapping[str, str], where: str) -> Any:
    """Like :func:`decode`, with (dotted) keys set from ``texts`` first; 0 and false count as given."""
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    known = _dotted(cls)
    for key, text in texts.items():
        if key not in known:
            raise unknown(f"key in {where}", key, known)
        *parents, last = key.split(".")
        target, kind = changed, cls
        for parent in parents:
            target, kind = target.setdefault(parent, {}), _hints(kind)[parent]
        target[last] = parse(text, _hints(kind)[last], key)
    return decode(cls, changed, where)


def parse(text: str, kind: Any, name: str) -> Any:
    """``text`` as the type ``kind`` (int, finite float, bool, str, tuple of them, or None where allowed)."""
    for option in _options(kind):
        if get_origin(option) is Literal:
            if text in get_args(option):
                return text
            continue
        if option is type(None) and text.lower() in ("none", "null"):
            return None
        try:
            if option is bool and text.lower() in ("true", "false", "1", "0", "yes", "no"):
                return text.lower() in ("true", "1", "yes")
            if option is int or (option is float and math.isfinite(float(text))):
                return option(text)
            if option is str:
                return text
            if get_origin(option) is tuple:
                return tuple(parse(part, get_args(option)[0], name) for part in text.strip("()").split(",") if part)
        except ValueError:
            continue
    raise UsageError(f"{name}={text}: not {_type_name(kind)}")


def method_config(cls: type, values: Mapping[str, str], name: str) -> Any:
    """A method's configuration with the options given as text on the command line."""
    fields = dataclasses.fields(cls)
    for key in values:
        if key not in {f.name for f in fields}:
            options = ", ".join(f"{f.name}={f.default}" for f in fields)
            raise UsageError(f"method '{name}' has no option '{key}': it has {options or 'none'}")
    return decode_with(cls, {}, values, f"method {name}")


def non_default(instance: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults, nested ones likewise."""
    found = {}
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        if f.name in skip or (f.default is not dataclasses.MISSING and value == f.default):
            continue
        found[f.name] = non_default(value) if dataclasses.is_dataclass(value) else value
    return found


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def component(name: str) -> str:
    """``name`` as one part of a path: letters, digits and ``._+@-`` stay, at most 80 characters; others become ``-``.

    Two names may come out alike; what must be told apart has a hash beside it.
    """
    return re.sub(r"[^A-Za-z0-9._+@-]+|^\.+", "-", name)[:80]


def derive(seed: int, *purpose: object) -> int:
    """A seed for one purpose, so that random streams do not depend on each other."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def method_names(text: str) -> list[str]:
    """Parts of ``a+b``; raises UsageError for an unknown one."""
    names = [n.strip() for n in text.split("+")]
    known = METHODS.entries()
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    return names


@functools.cache  # this and the next three: what decoding 100,000 records would look up over and over
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@functools.cache
def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}


@functools.cache
def _options(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a type: members of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _fits(value: Any, kind: Any) -> bool:
    for option in _options(kind):
        if get_origin(option) is Literal:
            if value in get_args(option):
                return True
            continue
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        if option is int and isinstance(value, bool):
            continue
        if isinstance(value, list | tuple) and get_origin(option) is tuple:  # JSON and TOML have lists only
            if all(_fits(v, get_args(option)[0]) for v in value):
                return True
            continue
        if isinstance(value, get_origin(option) or option):
            return True
    return False


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}

    def name(option: Any) -> str:
        if get_origin(option) is Literal:
            return "one of " + ", ".join(get_args(option))
        if dataclasses.is_dataclass(option) or get_origin(option) is dict:
            return "a table of values"
        return names.get(option, str(option))

    return " or ".join(map(name, _options(kind)))


def _dotted(cls: type) -> list[str]:
    """All keys of a dataclass, those of nested ones with their parents."""
    hints, found = _hints(cls), []
    for f in dataclasses.fields(cls):
        nested = _nested(hints[f.name])
        found += [f"{f.name}.{n}" for n in _dotted(nested)] if nested else [f.name]
    return found


@functools.cache
def _nested(kind: Any) -> type | None:
    """The dataclass among the alternatives of a type, if there is one."""
    return next((o for o in _options(kind) if isinstance(o, type) and dataclasses.is_dataclass(o)), None)


def _within(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not (least <= value <= most and math.isfinite(value)):
        upper = f" and at most {most:g}" if most < math.inf else " and finite"
        raise UsageError(f"recipe: {name} = {value}: at least {least:g}{upper}")
