"""What each page of the site shows: from the model and the records to the values that the templates show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records import schema
from bench.records.schema import Clock, Costs, Metrics, Quality, Record, finished
from bench.records.store import arithmetic
from bench.spec.wording import plural
from leaderboard.figures.forest import forest
from leaderboard.reader.curve_model import Curve
from leaderboard.reader.model import Board, Row, Table
from leaderboard.render.advice_sentence import advice
from leaderboard.render.record_summary import latency_note
from leaderboard.render.tables import footnotes
from leaderboard.stats.advice import JUDGED, near_dense, of_table
from leaderboard.stats.curves import of_board

Widths = Mapping[str, Sequence[int]]
"""Site -> units before and after the prune."""

NETWORKS = (("dense", "dense"), ("pruned", "pruned, not fine-tuned"), ("final", "final"))
METRICS = (
    ("top1", "top-1, %", 100, 2),
    ("top5", "top-5, %", 100, 2),
    ("loss", "loss, nats", 1, 4),
    ("ece", "calibration error", 1, 4),
    ("worst_class_top1", "worst class, top-1, %", 100, 2),
)
COSTS = (("macs", "MACs"), ("params", "parameters"), ("weight_bytes", "weights, bytes"))


@dataclass(frozen=True)
class Line:
    """One row of a table as a page shows it; ``marks`` are the numbers of its footnotes."""

    row: Row
    table: Table
    marks: tuple[int, ...]


@dataclass(frozen=True)
class Heat:
    """Kept units, per cent, mean over seeds: ``sites`` are (name, one number a budget), None where no run has it."""

    budgets: list[str]
    sites: list[tuple[str, list[float | None]]]


def sections(board: Board) -> list[dict[str, Any]]:
    """What the page shows of each table: advice, rows near dense, speed, forest plot, lines with footnotes.

    ``shared`` are notes that all rows but dense have; they are no footnotes. ``fast`` is the row of the advice, else
    the first one with a measured speed; ``batches`` and ``test_images`` are there where all rows have the same.
    """
    found = []
    for table in board.tables:
        shared, notes, lines = _noted(table)
        batches = {(row.speeds[0].batch, row.speeds[-1].batch) for row in table.rows if row.speeds}
        sizes = {row.test_images or 0 for row in table.rows}
        near, taken = near_dense(table, board.terms), of_table(table, board.terms)
        timed = [row for row in [*([taken.row] if taken else []), *table.rows] if row.speeds and row.track != "dense"]
        found.append(
            {
                "table": table,
                "advice": advice(board, table),
                "near": near,
                "compared": sum(row.track in JUDGED for row in table.rows),
                "fast": next(iter(timed), None),
                "forest": forest(table, board.terms),
                "lines": lines,
                "notes": notes,
                "shared": shared,
                "no_order": not table.ordered,
                "batches": min(batches) if len(batches) == 1 else None,
                "test_images": min(sizes) if len(sizes) == 1 else None,
            }
        )
    return found


def _noted(table: Table) -> tuple[list[str], list[str], list[Line]]:
    """Notes that all rows but dense have, the other ones, and the lines with the numbers of those."""
    notes, marks = footnotes(table)
    own = [[notes[int(mark) - 1] for mark in each.split()] for each in marks]
    others = [set(each) for row, each in zip(table.rows, own, strict=True) if row.track != "dense"]
    shared = set.intersection(*others) if len(others) > 1 else set()
    numbers: dict[str, int] = {}
    lines = []
    for row, each in zip(table.rows, own, strict=True):
        mine = [note for note in each if note not in shared and row.track != "dense"]
        lines.append(Line(row, table, tuple(numbers.setdefault(note, len(numbers) + 1) for note in mine)))
    return sorted(shared), list(numbers), lines


def first_budget(board: Board) -> str:
    """The budget that a page shows first: half of the MACs where it is there."""
    slugs = [table.slug for table in board.tables]
    return "macs-0.5" if "macs-0.5" in slugs else next(iter(slugs), "")


def families(board: Board) -> int:
    """How many families of 5 % a page shows: for each table and reference the differences and each margin; for each
    table the letters; one over all budgets."""
    compared = {
        (t.slug, to) for t in board.tables for r in t.rows for to, d in r.differences.items() if d.p is not None
    }
    letters = sum(any(row.group for row in table.rows) for table in board.tables)
    pooled = any(curve.pooled.get("top1") for curve in of_board(board))
    return len(compared) * (1 + len(board.terms.margins if board.terms else ())) + letters + pooled


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts ``blocks.2`` before ``blocks.10``."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", name)]


def overall(board: Board) -> list[Curve]:
    """Curves for the table over all budgets, the fewest errors first; empty where none has more than one budget."""
    known = [curve for curve in of_board(board) if curve.error is not None and len(curve.points) > 1]
    return sorted(known, key=lambda curve: (curve.kind, curve.error or 0.0, curve.name))


def rows_of(board: Board) -> list[tuple[Table, Row]]:
    """Every row once, the dense one with the first table that it is in."""
    seen: dict[str, tuple[Table, Row]] = {}
    for table in board.tables:
        for row in table.rows:
            key = row.spec if row.track == "dense" else f"{table.slug} {row.spec}"
            seen.setdefault(key, (table, row))
    return list(seen.values())


def parts(method: str, boards: Sequence[Board], widths: Mapping[str, Widths]) -> list[dict[str, Any]]:
    """What a method's page shows of each board: lines, footnotes, ranked rows of a table, curve and heat maps.

    Args:
        method: its name.
        boards: all of them.
        widths: of the runs that finished, by the name of a run's page.
    """
    found = []
    for board in boards:
        own = [(table, row) for table, row in rows_of(board) if row.method == method]
        if not own:
            continue
        numbers: dict[str, int] = {}
        lines = []
        for table, row in own:
            notes, marks = footnotes(table)
            mine = [notes[int(mark) - 1] for mark in marks[table.rows.index(row)].split()]
            lines.append(Line(row, table, tuple(numbers.setdefault(note, len(numbers) + 1) for note in mine)))
        found.append(
            {
                "board": board,
                "lines": lines,
                "notes": list(numbers),
                "ranked": {t.slug: sum(row.rank is not None for row in t.rows) for t in board.tables},
                "points": _points(own),
                "heats": _heats(own, widths),
            }
        )
    return found


def _points(own: Sequence[tuple[Table, Row]]) -> list[dict[str, float | None]]:
    """The method's default configuration (or its first one) over budgets of the MACs, next to the controls."""
    curve = [(table, row) for table, row in own if table.kind == "macs" and row.top1 is not None]
    first = min((row.name for _, row in curve), key=lambda name: (len(name), name), default="")
    points: list[dict[str, float | None]] = []
    for table, row in curve:
        if row.name == first and row.top1 is not None:
            controls = {other.name: other.top1.mean for other in table.rows if other.top1 is not None}
            both = {"random": controls.get("random"), "thin": controls.get("uniform_thin")}
            points.append({"keep": table.keep, "top1": row.top1.mean, "half": row.top1.half, **both})
    return points if len(points) > 1 else []


def _heats(own: Sequence[tuple[Table, Row]], widths: Mapping[str, Widths]) -> list[tuple[str, Heat]]:
    """One heat map a configuration, over all budgets that it has."""
    heats = []
    for name in sorted({row.name for _, row in own if row.track != "dense"}):
        rows = [(table.title, row) for table, row in own if row.name == name]
        columns = [(title, [widths[run.page] for run in row.runs if run.page in widths]) for title, row in rows]
        columns = [(title, runs) for title, runs in columns if runs]
        sites = list(dict.fromkeys(site for _, runs in columns for run in runs for site in run))
        if sites:
            cells = [(site, [_kept(runs, site) for _, runs in columns]) for site in sites]
            heats.append((name, Heat([title for title, _ in columns], cells)))
    return heats


def _kept(runs: Sequence[Widths], site: str) -> float | None:
    shares = [100 * run[site][1] / run[site][0] for run in runs if site in run]
    return sum(shares) / len(shares) if shares else None


def record_values(record: Record) -> dict[str, Any]:
    """What the page of a record shows of its JSON; raises KeyError, TypeError, ... where the record is damaged."""
    spec, code, environment = record.spec, record.code, record.environment
    recipe = spec.recipe
    asked = [
        ("method", spec.method),
        *((f"option {key}", value) for key, value in sorted(spec.config.items())),
        ("network", spec.arch),
        ("data set", spec.dataset),
        ("budget", _pairs(spec.budget.given() if spec.budget else {})),
        ("recipe", f"{recipe.name} ({spec.recipe.sha256[:12]})"),
        ("epochs", f"{recipe.train.epochs} + {recipe.finetune.epochs}"),
        ("coupling", spec.coupling),
        ("units", spec.unit_kinds),
        ("seed", spec.seed),
        ("rules", spec.rules),
    ]
    made = [
        ("code", (code.commit or "no commit")[:12] + (" with local changes" if code.diff_sha256 else "")),
        ("device", f"{environment.device}, {plural(environment.threads, 'thread')}"),
        ("torch", environment.packages.get("torch", "")),
        ("finished", record.clock.finished_at.isoformat()),
        ("seconds", _seconds(record.clock)),
        ("resumed", record.clock.resumes),
    ]
    if finished(record) and (met := latency_note(record)):
        made.insert(3, ("milliseconds", met))
    training = record.training
    if training:
        made.insert(3, ("trained", f"{training.epochs} epochs, {training.examples:,} images"))
        made.insert(4, ("training MACs", f"{training.macs:,.0f}"))
        made.insert(5, ("precision", arithmetic(training)))
    structure = record.structure
    sites = structure.widths.items() if structure else ()
    widths = [(site, before, after, round(100 * after / before)) for site, (before, after) in sites]
    widths.sort(key=lambda one: natural(one[0]))
    return {
        "asked": asked,
        "made": made,
        "metrics": _metrics(record.metrics),
        "worst": _worst(record.metrics),
        "cost": _cost(record.cost),
        "ops": _ops(record.cost),
        "widths": widths,
        "units": (structure.units_before, structure.units_after) if structure else (None, None),
        "difference": structure.gate_slice_difference if structure else None,
        "memory": record.memory,
        "epochs": _epochs(record.curve),
        "error": record.error,
    }


def _pairs(values: Mapping[str, Any]) -> str:
    """Budget in words; lists of widths are on the page already."""
    shown = {k: v for k, v in values.items() if v is not None and not (k == "min_keep" and v == 1)}
    of_others = ("widths", "blocks")
    words = [f"{key} = {'of another run' if key in of_others else value}" for key, value in sorted(shown.items())]
    return ", ".join(words) or "none"


def _seconds(clock: Clock) -> str:
    parts = [f"{name} {value:.1f}" for name, value in sorted(clock.seconds.items())]
    base = sum((clock.base_seconds or {}).values())
    return ", ".join(parts + ([f"base {base:.1f}"] if base else []))


def _metrics(metrics: Metrics | None) -> list[tuple[str, list[str]]]:
    """Lines (name, one text a network)."""
    if metrics is None:
        return []
    return [
        (name, [_text(getattr(getattr(metrics, key), field, None), digits, factor) for key, _ in NETWORKS])
        for field, name, factor, digits in METRICS
    ]


def _worst(metrics: Metrics | None) -> list[str]:
    if metrics is None:
        return []
    found: list[Quality | None] = [getattr(metrics, key) for key, _ in NETWORKS]
    return ["" if quality is None else str(quality.worst_class) for quality in found]


def _cost(cost: Costs | None) -> list[tuple[str, str, str, str]]:
    """Lines (name, dense, final, per cent)."""
    if cost is None:
        return []
    both = [(name, getattr(cost.dense, key), getattr(cost.final, key)) for key, name in COSTS]
    return [(name, f"{dense:,}", f"{final:,}", f"{100 * final / dense:.2f}") for name, dense, final in both if dense]


def _ops(cost: Costs | None) -> list[tuple[str, str, str]]:
    if cost is None:
        return []
    dense, final = cost.dense.macs_by_op, cost.final.macs_by_op
    return [(op, f"{dense.get(op, 0):,}", f"{final.get(op, 0):,}") for op in sorted({*dense, *final})]


def _epochs(curve: schema.Curve | None) -> list[list[str]]:
    """One line an epoch over all phases: epoch, part, training loss, validation loss, top-1 and units left (%)."""
    if curve is None:
        return []
    left = curve.units_left or [None] * len(curve.epoch)
    columns = zip(curve.part, curve.train_loss, curve.val_loss, curve.val_top1, left, strict=True)
    return [
        [str(k), part, _text(loss, 4), _text(val_loss, 4), _text(top1, 2, 100), _text(units, 1, 100)]
        for k, (part, loss, val_loss, top1, units) in enumerate(columns, 1)
    ]


def _text(value: float | None, digits: int, factor: int = 1) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"
