"""Tables in JSON and CSV, read back into the rows that they were written from."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from leaderboard.lint.finding import Finding
from leaderboard.reader.model import KEY_SHOWN, REFERENCES, Board, Difference, Mean, Row, Run, Speed, Table, TableKind
from leaderboard.render.columns import FAILED, FIELDS, MISSING, SHARE_LETTERS, SIZES, Field, Value
from leaderboard.render.tables import CSV, KIND
from leaderboard.stats.rows import most_common

COUNTS = "wrong_test_images_by_seed"
COUNT = re.compile(rf"(\d{{1,15}}):(\d{{1,15}}(?:/[1-9]\d{{0,14}})?|{FAILED}|{re.escape(MISSING)})")
SHARES = {letter: name for name, letter in SHARE_LETTERS.items()}


@dataclass
class Entry:
    """One row of a file.

    Attributes:
        values: what is in it, by field, as it was read; a cell that is not of its field's kind is left out.
        row: the row that these values are of.
    """

    line: int
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    row: Row | None = None


@dataclass
class Sheet:
    """One table of a file, and what is wrong with it."""

    line: int
    key: dict[str, str]
    kind: TableKind
    keep: float | None
    differs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dense_macs: int | None = None
    dense_params: int | None = None
    entries: list[Entry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, entry: Entry | None, column: str, code: str, message: str) -> None:
        """Note what is wrong with a row, or with the table."""
        line, name = (entry.line, entry.name) if entry else (self.line, "")
        self.findings.append(Finding("", line, name, column, code, message))

    @property
    def rows(self) -> list[Row]:
        """The rows that could be read."""
        return [entry.row for entry in self.entries if entry.row is not None]

    @property
    def table(self) -> Table:
        """The table as the suite holds it."""
        return Table(self.kind, self.keep, tuple(self.rows), self.dense_macs, self.dense_params)


def read(text: str, fmt: str) -> list[Sheet]:
    """The tables of a file in CSV or JSON; ValueError where it is none of this suite."""
    sheets = _csv(text) if fmt == CSV else _json(text)
    for sheet in sheets:
        for entry in sheet.entries:
            entry.row = _row(sheet, entry)
    return sheets


def boards(sheets: Sequence[Sheet]) -> list[Board]:
    """The boards of some tables, in their order."""
    same = itertools.groupby(sheets, key=lambda sheet: sheet.key)
    grouped = [(key, list(found)) for key, found in same]
    return [Board(key, own[0].differs, tuple(sheet.table for sheet in own), own[0].notes) for key, own in grouped]


# --- JSON ----------------------------------------------------------------------------------------------------------


def _json(text: str) -> list[Sheet]:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is no number of JSON")

    document = json.loads(text, parse_constant=refuse)
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise ValueError(f"no board: its kind is not {KIND}")
    sheets = []
    try:
        for board in document["boards"]:
            key = {name: str(board["key"][name]) for name in KEY_SHOWN}
            for table in board["tables"]:
                sheet = Sheet(0, key, *_budget(table["kind"], table["keep"]))
                sheet.differs, sheet.notes = tuple(board["differs"]), tuple(board["notes"])
                sheet.dense_macs, sheet.dense_params = (_count(table[name]) for name in ("dense_macs", "dense_params"))
                sheets.append(sheet)
                for row in table["rows"]:
                    entry = Entry(0, str(row.get("name")))
                    sheet.entries.append(entry)
                    for name in FIELDS.keys() - row.keys():
                        sheet.add(entry, name, "columns", "the field is not there")
                    _fields(sheet, entry, {name: row[name] for name in FIELDS if name in row})
                    said = set(str(row.get(COUNTS)).split())
                    done = {_count_of(run, "/" in str(said)) for run in row["runs"] if run["wrong"] is not None}
                    if done != {part for part in said if not part.endswith((FAILED, MISSING))}:
                        sheet.add(entry, COUNTS, "counts", f"the runs say {' '.join(sorted(done))[:80]}")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no board: {type(error).__name__} {error}") from None
    return sheets


# --- CSV -----------------------------------------------------------------------------------------------------------


def _csv(text: str) -> list[Sheet]:
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise ValueError(f"no CSV: {error}") from None
    headers = lines[0][1] if lines else []
    if "table" not in headers or "name" not in headers:
        raise ValueError("no board: it has no columns table and name")
    sheets: dict[str, Sheet] = {}
    for line, cells in lines[1:]:
        values = {name: _unescaped(cell) for name, cell in zip(headers, cells, strict=False)}
        sheet = sheets.get(values["table"])
        if sheet is None:
            sheet = sheets[values["table"]] = _csv_sheet(line, values)
            for name in FIELDS:
                if headers.count(name) != 1:
                    sheet.add(None, name, "columns", f"the column is there {headers.count(name)} times")
        entry = Entry(line, values.get("name", ""))
        sheet.entries.append(entry)
        if len(cells) != len(headers):
            sheet.add(entry, "", "cell", f"{len(cells)} cells under {len(headers)} headers")
        own = _csv_sheet(line, values)
        for name, value in own.key.items():
            if value != sheet.key[name]:
                sheet.add(entry, f"board_{name}", "mixed-key", f"{value[:60]!r} in a table of {sheet.key[name]!r}")
        if (own.kind, own.keep) != (sheet.kind, sheet.keep):
            sheet.add(entry, "budget_keep", "mixed-key", f"{own.table.title} in a table of another budget")
        _fields(sheet, entry, {name: _csv_value(FIELDS[name], cell) for name, cell in values.items() if name in FIELDS})
    for sheet in sheets.values():
        for what in ("macs", "params"):
            dense = most_common([entry.values.get(f"dense_{what}") for entry in sheet.entries])
            setattr(sheet, f"dense_{what}", dense)
    return list(sheets.values())


def _csv_sheet(line: int, values: Mapping[str, str]) -> Sheet:
    """What a line says of its table; ValueError where it says nothing."""
    try:
        keep = float(values["budget_keep"]) if values["budget_keep"] else None
        key = {name: values[f"board_{name}"] for name in KEY_SHOWN}
        sheet = Sheet(line, key, *_budget(values["budget_kind"], keep))
        sheet.differs = tuple(values["board_differs"].split())
    except (KeyError, ValueError) as error:
        raise ValueError(f"no board: line {line}: {error}") from None
    sheet.notes = tuple(filter(None, values.get("board_notes", "").split("; ")))
    return sheet


def _unescaped(cell: str) -> str:
    """A cell without the apostrophe that keeps a spreadsheet from taking it for a formula."""
    return re.sub(r"^'('*[=+\-@\uff1d\uff0b\uff0d\uff20])", r"\1", cell)


def _csv_value(declared: Field, text: str) -> Any:
    """The value as JSON has it; the text itself where it is of another kind."""
    if declared.kind == "text":
        return text
    if declared.kind == "flag":
        return {"yes": True, "no": False, "": None}.get(text, text)
    try:
        return float(text) if text else None
    except ValueError:
        return text


# --- both ----------------------------------------------------------------------------------------------------------


def _budget(kind: Any, keep: Any) -> tuple[TableKind, float | None]:
    if kind not in get_args(TableKind):
        raise ValueError(f"no board: a table of kind {str(kind)[:40]!r}")
    number = None if keep is None else _number(keep)
    if (number is None) != (kind in ("native", "like")):
        raise ValueError(f"no board: a table of kind {kind} that keeps {str(keep)[:40]}")
    return cast(TableKind, kind), number


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _count(value: Any) -> int | None:
    found = _number(value)
    return int(found) if found is not None and found % 1 == 0 else None


def _fields(sheet: Sheet, entry: Entry, values: Mapping[str, Any]) -> None:
    """Put the values of a row into its entry, each of the kind that its field has."""
    for name, value in values.items():
        kind = FIELDS[name].kind
        if value is None or value == "":
            entry.values[name] = None
            continue
        found: Value = value if isinstance(value, str | bool) else _number(value)
        if kind == "integer":
            found = None if isinstance(found, str | bool) else _count(found)
        if type(found) is {"text": str, "flag": bool, "integer": int, "number": float}[kind]:
            entry.values[name] = found
        else:
            sheet.add(entry, name, "cell", f"{str(value)[:40]!r} is no {kind}")


def _row(sheet: Sheet, entry: Entry) -> Row:
    """The row of some values; counts and speed-ups that cannot be read are left out and noted."""
    get: Any = entry.values.get
    try:
        counts = _counts(str(get(COUNTS) or ""))
    except ValueError as error:
        counts = {}
        sheet.add(entry, COUNTS, "counts", str(error))
    speedups: list[dict[int, float]] = []
    for size in SIZES:
        try:
            speedups.append(_speedups(str(get(f"{size}_speedups_by_seed") or "")))
        except ValueError as error:
            speedups.append({})
            sheet.add(entry, f"{size}_speedups_by_seed", "cell", str(error))
    diverged = re.search(r"(\d{1,6}) diverged", str(get("unfinished") or ""))
    ended = itertools.repeat("diverged", int(diverged[1]) if diverged else 0)
    runs = []
    for seed, count in counts.items():
        if count != MISSING:
            count, _, own = count.partition("/")
            wrong = None if count == FAILED else int(count)
            images = 0 if wrong is None else int(own or get("test_images") or 0)
            status = "ok" if wrong is not None else next(ended, "failed")
            small, large = (by_seed.get(seed) for by_seed in speedups)
            runs.append(Run("", "", "", seed, status, wrong, None, None, (small, large), images=images))
    return Row(
        spec=get("spec") or "",
        method=get("method") or entry.name.partition(" ")[0],
        name=get("name") or entry.name,
        track=get("track") or "matched",
        runs=tuple(runs),
        missing=tuple(seed for seed, count in counts.items() if count == MISSING),
        test_images=None if "/" in "".join(counts.values()) else get("test_images") or 0,
        top1=_mean(get("top1_percent"), get("top1_half_points")),
        pruned=_mean(get("pruned_top1_percent"), get("pruned_top1_half_points")),
        macs=get("macs"),
        params=get("params"),
        macs_percent=get("macs_percent"),
        params_percent=get("params_percent"),
        differences={to: difference for to in REFERENCES if (difference := _difference(to, entry.values))},
        rank=get("rank"),
        unranked=get("unranked") or "",
        group=get("tie_group") or "",
        seeds_needed=get("seeds_needed"),
        speeds=tuple(speed for size in SIZES if (speed := _speed(size, entry.values))),
        epochs=get("epochs"),
        training_macs=get("training_macs"),
        cost=get("training_cost_times_dense"),
        step_cost=get("step_cost_times_dense"),
        shares=tuple(SHARES[letter] for letter in get("shares") or "" if letter in SHARES),
        level=get("level") or "",
        controls_missing=tuple(filter(None, (get("controls_missing") or "").split(", "))),
        notes=tuple(filter(None, (get("notes") or "").split("; "))),
    )


def _count_of(run: Mapping[str, Any], of: bool) -> str:
    """A run's count as the row has it, of its own number of images where rows have that."""
    return f"{run['seed']}:{run['wrong']}{'/' + str(run['images']) if of else ''}"


def _counts(text: str) -> dict[int, str]:
    """Seed -> wrong test images (``4`` or ``4/364``), ``FAILED`` or ``MISSING``; ValueError where they cannot be."""
    found: dict[int, str] = {}
    for part in text.split():
        match = COUNT.fullmatch(part)
        if not match:
            raise ValueError(f"{part[:30]!r} is no seed with its count")
        if int(match[1]) in found:
            raise ValueError(f"seed {match[1]} is there twice")
        found[int(match[1])] = match[2]
    return found


def _speedups(text: str) -> dict[int, float]:
    """Seed -> measured speed-up; ValueError where one cannot be."""
    found = {}
    for part in text.split():
        seed, _, times = part.partition(":")
        found[int(seed)] = float(times)
        if not 0 < found[int(seed)] < math.inf:
            raise ValueError(f"{part[:40]!r} is no speed-up")
    return found


def _mean(mean: float | None, half: float | None) -> Mean | None:
    return None if mean is None else Mean(mean, half)


def _difference(to: str, values: Mapping[str, Any]) -> Difference | None:
    mean, half, seeds, p, p_holm = (
        values.get(f"minus_{to}_{part}") for part in ("points", "half_points", "seeds", "p", "p_holm")
    )
    return None if mean is None else Difference(to, mean, half, seeds or 0, p, p_holm)


def _speed(size: str, values: Mapping[str, Any]) -> Speed | None:
    parts = ("batch", "dense_ms", "final_ms", "speedup_times", "speedup_low_times", "speedup_high_times", "busy")
    found: list[Any] = [values.get(f"{size}_{part}") for part in parts]
    return None if any(value is None for value in found) else Speed(*found)
