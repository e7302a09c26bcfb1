"""What stands on each page of the site: from the model and the records to the values that the templates show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.records.store import arithmetic
from leaderboard.reader.model import Board, Curve, Row, Table
from leaderboard.render.columns import unfinished
from leaderboard.render.summary import busy_note
from leaderboard.render.tables import footnotes
from leaderboard.stats.curves import of_tables

Record = Mapping[str, Any]

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
    """One row of a table as a page shows it.

    Attributes:
        marks: numbers of its footnotes.
        failed: what happened to runs that are missing or did not finish.
    """

    row: Row
    table: Table
    marks: tuple[int, ...]
    failed: str


@dataclass(frozen=True)
class Section:
    """One budget on a board's page."""

    table: Table
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    seeds: tuple[int, ...]
    batches: tuple[int, int] | None
    test_images: int | None


@dataclass(frozen=True)
class Heat:
    """Units kept, per cent, mean over seeds: ``cells[site][budget]``, None where no run tells."""

    budgets: tuple[str, ...]
    sites: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class Part:
    """One board on a method's page."""

    board: Board
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    ranked: Mapping[str, int]
    points: tuple[Mapping[str, float | None], ...]
    heats: tuple[tuple[str, Heat], ...]


def sections(board: Board) -> list[Section]:
    """The tables of a board with what is said below each."""
    return [_section(table) for table in board.tables]


def _section(table: Table) -> Section:
    notes, marks = footnotes(table)
    lines = [
        Line(row, table, tuple(int(mark) for mark in own.split()), unfinished(row))
        for row, own in zip(table.rows, marks, strict=True)
    ]
    seeds = {run.seed for row in table.rows for run in row.runs}
    batches = {(row.speeds[0].batch, row.speeds[-1].batch) for row in table.rows if row.speeds}
    sizes = {row.test_images for row in table.rows}
    return Section(
        table,
        tuple(lines),
        tuple(notes),
        tuple(sorted(seeds)),
        min(batches) if len(batches) == 1 else None,
        min(sizes) if len(sizes) == 1 else None,
    )


def overall(board: Board) -> list[Curve]:
    """Curves for the table over all budgets, the largest area first; empty where none has more than one budget."""
    known = [curve for curve in of_tables(board.tables) if curve.area is not None and len(curve.points) > 1]
    return sorted(known, key=lambda curve: (curve.kind, -curve.area.mean if curve.area else 0.0, curve.name))


def rows_of(board: Board) -> list[tuple[Table, Row]]:
    """Every row once, the dense one with the first table that it stands in."""
    seen: dict[str, tuple[Table, Row]] = {}
    for table in board.tables:
        for row in table.rows:
            key = row.spec if row.track == "dense" else f"{table.slug} {row.spec}"
            seen.setdefault(key, (table, row))
    return list(seen.values())


def parts(method: str, boards: Sequence[Board], widths: Mapping[str, Mapping[str, Sequence[int]]]) -> list[Part]:
    """Where a method stands on each board.

    Args:
        widths: name of a run's page -> site -> [before, after], of the runs that finished.
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
            mine = marks[table.rows.index(row)].split()
            kept = tuple(numbers.setdefault(notes[int(mark) - 1], len(numbers) + 1) for mark in mine)
            lines.append(Line(row, table, kept, unfinished(row)))
        ranked = {table.slug: sum(row.rank is not None for row in table.rows) for table in board.tables}
        found.append(Part(board, tuple(lines), tuple(numbers), ranked, _points(board, own), _heats(own, widths)))
    return found


def _points(board: Board, own: Sequence[tuple[Table, Row]]) -> tuple[Mapping[str, float | None], ...]:
    """The method's default configuration (or its first one) over budgets of the MACs, beside the controls."""
    curve = [(table, row) for table, row in own if table.kind == "macs" and row.top1 is not None]
    names = sorted({row.name for _, row in curve}, key=lambda name: (len(name), name))
    points = []
    for table, row in curve:
        if row.name != names[0] or row.top1 is None:
            continue
        controls = {other.name: other.top1.mean for other in table.rows if other.top1 is not None}
        points.append(
            {
                "keep": table.keep,
                "top1": row.top1.mean,
                "half": row.top1.half,
                "random": controls.get("random"),
                "thin": controls.get("uniform_thin"),
            }
        )
    return tuple(points) if len(points) > 1 else ()


def _heats(
    own: Sequence[tuple[Table, Row]], widths: Mapping[str, Mapping[str, Sequence[int]]]
) -> tuple[tuple[str, Heat], ...]:
    """One heat map a configuration, over all budgets it has."""
    by_name: dict[str, list[tuple[Table, Row]]] = {}
    for table, row in own:
        if row.track != "dense":
            by_name.setdefault(row.name, []).append((table, row))
    heats = []
    for name, rows in sorted(by_name.items()):
        columns = []
        for table, row in rows:
            runs = [widths[run.page] for run in row.runs if run.page in widths]
            if runs:
                columns.append((table.title, runs))
        sites = list(dict.fromkeys(site for _, runs in columns for run in runs for site in run))
        cells = tuple(tuple(_kept(runs, site) for _, runs in columns) for site in sites)
        if sites:
            heats.append((name, Heat(tuple(title for title, _ in columns), tuple(sites), cells)))
    return tuple(heats)


def _kept(runs: Sequence[Mapping[str, Sequence[int]]], site: str) -> float | None:
    shares = [100 * run[site][1] / run[site][0] for run in runs if site in run]
    return sum(shares) / len(shares) if shares else None


def record_values(record: Record) -> dict[str, Any]:
    """What the page of a record shows of its JSON; raises KeyError, TypeError, ... where the record is damaged."""
    spec, code, environment = record["spec"], record["code"], record["environment"]
    recipe = spec["recipe"]
    asked = [
        ("method", spec["method"]),
        *((f"option {key}", value) for key, value in sorted(spec["config"].items())),
        ("network", spec["arch"]),
        ("data set", spec["dataset"]),
        ("budget", _pairs(spec["budget"])),
        ("recipe", f"{recipe['name']} ({spec['recipe_sha256'][:12]})"),
        ("epochs", f"{recipe['train']['epochs']} + {recipe['finetune']['epochs']}"),
        ("coupling", spec["coupling"]),
        ("seed", spec["seed"]),
        ("rules", spec["rules"]),
    ]
    made = [
        ("code", (code["commit"] or "no commit")[:12] + (" with local changes" if code["diff_sha256"] else "")),
        ("device", f"{environment['device']}, {environment['threads']} threads"),
        ("torch", environment["packages"].get("torch", "")),
        ("finished", record["clock"].get("finished_at") or ""),
        ("seconds", _seconds(record["clock"])),
        ("resumed", record["clock"].get("resumes", 0)),
    ]
    training = record["training"] or {}
    if training:
        made.insert(3, ("trained", f"{training['epochs']} epochs, {training['examples']:,} images"))
        made.insert(4, ("training MACs", f"{training['macs']:,.0f}"))
        made.insert(5, ("precision", arithmetic(training)))
    structure = record["structure"] or {}
    widths = [
        (site, before, after, round(100 * after / before))
        for site, (before, after) in (structure.get("widths") or {}).items()
    ]
    return {
        "asked": asked,
        "made": made,
        "metrics": _metrics(record["metrics"]),
        "worst": _worst(record["metrics"]),
        "cost": _cost(record["cost"]),
        "ops": _ops(record["cost"]),
        "widths": widths,
        "units": (structure.get("units_before"), structure.get("units_after")),
        "difference": structure.get("gate_slice_difference"),
        "latency": [_latency(timing) for timing in record["latency"]],
        "memory": record["memory"],
        "epochs": _epochs(record["curve"]),
        "error": record["error"],
    }


def _pairs(values: Mapping[str, Any] | None) -> str:
    """Budget in words; lists of widths are on the page already."""
    shown = {k: v for k, v in (values or {}).items() if v is not None and not (k == "min_keep" and v == 1)}
    words = [f"{key} = {'of another run' if key == 'widths' else value}" for key, value in sorted(shown.items())]
    return ", ".join(words) or "none"


def _seconds(clock: Mapping[str, Any]) -> str:
    parts = [f"{name} {value:.1f}" for name, value in sorted((clock.get("seconds") or {}).items())]
    base = sum((clock.get("base_seconds") or {}).values())
    return ", ".join(parts + ([f"base {base:.1f}"] if base else []))


def _metrics(metrics: Mapping[str, Any] | None) -> list[tuple[str, list[str]]]:
    """Lines (name, one text a network)."""
    if metrics is None:
        return []
    return [
        (name, [_text((metrics[key] or {}).get(field), digits, factor) for key, _ in NETWORKS])
        for field, name, factor, digits in METRICS
    ]


def _worst(metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return []
    return ["" if metrics[key] is None else str(metrics[key]["worst_class"]) for key, _ in NETWORKS]


def _cost(cost: Mapping[str, Any] | None) -> list[tuple[str, str, str, str]]:
    """Lines (name, dense, final, per cent)."""
    if cost is None:
        return []
    dense, final = cost["dense"], cost["final"]
    return [
        (name, f"{dense[key]:,}", f"{final[key]:,}", f"{100 * final[key] / dense[key]:.2f}")
        for key, name in COSTS
        if dense[key]
    ]


def _ops(cost: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    if cost is None:
        return []
    dense, final = cost["dense"]["macs_by_op"], cost["final"]["macs_by_op"]
    return [(op, f"{dense.get(op, 0):,}", f"{final.get(op, 0):,}") for op in sorted({*dense, *final})]


def _latency(timing: Mapping[str, Any]) -> dict[str, Any]:
    low, high = timing["speedup_ci95"]
    return {
        "runtime": timing["runtime"],
        "batch": f"{timing['batch']:,}",
        "dense": f"{timing['dense_ms']:.3f}",
        "final": f"{timing['sliced_ms']:.3f}",
        "times": f"{timing['speedup']:.3f}",
        "interval": f"{low:.3f} to {high:.3f}",
        "rounds": f"{timing['rounds']:,}",
        "how": f"{timing['device']}, {timing['threads']} threads, {timing['dtype']}, {timing['layout']}",
        "busy": busy_note(timing["load_average"], timing["threads"]),
    }


def _epochs(curve: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """One line an epoch over all phases: epoch, part, training loss, validation loss, top-1 and units left (%)."""
    return [
        [
            str(number),
            str(entry["part"]),
            _text(entry["train_loss"], 4),
            _text(entry["val_loss"], 4),
            _text(entry["val_top1"], 2, 100),
            _text(entry.get("units_left"), 1, 100),
        ]
        for number, entry in enumerate(curve, 1)
    ]


def _text(value: float | None, digits: int, factor: int = 1) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"
