"""The tables of many networks: no network's boards depend on another's, so each is made by itself, and kept.

They are made by several processes. What was made lies beside the records in a file for each format; of a network whose
records are the same as then, down to the kernel's time of change, nothing is made again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.spec.digest import digest
from leaderboard.reader.frame import CODE, Found, Problem, edition_of, recall, remember
from leaderboard.reader.processes import answer, cores, spread
from leaderboard.render.tables import pieces
from leaderboard.stats.boards import at, by_network, of_network

MANY = 5000
"""Records from which on it pays to start processes, and to keep what they made."""
KEPT = ".board-{}.json"
LIBRARIES = ("numpy", "scipy", "tabulate")
"""What else the tables are made with."""

Made = tuple[list[str], list[tuple[str, str]]]
"""Pieces of one network's tables, and its problems: file and message."""


def written(found: Found, fmt: str, keeps: Sequence[float] = (), cache: bool = True) -> tuple[list[str], list[Problem]]:
    """The pieces of all tables for :func:`leaderboard.render.tables.whole`, in order, and the problems by file.

    Args:
        found: of any number of networks.
        fmt: one of ``leaderboard.render.tables.FORMATS``.
        keeps: budgets; all where it is empty.
        cache: use and keep what was made of many records. It holds nothing that does not follow from them.
    """
    networks = by_network(found.rows)
    if len(found.rows) < MANY:
        made = [_written(rows, fmt, keeps) for rows in networks]
    else:
        made = _with_cache(found, networks, fmt, keeps) if cache else _spread(networks, fmt, keeps)
    problems = {*found.problems, *(Problem(*told) for _, problems in made for told in problems)}
    return [piece for parts, _ in made for piece in parts], sorted(problems, key=lambda p: (p.file, p.message))


def _with_cache(found: Found, networks: list[list[Any]], fmt: str, keeps: Sequence[float]) -> list[Made]:
    file = Path(found.root, KEPT.format(fmt))
    code = [*CODE, *map(str, sorted(Path(__file__).parents[1].rglob("*.py")))]
    edition = " ".join([edition_of(code), *map(version, LIBRARIES)])
    known = recall(file, edition)
    keys = [digest([keeps, *([row[0], found.stamps[row[0]]] for row in rows)]) for rows in networks]
    todo = {key: rows for key, rows in zip(keys, networks, strict=True) if key not in known}
    fresh = dict(zip(todo, _spread(list(todo.values()), fmt, keeps), strict=True))
    now = {key: fresh[key] if key in fresh else known[key] for key in keys}
    if now.keys() != known.keys():
        remember(file, edition, now)
    return list(now.values())


def _spread(networks: list[list[Any]], fmt: str, keeps: Sequence[float]) -> list[Made]:
    count = min(cores(), len(networks))
    if count <= 1:
        return [_written(rows, fmt, keeps) for rows in networks]
    answers = spread("leaderboard.render.several", [fmt, *map(repr, keeps)], _shared(networks, count))
    return [made for made_by_one in answers for made in made_by_one]


def _written(rows: Sequence[Sequence[Any]], fmt: str, keeps: Sequence[float]) -> Made:
    boards, problems = of_network(rows)
    parts = [piece for board in at(boards, keeps) for piece in pieces(board, fmt)]
    return parts, [(problem.file, problem.message) for problem in problems]


def _shared(networks: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    """Networks in so many parts of about as many rows, in their order."""
    total, done = sum(map(len, networks)), 0
    parts: list[list[Any]] = [[] for _ in range(count)]
    for rows in networks:
        parts[min(done * count // total, count - 1)].append(rows)
        done += len(rows)
    return parts


if __name__ == "__main__":
    chosen = [float(keep) for keep in sys.argv[2:]]
    answer(lambda networks: [_written(rows, sys.argv[1], chosen) for rows in networks])
