"""Boards as a folder of HTML pages that work without a server: one a board, a method and a record, and an index.

Same boards and records, same bytes. Nothing a page needs lies outside the folder, and no page asks for anything else.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench import RULES, __version__
from bench.errors import SetupError
from bench.records import store
from bench.records.schema import Record
from bench.spec.digest import digest
from bench.spec.known_images import why_not_published
from bench.spec.option_scan import Option
from leaderboard.figures import draw, figure_list, figures_of_runs
from leaderboard.figures.figure_list import Plate
from leaderboard.pages import page_content
from leaderboard.pages.site_folder import HEAD, MARKER, Folder, check_place, exchange
from leaderboard.pages.templating import environment
from leaderboard.published.publications import PublishedAccuracy
from leaderboard.reader.controls import CONTROLS
from leaderboard.reader.frame import Problem
from leaderboard.reader.model import Board, Row, Run, Table
from leaderboard.render.board_sentences import sentences
from leaderboard.render.naming import board_names, names
from leaderboard.render.tables import render

HERE = Path(__file__).parent
LICENCE = "Apache-2.0"
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError)
"""What reading a record that lacks something raises."""


Checks = Sequence[tuple[str, str, str]]
"""(name, outcome, detail) of each check of ``bench verify``."""


@dataclass(frozen=True)
class About:
    """What a page says of a method in addition to its results.

    Attributes:
        title: one line.
        paper: citation; empty for the suite's own.
        url: of the paper; a link only where it is http(s).
        file: where the method is defined.
    """

    title: str
    paper: str = ""
    url: str = ""
    file: str = ""
    kind: str = ""
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Sources:
    """What the pages say in addition to the boards.

    Attributes:
        root: folder that the records were loaded from; ``Run.file`` is relative to it.
        command: the command that runs a record again.
        about: by name of the method.
        published: accuracies of others.
        problems: files left out or in doubt.
        verified: record_sha256 -> checks of ``bench verify``; what is not in it was not verified.
        made_with: precision, threads, commit and the like of a record, in words.
        commit: of the suite that writes the pages; empty where it is not known.
    """

    root: Path
    command: Callable[[Record], str]
    about: Mapping[str, About] = field(default_factory=dict)
    published: Sequence[PublishedAccuracy] = ()
    problems: Sequence[Problem] = ()
    verified: Mapping[str, Checks] = field(default_factory=dict)
    made_with: Callable[[Record], str] = lambda found: ""
    commit: str = ""


def write(folder: Path, boards: Sequence[Board], sources: Sources) -> list[Path]:
    """Write the site, all of it or nothing, and return its files.

    A site that is already there is replaced; it stays as it was when writing fails.

    Raises:
        UsageError: there is something at ``folder`` that is no site, or a file in it that is not the site's.
        SetupError: the folder cannot be written.
    """
    folder = folder.resolve()
    try:
        check_place(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            made = Folder(new)
            _Site(boards, sources, folder, made).write()
            made.add(MARKER, "\n".join([HEAD, *sorted(made.names.values()), MARKER]) + "\n")
            check_place(folder)
            exchange(folder, new, old)
    except OSError as error:
        raise SetupError(f"cannot write the site {folder}: {error.strerror}") from error
    return sorted(folder / name for name in made.names.values())


class _Site:
    """All pages of one site."""

    def __init__(self, boards: Sequence[Board], sources: Sources, place: Path, made: Folder) -> None:
        self.boards, self.sources, self.made = boards, sources, made
        self.board_names = {id(board): name for board, name in zip(boards, board_names(boards), strict=True)}
        self.method_names = names(row.method for board in boards for table in board.tables for row in table.rows)
        self.files: dict[str, str] = {}
        self.widths: dict[str, Mapping[str, Sequence[int]]] = {}
        self.records = _relative(sources.root.resolve(), place)
        self.templates = environment()
        self.templates.globals["footer"] = {
            **{"version": __version__, "rules": RULES, "commit": sources.commit, "licence": LICENCE}
        }

    def write(self) -> None:
        for board in self.boards:
            for table, row in page_content.rows_of(board):
                for run in (*row.runs, *(run for copy in row.copies for run in copy.runs)):
                    self.record(board, table, row, run)
        for board in self.boards:
            self.board(board)
        for method in sorted(self.method_names):
            self.method(method)
        self.index()
        for file in sorted((HERE / "assets").iterdir()):
            self.made.add(f"assets/{file.name}", file.read_text(encoding="utf-8"))
        shared = {"training": figures_of_runs.training(), "comparison": figures_of_runs.comparison()}
        self.made.add("assets/specs.js", f"window.boardSpecs = {json.dumps(shared, sort_keys=True)};\n")
        self.made.add("assets/vega.js", draw.bundle())

    def page(self, file: str, template: str, **values: Any) -> None:
        up = "../" if "/" in file else ""
        self.made.add(file, self.templates.get_template(template).render(up=up, **values))

    def board_name(self, board: Board) -> str:
        return self.board_names[id(board)]

    def index(self) -> None:
        boards = [self._summary(board) for board in sorted(self.boards, key=_planned_first)]
        methods = []
        for method in sorted(self.method_names, key=lambda name: (name in CONTROLS, name)):
            about = self.sources.about.get(method)
            on = sum(any(row.method == method for t in b.tables for row in t.rows) for b in self.boards)
            methods.append(
                {
                    "name": method,
                    "slug": self.method_names[method],
                    "control": method in CONTROLS,
                    "title": about.title if about else "",
                    "paper": about.paper if about else "",
                    "boards": on,
                }
            )
        several = figure_list.across(self.boards) if len(self.boards) > 1 else []
        self.page(
            "index.html",
            "index.html",
            boards=boards,
            methods=methods,
            problems=self.sources.problems,
            plates=self.drawn(several, "all-boards"),
        )

    def _summary(self, board: Board) -> dict[str, Any]:
        rows = [row for _, row in page_content.rows_of(board)]
        first = page_content.first_budget(board)
        return {
            "slug": self.board_name(board),
            "title": board.title,
            "methods": len({row.method for row in rows}),
            "seeds": len({run.seed for row in rows for run in row.runs}),
            "runs": sum(len(row.runs) for row in rows),
            "tables": board.tables,
            "advice": next((s["advice"] for s in page_content.sections(board) if s["table"].slug == first), ""),
            "say": next(iter(sentences(board)), ""),
        }

    def board(self, board: Board) -> None:
        name = self.board_name(board)
        stem = name if len(name) <= 60 else f"{name[:50]}-{digest(name)[:8]}"  # more is added to it
        key = board.key
        published = [p for p in self.sources.published if (p.arch, p.dataset) == (key["arch"], key["dataset"])]
        not_published = why_not_published(key.get("test_sha256"))
        for table in board.tables:
            for ending in ("csv", "json"):
                text = render([dataclasses.replace(board, tables=(table,))], ending)
                self.made.add(f"data/{stem}-{table.slug}.{ending}", text)
        self.page(
            f"boards/{name}.html",
            "board.html",
            name=name,
            stem=stem,
            board=board,
            boards=[(self.board_name(other), other.title) for other in sorted(self.boards, key=_planned_first)],
            first=page_content.first_budget(board),
            families=page_content.families(board),
            say=sentences(board),
            sections=page_content.sections(board),
            plates=self.drawn(figure_list.of_board(board, self.run_link, self.row_link), stem),
            overall=page_content.overall(board),
            published=[] if not_published else published,
            not_published=not_published,
            method_slug=self.method_names,
        )

    def drawn(self, plates: Sequence[Plate], prefix: str) -> list[dict[str, Any]]:
        """Plates for a page; each is also drawn into a file, for readers without scripts."""
        found = []
        for plate in plates:
            file = f"{prefix}-{plate.name}.svg"
            self.made.add(f"figures/{file}", draw.svg(plate.spec) + "\n")
            found.append({"plate": plate, "file": file})
        return found

    def run_link(self, run: Run) -> str:
        return f"../records/{run.page}.html"

    def row_link(self, row: Row) -> str:
        return f"../methods/{self.method_names[row.method]}.html"

    def method(self, method: str) -> None:
        self.page(
            f"methods/{self.method_names[method]}.html",
            "method.html",
            name=method,
            control=method in CONTROLS,
            about=self.sources.about.get(method),
            parts=page_content.parts(method, self.boards, self.widths),
            board_name=self.board_name,
            published=[one for one in self.sources.published if one.method == method],
        )

    def place(self, run: Run) -> str:
        """Where a record lies for who works where the site was made; no page has a path from a machine's root."""
        root = self.sources.root
        return run.file if root.is_absolute() else (root / run.file).as_posix()

    def record(self, board: Board, table: Table, row: Row, run: Run) -> None:
        """The page of a run; one that is on several boards, or in two folders, has the one of the first."""
        if run.page in self.files:
            return
        self.files[run.page] = run.file
        values, command, made_with, damaged = None, "", "", ""
        checks: Checks = ()
        try:
            found = store.load(self.sources.root / run.file)
            values = page_content.record_values(found)
            command, made_with = self.sources.command(found), self.sources.made_with(found)
            checks = tuple(self.sources.verified.get(found.record_sha256, ()))
            self.widths[run.page] = {site: (before, after) for site, before, after, _ in values["widths"]}
        except store.RecordError as error:
            damaged = str(error)
        except DAMAGE as error:
            damaged = f"damaged near {error}"
        self.page(
            f"records/{run.page}.html",
            "record.html",
            run=run,
            row=row,
            table=table,
            board_title=board.title,
            board_slug=self.board_name(board),
            method_slug=self.method_names[row.method],
            link=self.records and f"{self.records}{quote(run.file.partition('#')[0])}",
            v=values,
            damaged=damaged,
            command=command,
            made_with=made_with,
            checks=checks,
            verify=shlex.join(["python", "-m", "bench", "verify", self.place(run)]),
        )


def _planned_first(board: Board) -> tuple[bool, bool, bool, str]:
    """Boards with ranked rows first, then those with a plan; full precision before others."""
    ranked = any(row.rank for table in board.tables for row in table.rows)
    return not ranked, board.terms is None, board.key.get("precision", "") != "fp32", board.title


def _relative(root: Path, place: Path) -> str:
    """How a page of a record leads to the records' folder; empty where that is not next to the site."""
    try:
        inner = root.relative_to(place.parent).as_posix()
    except ValueError:
        return ""
    return "../../" + (f"{quote(inner)}/" if inner != "." else "")
