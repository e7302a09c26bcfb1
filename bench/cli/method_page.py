"""The generated part of a method's page: a block between two marks, made from the method's source.

A page in ``docs/methods`` says ``<!-- generated: NAME -->``, the block follows up to ``<!-- /generated -->``. One mark
may name several methods, ``NAME, NAME``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import SetupError, UsageError
from bench.spec import method_traits
from bench.spec.option_scan import Option
from bench.spec.registry import METHODS, ROOT, Paper, unknown

OWN = "methods/"
"""How the origin of a method of the suite begins."""
FOLDER = ROOT / "docs" / "methods"
BLOCK = re.compile(r"^<!-- generated: (.*?) -->\n(.*?)^<!-- /generated -->", re.M | re.S)
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
    """Of a method; raises UsageError for an unknown name."""
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
        ranking = tracks = "none, it keeps every unit"
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
        lines += _table(
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
        lines = _table(
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
    return "\n".join([*lines, "", *(_table(head, rows) if rows else ["No options."])])


def marked(names: Iterable[str]) -> str:
    """A block with its marks."""
    names = list(names)
    return f"<!-- generated: {', '.join(names)} -->\n\n{block(names)}\n\n<!-- /generated -->"


def refreshed(text: str) -> str:
    """A page's text with every block as it should be."""
    return BLOCK.sub(lambda found: marked(_names(found[1])), text)


def stale(folder: Path) -> dict[Path, str]:
    """Pages whose blocks are out of date -> what their text should be; raises UsageError where a mark is wrong."""
    if not folder.is_dir():
        raise SetupError(f"no folder {folder}: pages belong to a checkout of the suite; say where with --dir")
    found = {}
    for page in sorted(folder.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if len(re.findall("<!-- /?generated", text)) != 2 * len(BLOCK.findall(text)):
            raise UsageError(f"{page}: a mark of a generated block has no partner")
        try:
            wanted = refreshed(text)
        except UsageError as error:
            raise UsageError(f"{page}: {error}") from error
        if wanted != text:
            found[page] = wanted
    return found


def write(pages: Mapping[Path, str]) -> None:
    """Give pages their new text."""
    for page, text in pages.items():
        try:
            page.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SetupError(f"cannot write {page}: {error.strerror}") from error


def missing(folder: Path) -> list[str]:
    """Methods of the suite that no page has a block of."""
    texts = [page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))]
    there = {name for text in texts for names, _ in BLOCK.findall(text) for name in _names(names)}
    own = [name for name, entry in METHODS.entries().items() if entry.origin.startswith(OWN)]
    return [name for name in own if name not in there]


def _names(mark: str) -> list[str]:
    return [name.strip() for name in mark.split(",")]


def _cite(paper: Paper | None) -> str:
    """A source in full."""
    if paper is None:
        return "this suite"
    link = f", <{paper.url}>" if paper.url else ""
    return f"{paper}, *{paper.title}*, {paper.venue}{link}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table, its columns as wide as they happen to be."""
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cell(text: str) -> str:
    """Text of a source file as Markdown in a table."""
    return text.replace("``", "`").replace("|", "\\|")
