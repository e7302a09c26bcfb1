"""``bench lint``: recompute what a rendered table says."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from bench.cli import arguments, board, output
from bench.errors import UsageError


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser(
        "lint", help="recompute every number of a table that bench board wrote, and find what cannot be"
    )
    p.set_defaults(function=lint)
    p.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="tables: .txt, .md, .csv, .json, .tex")
    p.add_argument("--records", type=Path, metavar="DIR", help="compare with the records that they were made of")
    board.add_plan(p)
    arguments.add_json(p, "JSON instead of lines")


def lint(chosen: argparse.Namespace) -> int:
    """Print the findings; exit 1 when there are any."""
    from leaderboard.lint.check import check
    from leaderboard.reader.frame import find
    from leaderboard.stats.boards import boards_of

    for path in chosen.paths:
        if not path.is_file():
            raise UsageError(f"lint {path}: no such file")
    boards = None
    if chosen.records:
        found_there = find(chosen.records, cache=False, screened=True)
        boards, _ = boards_of(found_there, board.read_plans(chosen.plan), board.latencies_of(chosen))
    found = list(dict.fromkeys(finding for path in chosen.paths for finding in check(path, boards)))
    if chosen.json:
        output.print_json([dataclasses.asdict(finding) for finding in found])
    else:
        for finding in found:
            print(finding)
    print(f"{len(chosen.paths)} tables, {len(found)} findings", file=sys.stderr)
    return 1 if found else 0
