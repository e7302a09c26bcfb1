"""Which figures there are of boards, under which heading and with which caption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import SetupError
from leaderboard.figures import draw, figures_of_boards, forest
from leaderboard.figures.plot_style import Spec
from leaderboard.reader.model import Board, Row, Run
from leaderboard.render.naming import board_names
from leaderboard.stats import cross_table
from leaderboard.stats.curves import of_board as curves_of

LEAST_TABLES = 8
"""Tables from which on a profile and mean ranks say more than the tables themselves."""

OVER = {
    "macs": "the share of MACs",
    "params": "the share of parameters",
    "latency": "the share of milliseconds",
    "ms": "milliseconds",
}
"""What a budget is of -> what its curves are over."""


@dataclass(frozen=True)
class Plate:
    """A figure with its heading and caption; ``name`` is its anchor and part of its file's name."""

    name: str
    title: str
    caption: str
    spec: Spec


def of_board(
    board: Board, run_link: Callable[[Run], str] | None = None, row_link: Callable[[Row], str] | None = None
) -> list[Plate]:
    """The figures of one board: costs first, then over budgets.

    Args:
        run_link, row_link: address that a click on a point opens; without them points open nothing.
    """
    plates = []
    for name, title, whole in (
        ("costs", "Accuracy against cost", False),
        ("training-cost", "Accuracy against training cost, all units kept", True),
    ):
        tables = [table for table in board.tables if (table.kind == "training") == whole]
        if not any(row.top1 for table in tables for row in table.rows if row.track != "dense"):
            continue
        plates.append(
            Plate(
                name,
                title,
                "Large points: means over seeds with 95 % intervals; each opens its method. Small points: single runs; "
                "each opens its record. Grey: controls. Grey line: rows that no cheaper row beats. Dashed: dense. "
                "A click on a name in the legend shows it alone.",
                figures_of_boards.costs(board, run_link, row_link, whole),
            )
        )
    for kind, over in OVER.items():
        if any(curve.kind == kind and len(curve.points) > 1 for curve in curves_of(board)):
            plates.append(
                Plate(
                    f"curves-{kind}",
                    f"Accuracy over {over}",
                    "Means over seeds at what is really left; each point opens its method. In colour: up to "
                    "six rows, first those with the fewest errors over all budgets; a click on a name in the legend "
                    "shows its 95 % interval. Grey: all other rows. Dashed: dense.",
                    figures_of_boards.curves(board, kind, row_link),
                )
            )
    return plates + across([board])


def across(boards: Sequence[Board]) -> list[Plate]:
    """The figures over several tables at once, where there are enough of them; captions name the methods in all."""
    plates: list[Plate] = []
    tables = cross_table.errors(boards)
    if len(tables) < LEAST_TABLES:
        return plates
    everywhere = sorted(set.intersection(*map(set, tables)))
    named = f" Of {len(tables)} tables; in all of them: {', '.join(everywhere) or 'no method'}."
    methods = {name: method for board in boards for name, method in figures_of_boards.methods_of(board).items()}
    profile, ranking = cross_table.profile(boards), cross_table.ranking(boards)
    if profile and len(profile.lines) > 1:
        plates.append(
            Plate(
                "profile",
                "Performance profile",
                "Share of the tables in which a method's error is within a factor of the least one. Higher is better."
                + named,
                draw.profile(profile, methods),
            )
        )
    if ranking:
        plates.append(
            Plate(
                "ranking",
                "Mean ranks",
                "Over all tables, best on top. A bar on the right spans methods without a significant "
                "difference in Nemenyi's test. It takes tables for independent, which budgets of one network are not."
                + named,
                draw.ranking(ranking),
            )
        )
    return plates


def forests(board: Board) -> list[Plate]:
    """The forest plot of each budget of a planned board, for papers; pages have their own."""
    plates = []
    for table in board.tables if board.terms else ():
        spec = forest.drawn(table, board.terms) if table.keep is not None else None
        if spec:
            caption = "Means over seeds with the 95 % interval of the difference to dense; verdict against dense."
            plates.append(Plate(f"forest-{table.slug}", table.title, caption, spec))
    return plates


def write_all(boards: Sequence[Board], folder: Path) -> list[Path]:
    """Write every figure of every board as SVG and PNG; raises SetupError where the folder cannot be written."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for board, name in zip(boards, board_names(boards), strict=True):
            for plate in (*of_board(board), *forests(board)):
                for ending in (".svg", ".png"):
                    paths.append(folder / f"{name}-{plate.name}{ending}")
                    draw.save(plate.spec, paths[-1])
    except OSError as error:
        raise SetupError(f"cannot write figures to {folder}: {error.strerror}") from error
    return paths
