"""Tables for people, compared with what the boards that they show look like in the same format."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import zip_longest

from leaderboard.lint.finding import Finding
from leaderboard.reader.model import Board
from leaderboard.render.columns import LATEX, MARKDOWN, TEXT
from leaderboard.render.tables import KIND, board_heading, render, table_heading

BETWEEN = {TEXT: re.compile(r" {2,}"), MARKDOWN: re.compile(r"(?<!\\)\|"), LATEX: re.compile(r"(?<!\\)&")}
FOOTNOTE = re.compile(r"(\[\d+\]|\d+\.|\\par \d+:) ")
HEADERS = {"method", "seeds"}
Line = tuple[str, ...]
"""The cells of a line without the spaces around them."""


def compare(text: str, fmt: str, boards: Sequence[Board], of: str) -> list[Finding]:
    """Where a file differs from the tables of its boards; the width of a column makes no difference.

    Args:
        text: the file.
        fmt: text, Markdown or LaTeX.
        boards: all that there are; those without a heading in the file are not looked for in it.
        of: what the boards were made of, for messages.
    """
    theirs = [cells_of(line, fmt) for line in text.replace("\r\n", "\n").split("\n")]
    shown = _in_file(boards, fmt, set(theirs))
    if not shown:
        return [Finding("", 0, "", "", "record-table", f"{of} makes no table that is in it")]
    ours = [cells_of(line, fmt) for line in render(shown, fmt).split("\n")]
    findings: list[Finding] = []
    headers = _headers(ours)
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes():
        if tag != "equal":
            for i, j in zip_longest(range(i1, i2), range(j1, j2)):
                at = max(min(i2, len(ours)) - 1, 0) if i is None else i
                findings += _differences(
                    ours[i] if i is not None else None,
                    theirs[j] if j is not None else None,
                    headers[at],
                    j + 1 if j is not None else max(j2, 1),
                    of,
                )
    return findings


def _in_file(boards: Sequence[Board], fmt: str, lines: set[Line]) -> list[Board]:
    """The boards and tables whose headings are in a file: it may have been made of some budgets or networks only."""
    found = []
    for board in boards:
        if cells_of(board_heading(board, fmt), fmt) in lines:
            tables = [t for t in board.tables if cells_of(table_heading(board, t, fmt), fmt) in lines]
            found.append(dataclasses.replace(board, tables=tuple(tables)))
    return found


def cells_of(text: str, fmt: str) -> Line:
    """The cells of one line of a format for people; a line of other text is one cell."""
    text = re.sub(r"-{3,}", "---", text.strip(" "))
    if text.startswith("%"):  # a comment in LaTeX
        return (text,)
    return tuple(cell.strip(" ") for cell in BETWEEN[fmt].split(text.removesuffix(r"\\")))


def _headers(lines: Sequence[Line]) -> list[Line]:
    """For each line the header of the last table that began; empty before the first."""
    found: list[Line] = []
    for line in lines:
        found.append(line if set(line) >= HEADERS else found[-1] if found else ())
    return found


def _differences(ours: Line | None, theirs: Line | None, header: Line, line: int, of: str) -> Iterator[Finding]:
    """What is wrong with one line: the one that should be there, or the one that is there, may be None."""
    there = [part for part in (ours, theirs) if part is not None]
    names = [part[header.index("method")] for part in there if header and len(part) == len(header)]
    if ours is not None and ours == header:
        code = "columns"
    elif ours and theirs and len(names) == 2 and names[0] == names[1]:
        for column, right, own in zip(header, ours, theirs, strict=True):
            if own != right:
                yield Finding(
                    "",
                    line,
                    names[0],
                    column.replace("\\", ""),
                    "record-cell",
                    f"{_shown(own)}, {of} says {_shown(right)}",
                )
        return
    elif names or any(part[0].startswith(f"% {KIND}.row") for part in there):
        code = "record-row"
    else:
        code = "footnote" if any(FOOTNOTE.match(part[0]) for part in there) else "record-table"
    wrong, right = (_shown(" ".join(part or ())) for part in (theirs, ours))
    yield Finding("", line, names[-1] if names else "", "", code, f"{wrong}, {of} says {right}")


def _shown(text: str) -> str:
    return repr(text[:60]) if text else "nothing"
