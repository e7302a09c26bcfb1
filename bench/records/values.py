"""Types of single values in records: their bounds, lengths and characters. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, TypeVar, get_args

import msgspec
from msgspec import Meta

END = r"(?![\s\S])"
"""End of the text in a pattern: ``$`` also matches before a last line end, and JSON Schema knows no other sign."""
HIDDEN = (
    r"\x00-\x1f\x7f-\xa0\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5"
    r"\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ud800-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f"
    r"\ufeff\uffa0\ufff0-\uffff\U00010000-\U0010ffff"
)
"""Not in names: what no font shows, what Python cannot print, and what JavaScript holds as two characters."""
CONTROL = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""Not in messages: control characters but tab and line ends, and marks that turn the writing direction."""
LABEL, ROW, VALUE, NAME, TEXT, WHOLE = 100, 80, 40, 200, 10_000, 2**63 - 1
"""Most characters of a network, data set or device, of a row's name (method and options), of an option's value, of any
other name, of a message; the largest count."""
SETTINGS = 20
"""Most options of a method."""

Count = Annotated[int, Meta(ge=0, le=WHOLE)]
Size = Annotated[int, Meta(ge=1, le=WHOLE)]
Share = Annotated[float, Meta(ge=0, le=1)]
Amount = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(ge=1e-9, le=1e12)]
Name = Annotated[str, Meta(min_length=1, max_length=NAME, extra_json_schema={"pattern": f"^[^{HIDDEN}]+{END}"})]
"""The characters of names and messages are checked by :func:`hidden`, in one go."""
Label = Annotated[str, Meta(min_length=1, max_length=LABEL, pattern=f"^[!-~]+(?: [!-~]+)*{END}")]
MethodName = Annotated[str, Meta(min_length=1, max_length=ROW, pattern=f"^[a-z0-9_]+(?:\\+[a-z0-9_]+)*{END}")]
OptionName = Annotated[str, Meta(min_length=1, max_length=ROW, pattern=f"^(?:[a-z0-9_]+\\.)?[a-z_][a-z0-9_]*{END}")]
"""Of a composition with the part that it belongs to: ``slimming.weight``."""
Text = Annotated[str, Meta(max_length=TEXT, extra_json_schema={"pattern": f"^[^{CONTROL}]*{END}"})]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}", max_length=64)]
Commit = Annotated[str, Meta(pattern=f"^(?:[0-9a-f]{{40}}|[0-9a-f]{{64}}){END}")]
RunId = Annotated[str, Meta(pattern=f"^[0-9a-f]{{12}}-s[0-9]+{END}", max_length=NAME)]
FileName = Annotated[str, Meta(pattern=f"^[A-Za-z0-9_][A-Za-z0-9._+-]*{END}", max_length=NAME)]
Bits = Annotated[str, Meta(pattern=f"^[A-Za-z0-9+/]*=?=?{END}", max_length=200_000)]
"""As ``bench.records.bits`` packs them; a million and more."""
Blocks = Annotated[str, Meta(pattern=f"^[01]+{END}", max_length=NAME)]
Moment = Annotated[datetime, Meta(tz=True)]
Scalar = None | bool | int | float | Annotated[str, Meta(pattern=f"^[ -~]*{END}", max_length=VALUE)]
Settings = Annotated[dict[OptionName, Scalar | list[Scalar]], Meta(max_length=SETTINGS)]
"""Options of a method."""

_WORDS = {
    Label: "printable ASCII characters, without spaces at an end or next to each other",
    MethodName: "a-z, 0-9 and _, with + between the parts of a composition",
    OptionName: "the name of an option: a-z, 0-9 and _",
    Sha256: "a hash of 64 hexadecimal digits",
    Commit: "a commit: 40 or 64 hexadecimal digits",
    RunId: "12 hexadecimal digits, -s and a seed",
    FileName: "the name of a file without a folder",
    Bits: "bits in base64",
    Blocks: "a 1 or a 0 for each block",
}
PATTERNS = {meta.pattern: words for kind, words in _WORDS.items() for meta in get_args(kind) if meta is not str}
"""What a pattern asks for, in words."""

T = TypeVar("T")
_CONTROL, _HIDDEN = re.compile(f"[{CONTROL}]"), re.compile(f"[{HIDDEN}]")
MESSAGES = ("message", "traceback", "rejected", "differs")
"""Fields whose values are of type :data:`Text`; all other texts are names."""


def given(value: T | None) -> T:
    """``value``, which is there in the record of a finished run; raises ValueError for None."""
    if value is None:
        raise ValueError("a part is missing that a finished run has")
    return value


def wrong(value: Any, kind: Any) -> str:
    """Why ``value`` is not of a type of this module, in one line; empty where it is."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return f"is {said(value)}: {explained(str(error))}"
    return ""


def explained(message: str) -> str:
    """A message of msgspec in printable ASCII, with words in place of a pattern."""
    pattern = message.partition(" matching regex ")[2]
    asked = next((words for known, words in PATTERNS.items() if pattern.startswith(repr(known))), "")
    return printable(f"expected {asked}" if asked else message)


def hidden(value: Any, field: str = "", message: bool = False) -> Iterator[str]:
    """What a table or text that came from JSON has of characters that are not allowed there, one line each."""
    if isinstance(value, str):
        if found := (_CONTROL if message else _HIDDEN).search(value):
            yield f"{field} is {said(value)}, with the invisible or unusable character U+{ord(found[0]):04X}".lstrip()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from hidden(key, f"a key of {field or 'the record'}")
            yield from hidden(inner, f"{field}.{printable(key)}".lstrip("."), message or key in MESSAGES)
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from hidden(inner, f"{field}[{place}]", message)


def fitting(value: str) -> str:
    """``value`` as a :data:`Text`: cut where it is too long, question marks for characters that are not allowed."""
    seen = _CONTROL.sub("?", value)
    return seen if len(seen) <= TEXT else seen[: TEXT - 4] + " ..."


def printable(text: str) -> str:
    """``text`` as at most 400 printable ASCII characters, for messages about what others wrote."""
    seen = ascii(text)[1:-1].replace("\\'", "'")
    return seen if len(seen) <= 400 else seen[:396] + " ..."


def said(value: Any) -> str:
    """``value`` for a message: short, of printable ASCII."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else value[:40] + "...")
    if isinstance(value, dict | list | tuple):
        return "a table" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if abs(value) < 10**30 else "a number of more than 30 digits"
