"""A page of sentences and small tables, as text for a terminal, as Markdown, and as HTML that needs no other file."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from leaderboard.render.escaping import clean, markdown
from leaderboard.render.text_table import Column, sentences, table

STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;"
    "padding:0 1rem}table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}"
    "th,td{padding:.2rem .8rem;border-bottom:1px solid #8885;text-align:left}.r{text-align:right}"
    "div{overflow-x:auto}"
)
HEAD = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


@dataclass(frozen=True)
class Grid:
    """A table: columns, and rows as header -> cell."""

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Page:
    """A title, and below it sentences and tables in their order; texts may be hostile."""

    title: str
    parts: Sequence[str | Grid]

    def text(self, width: int | None = None) -> str:
        """As a terminal shows it, at most so wide."""
        parts = [clean(self.title), *self.parts]
        return "\n\n".join(
            sentences(clean(part), width) if isinstance(part, str) else table(part.columns, _cells(part), width)
            for part in parts
        )

    def markdown(self) -> str:
        """As Markdown, with a line end."""
        parts = [f"# {markdown(self.title)}"]
        for part in self.parts:
            if isinstance(part, str):
                parts.append(markdown(part))
                continue
            rows = [[markdown(cell) for cell in row.values()] for row in _cells(part)]
            sides = ["right" if column.right else "left" for column in part.columns]
            headers = [markdown(column.header) for column in part.columns]
            parts.append(tabulate(rows, headers, "pipe", colalign=sides, disable_numparse=True))
        return "\n\n".join(parts) + "\n"

    def html(self) -> str:
        """As one HTML file."""
        title = html.escape(clean(self.title))
        parts = [f"{HEAD}<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>"]
        for part in self.parts:
            parts.append(f"<p>{html.escape(clean(part))}</p>" if isinstance(part, str) else _html(part))
        return "\n".join([*parts, "</main>\n</body>\n</html>\n"])


def _cells(grid: Grid) -> list[dict[str, str]]:
    headers = [column.header for column in grid.columns]
    return [{header: clean(str(row.get(header, ""))) for header in headers} for row in grid.rows]


def _html(grid: Grid) -> str:
    sides = [' class="r"' if column.right else "" for column in grid.columns]
    head = "".join(f'<th scope="col"{side}>{html.escape(c.header)}</th>' for c, side in zip(grid.columns, sides))
    rows = [
        "".join(f"<td{side}>{html.escape(cell)}</td>" for cell, side in zip(row.values(), sides))
        for row in _cells(grid)
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>'
