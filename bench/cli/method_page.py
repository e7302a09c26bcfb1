"""The generated part of a method's page: a block between two marks, made from the method's source.

``python -m tools.docs_blocks`` refreshes the blocks of the pages in ``docs/methods``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.spec import method_traits
from bench.spec.entries import Paper
from bench.spec.near_names import unknown
from bench.spec.option_scan import Option
from bench.spec.registry import METHODS

OWN = "methods/"
"""How the origin of a method of the suite begins."""
KINDS = {
    "importance": "importance: one number a unit, prunes once",
    "regularizer": "regularizer: a term of the loss, prunes by the l2 norm",
    "method": "method: a class with hooks",
}
STARTS = {"init": "the initial weights", "base": "the trained dense network (base)"}


@dataclass(frozen=True)
class Facts:
    """What a block says of one method."""

    name: str
    what: str
    paper: Paper | None
    file: str
    kind: str
    starts: str
    ranking: str
    tracks: str
    options: tuple[Option, ...]


def facts(name: str) -> Facts:
    """What a block says of the method ``name``; raises UsageError for an unknown name."""
    entries = METHODS.entries()
    if name not in entries:
        raise unknown("method", name, entries)
    entry, found, paper = entries[name], method_traits.of(name), entries[name].paper
    if found is None:
        found, paper = method_traits.of_class(METHODS.get(name)), METHODS.get(name).paper
    starts = STARTS[found.starts_from]
    if "starts_from" in found.depends:
        starts += ", depending on its options"
    ranking = {"layer": "within each site", "global": "over all sites"}[found.ranking]
    if "ranking" in found.depends:
        ranking += ", depending on its options"
    if not found.prunes:
        ranking, tracks = "none, it keeps every unit", "training cost"
    else:
        tracks = "matched, native" if found.native else "matched"
    file = entry.origin.rpartition(":")[0]
    file = f"[{file}](../../{file})" if entry.origin.startswith(OWN) else Path(file).name
    return Facts(name, entry.summary, paper, file, KINDS[entry.kind], starts, ranking, tracks, entry.options)


def block(names: Iterable[str]) -> str:
    """The text between the marks for one method, or for several that share a block."""
    found = [facts(name) for name in names]
    if len(found) == 1:
        one = found[0]
        lines = [one.what.replace("``", "`"), ""]
        lines += table(
            ["fact", "value"],
            [
                ["name", f"`{one.name}`"],
                ["source", _cite(one.paper)],
                ["implementation", one.file],
                ["kind", one.kind],
                ["starts from", one.starts],
                ["ranking", one.ranking],
                ["tracks", one.tracks],
            ],
        )
    else:
        lines = table(
            ["name", "what it is", "kind", "starts from", "ranking", "tracks"],
            [[f"`{f.name}`", f.what, f.kind.split(":")[0], f.starts, f.ranking, f.tracks] for f in found],
        )
        lines += ["", "Sources:", ""]
        for source in dict.fromkeys(_cite(f.paper) for f in found):
            lines.append(f"* {', '.join(f'`{f.name}`' for f in found if _cite(f.paper) == source)}: {source}")
    owners: dict[Option, list[str]] = {}
    for one in found:
        for option in one.options:
            owners.setdefault(option, []).append(one.name)
    several = len(found) > 1
    head = ["option", *(["of"] if several else []), "default", "values", "meaning", "source"]
    rows = [
        [
            f"`{o.name}`",
            *([", ".join(f"`{n}`" for n in of) if len(of) < len(found) else "all"] if several else []),
            f"`{o.default}`",
            o.kind,
            o.meaning,
            o.source,
        ]
        for o, of in owners.items()
    ]
    return "\n".join([*lines, "", *(table(head, rows) if rows else ["No options."])])


def marked(names: Iterable[str]) -> str:
    """A block with its marks."""
    names = list(names)
    return f"<!-- generated: {', '.join(names)} -->\n\n{block(names)}\n\n<!-- /generated -->"


def _cite(paper: Paper | None) -> str:
    """A source in full."""
    if paper is None:
        return "this suite"
    link = f", <{paper.url}>" if paper.url else ""
    return f"{paper}, *{paper.title}*, {paper.venue}{link}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table; cells are texts of source files."""
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text of a source file as Markdown in a table."""
    return text.replace("``", "`").replace("|", "\\|")
