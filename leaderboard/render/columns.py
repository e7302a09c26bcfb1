"""How tables for people (text, Markdown, LaTeX) are written: columns whose cells are made of fields."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from leaderboard.reader.model import OF_MS, REFERENCES, TableKind
from leaderboard.render.fields import SIZES, Values

CLEAR, EQUIVALENT, LOSS = "*", "=", "\N{DOUBLE DAGGER}"
"""Marks: significantly different after Holm's correction, or faster; equivalent within the plan's largest margin;
significantly different in the test loss."""
NONE_FINISHED = "none finished"
NO_ORDER = "no order"


def exact(value: float) -> str:
    """A number with all of its digits and thousands separators."""
    return f"{int(value) if value == int(value) else value:,}"


@dataclass(frozen=True)
class CellFormat(ABC):
    """How a cell is made of fields; ``keys`` names them, and the first has to be there."""

    keys: tuple[str, ...]

    def write(self, values: Values) -> str:
        """The cell; empty where its first field is."""
        return "" if values[self.keys[0]] in (None, "") else self._write(*(values[key] for key in self.keys))

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

    digits = 2

    def _write(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


class MillisecondsCell(RoundedCell):
    """Milliseconds, which have three."""

    digits = 3


class RoundedLossCell(RoundedCell):
    """A loss, which has four."""

    digits = 4


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


class RankCell(CellFormat):
    """The ranks that a row may have: ``1-26``."""

    def _write(self, best: int, worst: int, order_shown: bool) -> str:
        return (f"{best}-{worst}" if best < worst else str(best)) if order_shown else NO_ORDER


class DifferenceCell(CellFormat):
    """Difference to a reference: ``-0.51 ± 0.30*``, with marks for what is significant.

    The interval includes other test images where the records say which are right.
    """

    def _write(
        self, mean: float, clear: bool, verdicts: str | None, half: float | None = None, images: float | None = None
    ) -> str:
        shown = half if images is None else images
        equivalent = "equivalent" in (verdicts or "").rpartition("; ")[2]
        marks = CLEAR * clear + EQUIVALENT * equivalent
        return f"{mean:+.2f}" + ("" if shown is None else f" ± {shown:.2f}") + marks


class VerdictCell(CellFormat):
    """Verdicts on a difference, one a margin of the plan: ``worse; worse, equivalent``, or one where all are equal."""

    def _write(self, verdicts: str, won: float, seeds: int) -> str:
        each = verdicts.split("; ")
        return f"{each[0] if len(set(each)) == 1 else verdicts} ({won:g} of {seeds})"


class LossCell(CellFormat):
    """The row's test loss over the reference's: ``0.93\N{DOUBLE DAGGER}``, with a mark where it is significant."""

    def _write(self, logarithm: float, verdicts: str | None) -> str:
        return f"{math.exp(-logarithm):.3f}" + LOSS * (verdicts in ("better", "worse"))


class SpeedupCell(CellFormat):
    """Measured speed-up: ``1.52 [1.50, 1.55]*``, with a mark where it may be called faster."""

    def _write(self, times: float, faster: bool, *interval: float) -> str:
        ends = " [{:.2f}, {:.2f}]".format(*interval) if interval else ""
        return f"{times:.2f}{ends}{CLEAR * faster}"


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
        formats: which ones have it.
        audit: needed to compute the others again: a column in Markdown, in LaTeX a comment.
        of_ms: of tables whose budget is milliseconds.
    """

    header: str
    cell: CellFormat
    right: bool = True
    formats: tuple[str, ...] = PEOPLE
    audit: bool = False
    of_ms: bool = False


COMPARED = ("points", "clear", "verdicts", "half_points", "images_half_points")
TIMED = ("speedup_times", "faster", "speedup_low_times", "speedup_high_times")
COLUMNS = (
    Column("rank", RankCell(("rank_best", "rank_worst", "order_shown"))),
    Column("tie", TextCell(("tie_group",)), right=False),
    Column("method", TextCell(("name",)), right=False),
    Column("seeds", ExactCell(("seeds",))),
    Column("top-1 %", ResultCell(("top1_percent", "top1_half_points", "unfinished"))),
    *(
        Column(f"- {to}", DifferenceCell(_named(f"minus_{to}_{{}}", *COMPARED[:3])), formats=(TEXT,))
        for to in REFERENCES
    ),
    *(
        Column(f"- {to}, points", DifferenceCell(_named(f"minus_{to}_{{}}", *COMPARED)), formats=FULL)
        for to in REFERENCES
    ),
    *(
        Column(f"verdict, {to}", VerdictCell(_named(f"minus_{to}_{{}}", "verdicts", "won_seeds", "seeds")), False, FULL)
        for to in REFERENCES
    ),
    Column("loss", RoundedLossCell(("loss_nats",)), formats=FULL),
    *(
        Column(f"loss / {to}", LossCell((f"loss_minus_{to}_log", f"loss_minus_{to}_verdicts")), formats=FULL)
        for to in REFERENCES
    ),
    Column("pruned %", RoundedCell(("pruned_top1_percent",)), formats=(TEXT, LATEX)),
    Column(
        "pruned, not fine-tuned, top-1 %",
        IntervalCell(("pruned_top1_percent", "pruned_top1_half_points")),
        formats=(MARKDOWN,),
    ),
    Column("asked ms", MillisecondsCell(("asked_ms",)), of_ms=True),
    Column("ms", MillisecondsCell(("measured_ms",)), of_ms=True),
    Column("dense ms", MillisecondsCell(("measured_dense_ms",)), formats=FULL, of_ms=True),
    Column("ms %", RoundedCell(("measured_percent",)), of_ms=True),
    Column("MACs %", RoundedCell(("macs_percent",))),
    Column("params %", RoundedCell(("params_percent",))),
    *(Column(f"x {size}", SpeedupCell(_named(f"{size}_{{}}", *TIMED[:2])), formats=(TEXT, LATEX)) for size in SIZES),
    *(
        Column(f"speed-up, {size} batch, x", SpeedupCell(_named(f"{size}_{{}}", *TIMED)), formats=(MARKDOWN,))
        for size in SIZES
    ),
    Column("cost x", RoundedCell(("training_cost_times_dense",)), formats=(TEXT, LATEX)),
    Column("training cost, x dense", RoundedCell(("training_cost_times_dense",)), formats=(MARKDOWN,)),
    Column("step cost, x dense", RoundedCell(("step_cost_times_dense",)), formats=(MARKDOWN,)),
    Column("shares", TextCell(("shares",)), right=False),
    Column("level", TextCell(("level",)), right=False, formats=(MARKDOWN,)),
    Column("need", TextCell(("seeds_needed",)), formats=(TEXT, LATEX)),
    Column("seeds needed", TextCell(("seeds_needed",)), formats=(MARKDOWN,)),
    Column("wrong test images, seed:images", TextCell(("wrong_test_images_by_seed",)), False, FULL, audit=True),
    Column("track", TextCell(("track",)), False, FULL, audit=True),
    Column("test images", ExactCell(("test_images",)), formats=FULL, audit=True),
    Column("MACs", ExactCell(("macs",)), formats=FULL, audit=True),
    Column("params", ExactCell(("params",)), formats=FULL, audit=True),
    Column("epochs", ExactCell(("epochs",)), formats=FULL, audit=True),
    Column("training MACs", ExactCell(("training_macs",)), formats=FULL, audit=True),
)
TRAINING = (
    *("method", "seeds", "top-1 %", "- dense", "- dense, points", "verdict, dense", "loss", "loss / dense"),
    *("cost x", "training cost, x dense", "step cost, x dense"),
)
"""Headers of the table of rows that keep every unit; those for audits are there too."""
TRAINING_ALONE = (
    Column("step cost, x dense", RoundedCell(("step_cost_times_dense",)), formats=(TEXT, LATEX)),
    Column("total epochs", ExactCell(("epochs",)), formats=(TEXT, LATEX)),
)
NOTES_HEADER = "notes"
"""Header of the last column: numbers of the footnotes."""


def columns(fmt: str, kind: TableKind) -> list[Column]:
    """The columns of a table in a format for people."""
    kept = [column for column in COLUMNS if column.audit or column.header in TRAINING]
    shown = (*kept, *TRAINING_ALONE) if kind == "training" else COLUMNS
    return [column for column in shown if fmt in column.formats and (kind in OF_MS or not column.of_ms)]
