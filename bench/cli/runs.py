"""``bench list runs``, and what a command says of runs that are done: when, their mean, what comes next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cli import output
from bench.cli.output import Column
from bench.records import store
from bench.records.schema import Finished
from bench.spec.spec import step_of

COLUMNS = (
    *(Column("id", drop=1), Column("method", wrap=True), Column("arch", drop=2), Column("data set", drop=3)),
    *(Column("budget"), Column("seed", right=True), Column("top-1 %", right=True), Column("state")),
    *(Column("finished", drop=5), Column("note", wrap=True, drop=4)),
)

KINDS = {"macs": "MACs", "latency": "of ms"}
"""Kinds of budgets that a table calls otherwise than a record."""


def list_runs(chosen: argparse.Namespace) -> int:
    """Print the records below ``--out``, sorted by what was run; those that cannot be read are named on stderr."""
    from leaderboard.reader.frame import find

    folder = chosen.out / "records"
    found = find(folder, cache=False) if folder.is_dir() else None
    rows = sorted((_row(r) for r in map(_named, found.rows)), key=_order) if found else []
    for problem in found.problems if found else ():
        print(f"bench: {problem.file}: {problem.message}", file=sys.stderr)
    if chosen.json:
        output.print_json(rows)
        return 0
    if not rows:
        print(f"bench: no record in {folder}; bench run makes one", file=sys.stderr)
        return 0
    output.print_table(COLUMNS, map(_shown, rows), chosen)
    return 0


def _named(row: Sequence[Any]) -> Any:
    from leaderboard.reader.extract import as_record

    return as_record(row)


def _row(r: Any) -> dict[str, Any]:
    """A run for a machine."""
    done = r.status == "ok"
    return {
        "id": r.id,
        "method": r.name,
        "arch": r.arch,
        "dataset": r.dataset,
        "track": r.track,
        "kind": r.kind,
        "keep": r.keep_share,
        "round_to": step_of(r.coupling),
        "seed": r.seed,
        "top1": 1 - r.final_wrong_images / r.test_images if done else None,
        "status": r.status,
        "error": r.error,
        "finished_at": r.finished_at,
        "file": r.file,
    }


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    kind, keep = row["kind"] or "", -(row["keep"] or 0.0)
    return row["dataset"], row["arch"], row["method"], kind, keep, row["round_to"], row["seed"], row["file"]


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A run for people."""
    share = None if row["keep"] is None else f"{row['keep']:g} {KINDS.get(row['kind'], row['kind'])}"
    if share and row["round_to"] > 1:
        share += f" step {row['round_to']}"
    return {
        **row,
        "data set": row["dataset"],
        "budget": share or {"dense": "none", "training": "none", "like": "widths"}.get(row["track"], row["track"]),
        "top-1 %": "" if row["top1"] is None else f"{100 * row['top1']:.2f}",
        "state": "done" if row["status"] == "ok" else row["status"],
        "finished": moment(row["finished_at"]),
        "note": row["error"],
    }


def moment(text: str | datetime | None) -> str:
    """A time of a record in words, to the minute."""
    if not text:
        return ""
    time = datetime.fromisoformat(text) if isinstance(text, str) else text
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def done_before(path: Path) -> str | None:
    """When the finished run of this record was done, as a sentence; None where there is none."""
    if not path.is_file():
        return None
    try:
        found = store.load(path)
    except store.RecordError:
        return None  # carrying the run out says what is wrong with it
    if found.status != "ok":
        return None
    return f"done on {moment(found.clock.finished_at)}, read from {path}; --retry runs it again"


def over_seeds(records: Sequence[Finished]) -> str:
    """Mean of final top-1 over several seeds with its 95 % interval, as a board computes it."""
    from leaderboard.stats.statistics import QUANTUM, interval

    images = records[0].metrics.final.examples
    wrong = [round((1 - each.metrics.final.top1) * images) for each in records]
    mean, half = interval(wrong, QUANTUM)
    text = output.mean_text(100 * (1 - mean / images), 100 * (half or 0.0) / images)
    return f"top-1 over {len(records)} seeds: {text} % (mean and 95 % interval)"


def what_next(out: Path) -> str:
    """Which command reads the records."""
    folder = out / "records"
    return f"next: bench board{'' if folder == Path('results') / 'records' else f' {folder}'}"
