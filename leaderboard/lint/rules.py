"""What can be wrong in one table of this suite; the codes are those of ``leaderboard.lint.finding``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.spec.spec import BUDGET_TOLERANCE
from leaderboard.lint.finding import Finding
from leaderboard.lint.parse_tables import Entry, Sheet
from leaderboard.lint.recompute import below_budget, dense_cost, why
from leaderboard.reader.model import NO_BUDGET, REFERENCES, Row
from leaderboard.reader.numbers import ROUNDING, agrees
from leaderboard.render.fields import FIELDS, SIZES, UNITS, Value
from leaderboard.stats.ranking import expected_epochs, place
from leaderboard.stats.rows import most_common

COUNTED = {
    **{"top1_percent": "mean", "top1_half_points": "interval", "seeds": "seeds", "unfinished": "outcome"},
    **{"pruned_top1_percent": "mean", "pruned_top1_half_points": "interval", "loss_nats": "mean"},
    **{"rank_best": "rank", "rank_worst": "rank", "order_shown": "rank", "tie_group": "tie-group"},
    **{"seeds_needed": "seeds-needed", "controls_missing": "control"},
    **{
        f"minus_{to}_{part}": code
        for to in REFERENCES
        for part, code in (
            *(("points", "difference"), ("won_seeds", "difference"), ("clear", "clear"), ("verdicts", "verdict")),
            *((f"{kind}half_points", "interval") for kind in ("", "refit_")),
            *((part, "p") for part in ("seeds", "p", "p_holm", "p_board", "smallest_points")),
        )
    },
    **{
        f"{endpoint}_minus_{to}_{part}": code
        for endpoint, unit in UNITS.items()
        for to in REFERENCES
        for part, code in (
            *((unit, "difference"), (f"half_{unit}", "interval"), ("verdicts", "verdict")),
            *((part, "p") for part in ("seeds", "p", "p_holm")),
        )
    },
}
"""What follows from counts of wrong images and losses, and what is wrong where it is another."""
CODE_OF = COUNTED | {
    **{"measured_percent": "percent"},
    **{"macs_percent": "percent", "params_percent": "percent", "training_cost_times_dense": "cost"},
    **{f"{size}_speedup_times": "speed-mean" for size in SIZES},
    **{f"{size}_faster": "speed-claim" for size in SIZES},
}
MEANS = ("top1_percent", "pruned_top1_percent", *(f"minus_{to}_points" for to in REFERENCES))
NOT_NEGATIVE = re.compile(
    r"seeds|.*_half_points|macs|params|.*_ms|.*_batch|epochs|training_macs|.*_times.*|test_images|dense_.*"
)


def apply_rules(sheet: Sheet, right: Sequence[Row]) -> list[Finding]:
    """Everything that is wrong with a table, what reading it found included; ``right``: its rows, computed again."""
    for part in (_settings, _counts, _accuracies, _sizes, _speeds):
        part(sheet)
    _recomputed(sheet, right)
    _ranking(sheet)
    return sheet.findings


def shown(value: Value) -> str:
    """A value in a message."""
    if value in (None, ""):
        return "nothing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]


def same(value: Value, expected: Value) -> bool:
    """Whether a value is what was computed, as far as arithmetic is exact; an empty text is nothing."""
    if isinstance(value, int | float) and isinstance(expected, int | float) and not isinstance(expected, bool):
        return agrees(value, expected)
    return (value or None) == (expected or None) if isinstance(expected, str | None) else value == expected


def _number(entry: Entry, key: str) -> float | None:
    found = entry.values.get(key)
    return None if isinstance(found, str | bool) else found


def _pairs(sheet: Sheet) -> list[tuple[Entry, Row]]:
    return list(zip(sheet.entries, sheet.rows, strict=True))


def _settings(sheet: Sheet) -> None:
    """One test set, one dense network, every row once."""
    images = most_common([row.test_images or None for row in sheet.rows])
    sizes = [(seed, run.images) for row in sheet.rows for seed, run in row.finished.items()]
    by_seed = {seed: most_common([size for other, size in sizes if other == seed]) for seed, _ in sizes}
    seen: Counter[Any] = Counter()
    track = sheet.kind if sheet.kind in NO_BUDGET else "matched"
    for entry, row in _pairs(sheet):
        if row.track not in ("dense", track):
            sheet.add(entry, "track", "mixed-track", f"{row.track[:60]} in a table of {track} rows")
        if row.test_images not in (0, None, images):
            sheet.add(entry, "test_images", "mixed-test-set", f"{row.test_images}, others {images}")
        for seed, run in row.finished.items():
            if row.test_images is None and run.images != by_seed[seed]:
                text = f"seed {seed}: {run.images} images, others {by_seed[seed]}"
                sheet.add(entry, "wrong_test_images_by_seed", "mixed-test-set", text)
        for what, own in (("macs", row.macs), ("params", row.params)):
            dense, said = dense_cost(sheet, what), _number(entry, f"dense_{what}")
            if said not in (None, dense):
                sheet.add(entry, f"dense_{what}", "mixed-dense", f"{said:,}, others {dense:,}")
            whole = row.name == "dense" or row.track == "training"
            if whole and own is not None and dense is not None and not agrees(own, dense):
                sheet.add(entry, what, "mixed-dense", f"a row that keeps every unit has {own:,}, the table {dense:,}")
        seen[row.name, row.spec] += 1
        if seen[row.name, row.spec] == 2:
            sheet.add(entry, "name", "duplicate", "the row is there twice")


def _counts(sheet: Sheet) -> None:
    """Counts within the test set, and no mean without them or in spite of a failed run."""
    for entry, row in _pairs(sheet):
        if not row.runs and not row.missing and row.top1:
            sheet.add(entry, "top1_percent", "claimed", "an accuracy without counts")
        for seed, run in row.finished.items():
            if run.wrong is not None and run.wrong > run.images:
                text = f"seed {seed}: {run.wrong} of {run.images} images"
                sheet.add(entry, "wrong_test_images_by_seed", "wrong-images", text)
        failed = [run.seed for run in row.runs if run.wrong is None]
        for key in MEANS if failed else ():
            if entry.values.get(key) is not None:
                sheet.add(entry, key, "failed-mean", f"seed {failed[0]} failed, and there is a mean")


def _accuracies(sheet: Sheet) -> None:
    """Between 0 and 100, of whole images, intervals with their means."""
    for entry, row in _pairs(sheet):
        for key, mean in (("top1_percent", row.top1), ("pruned_top1_percent", row.pruned)):
            if mean and not -ROUNDING <= mean.mean <= 100 + ROUNDING:
                sheet.add(entry, key, "accuracy-range", f"{mean.mean:g} %")
            if mean and row.finished and row.test_images is not None:
                wrong = (100 - mean.mean) * row.test_images * len(row.finished) / 100
                if math.isfinite(wrong) and abs(wrong - round(wrong)) > 1e-6:
                    text = f"{mean.mean:g} % of {row.test_images} images is no count"
                    sheet.add(entry, key, "accuracy-image", text)
        for key in MEANS:
            half = f"{key.rpartition('_')[0]}_half_points"
            if entry.values.get(half) is not None and entry.values.get(key) is None:
                sheet.add(entry, half, "interval-alone", "an interval without its mean")


def _sizes(sheet: Sheet) -> None:
    """Nothing negative; not above dense, nor above the budget, nor, if ranked, far below it."""
    for entry, row in _pairs(sheet):
        for key in entry.values:
            number = _number(entry, key)
            if number is not None and number < 0 and NOT_NEGATIVE.fullmatch(key):
                sheet.add(entry, key, "negative", f"{number:g}")
            if number is not None and key.endswith(("_p", "_p_holm")) and not 0 <= number <= 1:
                sheet.add(entry, key, "p", f"{number:g} is no probability")
        for what, own in (("macs", row.macs), ("params", row.params)):
            dense = dense_cost(sheet, what)
            if own is not None and dense is not None and own > dense * (1 + ROUNDING):
                sheet.add(entry, what, "above-dense", f"{own:,}, dense {dense:,}")
        below = below_budget(sheet, row) if row.track == "matched" else 0.0
        of = "" if sheet.table.of_ms else " of the dense cost"
        text = f"{100 * abs(below):.2g} %{of} {'above' if below < 0 else 'below'} the budget"
        if below < -ROUNDING:
            sheet.add(entry, sheet.kind, "above-budget", text)
        elif below > BUDGET_TOLERANCE + ROUNDING and row.rank is not None:
            sheet.add(entry, sheet.kind, "below-budget", text)


def _speeds(sheet: Sheet) -> None:
    """Speed-ups in their intervals."""
    for entry in sheet.entries:
        for size in SIZES:
            ends = ("", "_low", "_high")
            mean, low, high = (_number(entry, f"{size}_speedup{end}_times") for end in ends)
            key = f"{size}_speedup_times"
            if len({mean is None, low is None, high is None}) > 1:
                sheet.add(entry, key, "interval-alone", "an interval without its mean, or with one end")
            elif mean is not None and low is not None and high is not None:
                slack = ROUNDING * mean
                if not low - slack <= mean <= high + slack:
                    sheet.add(entry, key, "speed-interval", f"{mean:g} in [{low:g}, {high:g}]")


def _recomputed(sheet: Sheet, expected_rows: Sequence[Row]) -> None:
    """Every cell that follows from others is what follows."""
    table = dataclasses.replace(sheet.table, rows=tuple(expected_rows))
    for entry, row, right in zip(sheet.entries, sheet.rows, expected_rows, strict=True):
        counted = row.runs or row.missing or row.top1 is None  # else noted as claimed
        failed = any(run.wrong is None for run in row.runs)
        for key, code in CODE_OF.items():
            if key not in entry.values or (key in COUNTED and not counted):
                continue
            value, expected = entry.values[key], FIELDS[key].get(right, table)
            noted = (failed and key in MEANS and expected is None) or (key.startswith("rank_") and row.rank is None)
            if not noted and not same(value, expected):
                sheet.add(entry, key, code, f"{shown(value)}, but {shown(expected)} follows")


def _ranking(sheet: Sheet) -> None:
    """Ranks only where the rules allow them, reasons where there is none, rows in their order."""
    epochs = expected_epochs(sheet.rows)
    before: tuple[Any, ...] = ()
    for entry, row in _pairs(sheet):
        reason = row.unranked or why(sheet, row, epochs)
        if row.rank is not None and row.epochs not in (None, epochs):
            sheet.add(entry, "epochs", "mixed-epochs", f"{row.epochs} epochs, others {epochs}")
        if row.rank is not None and reason:
            sheet.add(entry, "rank_best", "rank-not-allowed", reason)
        if row.rank is None and not row.unranked:
            sheet.add(entry, "rank_best", "no-rank", "neither a rank nor a reason for having none")
        if before and place(row)[:3] < before[:3]:
            sheet.add(entry, "top1_percent", "order", "it is below a row that it comes before")
        before = place(row)
