"""The words of a command: their values read from text, and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.errors import WordsError

LARGEST_SEED = 999


def pairs(texts: Iterable[str], flag: str) -> dict[str, str]:
    """``KEY=VALUE`` texts as a dictionary; raises WordsError."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise WordsError(f"{flag} {text}: give KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def as_seeds(given: Any) -> tuple[int, ...]:
    """A whole number, a text such as ``0``, ``0-4`` or ``1,5``, or several of these, as seeds; raises WordsError."""
    seeds: list[int] = []
    several = given if isinstance(given, Iterable) and not isinstance(given, str | Mapping) else [given]
    for one in several:
        if isinstance(one, bool) or not isinstance(one, int | str):
            raise WordsError(f"seeds = {given!r}: whole numbers, or text such as '0-4'")
        for part in str(one).split(","):
            first, dash, last = part.partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                raise WordsError(f"--seeds {one}: give whole numbers such as 0, 0-4 or 1,5")
            if int(last or first) > LARGEST_SEED:
                raise WordsError(f"--seeds {one}: the largest seed is {LARGEST_SEED}")
            seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise WordsError(f"--seeds {given}: no seed")
    return tuple(dict.fromkeys(seeds))


def seeds_text(seeds: Sequence[int]) -> str:
    """The shortest text that :func:`as_seeds` reads as ``seeds``."""
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and parts[-1][-1] + 1 == seed:
            parts[-1][1:] = [seed]
        else:
            parts.append([seed])
    return ",".join("-".join(map(str, part)) for part in parts)


def as_text(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return ",".join(map(as_text, value)) if isinstance(value, list | tuple) else str(value)


def flag_of(name: str) -> str:
    """The option of a field."""
    return "--" + name.replace("_", "-")


def option(flag: str, value: str) -> list[str]:
    """An option with its value; one that looks like an option itself is tied to it."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
