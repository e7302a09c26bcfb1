"""``bench board`` and ``bench compare``: what the records say, all of them or two methods."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli import arguments, output
from bench.cli.output import Column
from bench.errors import SetupError, UsageError, WordsError
from bench.spec.near_names import unknown
from leaderboard.render.text_table import sentences, table

if TYPE_CHECKING:
    from leaderboard.reader.frame import Found, Problem
    from leaderboard.reader.latency_files import Latencies
    from leaderboard.reader.model import Board
    from leaderboard.reader.plan import Plan
    from leaderboard.stats.compare import Comparison

FORMATS = ("text", "markdown", "csv", "json", "latex")
DEFAULT = Path("results") / "records"
LATENCY = Path("leaderboard") / "latency"
RULE, BETWEEN, FOOTNOTE = re.compile(r"-+(  -+)+"), re.compile(r" {2,}"), "   ["
"""How the tables of the text format look: the line below the headers, what is between two cells, what follows."""
WITHOUT = "give the plan of the runs with --plan FILE"
TOO_FEW = "the plan does not name them, or seeds are missing"
LEFT = ("tie", "method", "shares", "notes")
DROPPED = {
    **{"need": 9, "shares": 8, "pruned %": 7, "params %": 6, "cost x": 5, "x small": 4, "- uniform_thin": 3},
    **{"- dense": 2, "x large": 1},
}
"""Columns that a narrow terminal leaves out, the highest number first."""


def add_to(commands: Any) -> None:
    """Add the commands to the parser."""
    p = commands.add_parser("board", help="tables of who wins, at which budget, and how sure that is")
    p.set_defaults(function=board)
    p.add_argument("--format", choices=FORMATS, help="of the tables (text)")
    arguments.add_formats(p, "JSON, as --format json does")
    p.add_argument("--site", type=Path, metavar="DIR", help="write pages that a browser opens from there, no tables")
    p.add_argument("--figures", type=Path, metavar="DIR", help="write figures as SVG and PNG, no tables")
    p.add_argument("--verified", type=Path, metavar="FILE", help="for --site: what bench verify --json printed")
    p.add_argument("--pack", type=Path, metavar="DIR", help="write the records as packs, to publish them, no tables")
    _add_choice(p)
    p = commands.add_parser("compare", help="two methods against each other: what the board says")
    p.set_defaults(function=compare)
    p.add_argument("a", metavar="A", help="a row as a board names it ('l1l2 share=30'), or the start of its hash")
    p.add_argument("b", metavar="B", help="another one")
    p.add_argument("--single", action="store_true", help="also an uncorrected test of each line alone")
    arguments.add_formats(p)
    _add_choice(p)


def _add_choice(p: argparse.ArgumentParser) -> None:
    p.add_argument("path", nargs="?", type=Path, default=DEFAULT, metavar="PATH", help=f"records ({DEFAULT})")
    add_plan(p)
    p.add_argument("-a", "--arch", metavar="NAME", help="only this network")
    p.add_argument("-d", "--dataset", metavar="NAME", help="only this data set")
    p.add_argument("--keep", type=float, action="append", metavar="SHARE", help="only this budget; repeatable")
    p.add_argument("--no-cache", action="store_true", help="read every record again")


def add_plan(p: argparse.ArgumentParser) -> None:
    """Add ``--plan`` and ``--latency``: what verdicts and speed-ups are taken from."""
    p.add_argument(
        "--plan",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="sweep file with a table [plan]: its rows have verdicts; repeatable",
    )
    p.add_argument(
        "--latency", type=Path, default=LATENCY, metavar="DIR", help=f"what bench latency measured ({LATENCY})"
    )


def read_plans(files: Sequence[Path]) -> list[Plan]:
    """The plans in sweep files. Raises UsageError where one has none."""
    if not files:
        return []  # resolving needs what listing does not
    from bench.runs.resolve import resolve
    from bench.spec.sweep import load_sweep
    from leaderboard.reader import plan

    plans = []
    for file in files:
        sweep = load_sweep(file)
        specs = [spec for request in sweep.requests for spec in resolve(request, writes=False)[0]]
        if waiting := [spec for spec in specs if spec.lacks_table]:
            what = f"the latency table of {waiting[0].arch} is not measured, by which its runs are named"
            raise SetupError(f"plan {file}: {what}: bench sweep measures it")
        plans.append(plan.plan_of(sweep, specs))
    return plans


def latencies_of(chosen: argparse.Namespace) -> Latencies:
    """The latency files that the command names; lines that are not believed are named on stderr."""
    from leaderboard.reader.latency_files import load
    from leaderboard.render.escaping import clean

    found = load(chosen.latency)
    for problem in found.problems:
        print(f"bench: {clean(problem.file)}: {clean(problem.message)}", file=sys.stderr)
    return found


def board(chosen: argparse.Namespace) -> int:
    """Print the tables, or write the site or the figures; problems go to stderr. 1 where records are refused."""
    if chosen.verified and not chosen.site:
        raise WordsError("board --verified: it goes with --site")
    if chosen.json and chosen.format not in (None, "json"):
        raise WordsError(f"board --json --format {chosen.format}: give one of them")
    chosen.format = "json" if chosen.json else chosen.format or "text"
    if chosen.pack:
        return _pack(chosen)
    if not chosen.site and not chosen.figures:
        (text, problems), width = _tables(chosen), output.limit(chosen)
        if chosen.format != "text":
            output.print_data(text)
        else:
            print(text if width is None else _fitted(text, width), end="")
        return exit_code(problems)
    boards, problems = boards_of(chosen)
    if chosen.site:
        from bench.cli.board_site import write

        files = write(chosen.site, boards, problems, chosen.path, chosen.verified)
        print(f"{len(files)} files; open {chosen.site / 'index.html'}")
    if chosen.figures:
        from leaderboard.figures.figure_list import write_all

        for path in write_all(boards, chosen.figures):
            print(path)
    return exit_code(problems)


def exit_code(problems: Iterable[Problem]) -> int:
    """1 where a record is refused or in conflict, which a person has to look at; all else is shown."""
    return int(any(problem.refused for problem in problems))


def _pack(chosen: argparse.Namespace) -> int:
    """Write what the folder holds as packs; records that are not believed are named and left out."""
    from bench.records import store
    from bench.records.publish import write_packs

    found = _found(chosen)
    _tell(chosen, found.rows, found.problems)
    for file in write_packs(chosen.pack, (store.load(Path(found.root, row[0])) for row in found.rows)):
        print(file)
    return 0


def _tables(chosen: argparse.Namespace) -> tuple[str, list[Problem]]:
    """The text of all tables, and the problems; one network after the other, so that only its boards are in memory."""
    from leaderboard.render.tables import pieces, whole
    from leaderboard.stats import boards as board

    plans, latencies = read_plans(chosen.plan), latencies_of(chosen)
    found = _found(chosen)
    parts, problems = [], set(found.problems)
    for rows in board.by_network(found.rows):
        boards, own = board.of_network(rows, plans, latencies)
        parts += [piece for one in board.at(boards, chosen.keep or ()) for piece in pieces(one, chosen.format)]
        problems |= set(own)
    ordered = sorted(problems, key=lambda p: (p.file, p.message))
    _tell(chosen, parts, ordered)
    return whole(parts, chosen.format), ordered


def _fitted(text: str, width: int) -> str:
    """The text of ``leaderboard.render.tables`` within a terminal's width: no cell of its tables is empty."""
    lines, made, k = text.split("\n"), [], 0
    while k < len(lines):
        if k + 1 == len(lines) or not RULE.fullmatch(lines[k + 1]):
            made.append(sentences(lines[k], width))
            k += 1
            continue
        headers, rows, k = BETWEEN.split(lines[k].strip()), [], k + 2
        while lines[k] and not lines[k].startswith(FOOTNOTE):
            rows.append(dict(zip(headers, BETWEEN.split(lines[k].strip()), strict=True)))
            k += 1
        columns = [Column(h, h not in LEFT, h in ("method", "notes"), DROPPED.get(h, 0)) for h in headers]
        made.append(table(columns, rows, width))
    return "\n".join(made)


def compare(chosen: argparse.Namespace) -> int:
    """Print how two rows compare wherever both are."""
    from leaderboard.stats.compare import compare as compare_rows

    found = compare_rows(boards_of(chosen)[0], chosen.a, chosen.b)
    if chosen.json:
        output.print_json([_as_json(c, chosen.single) for c in found])
        return 0
    rows = [_comparison(c, chosen.a, chosen.b) for c in found]
    output.print_table(_compared(chosen.a, chosen.b, chosen.single), rows, chosen)
    output.print_text(_about_comparisons(found, chosen), chosen)
    return 0


def _compared(a: str, b: str, single: bool) -> list[Column]:
    alone = [Column("p (t)", right=True, drop=5), Column("p (signs)", right=True, drop=8)]
    return [
        Column("where", wrap=True),
        Column("budget", wrap=True),
        Column("seeds", right=True, drop=3),
        *(Column(name, right=True, drop=6 if a != b else 0) for name in dict.fromkeys((a, b))),
        Column("difference", right=True),
        Column("p (Holm)", right=True, drop=7),
        *(alone if single else []),
        Column("cost", right=True, drop=4),
        Column("verdict", wrap=True),
    ]


def _comparison(c: Comparison, a: str, b: str) -> dict[str, Any]:
    return {
        "where": c.board.title,
        "budget": c.table.title,
        "seeds": len(c.seeds),
        a: output.mean_text(c.a.mean, c.a.half),
        b: output.mean_text(c.b.mean, c.b.half),
        "difference": output.mean_text(c.mean, c.half, "+"),
        "p (t)": output.p_text(c.p),
        "p (Holm)": output.p_text(c.p_board),
        "p (signs)": output.p_text(c.p_exact),
        "cost": f"{c.cost:.2f}x" if c.cost else "",
        "verdict": f"{a if c.subject == 'a' else b}: {c.verdict}" if c.verdict else "none",
    }


def _about_comparisons(found: Sequence[Comparison], chosen: argparse.Namespace) -> str:
    a, b = chosen.a, chosen.b
    lines = [
        f"difference: {a} less {b}, points of top-1 on the same seeds, with its 95 % interval.",
        "verdict: the board's, corrected over all rows that are compared with the reference, or over all pairs (Holm).",
        f"cost: training MACs of {a} over those of {b}.",
    ]
    if not all(c.verdict for c in found):
        lines.append(f"none: the board does not test these rows; {TOO_FEW if chosen.plan else WITHOUT}.")
    if chosen.single:
        lines.append(f"p (t), p (signs): of each line alone, uncorrected; {len(found)} lines are {len(found)} tests.")
    lines += [
        f"{c.board.title}, {c.table.title}: they trained for different numbers of epochs" for c in found if not c.same
    ]
    return "\n".join(lines)


def boards_of(chosen: argparse.Namespace) -> tuple[list[Board], list[Problem]]:
    """The boards that the command asks for; prints problems on stderr. Raises UsageError without records."""
    from leaderboard.stats import boards as board

    boards, problems = board.boards_of(_found(chosen), read_plans(chosen.plan), latencies_of(chosen))
    boards = board.at(boards, chosen.keep or ())
    _tell(chosen, boards, problems)
    return boards, problems


def _found(chosen: argparse.Namespace) -> Found:
    """What the folder holds of the network and data set that the command asks for."""
    from leaderboard.reader.extract import COLUMNS
    from leaderboard.reader.frame import find
    from leaderboard.stats.replays import with_replays

    found = find(chosen.path, cache=not chosen.no_cache, screened=True)
    found = dataclasses.replace(found, rows=with_replays(found.rows, Path(found.root)))
    for name, noun in (("dataset", "data set"), ("arch", "network")):
        asked, place = getattr(chosen, name), COLUMNS.index(name)
        if asked:
            rows = [row for row in found.rows if row[place] == asked]
            if found.rows and not rows:
                raise unknown(f"{noun} in these records", asked, {row[place] for row in found.rows})
            found = dataclasses.replace(found, rows=rows)
    shares = {row[COLUMNS.index("keep_share")] for row in found.rows} - {None}
    for keep in chosen.keep or ():
        if found.rows and keep not in shares:
            there = ", ".join(f"{share:g}" for share in sorted(shares, reverse=True)) or "none"
            raise WordsError(f"--keep {keep:g}: no record has this budget; there are: {there}")
    return found


def _tell(chosen: argparse.Namespace, made: Sequence[Any], problems: Sequence[Problem]) -> None:
    from leaderboard.render.escaping import clean

    for problem in problems:
        if problem.kind != "unranked":  # the row says it
            kind = f"{problem.kind}: " if problem.kind else ""
            print(f"bench: {clean(problem.file)}: {kind}{clean(problem.message)}", file=sys.stderr)
    if not made:
        raise UsageError(f"{chosen.command} {chosen.path}: no finished record; bench run makes some")


def _as_json(c: Comparison, single: bool) -> dict[str, Any]:
    left_out = ("board", "table", "a", "b", *(() if single else ("p", "p_exact")))
    values = {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name not in left_out}
    means = {name: dataclasses.asdict(getattr(c, name)) for name in ("a", "b")}
    return {"board": c.board.key, "budget": c.table.slug, **means, **values}
