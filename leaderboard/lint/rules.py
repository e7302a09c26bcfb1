"""What can be wrong in one table of this suite; the codes are those of ``leaderboard.lint.check``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from bench.spec.spec import BUDGET_TOLERANCE
from leaderboard.lint.recompute import (
    Counts,
    agree,
    below_budget,
    common_epochs,
    counts_of,
    dense_cost,
    is_dense,
    recount,
    speedups_of,
    value,
    why_not_ranked,
)
from leaderboard.lint.sheets import Entry, Finding, Sheet
from leaderboard.reader.model import CONTROLS, REFERENCES
from leaderboard.reader.numbers import ROUNDING
from leaderboard.render.columns import SIZES, Cell, Number, Value
from leaderboard.stats.rows import most_common

CODE_OF = {
    **{"top1_percent": "mean", "top1_half_points": "interval", "seeds": "seeds", "controls_missing": "control"},
    **{"macs_percent": "percent", "params_percent": "percent", "training_cost_times_dense": "cost"},
    **{"rank": "rank", "tie_group": "tie-group", "seeds_needed": "seeds-needed"},
    **{
        f"minus_{to}_{part}": code for to in REFERENCES for part, code in [("points", "difference"), ("clear", "clear")]
    },
    **{f"minus_{to}_half_points": "interval" for to in REFERENCES},
    **{f"minus_{to}_{part}": "p" for to in REFERENCES for part in ("seeds", "p", "p_holm")},
    **{f"{size}_speedup{part}_times": "speed-mean" for size in SIZES for part in ("", "_low", "_high")},
}
"""Which fault it is when a cell is not what was computed."""
NOT_NEGATIVE = re.compile(
    r"seeds|.*_half_points|macs|params|.*_ms|.*_batch|epochs|training_macs|.*_times.*|test_images|dense_.*"
)


def find(sheet: Sheet) -> list[Finding]:
    """All faults of a table, those of reading it included."""
    counts: list[Counts | None] = []
    for entry in sheet.entries:
        try:
            own = counts_of(entry)
            counts.append(own if own.done or own.failed or own.missing else None)
        except ValueError as error:
            counts.append(None)
            sheet.fault(entry, "wrong_test_images_by_seed", "counts", str(error))
        for size in SIZES:
            try:
                speedups_of(entry, size)
            except ValueError as error:
                sheet.fault(entry, f"{size}_speedups_by_seed", "cell", str(error))
                entry.cells.pop(f"{size}_speedups_by_seed")
    for part in (_settings, _counts, _accuracies, _sizes, _speeds, _recounted, _without_counts, _ranking):
        part(sheet, counts)
    return sheet.faults


def _rows(sheet: Sheet, counts: list[Counts | None]) -> Iterator[tuple[Entry, Counts | None]]:
    return zip(sheet.entries, counts, strict=True)


def _settings(sheet: Sheet, counts: list[Counts | None]) -> None:
    """One test set, one dense network, every row once."""
    images = most_common([value(entry, "test_images") or None for entry in sheet.entries])
    seen: Counter[tuple[object, ...]] = Counter()
    track = sheet.kind if sheet.kind in ("native", "like") else "matched"
    for entry in sheet.entries:
        if entry.cells.get("track") not in (None, "dense", track):
            sheet.fault(entry, "track", "mixed-track", f"{shown(entry.cells['track'])} in a table of {track} rows")
        if value(entry, "test_images") not in (None, 0, images):
            sheet.fault(entry, "test_images", "mixed-test-set", f"{value(entry, 'test_images'):g}, others {images:g}")
        for what in ("macs", "params"):
            dense = dense_cost(sheet, what)
            own = value(entry, f"dense_{what}")
            if own not in (None, dense):
                sheet.fault(entry, f"dense_{what}", "mixed-dense", f"{own:,.0f}, others {dense:,.0f}")
            network = value(entry, what) if entry.name == "dense" else None
            if network is not None and dense is not None and not agree(Number(network), dense):
                sheet.fault(entry, what, "mixed-dense", f"the dense row has {network:,g}, the table {dense:,g}")
        # Rows of the track like have the same name where they have the widths of different runs.
        which = tuple(map(str, entry.cells.values())) if sheet.kind == "like" else is_dense(entry)
        same = (entry.name, entry.cells.get("spec", which))
        seen[same] += 1
        if seen[same] == 2:
            sheet.fault(entry, "name", "duplicate", "the row stands there twice")


def _counts(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Counts within the test set; what is said of the runs is what they say."""
    for entry, own in _rows(sheet, counts):
        images = value(entry, "test_images")
        if own is None:
            if "wrong_test_images_by_seed" in entry.cells and entry.cells.get("top1_percent") is not None:
                sheet.fault(entry, "top1_percent", "claimed", "an accuracy without counts")
            continue
        for seed, wrong in own.done.items():
            if images is not None and wrong > images:
                sheet.fault(
                    entry, "wrong_test_images_by_seed", "wrong-images", f"seed {seed}: {wrong} of {images:g} images"
                )
        if own.failed:
            for key in ("top1_percent", "pruned_top1_percent", *(f"minus_{to}_points" for to in REFERENCES)):
                if entry.cells.get(key) is not None:
                    sheet.fault(entry, key, "failed-mean", f"seed {own.failed[0]} failed, and there is a mean")
        said = str(entry.cells.get("unfinished") or "")
        failed = sum(int(n) for n in re.findall(r"(\d+) (?:failed|diverged)", said))
        missing = sum(int(n) for n in re.findall(r"(\d+) missing", said))
        there = len(own.failed), len(own.missing)
        if (said or "spec" in entry.cells) and (failed, missing) != there:
            text = f"{said or 'nothing said'}, but {there[0]} failed and {there[1]} missing"
            sheet.fault(entry, "unfinished", "outcome", text)


def _accuracies(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Between 0 and 100, of whole images, intervals with their means."""
    for entry, own in _rows(sheet, counts):
        images = value(entry, "test_images")
        for key in ("top1_percent", "pruned_top1_percent"):
            cell = entry.cells.get(key)
            if isinstance(cell, Number) and not -ROUNDING <= cell.value <= 100 + ROUNDING:
                sheet.fault(entry, key, "accuracy-range", f"{cell.value:g} %")
            if isinstance(cell, Number) and own and own.done and images:
                wrong = (100 - cell.value) * images * len(own.done) / 100
                slack = cell.slack * images * len(own.done) / 100
                if abs(wrong - round(wrong)) > slack + 1e-6:
                    sheet.fault(entry, key, "accuracy-image", f"{cell.value:g} % of {images:g} images is no count")
        for name, mean in [
            ("top1", "percent"),
            ("pruned_top1", "percent"),
            *((f"minus_{to}", "points") for to in REFERENCES),
        ]:
            if entry.cells.get(f"{name}_half_points") is not None and entry.cells.get(f"{name}_{mean}") is None:
                sheet.fault(entry, f"{name}_half_points", "interval-alone", "an interval without its mean")


def _sizes(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Nothing negative; not above dense, nor above the budget, nor, if ranked, far below it."""
    for entry in sheet.entries:
        for key, cell in entry.cells.items():
            if isinstance(cell, Number) and cell.value < 0 and NOT_NEGATIVE.fullmatch(key):
                sheet.fault(entry, key, "negative", f"{cell.value:g}")
            if isinstance(cell, Number) and key.endswith(("_p", "_p_holm")) and not 0 <= cell.value <= 1:
                sheet.fault(entry, key, "p", f"{cell.value:g} is no probability")
        for what in ("macs", "params"):
            cost, dense = value(entry, what), dense_cost(sheet, what)
            percent = entry.cells.get(f"{what}_percent")
            if cost is not None and dense is not None and cost > dense * (1 + ROUNDING):
                sheet.fault(entry, what, "above-dense", f"{cost:,g}, dense {dense:,g}")
            elif isinstance(percent, Number) and percent.value - percent.slack > 100 + ROUNDING:
                sheet.fault(entry, f"{what}_percent", "above-dense", f"{percent.value:g} % of dense")
        if (
            sheet.kind in ("macs", "params")
            and entry.cells.get("track", "matched") == "matched"
            and not is_dense(entry)
        ):
            below = below_budget(sheet, entry)
            text = f"{100 * abs(below):.2g} % of the dense cost {'above' if below < 0 else 'below'} the budget"
            if below < -ROUNDING:
                sheet.fault(entry, sheet.kind, "above-budget", text)
            elif below > BUDGET_TOLERANCE + ROUNDING and entry.cells.get("rank") is not None:
                sheet.fault(entry, sheet.kind, "below-budget", text)


def _speeds(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Speed-ups in their intervals, of their times, and called so only where they are."""
    for entry in sheet.entries:
        for size in SIZES:
            key = f"{size}_speedup_times"
            times = entry.cells.get(key)
            low, high = (entry.cells.get(f"{size}_speedup_{end}_times") for end in ("low", "high"))
            if (low is None) != (high is None) or (low is not None and times is None):
                sheet.fault(entry, key, "interval-alone", "an interval without its mean, or with one end")
            if not isinstance(times, Number):
                continue
            if isinstance(low, Number) and isinstance(high, Number):
                slack = times.slack + low.slack + ROUNDING * times.value
                if not low.value - slack <= times.value <= high.value + slack:
                    sheet.fault(entry, key, "speed-interval", f"{times.value:g} in [{low.value:g}, {high.value:g}]")
            least = low if isinstance(low, Number) else times
            faster, busy = entry.cells.get(f"{size}_faster"), entry.cells.get(f"{size}_busy")
            if faster and (busy or least.value + least.slack <= 1):
                why = "the machine was busy" if busy else f"the interval begins at {least.value:g}"
                sheet.fault(entry, f"{size}_faster", "speed-claim", f"called a speed-up, but {why}")
            elif isinstance(low, Number) and not busy and not faster and low.value - low.slack > 1:
                sheet.fault(
                    entry, f"{size}_faster", "speed-claim", f"the interval begins at {low.value:g}, but unmarked"
                )
            _times(sheet, entry, size)


def _times(sheet: Sheet, entry: Entry, size: str) -> None:
    """The ratio of two medians over seeds lies between the least and the largest ratio of a seed."""
    dense, final = value(entry, f"{size}_dense_ms"), value(entry, f"{size}_final_ms")
    by_seed = speedups_of(entry, size).values()
    if not dense or not final or dense < 0 or final < 0 or not by_seed:
        return
    ratio = dense / final
    if not min(by_seed) * (1 - ROUNDING) <= ratio <= max(by_seed) * (1 + ROUNDING):
        text = f"{dense:.4g} / {final:.4g} ms is {ratio:.4g}, the runs say {min(by_seed):.4g} to {max(by_seed):.4g}"
        sheet.fault(entry, f"{size}_dense_ms", "speed-ratio", text)


def _recounted(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Every cell that follows from others is what follows."""
    for (entry, own), cells in zip(_rows(sheet, counts), recount(sheet, counts), strict=True):
        for key, right in cells.items():
            found = entry.cells.get(key)
            if key not in entry.cells or agree(found, right):
                continue
            failed = own and own.failed and right is None  # noted as a failed run with a mean
            if failed and CODE_OF[key] in ("mean", "difference", "interval", "clear", "p"):
                continue
            if key == "rank" and found is None:  # noted as neither rank nor reason
                continue
            sheet.fault(entry, key, CODE_OF[key], f"{shown(found)}, but {shown(right)} follows")


def shown(found: Cell | Value) -> str:
    """A value in a message."""
    plain = found.value if isinstance(found, Number) else found
    return "nothing" if plain in (None, "") else f"{plain:.6g}" if isinstance(plain, float) else str(plain)[:60]


def _without_counts(sheet: Sheet, counts: list[Counts | None]) -> None:
    """What a format without counts can still be asked: differences of the printed means, controls by their names."""
    by_name = {entry.name: entry for entry in sheet.entries}
    for entry in sheet.entries:
        counted = "wrong_test_images_by_seed" in entry.cells or not value(entry, "seeds")
        if sheet.kind not in ("macs", "params") or is_dense(entry) or counted:
            continue
        lacking = str(entry.cells.get("controls_missing") or "").split(", ")
        for to in REFERENCES:
            found, mine = entry.cells.get(f"minus_{to}_points"), entry.cells.get("top1_percent")
            other = by_name[to].cells.get("top1_percent") if to in by_name else None
            same = to in by_name and value(by_name[to], "seeds") == value(entry, "seeds") and to not in lacking
            if isinstance(found, Number) and isinstance(mine, Number) and isinstance(other, Number) and same:
                right = Number(mine.value - other.value, mine.slack + other.slack)
                if abs(found.value - right.value) > found.slack + right.slack + ROUNDING:
                    sheet.fault(entry, f"- {to}", "difference", f"{found.value:+g}, but {right.value:+.2f} follows")
        for name in CONTROLS:
            if name not in by_name and name not in lacking:
                sheet.fault(entry, "controls_missing", "control", f"{name} is not in the table")


def _ranking(sheet: Sheet, counts: list[Counts | None]) -> None:
    """Ranks only where the rules allow them, reasons where there is none, rows in their order."""
    before: tuple[bool, bool, float, float] | None = None
    epochs = common_epochs(sheet)
    for entry, own in _rows(sheet, counts):
        why = why_not_ranked(sheet, entry, own)
        rank, top1 = value(entry, "rank"), entry.cells.get("top1_percent")
        if rank is not None and value(entry, "epochs") not in (None, epochs):
            sheet.fault(entry, "epochs", "mixed-epochs", f"{value(entry, 'epochs'):g} epochs, others {epochs}")
        if rank is not None and (why or entry.cells.get("unranked")):
            sheet.fault(entry, "rank", "rank-not-allowed", why or f"it is {entry.cells['unranked']}")
        if rank is None and not entry.cells.get("unranked"):
            sheet.fault(entry, "rank", "no-rank", "neither a rank nor a reason for having none")
        slack = 2 * top1.slack + ROUNDING if isinstance(top1, Number) else 0.0
        mean = -top1.value if isinstance(top1, Number) else float("inf")
        place = (not is_dense(entry), rank is None, rank or 0.0, mean)
        if before is not None and (place[:3], mean + slack) < (before[:3], before[3]):
            sheet.fault(entry, "rank", "order", "it stands below a row that it comes before")
        before = place
