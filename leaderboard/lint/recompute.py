"""What the cells of a table have to be, computed again from the counts and costs that stand in it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from bench.spec.spec import BUDGET_TOLERANCE
from leaderboard.lint.sheets import Entry, Sheet
from leaderboard.reader.model import ALPHA, CONTROLS, CONTROLS_OF, LEAST_RANKED, REFERENCES
from leaderboard.reader.numbers import ROUNDING, agrees, derived
from leaderboard.render.columns import FAILED, MISSING, SIZES, Cell, Number, Value
from leaderboard.stats import statistics
from leaderboard.stats.rows import most_common

PARTS = ("points", "half_points", "seeds", "p", "p_holm", "clear")
"""What a row's difference to a reference is made of, in the names of its fields."""
COUNT = re.compile(rf"(\d{{1,15}}):(-?\d{{1,15}}|{FAILED}|{re.escape(MISSING)})")


@dataclass(frozen=True)
class Counts:
    """Wrong test images by seed, and the seeds of failed and of missing runs."""

    done: dict[int, int]
    failed: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()


def counts_of(entry: Entry) -> Counts:
    """The counts of a row, empty where it has none; ValueError where they cannot be."""
    text = entry.cells.get("wrong_test_images_by_seed") or ""
    found: dict[int, str] = {}
    for part in str(text).split():
        match = COUNT.fullmatch(part)
        if not match:
            raise ValueError(f"{part[:30]!r} is no seed with its count")
        if int(match[1]) in found:
            raise ValueError(f"seed {match[1]} stands there twice")
        found[int(match[1])] = match[2]
    done = {seed: int(count) for seed, count in found.items() if count not in (FAILED, MISSING)}
    if any(count < 0 for count in done.values()):
        raise ValueError("a count is negative")
    named = {sign: tuple(seed for seed, count in found.items() if count == sign) for sign in (FAILED, MISSING)}
    return Counts(done, named[FAILED], named[MISSING])


def value(entry: Entry, key: str) -> float | None:
    """A number of a row; None where it has none."""
    found = entry.cells.get(key)
    return found.value if isinstance(found, Number) else None


def method(entry: Entry) -> str:
    """Method of a row, without its options."""
    return str(entry.cells.get("method") or entry.name.partition(" ")[0])


def is_dense(entry: Entry) -> bool:
    """Whether a row has no budget, as far as its format says."""
    track = entry.cells.get("track")
    return track == "dense" if track else method(entry) == "dense" or entry.cells.get("unranked") == "no budget"


def dense_cost(sheet: Sheet, what: str) -> float | None:
    """MACs or params of the dense network: of the table, or what most of its rows say."""
    found = sheet.dense.get(f"dense_{what}")
    if isinstance(found, Number):
        return found.value
    return most_common([value(entry, f"dense_{what}") for entry in sheet.entries])


def common_epochs(sheet: Sheet) -> float | None:
    """Epochs that a ranked row must have: those of the control random, else of most rows with a budget."""
    random = [value(entry, "epochs") for entry in sheet.entries if entry.name == "random"]
    return random[0] if random else most_common([value(e, "epochs") for e in sheet.entries if not is_dense(e)])


def why_not_ranked(sheet: Sheet, entry: Entry, counts: Counts | None) -> str:
    """Why a row may not have a rank (RULES.md, 2.1, 5.2, 8.2, 10); empty where nothing that stands there forbids it."""
    if sheet.kind not in ("macs", "params") or is_dense(entry) or entry.cells.get("track", "matched") != "matched":
        return "it has no budget"
    if sheet.key.get("dataset") == "synthetic":
        return "nothing measured on synthetic data is a result"
    if entry.cells.get("top1_percent") is None:
        return "it has no mean"
    seeds = value(entry, "seeds") if counts is None else len(counts.done)
    if seeds is not None and seeds < LEAST_RANKED:
        return f"{seeds:g} of {LEAST_RANKED} seeds"
    if counts is not None and (counts.failed or counts.missing):
        return "a run failed or is missing"
    epochs = common_epochs(sheet)
    if value(entry, "epochs") not in (None, epochs):
        return f"{value(entry, 'epochs'):g} epochs, others {epochs}"
    if below_budget(sheet, entry) > BUDGET_TOLERANCE + ROUNDING:
        return f"{100 * below_budget(sheet, entry):.2f} % of the dense cost below the budget"
    return ""


def below_budget(sheet: Sheet, entry: Entry) -> float:
    """Share of the dense cost by which a row lies below its budget, at the least; negative: above; 0 if not known."""
    cost, dense = value(entry, sheet.kind), dense_cost(sheet, sheet.kind)
    if sheet.keep is None:
        return 0.0
    if cost is not None and dense:
        share = Number(cost / dense)
    else:
        percent = entry.cells.get(f"{sheet.kind}_percent")
        if not isinstance(percent, Number):
            return 0.0
        share = Number(percent.value / 100, percent.slack / 100)
    below, slack = sheet.keep.value - share.value, sheet.keep.slack + share.slack
    return math.copysign(max(abs(below) - slack, 0.0), below)


def recount(sheet: Sheet, counts: list[Counts | None]) -> list[dict[str, Value]]:
    """For each row what its cells have to be, by key; a key that cannot be computed is not there.

    Args:
        sheet: the table.
        counts: of each row; None where it has none that can be.
    """
    found: list[dict[str, Value]] = [{} for _ in sheet.entries]
    for entry, own, cells in zip(sheet.entries, counts, found, strict=True):
        _costs(sheet, entry, cells)
        _speeds(entry, cells)
        images = value(entry, "test_images")
        if own is None or not images:
            continue
        whole = bool(own.done) and not own.failed
        mean, half = statistics.interval(list(own.done.values()), statistics.QUANTUM) if whole else (None, None)
        cells["seeds"] = len(own.done)
        cells["top1_percent"] = None if mean is None else 100 * (1 - mean / images)
        cells["top1_half_points"] = None if half is None else 100 * half / images
    if any(counts):
        seeds = sorted({seed for own in counts if own for seed in own.done})
        wrong = np.array([[own.done.get(seed, np.nan) if own else np.nan for seed in seeds] for own in counts])
        wrong = wrong.astype(float).reshape(len(counts), -1)
        _differences(sheet, wrong, found)
        _ranks(sheet, counts, wrong, found)
        _controls(sheet, counts, found)
    return found


def _costs(sheet: Sheet, entry: Entry, cells: dict[str, Value]) -> None:
    for what in ("macs", "params"):
        cost, dense = value(entry, what), dense_cost(sheet, what)
        if cost is not None and dense:
            cells[f"{what}_percent"] = 100 * cost / dense
    base = next((value(e, "training_macs") for e in sheet.entries if e.name == "dense"), None)
    own = value(entry, "training_macs")
    if "training_macs" in entry.cells:
        cells["training_cost_times_dense"] = own / base if own is not None and base else None


def _speeds(entry: Entry, cells: dict[str, Value]) -> None:
    """Geometric mean of the speed-ups by seed, and its interval."""
    for size in SIZES:
        times = speedups_of(entry, size)
        if not times:
            continue
        mean, half = statistics.interval([math.log(x) for x in times.values()])
        cells[f"{size}_speedup_times"] = math.exp(mean)
        if half is not None:
            cells[f"{size}_speedup_low_times"] = math.exp(max(mean - half, -700.0))
            cells[f"{size}_speedup_high_times"] = math.exp(min(mean + half, 700.0))


def speedups_of(entry: Entry, size: str) -> dict[int, float]:
    """Measured speed-up by seed; ValueError where one cannot be."""
    found = {}
    for part in str(entry.cells.get(f"{size}_speedups_by_seed") or "").split():
        seed, _, times = part.partition(":")
        found[int(seed)] = float(times)
        if not 0 < found[int(seed)] < math.inf:
            raise ValueError(f"{part[:40]!r} is no speed-up")
    return found


def _differences(sheet: Sheet, wrong: statistics.Array, found: list[dict[str, Value]]) -> None:
    """Paired differences to the references; each reference makes one family of tests."""
    names = [entry.name for entry in sheet.entries]
    known = ~np.isnan(wrong)
    counted = [k for k, cells in enumerate(found) if cells.get("top1_percent") is not None]
    for to in REFERENCES:
        for cells in found:
            if "top1_percent" in cells:
                cells.update({f"minus_{to}_{part}": None for part in PARTS})
        at = names.index(to) if to in names else -1
        if at not in counted or (to != "dense" and sheet.kind not in ("macs", "params")):
            continue
        others = [k for k in counted if k != at and (known[k] & known[at]).any()]
        tests = statistics.family(wrong[at] - wrong[others], len(others) + 1)
        for place, k in enumerate(others):
            points = 100 / (value(sheet.entries[k], "test_images") or math.nan)
            own: tuple[Value, ...] = (
                float(tests.mean[place]) * points,
                _known(tests.half[place] * points),
                int((known[k] & known[at]).sum()),
                _known(tests.p[place]),
                _known(tests.p_holm[place]),
                derived(tests.p_holm[place]) < ALPHA,
            )
            found[k].update({f"minus_{to}_{part}": x for part, x in zip(PARTS, own, strict=True)})


def _ranks(sheet: Sheet, counts: list[Counts | None], wrong: statistics.Array, found: list[dict[str, Value]]) -> None:
    """Of the rows that may have a rank; the others have no letters either."""
    chosen = []
    for k, (entry, own) in enumerate(zip(sheet.entries, counts, strict=True)):
        may = own is not None and not entry.cells.get("unranked") and not why_not_ranked(sheet, entry, own)
        if may and found[k].get("top1_percent") is not None:
            chosen.append(k)
        elif own is not None:
            found[k].update(tie_group=None, seeds_needed=None)
    chosen.sort(key=lambda k: (-float(found[k]["top1_percent"] or 0), sheet.entries[k].name))
    if not chosen:
        return
    mine = wrong[chosen]
    better, p = statistics.pairwise(mine, LEAST_RANKED)
    pairs = max(len(chosen) * (len(chosen) - 1) // 2, 1)
    behind = statistics.family(mine[1:] - mine[0], len(chosen))
    needed = [math.nan, *statistics.seeds_needed(behind.mean, behind.deviation, ALPHA / pairs)]
    for k, place, letters, seeds in zip(chosen, statistics.ranks(better, p), statistics.groups(p), needed, strict=True):
        found[k].update(rank=place, tie_group=letters or None, seeds_needed=_known(seeds))


def _controls(sheet: Sheet, counts: list[Counts | None], found: list[dict[str, Value]]) -> None:
    """Compulsory controls without a finished run for some seed that a row has."""
    there = {entry.name: set(own.done) for entry, own in zip(sheet.entries, counts, strict=True) if own}
    for entry, own, cells in zip(sheet.entries, counts, found, strict=True):
        if own is None or entry.cells.get("track", "matched") != "matched":
            continue
        asked = (*CONTROLS, *CONTROLS_OF.get(method(entry), ()))
        lacking = [name for name in asked if not set(own.done) <= there.get(name, set())]
        cells["controls_missing"] = ", ".join(lacking) or None


def _known(x: float) -> float | None:
    return None if math.isnan(x) else float(x)


def agree(cell: Cell, expected: Value) -> bool:
    """Whether a cell says what was computed, within its rounding."""
    if isinstance(cell, Number) and isinstance(expected, int | float):
        return agrees(cell.value, expected, cell.slack)
    return cell == expected
