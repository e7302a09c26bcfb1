"""Is a table true? What follows from what stands in it is computed again; what cannot be is named."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UsageError
from leaderboard.lint import foreign, reading, rules
from leaderboard.lint.recompute import agree
from leaderboard.lint.sheets import Entry, Finding, Sheet
from leaderboard.render import tables
from leaderboard.render.columns import Cell, Number

if TYPE_CHECKING:
    import pandas as pd

CODES = {
    "form": "The file is not of the format that its ending says, or holds no table.",
    "columns": "A column of the format is not there, is there twice, or is none of it.",
    "cell": "A cell is not of its column's kind: a number, a count, a mean with its interval.",
    "footnote": "A row refers to a footnote that is not there.",
    "mixed-key": "Rows of one table were made under different settings (board's key, budget).",
    "mixed-test-set": "Rows of one table were measured on test sets of different size.",
    "mixed-dense": "Rows of one table are compared with dense networks of different cost.",
    "mixed-track": "A row of another track stands in a table (native, widths of another run).",
    "mixed-epochs": "A ranked row was trained for another number of epochs than the others.",
    "mixed-base": "Rows of one table start from base networks of different accuracy.",
    "duplicate": "One row stands there twice.",
    "counts": "Counts of wrong images cannot be read, are negative, or name a seed twice.",
    "wrong-images": "More test images are wrong than there are.",
    "seeds": "The number of seeds is not that of the finished runs.",
    "outcome": "What is said of unfinished runs is not what the counts say.",
    "accuracy-range": "An accuracy is below 0 or above 100 %.",
    "accuracy-image": "An accuracy is no mean of whole test images.",
    "mean": "The mean accuracy is not that of the counts.",
    "interval": "An interval is not that of the counts.",
    "interval-alone": "An interval without its mean, or with one end.",
    "difference": "A difference is not that of the two rows.",
    "p": "A p-value, or the seeds it is of, is not that of the counts.",
    "clear": "A mark of a clear difference is there and should not be, or is not and should.",
    "failed-mean": "A row with a failed run has a mean: the seed was left out because of its result.",
    "claimed": "A row has an accuracy and no counts: a claimed number among measured ones.",
    "negative": "A quantity that cannot be negative is.",
    "above-dense": "More MACs or params than the dense network.",
    "above-budget": "More MACs or params than the budget allows.",
    "below-budget": "A ranked row lies more than 0.5 % of the dense cost below its budget.",
    "percent": "A percentage is not that of the two numbers it is made of.",
    "cost": "A training cost is not the ratio to that of dense.",
    "speed-ratio": "A speed-up is not dense over final time.",
    "speed-mean": "A speed-up or its interval is not that of the runs.",
    "speed-interval": "A speed-up lies outside its own interval.",
    "speed-claim": "Called a speed-up though the interval covers 1 or the machine was busy; or not, though it is one.",
    "rank": "A rank is not 1 and the number of rows that are better and clear of it.",
    "tie-group": "Letters do not say which rows cannot be told apart.",
    "seeds-needed": "The seeds needed are not what the counts say.",
    "rank-not-allowed": "A row has a rank that it may not have: too few seeds, failed or missing runs, no budget.",
    "no-rank": "A row has neither a rank nor a reason for having none.",
    "order": "Rows do not stand in the order of their ranks, dense first.",
    "control": "A compulsory control is missing and not marked so, or marked and there.",
    "record-table": "A table is not one of the records.",
    "record-row": "A row is not one of the records, or lacks.",
    "record-cell": "A cell is not what the records say.",
}
"""What can be wrong, by code."""


def check(path: Path, records: pd.DataFrame | None = None) -> list[Finding]:
    """Everything that is wrong with the tables of a file, in the order of its lines; empty for a clean one.

    Args:
        path: a table that this suite wrote (``.md``, ``.csv``, ``.json``, ``.tex``, ``.txt``), or Markdown or CSV
            with a table of somebody else.
        records: frame of the records that it was made from: then each cell is compared with them, too.

    Raises:
        UsageError: there is no such file, or its ending is none of these.
    """
    if path.suffix not in tables.ENDINGS:
        raise UsageError(f"lint {path}: not one of {', '.join(tables.ENDINGS)}")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"lint {path}: {error}") from error
    return [replace(finding, file=str(path)) for finding in check_text(text, tables.ENDINGS[path.suffix], records)]


def check_text(text: str, fmt: str, records: pd.DataFrame | None = None) -> list[Finding]:
    """The same of the text of a file in one of ``tables.FORMATS``."""
    try:
        sheets, grids = reading.read(text, fmt)
    except (ValueError, RecursionError) as error:
        return [Finding("", 0, "", "", "form", " ".join(str(error).split())[:200])]
    if not sheets and not grids:
        return [Finding("", 0, "", "", "form", "no table in it")]
    if records is not None:
        _records(sheets, fmt, records)
    found = [finding for sheet in sheets for finding in rules.find(sheet)]
    found += [finding for grid in grids for finding in foreign.check(grid)]
    return sorted(dict.fromkeys(found), key=lambda f: f.line)


def _records(sheets: list[Sheet], fmt: str, records: pd.DataFrame) -> None:
    """Compare each cell with that of the tables that the records make: texts with the text, numbers with the number."""
    from leaderboard.stats import boards as board

    def name(sheet: Sheet) -> tuple[object, ...]:
        return tuple(sorted(pair for pair in sheet.key.items() if pair[1])), sheet.kind, sheet.keep

    boards = board.build(records)[0]
    written, exact = (reading.read(tables.render(boards, form), form)[0] for form in (fmt, tables.JSON))
    right = {name(sheet): (sheet, numbers) for sheet, numbers in zip(written, exact, strict=True)}
    for sheet in sheets:
        if name(sheet) not in right:
            sheet.fault(None, "", "record-table", "the records make no table of this key and budget")
            continue
        ours: dict[str, list[tuple[Entry, Entry]]] = defaultdict(list)
        for entry, numbers in zip(*(made.entries for made in right[name(sheet)]), strict=True):
            ours[entry.name].append((entry, numbers))
        for entry in sheet.entries:
            if not ours[entry.name]:
                sheet.fault(entry, "name", "record-row", "the records have no such row")
                continue
            same, numbers = ours[entry.name].pop(0)
            for key, cell in same.cells.items():
                if not _same(entry.cells.get(key), cell, numbers.cells.get(key)):
                    text = f"{rules.shown(entry.cells.get(key))}, the records say {rules.shown(cell)}"
                    sheet.fault(entry, key, "record-cell", text)
        for left, _ in (pair for pairs in ours.values() for pair in pairs):
            sheet.fault(None, "name", "record-row", f"the row {left.name[:60]} of the records is not there")


def _same(found: Cell, written: Cell, exact: Cell) -> bool:
    """Whether a cell is what the records make: in this format, or, if a number, before it was rounded for it."""
    if isinstance(found, Number) and isinstance(exact, Number):
        return agree(found, exact.value)
    return found == written
