"""Tables and sentences as text within a given number of columns of a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GAP = "  "
NARROW, NARROWEST = 24, 3
"""To how many characters a text column may shrink before another column is left out, and at worst any."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        header: what is above it, and the key of its cells in a row.
        right: numbers are at its right edge.
        wrap: its cells are texts that may take several lines.
        drop: which column a narrow terminal leaves out first, the highest; 0: never.
    """

    header: str
    right: bool = False
    wrap: bool = False
    drop: int = 0


def table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], width: int | None = None) -> str:
    """Rows as text under their headers; a cell that a row does not have, or that is None, is empty.

    Args:
        columns: left to right.
        rows: header -> cell.
        width: most characters of a line; None: any number.
    """
    lines = [{column.header: _cell(row.get(column.header)) for column in columns} for row in rows]
    natural = {c.header: max([wide(c.header), *(wide(line[c.header]) for line in lines)]) for c in columns}
    shown, dropped = list(columns), []
    while width is not None and _least(shown, natural) > width and any(column.drop for column in shown):
        worst = max(shown, key=lambda column: column.drop)
        shown.remove(worst)
        dropped.append(worst)
    widths = natural if width is None else _widths(shown, natural, width)
    text = [_line({c.header: c.header for c in shown}, shown, widths)]
    text.append([GAP.join("-" * widths[column.header] for column in shown)])
    text += [_line(line, shown, widths) for line in lines]
    if dropped:
        names = ", ".join(column.header for column in columns if column in dropped)
        text.append(fold(f"not shown: {names}; --wide shows all", width))
    return "\n".join(line for part in text for line in part)


def sentences(text: str, width: int | None) -> str:
    """Lines of text, each folded to a width; the indentation of a line is that of all its parts."""
    return "\n".join(part for line in text.split("\n") for part in fold(line, width))


def fold(text: str, width: int | None) -> list[str]:
    """One line as several that are not wider than ``width``, broken at spaces, or within a word that is wider."""
    if width is None or wide(text) <= width:
        return [text]
    indent = " " * min(len(text) - len(text.lstrip()), width // 2)
    lines, line = [], indent
    for word in text.split():
        joined = f"{line} {word}" if line.strip() else indent + word
        if wide(joined) > width and line.strip():
            lines.append(line)
            joined = indent + word
        while wide(joined) > width:
            place = _break(joined, width)
            lines.append(joined[:place])
            joined = indent + joined[place:]
        line = joined
    return [*lines, line]


def wide(text: str) -> int:
    """Columns of a terminal that a text takes: letters of East Asia take two, marks upon letters none."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _least(columns: Sequence[Column], natural: Mapping[str, int]) -> int:
    """The least width that a table of these columns takes without breaking words of a few letters."""
    needs = (min(natural[c.header], NARROW) if c.wrap else natural[c.header] for c in columns)
    return sum(needs) + len(GAP) * (len(columns) - 1)


def _widths(columns: Sequence[Column], natural: Mapping[str, int], width: int) -> dict[str, int]:
    """Widths of columns that fit: texts shrink first, the widest most, then whatever is still too wide."""
    widths = {column.header: natural[column.header] for column in columns}
    for able, least in (([c.header for c in columns if c.wrap], NARROW), (list(widths), NARROWEST)):
        while sum(widths.values()) + len(GAP) * (len(columns) - 1) > width:
            widest = max((header for header in able if widths[header] > least), key=lambda h: widths[h], default=None)
            if widest is None:
                break
            widths[widest] -= 1
    return widths


def _line(cells: Mapping[str, str], columns: Sequence[Column], widths: Mapping[str, int]) -> list[str]:
    """One row as lines of the terminal."""
    parts = [fold(cells[column.header], widths[column.header]) for column in columns]
    lines = []
    for k in range(max(map(len, parts))):
        texts = [part[k] if k < len(part) else "" for part in parts]
        padded = []
        for column, text in zip(columns, texts, strict=True):
            space = " " * (widths[column.header] - wide(text))
            padded.append(space + text if column.right else text + space)
        lines.append(GAP.join(padded).rstrip())
    return lines


def _break(text: str, width: int) -> int:
    """Where to break a text that is too wide: behind the last ``/``, ``,`` or ``-`` that fits, else where it ends."""
    place = total = 0
    for place, character in enumerate(text):  # noqa: B007  (the place of the first that does not fit)
        total += _columns(character)
        if total > width:
            break
    near = max(text.rfind(sign, 0, place) for sign in "/,-")
    return near + 1 if near >= place // 2 else max(place, 1)
