"""``bench board`` and ``bench compare``: what the records say, all of them or two methods."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from bench.errors import UsageError

if TYPE_CHECKING:
    from leaderboard.compare import Comparison
    from leaderboard.frame import Found, Problem
    from leaderboard.model import Board, Mean

FORMATS = ("text", "markdown", "csv", "json", "latex")
DEFAULT = Path("results") / "records"


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    p = commands.add_parser("board", help="tables of who wins, at which budget, on which device, and how sure that is")
    p.set_defaults(function=board)
    p.add_argument("--format", choices=FORMATS, default="text", help="of the tables (text)")
    p.add_argument("--site", type=Path, metavar="DIR", help="write pages that a browser opens from there, no tables")
    p.add_argument("--figures", type=Path, metavar="DIR", help="write figures as SVG and PNG, no tables")
    p.add_argument("--verified", type=Path, metavar="FILE", help="for --site: what bench verify --json printed")
    _add_choice(p)
    p = commands.add_parser("compare", help="two methods against each other, seed by seed")
    p.set_defaults(function=compare)
    p.add_argument("a", metavar="A", help="a row as a board names it ('l1l2 share=30'), or the start of its hash")
    p.add_argument("b", metavar="B", help="another one")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    _add_choice(p)


def _add_choice(p: argparse.ArgumentParser) -> None:
    p.add_argument("path", nargs="?", type=Path, default=DEFAULT, metavar="PATH", help=f"records ({DEFAULT})")
    p.add_argument("-a", "--arch", metavar="NAME", help="only this network")
    p.add_argument("-d", "--dataset", metavar="NAME", help="only this data set")
    p.add_argument("--keep", type=float, action="append", metavar="SHARE", help="only this budget; repeatable")
    p.add_argument("--no-cache", action="store_true", help="read every record anew")


def board(chosen: argparse.Namespace) -> int:
    """Print the tables, or write the site or the figures; problems go to stderr."""
    if chosen.verified and not chosen.site:
        raise UsageError("board --verified: it goes with --site")
    if not chosen.site and not chosen.figures:
        print(_tables(chosen), end="")
        return 0
    boards, problems = boards_of(chosen)
    if chosen.site:
        from bench.cli.site import write

        files = write(chosen.site, boards, problems, chosen.path, chosen.verified)
        print(f"{len(files)} files; open {chosen.site / 'index.html'}")
    if chosen.figures:
        from leaderboard.plates import write_all

        for path in write_all(boards, chosen.figures):
            print(path)
    return 0


def _tables(chosen: argparse.Namespace) -> str:
    from leaderboard.several import written
    from leaderboard.tables import whole

    with _no_collection():
        parts, problems = written(_found(chosen), chosen.format, chosen.keep or (), not chosen.no_cache)
    _tell(chosen, parts, problems)
    return whole(parts, chosen.format)


def compare(chosen: argparse.Namespace) -> int:
    """Print how two rows compare wherever both are."""
    from leaderboard.compare import compare as compare_rows

    found = compare_rows(boards_of(chosen)[0], chosen.a, chosen.b)
    if chosen.json:
        print(json.dumps([_as_json(c) for c in found], indent=1))
        return 0
    headers = ["where", "budget", "seeds", chosen.a, chosen.b, "difference", "p (t)", "p (signs)", "seeds needed"]
    rows = [
        [
            c.board.title,
            c.table.title,
            len(c.seeds),
            _mean(c.a),
            _mean(c.b),
            f"{c.mean:+.2f}" + (f" ± {c.half:.2f}" if c.half is not None else ""),
            _p(c.p),
            _p(c.p_exact),
            "" if c.p is None else c.seeds_needed or "> 1000",
            f"{c.cost:.2f}x" if c.cost else "",
            c.verdict.replace("a is", f"{chosen.a} is").replace("b is", f"{chosen.b} is") if c.p is not None else "",
        ]
        for c in found
    ]
    align = ("left", "left", *["right"] * 8, "left")
    print(tabulate(rows, [*headers, "cost", "verdict"], tablefmt="simple", colalign=align, disable_numparse=True))
    print(
        f"difference: {chosen.a} less {chosen.b}, points of top-1 on the same seeds, with its 95 % interval. Each line "
        "is one test, not corrected for the others.\nseeds needed: to find such a difference with 80 % power. "
        f"cost: training MACs of {chosen.a} over those of {chosen.b}."
    )
    for c in found:
        if not c.same:
            print(f"{c.board.title}, {c.table.title}: they trained for different numbers of epochs")
    return 0


def boards_of(chosen: argparse.Namespace) -> tuple[list[Board], list[Problem]]:
    """The boards that the command asks for; problems are told on stderr. Raises UsageError where there is none."""
    from leaderboard import board

    with _no_collection():
        boards, problems = board.boards_of(_found(chosen))
    boards = board.at(boards, chosen.keep or ())
    _tell(chosen, boards, problems)
    return boards, problems


def _found(chosen: argparse.Namespace) -> Found:
    """What the folder holds of the network and data set that the command asks for."""
    from leaderboard.extract import COLUMNS
    from leaderboard.frame import find

    found = find(chosen.path, cache=not chosen.no_cache)
    for name in ("arch", "dataset"):
        asked, place = getattr(chosen, name), COLUMNS.index(name)
        if asked:
            found = dataclasses.replace(found, rows=[row for row in found.rows if row[place] == asked])
    return found


def _tell(chosen: argparse.Namespace, made: Sequence[Any], problems: Sequence[Problem]) -> None:
    from leaderboard.tables import clean

    for problem in problems:
        print(f"bench: {clean(problem.file)}: {clean(problem.message)}", file=sys.stderr)
    if not made:
        raise UsageError(f"board {chosen.path}: no finished record of what was asked for")


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for garbage while millions of things are made that are all to stay."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _as_json(c: Comparison) -> dict[str, Any]:
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in ("board", "table", "a", "b")}
    means = {name: dataclasses.asdict(getattr(c, name)) for name in ("a", "b")}
    return {"board": c.board.key, "budget": c.table.slug, **means, **values, "verdict": c.verdict}


def _mean(mean: Mean) -> str:
    return f"{mean.mean:.2f}" + (f" ± {mean.half:.2f}" if mean.half is not None else "")


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.0e}"
