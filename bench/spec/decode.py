"""Values from outside (TOML, JSON, the words of a command) as typed values, with one-line errors."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import UnsetType

from bench.errors import UsageError
from bench.spec.near_names import unknown


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


def decode_with(cls: type, values: Mapping[str, Any], given: Mapping[str, Any], where: str) -> Any:
    """Like :func:`decode`, with the (dotted) keys of ``given`` set first: values, or texts, which are parsed."""
    changed: dict[str, Any] = copy.deepcopy(dict(values))
    known = _dotted(cls)
    for key, value in given.items():
        if key not in known:
            raise unknown(f"key in {where}", key, known)
        *parents, last = key.split(".")
        target, kind = changed, cls
        for parent in parents:
            target, kind = target.setdefault(parent, {}), _hints(kind)[parent]
        target[last] = parse(value, _hints(kind)[last], key) if isinstance(value, str) else value
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


def method_config(cls: type, values: Mapping[str, Any], name: str) -> Any:
    """A method's configuration with some of its options, as values or as texts; raises UsageError."""
    fields = dataclasses.fields(cls)
    for key in values:
        if key not in {f.name for f in fields}:
            options = ", ".join(f"{f.name}={f.default}" for f in fields)
            raise UsageError(f"method '{name}' has no option '{key}': it has {options or 'none'}")
    return decode_with(cls, {}, values, f"method {name}")


def non_default(instance: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults; of a nested dataclass those that differ."""
    found = {}
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        if f.name in skip or (f.default is not dataclasses.MISSING and value == f.default):
            continue
        found[f.name] = non_default(value) if dataclasses.is_dataclass(value) else value
    return found


@functools.cache  # this and the next three: what decoding 100,000 records would look up over and over
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


@functools.cache
def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {f.name: f for f in dataclasses.fields(cls)}


@functools.cache
def _options(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a type: members of a union, or the type itself; a value from outside is never unset."""
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(option for option in options if option is not UnsetType)


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
