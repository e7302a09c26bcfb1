"""What a board says, in words: which methods can be told from random units and from a thin network from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leaderboard.reader.model import Board, Difference, Row, Table

THIN = "a thin network trained from scratch"
"""How ``uniform_thin`` is called in a sentence."""


@dataclass(frozen=True)
class Count:
    """How the methods of one table (no controls) stand to a reference.

    Attributes:
        judged: methods with a p-value against it.
        better, worse: of these, those that are told from it after Holm's correction, best first.
    """

    table: Table
    judged: tuple[Row, ...]
    better: tuple[Row, ...]
    worse: tuple[Row, ...]


def count(table: Table, to: str) -> Count:
    """Methods of a table against the reference ``to``."""

    def against(row: Row) -> Difference:
        return row.differences[to]

    judged = [
        row
        for row in table.rows
        if not row.control and row.track != "dense" and to in row.differences and against(row).p_holm is not None
    ]
    judged.sort(key=lambda row: (-against(row).mean, row.name))
    clear = [row for row in judged if against(row).clear]
    better = tuple(row for row in clear if against(row).mean > 0)
    worse = tuple(row for row in clear if against(row).mean < 0)
    return Count(table, tuple(judged), better, worse)


def short(table: Table) -> str:
    """A budget in a sentence: ``keep 0.5``, of the MACs unless it says otherwise."""
    return table.title.removesuffix(" of the MACs")


def sentences(board: Board) -> list[str]:
    """What the budgets of the matched track show, the most important first."""
    tables = [table for table in board.tables if table.kind in ("macs", "params")]
    random = [found for found in (count(table, "random") for table in tables) if found.judged]
    if not random:
        return [_nothing(board, tables)]
    said = []
    level = [found for found in random if not found.better and not found.worse]
    if level:
        seeds = sorted({row.differences["random"].seeds for found in level for row in found.judged})
        said.append(
            f"No method can be told from random at {listed([short(f.table) for f in level])} "
            f"({' to '.join(map(str, {seeds[0]: 0, seeds[-1]: 0}))} seeds)."
        )
    for found in random:
        if found.better:
            best = found.better[0]
            lead = best.differences["random"].mean
            worse = f", {len(found.worse)} worse" if found.worse else ""
            said.append(
                f"At {short(found.table)}, {_of(found.better, found.judged)} better than random{worse}; "
                f"{best.name} leads it by {lead:.2f} points."
            )
        elif found.worse:
            said.append(
                f"At {short(found.table)}, no method is better than random and {_of(found.worse, found.judged)} worse."
            )
    return said + _thin([found for found in (count(table, "uniform_thin") for table in tables) if found.judged])


def _nothing(board: Board, tables: Sequence[Table]) -> str:
    """Why a board says nothing of methods against random units."""
    if any(row.track == "matched" and not row.control for table in tables for row in table.rows):
        return "Nothing can be told from random: there are too few seeds in common with it."
    if any(table.kind == "native" for table in board.tables):
        return "Methods chose their own sparsity here; they differ in size, so they are not ranked."
    return "There are only controls here."


def _thin(found: Sequence[Count]) -> list[str]:
    if not found:
        return []
    none = [c for c in found if not c.better]
    if len(none) == len(found):
        return [f"No method is better than {THIN} at any budget."]
    parts = [f"{len(c.better)} of {len(c.judged)} methods at {short(c.table)}" for c in found if c.better]
    parts += [f"none at {listed([short(c.table) for c in none])}"] if none else []
    return [f"Better than {THIN}: {', '.join(parts)}."]


def _of(some: Sequence[Row], all_: Sequence[Row]) -> str:
    """``3 of 26 methods are``."""
    return f"{len(some)} of {len(all_)} methods {'is' if len(some) == 1 else 'are'}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``; a word that all begin with stands once: ``keep 0.75, 0.5 and 0.25``."""
    parts = [word.partition(" ") for word in words]
    if len(words) > 1 and all(space and first == parts[0][0] for first, space, _ in parts):
        return f"{parts[0][0]} {listed([rest for _, _, rest in parts])}"
    return ", ".join(words[:-1]) + (" and " if len(words) > 1 else "") + words[-1]
