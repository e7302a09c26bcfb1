"""Boards for tests of figures and pages: from made records, or made by hand where thousands of rows are wanted."""

from pathlib import Path

from support.made_records import made, seeds
from support.records import line

import leaderboard
from leaderboard.published.publications import PublishedAccuracy
from leaderboard.reader.model import Board, Difference, Mean, Row, Run, Speed, Table
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


def records():
    """Three budgets with all controls, five seeds, a failed run, a row on the native track."""
    found = seeds("dense", [8, 9, 10, 8, 9], keep=None)
    for keep in BUDGETS:
        for method, wrong in WRONG.items():
            counts = [round(wrong * (1.5 - keep)) + k for k in (0, 2, 1, 3, 1)]
            found += seeds(method, counts, keep=keep, cost=1 + wrong / 100, speedup=1 + (1 - keep) / 2)
        found += seeds("taylor", [70, 71, 69], keep=keep, busy=True)
        found.append(made("taylor", 3, keep=keep, status="failed", error="the loss was odd"))
    return found + seeds("edropout", [22, 24, 23], keep=None, native=True)


def put(folder, found):
    """Write records under names that nothing in them has a say in."""
    for number, each in enumerate(found):
        path = Path(folder) / f"r{number}" / f"{each['id']}.json"
        path.parent.mkdir(parents=True)
        path.write_bytes(line(each))
    return Path(folder)


def boards_of(folder):
    """Boards and problems of a folder of records."""
    return build(leaderboard.load(folder, cache=False))


def row(number, keep, count=5):
    """One row of a large table."""
    runs = tuple(
        Run(
            *(f"{number:012x}-s{s}", f"{number}-{keep}-{s}", f"{number}/{s}.json", s),
            *("ok", 90 + s, 500, 50, (1.1, 1.4)),
            images=1000,
        )
        for s in range(count)
    )
    difference = {to: Difference(to, 0.5, 0.4, count, 0.02, 0.3) for to in ("dense", "random", "uniform_thin")}
    speeds = tuple(Speed(batch, 10.0, 8.0, 1.25, 1.2, 1.3, True) for batch in (1, 256))
    return Row(
        *(f"{number:012x}", f"method_{number}", f"method_{number} share=0.{number}", "matched", runs, ()),
        *(1000, Mean(91.0 - number / 100, 0.4), Mean(80.0, 1.0), 500.0, 50.0, 49.9, 48.1, difference, 1, "", "a"),
        *(77, speeds, 40, 1e12, 1.1, 1.2, ("base", "epochs"), "S1 S2 SX-A"),
        notes=("timed beside other work: no basis for a claim about speed",),
    )


def large(rows, name="net", first=0, count=5):
    """A board of one table with so many rows, numbered from ``first`` on, of so many seeds."""
    table = Table("macs", 0.5, tuple(row(n, 0.5, count) for n in range(first, first + rows)), 1000, 100)
    return Board({"arch": name, "dataset": "digits"}, (), (table,), ())
