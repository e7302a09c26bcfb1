"""Boards for tests of figures and pages: from made records, or made by hand where thousands of rows are wanted."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from support import made_records
from support.made_records import made, seeds
from support.records import line

import leaderboard
from bench.records.latency import Key, Times, widths_sha256
from leaderboard.published.publications import PublishedAccuracy
from leaderboard.reader import trust
from leaderboard.reader.extract import as_record
from leaderboard.reader.latency_files import Latencies
from leaderboard.reader.model import Board, Difference, Mean, Row, Run, Table, Terms
from leaderboard.reader.plan import Plan
from leaderboard.reader.times import Speed
from leaderboard.stats.boards import build

WRONG = {"random": 60, "l1_norm": 50, "uniform_thin": 40, "uniform_thin_long": 30, "slimming": 20, "ddrop": 45}
BUDGETS = (0.5, 0.25, 0.1)


CONTROLS = (
    *seeds("dense", [5, 6, 4, 5, 6], keep=None),
    *seeds("random", [30, 31, 33, 29, 30]),
    *seeds("l1_norm", [20, 21, 22, 20, 19]),
    *seeds("uniform_thin", [21, 20, 23, 22, 20], starts_from="init", cost=0.5),
    *seeds("uniform_thin_long", [10, 9, 11, 12, 10], starts_from="init", epochs=16),
)
"""All controls of one budget, as records."""
PUBLISHED = PublishedAccuracy(
    "ddrop", "net", "digits", 93.25, source="Table 3", base_percent=93.5, speedup=2.0, runs="1 run"
)


def records(dense=8, more=0, **where):
    """Three budgets with all controls, five seeds, a failed run, a native row.

    Args:
        dense: images that dense gets wrong.
        more: that all others get wrong.
    """
    found = seeds("dense", [dense + k for k in (0, 1, 2, 0, 1)], keep=None, **where)
    for keep in BUDGETS:
        for method, wrong in WRONG.items():
            counts = [round(wrong * (1.5 - keep)) + k + more for k in (0, 2, 1, 3, 1)]
            found += seeds(method, counts, keep=keep, cost=1 + wrong / 100, **where)
        found += seeds("taylor", [70, 71, 69], keep=keep, **where)
        found.append(made("taylor", 3, keep=keep, status="failed", error="the loss was odd", **where))
    return found + seeds("edropout", [22, 24, 23], keep=None, native=True, **where)


def put(folder, found):
    """Write records under names that nothing in them has a say in."""
    for number, each in enumerate(found):
        path = Path(folder) / f"r{number}" / f"{each['id']}.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(line(each))
    return Path(folder)


def load(folder):
    """The frame of a folder of records that are compared in nothing but two results of one run: made ones agree in
    less than honest ones.
    """
    with patch.object(trust, "findings", lambda rows, root: trust.conflicts([as_record(row) for row in rows])):
        return leaderboard.load(folder, cache=False)


def boards_of(folder, plan=None, latencies=None):
    """Boards and problems of a folder of such records."""
    return build(load(folder), [plan] if plan else [], latencies)


def plan_for(records, seeds=range(5), **terms):
    """A plan that names all specifications of some records, at these seeds."""
    return Plan(Terms("9" * 64, **terms), {found["spec_sha256"]: set(seeds) for found in records})


def planned_boards(folder, *records, seeds_of_plan=range(5)):
    """Boards and problems of these records, under a plan that names all of them at these seeds."""
    return boards_of(made_records.put(folder, *records), plan_for(records, seeds_of_plan))


def table_of(folder, *records, **asked):
    """The first table of the only board of :func:`planned_boards`."""
    (board,), _ = planned_boards(folder, *records, **asked)
    return board.tables[0]


def row_of(table, name):
    """The only row of this name."""
    (found,) = [row for row in table.rows if row.name == name]
    return found


def latencies_for(records, times=1.5):
    """Latencies of the shapes of some records: one machine, one thread, batch 1 and 64, onnxruntime."""
    lines = {}
    for found in records:
        structure, shape = found["structure"], tuple(found["data"]["shape"])
        widths = widths_sha256(structure["widths"])
        share = sum(after for _, after in structure["widths"].values()) / structure["units_before"]
        for batch in (1, 64):
            faster = 1.0 if share == 1 else times * (1 + batch / 640)
            setting = ("onnxruntime", "1.20", "a chip", 1, batch, "float32", "channels_last")
            dense, final = [float(batch)] * 5, [batch / faster] * 5
            one = Times([20] * 5, dense, dense, final, final, [faster] * 5, faster, (faster - 0.05, faster + 0.05), "0")
            key = Key(structure["arch_sha256"], shape, widths, *setting)
            lines[key] = SimpleNamespace(key=key, times=one)
    return Latencies(lines)


def difference(to, mean=0.5, p_holm=0.3, seeds=5, **more):
    """A difference of a row that a plan names."""
    verdicts = ("undecided",) * 2 if p_holm >= 0.05 else ("better",) * 2 if mean > 0 else ("worse",) * 2
    tests = {"p": 0.02, "p_holm": p_holm, "p_board": p_holm, "smallest": 0.9, "verdicts": verdicts}
    return Difference(to, mean, 0.15, 6.0, 0.4, seeds, seeds / 2, **{**tests, **more})


def row(number, keep, count=5):
    """One row of a large table."""
    runs = tuple(
        Run(
            *(f"{number:012x}-s{s}", f"{number}-{keep}-{s}", f"{number}/{s}.json", s, "ok", 90 + s),
            *(1000, 200, 0.25, 500, 50, 10**12),
        )
        for s in range(count)
    )
    return Row(
        spec=f"{number:012x}",
        method=f"method_{number}",
        name=f"method_{number} share=0.{number}",
        track="matched",
        runs=runs,
        planned=True,
        top1=Mean(91.0 - number / 100, 0.4),
        pruned=Mean(80.0, 1.0),
        loss=0.25,
        macs=500.0,
        params=50.0,
        macs_percent=49.9,
        params_percent=48.1,
        differences={to: difference(to) for to in ("dense", "random", "uniform_thin")},
        rank=(1, 9),
        group="a",
        seeds_needed=(77, 21),
        speeds=tuple(Speed(batch, 10.0, 8.0, 9.0, 1.25, 1.2, 1.3) for batch in (1, 256)),
        epochs=40,
        training_macs=1e12,
        cost=1.1,
        step_cost=1.2,
        shares=("base", "epochs"),
        level="S1 S2 SX-A",
        notes=("layers were frozen while it trained",),
    )


def large(rows, name="net", first=0, count=5):
    """A board of one table with so many rows, numbered from ``first`` on, of so many seeds."""
    table = Table("macs", 0.5, tuple(row(n, 0.5, count) for n in range(first, first + rows)), 1000, 100)
    return Board({"arch": name, "dataset": "digits"}, (), (table,), (), Terms("9" * 64))
