"""Kinds of values that come from outside, as functions that raise :class:`Wrong` for any other value.

What a table of fields does not name may stand there all the same, so that files of newer versions load, but within
limits.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

LABEL, NAME, TEXT = 80, 200, 10_000
"""Most characters of what a user names (a method, network, data set), of any other name, and of a message."""
OPTIONS = 500
"""Most characters of a method's options, as JSON."""
DEPTH = 16
"""Most levels of nesting in what the table of fields does not name."""
WHOLE = 2**63 - 1
"""Largest whole number."""

Kind = Callable[[Any], None]

_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line ends, marks that turn the writing direction, halves of surrogate pairs."""
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]")
"""What Python calls printable and no font shows: Unicode's Default_Ignorable_Code_Point, and the empty Braille cell."""
_PAIR = re.compile("[\U00010000-\U0010ffff]")
"""Characters that JavaScript, which draws the figures, holds as two and may cut in half."""
_METHOD = re.compile("[!-~]+")


class Wrong(Exception):
    """A value is not of its kind; ``str`` of it names the field first."""

    def __init__(self, what: str, field: str = "") -> None:
        super().__init__(what, field)
        self.what, self.field = what, field

    def inside(self, key: str | int) -> Wrong:
        """The same, told of the table or list around it."""
        step = f"[{key}]" if isinstance(key, int) else key
        return Wrong(self.what, step + ("" if self.field[:1] in ("", "[") else ".") + self.field)

    def __str__(self) -> str:
        return f"{self.field} {self.what}".lstrip()


def whole(least: int = 0, most: int = WHOLE) -> Kind:
    """A whole number in these bounds; true and false are none."""

    def check(value: Any) -> None:
        if type(value) is not int and (isinstance(value, bool) or not isinstance(value, int)):
            raise Wrong(f"is {said(value)}, not a whole number")
        if not least <= value <= most:
            raise Wrong(f"is {said(value)}, " + (f"less than {least}" if value < least else "too large"))

    return check


def number(least: float = -sys.float_info.max, most: float = sys.float_info.max) -> Kind:
    """A finite number in these bounds."""

    def check(value: Any) -> None:
        if type(value) is not float and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise Wrong(f"is {said(value)}, not a number")
        if not least <= value <= most:
            finite = abs(value) <= sys.float_info.max
            raise Wrong(f"is {said(value)}, not {f'within {least:g} to {most:g}' if finite else 'a finite number'}")

    return check


def name(value: Any) -> None:
    """Text of 1 to ``NAME`` characters that can be seen."""
    if not isinstance(value, str):
        raise Wrong(f"is {said(value)}, not text")
    _visible(value, NAME)


def label(value: Any) -> None:
    """A name that a user gives, to a file or a folder perhaps: letters of any script, at most ``LABEL``, and spaces."""
    if not isinstance(value, str):
        raise Wrong(f"is {said(value)}, not text")
    _visible(value, LABEL)
    if value != " ".join(value.split()):
        raise Wrong(f"is {said(value)}, which has spaces at an end or side by side")


def method_name(value: Any) -> None:
    """A label of visible ASCII characters, so that no two names look alike, and none looks like one with options."""
    label(value)
    if not _METHOD.fullmatch(value):
        raise Wrong(f"is {said(value)}, and the name of a method has visible ASCII characters only")


def _visible(value: str, most: int) -> None:
    if not value.isascii() and (found := _UNSEEN.search(value)):
        raise Wrong(f"is {said(value)}, which has the invisible character U+{ord(found[0]):04X}")
    if not value.isprintable():
        raise Wrong(f"is {said(value)}, which has characters that cannot be printed")
    if not value.isascii() and (found := _PAIR.search(value)):
        raise Wrong(f"is {said(value)}, and U+{ord(found[0]):X} lies outside Unicode's basic plane (U+0000 to U+FFFF)")
    if not 0 < len(value) <= most:
        raise Wrong(f"has {len(value):,} characters: a name has 1 to {most}")


def options(value: Any) -> None:
    """Options of a method: names with null, true, false, a number, a short text, or a list of these."""
    table(_option)(value)
    for key in value:
        try:
            method_name(key)
        except Wrong as wrong:
            raise Wrong(f"has an option whose name {wrong.what}") from None
    length = len(json.dumps(value, ensure_ascii=False))
    if length > OPTIONS:
        raise Wrong(f"has {length:,} characters, more than {OPTIONS}")


def _option(value: Any) -> None:
    if isinstance(value, dict):
        raise Wrong("is a table, not an option's value")
    if isinstance(value, list):
        listed(_option)(value)
    elif not isinstance(value, str):
        anything(value)
    elif value:
        label(value)


def text(value: Any) -> None:
    """Text of at most ``TEXT`` characters, of several lines perhaps."""
    if not isinstance(value, str):
        raise Wrong(f"is {said(value)}, not text")
    if len(value) > TEXT:
        raise Wrong(f"has {len(value):,} characters, more than {TEXT:,}")
    if not value.isprintable() and _NO_TEXT.search(value):
        raise Wrong(f"is {said(value)}, which has control characters")


def fitting(value: str) -> str:
    """``value`` as :func:`text` takes it: cut where it is too long, question marks for what may not stand there."""
    seen = _NO_TEXT.sub("?", value)
    return seen if len(seen) <= TEXT else seen[: TEXT - 4] + " ..."


def matching(pattern: re.Pattern[str], what: str) -> Kind:
    """Text that is all of a pattern, told as ``what``."""

    def check(value: Any) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise Wrong(f"is {said(value)}, not {what}")

    return check


def one_of(*words: str) -> Kind:
    """One of some words."""

    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in words:
            raise Wrong(f"is {said(value)}, none of {', '.join(words)}")

    return check


def flag(value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise Wrong(f"is {said(value)}, not true or false")


def moment(value: Any) -> None:
    """ISO time with its zone."""
    try:
        if datetime.fromisoformat(value).tzinfo is not None:
            return
    except (TypeError, ValueError):
        pass
    raise Wrong(f"is {said(value)}, not a time such as 2026-01-31T12:00:00+00:00")


def maybe(kind: Kind) -> Kind:
    """Null, or of a kind."""
    return lambda value: None if value is None else kind(value)


def listed(kind: Kind, length: int | None = None) -> Kind:
    """A list of one kind."""

    def check(value: Any) -> None:
        if not isinstance(value, list):
            raise Wrong(f"is {said(value)}, not a list")
        if length is not None and len(value) != length:
            raise Wrong(f"has {len(value)} values, not {length}")
        k = 0
        try:
            for k, inner in enumerate(value):  # noqa: B007  (the place of the one that is wrong)
                kind(inner)
        except Wrong as wrong:
            raise wrong.inside(k) from None

    return check


def anything(value: Any, depth: int = 0) -> None:
    """Any value of JSON within the limits: finite numbers, bounded texts and depth."""
    if isinstance(value, dict | list):
        if depth == DEPTH:
            raise Wrong(f"is nested more than {DEPTH} levels deep")
        key: Any = 0
        try:
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(value, dict):
                    _key(key)
                anything(inner, depth + 1)
        except Wrong as wrong:
            raise wrong.inside(key) if plain(key) else wrong from None
    elif isinstance(value, str):
        text(value)
    elif isinstance(value, int | float):
        if not abs(value) <= sys.float_info.max:
            raise Wrong(f"is {said(value)}, not a finite number")
    elif value is not None:
        raise Wrong(f"is {said(value)}, which JSON does not have")


def fields(required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, other: Kind = anything) -> Kind:
    """A table; its keys are names, those it does not say are of the kind ``other``."""
    known, needed = {**required, **(optional or {})}, required.keys()

    def check(value: Any) -> None:
        if not isinstance(value, dict):
            raise Wrong(f"is {said(value)}, not a table")
        key = ""
        try:
            for key, inner in value.items():
                kind = known.get(key)
                if kind is None:
                    _key(key)
                    kind = other
                kind(inner)
        except Wrong as wrong:
            raise wrong.inside(key) if plain(key) else wrong from None
        if not needed <= value.keys():
            raise Wrong("is missing", next(key for key in needed if key not in value))

    return check


def table(kind: Kind) -> Kind:
    """Names of any number, each with a value of one kind."""
    return fields({}, other=kind)


def rows(required: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None, other: Kind = anything) -> Kind:
    """A list of tables as :func:`fields` takes them; where all have the same keys, it is looked at by columns.

    Its kinds of numbers are intervals: a column is of one when its least and its largest value are.
    """
    known, row = {**required, **(optional or {})}, fields(required, optional, other)
    each = listed(row)

    def check(value: Any) -> None:
        if not isinstance(value, list) or set(map(type, value)) != {dict} or len(set(map(tuple, value))) > 1:
            return each(value)
        try:
            row(value[0])
            for key, column in zip(value[0], zip(*map(dict.values, value), strict=True), strict=True):
                kind = known.get(key, other)
                for one in _telling(column):
                    kind(one)
        except Wrong:
            each(value)  # names the row
        return None

    return check


def _telling(column: tuple[Any, ...]) -> Iterable[Any]:
    """Values of a column that are of a kind only if all are."""
    types = list(map(type, column))
    if len(types) in (types.count(float), types.count(int)) and abs(sum(column)) <= sys.float_info.max:
        return min(column), max(column)
    return set(column) if types.count(str) == len(types) else column


def samples(value: Any) -> None:
    """A list of finite numbers, hundreds of them: what they say is for ``bench verify`` to find."""
    if not isinstance(value, list):
        raise Wrong(f"is {said(value)}, not a list")
    if not {float, int}.issuperset(map(type, value)):
        raise Wrong("has values that are no numbers")
    try:
        finite = abs(sum(value)) <= sys.float_info.max
    except OverflowError:  # a whole number that no float holds, beside a float
        finite = False
    if not finite:
        raise Wrong("has values that are not finite, or too large")


def said(value: Any) -> str:
    """``value`` for a message: short, of printable ASCII."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "...")
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return f"{value}" if abs(value) < 10**30 else "a number of more than 30 digits"
    if isinstance(value, float):
        return repr(value)
    return {"list": "a list", "dict": "a table"}.get(type(value).__name__, type(value).__name__)


def plain(key: Any) -> bool:
    """Whether a key or an index may stand in a message."""
    return isinstance(key, int) or (isinstance(key, str) and key.isprintable() and 0 < len(key) <= NAME)


def _key(key: Any) -> None:
    if not isinstance(key, str) or not plain(key):
        raise Wrong(f"has a key {said(key)}, which is no name of 1 to {NAME} characters")
