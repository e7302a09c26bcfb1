"""A table as it was read: rows of cells, what each may be off by its rounding, and the faults that were found."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from leaderboard.render.columns import Cell, Number, header_of
from leaderboard.render.tables import clean


@dataclass(frozen=True)
class Finding:
    """One fault of a table.

    Attributes:
        file: as it was given.
        line: from 1; 0 where a row has no line of its own.
        row: name of the row; empty for a fault of the table or file.
        column: header or field; empty likewise.
        code: one of ``leaderboard.lint.check.CODES``.
        message: what stands there and what should.
    """

    file: str
    line: int
    row: str
    column: str
    code: str
    message: str

    def __str__(self) -> str:
        """One line for a terminal, whatever stands in the file."""
        place = ":".join([self.file, *([str(self.line)] if self.line else [])])
        return clean(
            ": ".join(part for part in (place, self.row, self.column, f"{self.message} [{self.code}]") if part)
        )


@dataclass
class Entry:
    """One row as it was read; a key that is not in ``cells`` is not carried by the format, None is an empty cell."""

    line: int
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Method with its options."""
        return str(self.cells.get("name") or "")


@dataclass
class Sheet:
    """One table of this suite as it was read; ``faults`` are what could not be read."""

    fmt: str
    line: int
    key: dict[str, str] = field(default_factory=dict)
    kind: str = ""
    keep: Number | None = None
    dense: dict[str, Cell] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)

    def fault(self, entry: Entry | None, column: str, code: str, message: str) -> None:
        """Note a fault of a row, or of the table; ``column``: the key of a field, or a header."""
        line, row = (entry.line, entry.name) if entry else (self.line, "")
        self.faults.append(Finding("", line, row, header_of(self.fmt, column), code, message))


@dataclass
class Grid:
    """A table as text: headers and cells, with the line of each row, and the footnotes below."""

    line: int
    headers: list[str]
    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def exact_number(value: Any) -> Number | None:
    """A finite number as it stands; None for anything else."""
    try:
        found = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return Number(found) if math.isfinite(found) else None
