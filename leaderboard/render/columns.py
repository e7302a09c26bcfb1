"""What the columns of a table are, and how their cells are written.

Machines (CSV, JSON) get one field a column, never rounded: ``FIELDS``. People (text, Markdown, LaTeX) get ``COLUMNS``,
each a cell made of some fields.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from leaderboard.reader.model import AS_MISSING, REFERENCES, Difference, Mean, Row, Speed, Table

Value = str | int | float | bool | None
Values = Mapping[str, Value]
Kind = Literal["text", "integer", "number", "flag"]

SHARE_LETTERS = {"base": "B", "epochs": "E", "finetune": "F", "cost": "C"}
SIZES = ("small", "large")
FAILED, MISSING = "x", "."
"""What stands for a failed run and for a missing one in the counts by seed."""
CLEAR, BUSY = "*", "~"
"""Marks: told from zero after Holm's correction, or faster with an interval above 1; measured on a busy machine."""


NONE_FINISHED = "none finished"


@dataclass(frozen=True)
class Field:
    """One value of a row; ``key`` is its name in CSV and JSON, with the unit."""

    key: str
    kind: Kind
    get: Callable[[Row, Table], Value]


def wrong_by_seed(row: Row) -> str:
    """Such as ``0:4 1:3 2:x 3:.``: seed and wrong test images, ``x`` for a failed run, ``.`` for a missing one.

    Where seeds are tested on different images, ``0:4/364 1:3/362``.
    """
    of = row.test_images is None
    counts = dict.fromkeys(row.missing, MISSING)
    for run in row.runs:
        if run.status not in AS_MISSING:
            counts[run.seed] = FAILED if run.wrong is None else f"{run.wrong}/{run.images}" if of else str(run.wrong)
    return " ".join(f"{seed}:{count}" for seed, count in sorted(counts.items()))


def unfinished(row: Row) -> str:
    """Such as ``1 failed, 2 missing``; empty where all runs are there and finished."""
    counts = Counter(run.status for run in row.runs if run.wrong is None and run.status not in AS_MISSING)
    counts["missing"] = len(row.missing)
    return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()) if count)


def faster(speed: Speed) -> bool:
    """Whether it may be called a speed-up (RULES.md, 7.3 and 7.5)."""
    return speed.low > 1 and not speed.busy


def _mean(name: str, get: Callable[[Row], Mean | None], unit: str) -> list[Field]:
    def part(which: str) -> Callable[[Row, Table], Value]:
        return lambda row, table: getattr(get(row), which, None)

    return [Field(f"{name}_{unit}", "number", part("mean")), Field(f"{name}_half_points", "number", part("half"))]


def _difference(to: str) -> list[Field]:
    def part(read: Callable[[Difference], Value]) -> Callable[[Row, Table], Value]:
        return lambda row, table: read(row.differences[to]) if to in row.differences else None

    return [
        Field(f"minus_{to}_points", "number", part(lambda d: d.mean)),
        Field(f"minus_{to}_half_points", "number", part(lambda d: d.half)),
        Field(f"minus_{to}_seeds", "integer", part(lambda d: d.seeds)),
        Field(f"minus_{to}_p", "number", part(lambda d: d.p)),
        Field(f"minus_{to}_p_holm", "number", part(lambda d: d.p_holm)),
        Field(f"minus_{to}_clear", "flag", part(lambda d: d.clear)),
    ]


def _speed(size: str) -> list[Field]:
    place = SIZES.index(size)

    def part(read: Callable[[Speed], Value]) -> Callable[[Row, Table], Value]:
        return lambda row, table: read(row.speeds[place]) if place < len(row.speeds) else None

    def by_seed(row: Row, table: Table) -> Value:
        if place >= len(row.speeds):
            return ""
        return " ".join(f"{run.seed}:{run.times[place]!r}" for run in row.runs if run.times[place] is not None)

    return [
        Field(f"{size}_batch", "integer", part(lambda s: s.batch)),
        Field(f"{size}_speedup_times", "number", part(lambda s: s.times)),
        Field(f"{size}_speedup_low_times", "number", part(lambda s: s.low)),
        Field(f"{size}_speedup_high_times", "number", part(lambda s: s.high)),
        Field(f"{size}_dense_ms", "number", part(lambda s: s.dense_ms)),
        Field(f"{size}_final_ms", "number", part(lambda s: s.final_ms)),
        Field(f"{size}_busy", "flag", part(lambda s: s.busy)),
        Field(f"{size}_faster", "flag", part(faster)),
        Field(f"{size}_speedups_by_seed", "text", by_seed),
    ]


FIELDS: dict[str, Field] = {
    field.key: field
    for field in [
        Field("rank", "integer", lambda row, table: row.rank),
        Field("tie_group", "text", lambda row, table: row.group),
        Field("name", "text", lambda row, table: row.name),
        Field("method", "text", lambda row, table: row.method),
        Field("spec", "text", lambda row, table: row.spec),
        Field("track", "text", lambda row, table: row.track),
        Field("seeds", "integer", lambda row, table: sum(run.wrong is not None for run in row.runs)),
        *_mean("top1", lambda row: row.top1, "percent"),
        *(field for to in REFERENCES for field in _difference(to)),
        *_mean("pruned_top1", lambda row: row.pruned, "percent"),
        Field("macs", "number", lambda row, table: row.macs),
        Field("macs_percent", "number", lambda row, table: row.macs_percent),
        Field("params", "number", lambda row, table: row.params),
        Field("params_percent", "number", lambda row, table: row.params_percent),
        *(field for size in SIZES for field in _speed(size)),
        Field("epochs", "integer", lambda row, table: row.epochs),
        Field("training_macs", "number", lambda row, table: row.training_macs),
        Field("training_cost_times_dense", "number", lambda row, table: row.cost),
        Field("step_cost_times_dense", "number", lambda row, table: row.step_cost),
        Field("shares", "text", lambda row, table: "".join(SHARE_LETTERS.get(share, "?") for share in row.shares)),
        Field("level", "text", lambda row, table: row.level),
        Field("seeds_needed", "integer", lambda row, table: row.seeds_needed),
        Field("wrong_test_images_by_seed", "text", lambda row, table: wrong_by_seed(row)),
        Field("test_images", "integer", lambda row, table: row.test_images),
        Field("dense_macs", "integer", lambda row, table: table.dense_macs),
        Field("dense_params", "integer", lambda row, table: table.dense_params),
        Field("unfinished", "text", lambda row, table: unfinished(row)),
        Field("unranked", "text", lambda row, table: row.unranked),
        Field("controls_missing", "text", lambda row, table: ", ".join(row.controls_missing)),
        Field("notes", "text", lambda row, table: "; ".join(row.notes)),
    ]
}


def exact(value: float) -> str:
    """A number with all of its digits and thousands separators."""
    return f"{int(value) if value == int(value) else value:,}"


@dataclass(frozen=True)
class CellFormat(ABC):
    """How a cell is made of fields; ``keys`` names them, and the first has to be there."""

    keys: tuple[str, ...]

    def write(self, values: Values) -> str:
        """The cell; empty where its first field is."""
        return "" if values[self.keys[0]] is None else self._write(*(values[key] for key in self.keys))

    @abstractmethod
    def _write(self, *values: Any) -> str:
        """The cell of fields of which the first is there."""


class TextCell(CellFormat):
    """A text."""

    def _write(self, text: str) -> str:
        return text


class ExactCell(CellFormat):
    """A number that is not rounded."""

    def _write(self, value: float) -> str:
        return exact(value)


class RoundedCell(CellFormat):
    """A number with two digits after the point."""

    def _write(self, value: float) -> str:
        return f"{value:.2f}"


class IntervalCell(CellFormat):
    """Mean and half the width of its interval: ``97.35 ± 0.21``, or the mean alone."""

    def _write(self, mean: float, half: float | None = None) -> str:
        return f"{mean:.2f}" + ("" if half is None else f" ± {half:.2f}")


class ResultCell(IntervalCell):
    """The same; where a row has no mean, the third field: what happened to its runs."""

    def write(self, values: Values) -> str:
        """The interval, or what happened."""
        mean, half, happened = self.keys
        return IntervalCell((mean, half)).write(values) or str(values[happened] or NONE_FINISHED)


class DifferenceCell(CellFormat):
    """Difference to a reference: ``-0.51 ± 0.30*``, with a mark where it is clear."""

    def _write(self, mean: float, clear: bool, half: float | None = None) -> str:
        return f"{mean:+.2f}" + ("" if half is None else f" ± {half:.2f}") + CLEAR * clear


class SpeedupCell(CellFormat):
    """Measured speed-up: ``1.52 [1.50, 1.55]*``, with a mark where it may be called one, or the machine was busy."""

    def _write(self, times: float, busy: bool, faster: bool, *interval: float) -> str:
        ends = " [{:.2f}, {:.2f}]".format(*interval) if interval else ""
        return f"{times:.2f}{ends}{BUSY if busy else CLEAR if faster else ''}"


def _named(pattern: str, *parts: str) -> tuple[str, ...]:
    return tuple(pattern.format(part) for part in parts)


TEXT, MARKDOWN, LATEX = "text", "markdown", "latex"
PEOPLE = (TEXT, MARKDOWN, LATEX)
FULL = (MARKDOWN, LATEX)


@dataclass(frozen=True)
class Column:
    """One column of the tables for people.

    Attributes:
        header: with the unit; no two in one format are the same.
        formats: where it stands.
        audit: needed to compute the others again: a column in Markdown, in LaTeX a comment.
    """

    header: str
    cell: CellFormat
    right: bool = True
    formats: tuple[str, ...] = PEOPLE
    audit: bool = False


COMPARED = ("points", "clear", "half_points")
TIMED = ("speedup_times", "busy", "faster", "speedup_low_times", "speedup_high_times")
COLUMNS = (
    Column("rank", ExactCell(("rank",))),
    Column("tie", TextCell(("tie_group",)), right=False),
    Column("method", TextCell(("name",)), right=False),
    Column("seeds", ExactCell(("seeds",))),
    Column("top-1 %", ResultCell(("top1_percent", "top1_half_points", "unfinished"))),
    *(
        Column(f"- {to}", DifferenceCell(_named(f"minus_{to}_{{}}", *COMPARED[:2])), formats=(TEXT,))
        for to in REFERENCES
    ),
    *(
        Column(f"- {to}, points", DifferenceCell(_named(f"minus_{to}_{{}}", *COMPARED)), formats=FULL)
        for to in REFERENCES
    ),
    Column("pruned %", RoundedCell(("pruned_top1_percent",)), formats=(TEXT, LATEX)),
    Column(
        "pruned, not fine-tuned, top-1 %",
        IntervalCell(("pruned_top1_percent", "pruned_top1_half_points")),
        formats=(MARKDOWN,),
    ),
    Column("MACs %", RoundedCell(("macs_percent",))),
    Column("params %", RoundedCell(("params_percent",))),
    *(Column(f"x {size}", SpeedupCell(_named(f"{size}_{{}}", *TIMED[:3])), formats=(TEXT, LATEX)) for size in SIZES),
    *(
        Column(f"speed-up, {size} batch, x", SpeedupCell(_named(f"{size}_{{}}", *TIMED)), formats=(MARKDOWN,))
        for size in SIZES
    ),
    Column("cost x", RoundedCell(("training_cost_times_dense",)), formats=(TEXT, LATEX)),
    Column("training cost, x dense", RoundedCell(("training_cost_times_dense",)), formats=(MARKDOWN,)),
    Column("step cost, x dense", RoundedCell(("step_cost_times_dense",)), formats=(MARKDOWN,)),
    Column("shares", TextCell(("shares",)), right=False),
    Column("level", TextCell(("level",)), right=False, formats=(MARKDOWN,)),
    Column("need", ExactCell(("seeds_needed",)), formats=(TEXT, LATEX)),
    Column("seeds needed", ExactCell(("seeds_needed",)), formats=(MARKDOWN,)),
    Column("wrong test images, seed:images", TextCell(("wrong_test_images_by_seed",)), False, FULL, audit=True),
    Column("track", TextCell(("track",)), False, FULL, audit=True),
    Column("test images", ExactCell(("test_images",)), formats=FULL, audit=True),
    Column("MACs", ExactCell(("macs",)), formats=FULL, audit=True),
    Column("params", ExactCell(("params",)), formats=FULL, audit=True),
    Column("epochs", ExactCell(("epochs",)), formats=FULL, audit=True),
    Column("training MACs", ExactCell(("training_macs",)), formats=FULL, audit=True),
)
NOTES_HEADER = "notes"
"""Header of the last column: numbers of the footnotes."""


def columns(fmt: str) -> list[Column]:
    """The columns of a format for people."""
    return [column for column in COLUMNS if fmt in column.formats]
