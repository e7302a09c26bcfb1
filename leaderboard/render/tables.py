"""Boards as tables: for a terminal, Markdown and LaTeX, and exact as CSV and JSON. Same boards, same bytes.

Whatever comes from a record may be hostile: control characters are taken out everywhere, and each format escapes what
has a meaning in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from tabulate import tabulate

from bench.spec.near_names import unknown
from bench.spec.spec import place_of_ms
from leaderboard.reader.model import Board, Row, Table, Terms
from leaderboard.render.advice_sentence import advice
from leaderboard.render.columns import LATEX, MARKDOWN, NOTES_HEADER, TEXT, columns, exact
from leaderboard.render.escaping import clean, latex, markdown
from leaderboard.render.exact_tables import CSV, JSON, KIND, csv_pieces, csv_whole, json_pieces, json_whole
from leaderboard.render.fields import FIELDS, Value

ENDINGS = {".txt": TEXT, ".md": MARKDOWN, ".csv": CSV, ".json": JSON, ".tex": LATEX}
"""Ending of a file -> its format."""
WHOLE: dict[str, Callable[[Sequence[str]], str]] = {CSV: csv_whole, JSON: json_whole}
FORMATS = tuple(ENDINGS.values())

LEGEND = (
    "top-1 of the test images and 95 % interval of its mean over seeds; pruned: the same before fine-tuning.",
    "- dense, - random, - uniform_thin: mean difference in points, paired by seed.",
    "* significantly different (Holm's correction over the rows), = equivalent within the largest margin (Shaffer's).",
    "verdict: better, worse, equivalent, non-inferior, undecided, one a margin; in brackets the seeds won, ties half.",
    "loss: of the test images; over the reference's, \N{DOUBLE DAGGER} significantly different.",
    "rank: 1 and the rows that are significantly better, to all rows less those that are worse (over all pairs).",
    "tie: rows with a letter in common are not significantly different (over all pairs, another analysis than -).",
    "ms: of the pruned network where milliseconds are the budget, geometric mean over seeds; ms %: of the dense one.",
    "x, speed-up: measured at the smallest and largest batch; * its interval lies above 1.03.",
    "cost: training MACs over those of dense. shares: what it has in common with random: Base, Epochs, Finetuning, "
    "Cost.",
    "need, seeds needed: for each margin, paired seeds that find such a difference to random with 80 % power.",
)
NOT_RANKED, NO_CONTROLS = "not ranked: ", "compulsory controls missing with these seeds: "
"""How the footnotes begin that say why a row has no rank, and which controls it lacks."""
HASH = re.compile(r"\b[0-9a-f]{64}\b")


def render(boards: Sequence[Board], fmt: str) -> str:
    """All tables of the boards in one of ``FORMATS``; raises UsageError for any other."""
    if fmt not in FORMATS:
        raise unknown("format", fmt, FORMATS)
    return whole([piece for board in boards for piece in pieces(board, fmt)], fmt)


def pieces(board: Board, fmt: str) -> list[str]:
    """What the text says of one board, in pieces that :func:`whole` puts together with those of the others."""
    writers: dict[str, Callable[[Board], list[str]]] = {
        TEXT: _text,
        MARKDOWN: _markdown,
        CSV: csv_pieces,
        JSON: json_pieces,
        LATEX: _latex,
    }
    return writers[fmt](board)


def whole(parts: Sequence[str], fmt: str) -> str:
    """The text in one of ``FORMATS``, from the pieces of all boards in their order; ends with a new line."""
    if fmt in WHOLE:
        return WHOLE[fmt](parts)
    head = ["% needs the packages booktabs, graphicx and rotating"] if fmt == LATEX else []
    legends = {
        TEXT: LEGEND,
        MARKDOWN: [f"* {markdown(line)}" for line in LEGEND],
        LATEX: ["", *(f"% {line}" for line in LEGEND)],
    }
    return "\n".join([*head, *parts, *legends[fmt], ""])


def footnotes(table: Table) -> tuple[list[str], list[str]]:
    """The notes below a table, each once, and for each row the numbers of its own, such as ``1 3``."""
    numbers: dict[str, int] = {}
    marks = []
    for row in table.rows:
        own = [f"also {copy.name}: the same networks on every seed" for copy in row.copies]
        own += [NOT_RANKED + row.unranked] if row.unranked else []
        own += [NO_CONTROLS + ", ".join(row.controls_missing)] if row.controls_missing else []
        own += row.notes
        marks.append(" ".join(str(numbers.setdefault(clean(note), len(numbers) + 1)) for note in own))
    return list(numbers), marks


def cells(table: Table, fmt: str) -> list[list[str]]:
    """One list a row, of the columns of a format for people and the numbers of the row's footnotes."""
    shown, marks = columns(fmt, table.kind), footnotes(table)[1]
    lazy = [_Lazy(row, table) for row in table.rows]
    return [[*(column.cell.write(values) for column in shown), mark] for values, mark in zip(lazy, marks)]


class _Lazy(dict[str, Value]):
    """Fields of a row, computed when they are asked for."""

    def __init__(self, row: Row, table: Table) -> None:
        super().__init__()
        self.row, self.table = row, table

    def __missing__(self, key: str) -> Value:
        self[key] = value = FIELDS[key].get(self.row, self.table)
        return value


def board_heading(board: Board, fmt: str) -> str:
    """The line that a board begins with in a format for people."""
    formats = {TEXT: f"== {clean(board.title)}", MARKDOWN: f"## {markdown(board.title)}"}
    return formats.get(fmt, rf"\paragraph{{{latex(board.title)}.}}")


def table_heading(board: Board, table: Table, fmt: str) -> str:
    """The line that names a table there."""
    formats = {TEXT: f"-- {table.title}", MARKDOWN: f"### {table.title}"}
    return formats.get(fmt, rf"\caption{{{latex(f'{board.title}, {table.title}')}}}")


def about_dense(table: Table) -> str:
    """Such as ``dense: 2,540,416 MACs, 269,434 params``; empty where nothing is known of it."""
    if table.dense_macs is None or table.dense_params is None:
        return ""
    return f"dense: {exact(table.dense_macs)} MACs, {exact(table.dense_params)} params"


def about_plan(terms: Terms | None) -> str:
    """Such as ``plan 0123456789ab: margins 0.5 and 1 points``; empty without a plan."""
    if terms is None:
        return ""
    margins = " and ".join(f"{margin:g}" for margin in terms.margins)
    return f"plan {terms.sha256[:12]}: against {', '.join(terms.references)}, margins {margins} points"


def about_timing(board: Board) -> str:
    """How latencies were measured; empty where they were not."""
    return f"latency: {clean(board.timed)}" if board.timed else ""


def about_budget(board: Board) -> str:
    """Where budgets of milliseconds hold; empty for other boards."""
    place = place_of_ms(board.key.get("coupling"))
    return f"budgets of milliseconds hold in {clean(place)}; measured when a network was pruned" if place else ""


def _about_board(board: Board) -> list[str]:
    """What comes before the tables of a board."""
    return [about for about in (about_plan(board.terms), about_budget(board), about_timing(board)) if about]


def about_batches(table: Table) -> str:
    """Which batch sizes are small and large in this table; the one of training costs has no columns of speed."""
    if table.kind == "training":
        return ""
    both = sorted({tuple(speed.batch for speed in row.speeds) for row in table.rows if row.speeds})
    return "; ".join("speed-ups at batch " + " and ".join(map(str, sizes)) for sizes in both)


def about_table(table: Table) -> tuple[str, str]:
    """What comes before a table: the dense network, the batch sizes."""
    return about_dense(table), about_batches(table)


def _text(board: Board) -> list[str]:
    lines = [board_heading(board, TEXT), *(f"   {clean(k)}: {clean(v)}" for k, v in board.key.items() if v)]
    lines += [f"   {about}" for about in _about_board(board)]
    lines += [f"   note: {clean(note)}" for note in board.notes]
    for table in board.tables:
        shown = columns(TEXT, table.kind)
        headers = [column.header for column in shown] + [NOTES_HEADER]
        sides = ["right" if column.right else "left" for column in shown] + ["left"]
        # A cell is never empty: so that columns are separate whatever width a terminal gives a character.
        rows = [[clean(cell) or "-" for cell in row] for row in cells(table, TEXT)]
        lines += ["", table_heading(board, table, TEXT)]
        lines += [f"   {part}" for part in (*about_table(table), clean(advice(board, table))) if part]
        lines += _simple([headers, *rows], sides) if rows else []
        lines += [f"   [{n}] {note}" for n, note in enumerate(footnotes(table)[0], 1)]
    return [*lines, ""]


def _simple(rows: list[list[str]], sides: list[str]) -> list[str]:
    """Lines of a table whose first row is the header; tabulate would make a column wider than its header."""
    rule, header, *body, _ = tabulate(rows, (), "simple", colalign=sides, disable_numparse=True).splitlines()
    return [line.rstrip() for line in (header, rule, *body)]


def _markdown(board: Board) -> list[str]:
    lines = [board_heading(board, MARKDOWN), ""]
    lines += [f"* {markdown(k)}: {markdown(v)}" for k, v in board.key.items() if v]
    lines += [f"* {markdown(about)}" for about in _about_board(board)]
    lines += ["", *(f"Note: {markdown(note)}\n" for note in board.notes)]
    for table in board.tables:
        shown = columns(MARKDOWN, table.kind)
        headers = [column.header for column in shown] + [NOTES_HEADER]
        rule = ["--:" if column.right else ":--" for column in shown] + [":--"]
        lines += [table_heading(board, table, MARKDOWN), ""]
        lines += [f"{part}\n" for part in (*about_table(table), markdown(advice(board, table))) if part]
        body = [[markdown(cell) for cell in row] for row in cells(table, MARKDOWN)]
        lines += [f"| {' | '.join(row)} |" for row in [headers, rule, *body]]
        lines += ["", *(f"{n}. {markdown(note)}" for n, note in enumerate(footnotes(table)[0], 1)), ""]
    return lines


def _latex(board: Board) -> list[str]:
    key = {clean(k): clean(v) for k, v in board.key.items() if v}
    lines = [f"% {KIND} {json.dumps(key)}", board_heading(board, LATEX)]
    shown_key = "; ".join(f"{latex(k)}: {latex(HASH.sub(_start, v))}" for k, v in key.items())
    lines += [rf"{{\raggedright\footnotesize {shown_key}.\par}}"]
    lines += [f"{latex(about)}.\n" for about in _about_board(board)]
    lines += [f"{latex(note)}\n" for note in board.notes]
    for table in board.tables:
        every = columns(LATEX, table.kind)
        shown = [column for column in every if not column.audit]
        headers = [column.header for column in shown] + [NOTES_HEADER]
        sides = ["right" if column.right else "left" for column in shown] + ["left"]
        places = [place for place, column in enumerate(every) if not column.audit] + [len(every)]
        body = cells(table, LATEX)
        facts = {name: getattr(table, name) for name in ("kind", "keep", "dense_macs", "dense_params")}
        lines += ["", f"% {KIND}.table {json.dumps(facts)}"]
        for row in body:
            audit = {column.header: cell for column, cell in zip(every, row) if column.audit}
            lines += [f"% {KIND}.row {json.dumps({key: clean(cell) for key, cell in audit.items()})}"]
        lines += [
            r"\begin{sidewaystable}\centering\footnotesize",
            table_heading(board, table, LATEX),
        ]
        visible = [[clean(row[place]) for place in places] for row in body]
        if visible:
            grid = tabulate(visible, headers, "latex_booktabs", colalign=sides, disable_numparse=True)
            lines += [r"\resizebox{\linewidth}{!}{", grid, r"}\medskip"]
        about = [part for part in (*about_table(table), advice(board, table)) if part]
        lines += [rf"\par {latex(part)}" for part in about]
        lines += [rf"\par {n}: {latex(note)}" for n, note in enumerate(footnotes(table)[0], 1)]
        lines += [r"\end{sidewaystable}"]
    return lines


def _start(found: re.Match[str]) -> str:
    return found[0][:12]
