"""Refresh the generated parts of the documentation: ``python -m tools.docs_blocks [--check] [DIR]``.

A page says ``<!-- generated: NAME -->``; the block follows, up to ``<!-- /generated -->``. NAME is a method, several
methods (``NAME, NAME``), ``commands`` (every command with its options, read off the parsers), ``context`` (what a
method can read of its run), ``record`` or ``score`` (the fields of a record, or of what ``bench score`` writes),
``onnx`` (what is counted of an ONNX file), or ``timm``: the survey of timm's networks.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import getmembers
from pathlib import Path
from typing import Any

from bench.cli import method_page, parser
from bench.cli.method_page import table
from bench.errors import UsageError
from bench.records import latency, schema, score
from bench.spec import recipe, spec
from bench.spec.class_scan import ROOT
from bench.spec.option_scan import comments_of
from bench.spec.registry import METHODS
from tools import timm_survey

DOCS = ROOT / "docs"
LARGEST = 2**63 - 1
"""Largest whole number of a record."""
BLOCK = re.compile(r"^<!-- generated: (.*?) -->\n(.*?)^<!-- /generated -->", re.M | re.S)


def main(words: Sequence[str] | None = None) -> int:
    """Refresh or check all pages; returns the exit code, 1 for pages out of date and for methods without a page."""
    p = argparse.ArgumentParser(prog="python -m tools.docs_blocks", description="Refresh generated parts of the docs.")
    p.add_argument("--check", action="store_true", help="change nothing, list the pages that are out of date")
    p.add_argument("folder", nargs="?", type=Path, default=DOCS, metavar="DIR", help="pages (docs)")
    chosen = p.parse_args(words)
    try:
        changed, without = stale(chosen.folder), missing(chosen.folder)
    except UsageError as error:
        print(f"docs_blocks: error: {error}", file=sys.stderr)
        return 2
    for page, text in changed.items():
        if not chosen.check:
            page.write_text(text, encoding="utf-8")
        state = "out of date: python -m tools.docs_blocks" if chosen.check else "changed"
        print(f"{os.path.relpath(page)}: {state}")
    for name in without:
        print(f"{name} has no page: put <!-- generated: {name} --> on one", file=sys.stderr)
    return int(bool(without or (chosen.check and changed)))


def stale(folder: Path) -> dict[Path, str]:
    """Pages whose blocks are out of date -> the text they should have; raises UsageError where a mark is wrong."""
    changed = {}
    for page in sorted(folder.rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        if len(re.findall("^<!-- /?generated", text, re.M)) != 2 * len(BLOCK.findall(text)):
            raise UsageError(f"{page}: a mark of a generated block has no partner")
        try:
            wanted = BLOCK.sub(lambda block: _block(block[1]), text)
        except UsageError as error:
            raise UsageError(f"{page}: {error}") from error
        if wanted != text:
            changed[page] = wanted
    return changed


def missing(folder: Path) -> list[str]:
    """Methods of the suite that no page has a block of."""
    texts = [page.read_text(encoding="utf-8") for page in sorted(folder.rglob("*.md"))]
    there = {name.strip() for text in texts for names, _ in BLOCK.findall(text) for name in names.split(",")}
    own = [name for name, entry in METHODS.entries().items() if entry.origin.startswith(method_page.OWN)]
    return [name for name in own if name not in there]


def _block(names: str) -> str:
    make = {
        "commands": commands,
        "context": context_values,
        "record": lambda: fields(schema.json_schema()),
        "onnx": onnx_operators,
        "score": lambda: fields(score.json_schema()),
        "timm": timm_survey.page,
    }.get(names)
    if make is None:
        return method_page.marked(name.strip() for name in names.split(","))
    return f"<!-- generated: {names} -->\n\n{make()}\n\n<!-- /generated -->"


def context_values() -> str:
    """Every value of a context, in a table."""
    from bench.api import Context

    values = {n: v.__doc__ or "" for n, v in getmembers(Context) if isinstance(v, property) and n[0] != "_"}
    rows = [[f"`{name}`", re.sub(r":\w+:(`\w+`)", r"\1", " ".join(text.split()))] for name, text in values.items()]
    return "\n".join(table(["value", "meaning"], rows))


def onnx_operators() -> str:
    """Operators of ONNX files: what they count as, or why they are refused."""
    from bench.measure.onnx_macs import RULES
    from bench.measure.onnx_operators import FREE, REFUSED

    counted: dict[str, list[str]] = {}
    for name, rule in RULES.items():
        said = " ".join((getattr(rule, "func", rule).__doc__ or "").split()).rstrip(".")
        counted.setdefault(said[:1].lower() + said[1:], []).append(name)
    rows = [[", ".join(f"`{name}`" for name in names), said] for said, names in counted.items()]
    rows += [[", ".join(f"`{name}`" for name in names), f"refused: {why}"] for why, names in REFUSED.items()]
    free = ", ".join(f"`{name}`" for name in sorted(FREE, key=lambda name: (name.rpartition(".")[2], name)))
    return "\n".join([*table(["operators", "MACs"], rows), "", f"Free: {free}."])


def fields(whole: dict[str, Any]) -> str:
    """Every field of a JSON schema with its type and meaning, in a table."""
    meanings = field_comments()
    rows: list[list[str]] = []

    def add(name: str, node: dict[str, Any], meaning: str = "") -> None:
        kinds = [_resolved(kind, whole) for kind in node.get("anyOf", [node])]
        if name:
            rows.append([f"`{name}`", " or ".join(map(_kind, kinds)), meaning])
        for kind in kinds:
            for key, inner in kind.get("properties", {}).items():
                add(f"{name}.{key}".lstrip("."), inner, meanings.get(kind["title"], {}).get(key, ""))
            for mark, key in (("[]", "items"), (".*", "additionalProperties")):
                inner = kind.get(key)
                if isinstance(inner, dict) and "properties" in _resolved(inner, whole):
                    add(name + mark, inner)

    add("", whole)
    return "\n".join(table(["field", "type", "meaning"], rows))


def field_comments() -> dict[str, dict[str, str]]:
    """Class -> field -> the comment behind the field or above it, of the parts of records and scores."""
    found: dict[str, dict[str, str]] = {}
    for module in (recipe, spec, schema, latency, score):
        text = Path(str(module.__file__)).read_text(encoding="utf-8")
        comments = comments_of(text)
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                bases = [found.get(ast.unparse(base), {}) for base in node.bases]
                fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
                own = {ast.unparse(line.target): comments.get(line.lineno, "") for line in fields}
                found[node.name] = {name: text for of in (*bases, own) for name, text in of.items()}
    return found


def _resolved(node: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """``node``, or the definition that it refers to."""
    return dict(whole["$defs"][node["$ref"].rpartition("/")[2]]) if "$ref" in node else node


def _kind(node: dict[str, Any]) -> str:
    """A type of JSON with its bounds, in words."""
    if "enum" in node:
        return ", ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    words = [{"integer": "whole number", "object": "table", "array": "list"}.get(node["type"], node["type"])]
    for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<")):
        words += [f"{sign} {node[key]}"] if node.get(key, LARGEST) != LARGEST else []
    return " ".join([*words, *([f"({node['description'].splitlines()[0]})"] if "description" in node else [])])


def commands() -> str:
    """Every command, with its arguments and options in tables."""
    (group,) = (a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
    return "\n\n".join("\n".join(_command(name, helps[name], group.choices)) for name in helps)


def _command(name: str, what: str, parsers: Mapping[str, argparse.ArgumentParser]) -> Iterator[str]:
    yield f"### bench {name}"
    yield f"\n{what[:1].upper()}{what[1:]}.\n"
    rows = []
    for group in parsers[name]._action_groups:
        rows += [[_words(action), _meaning(action)] for action in group._group_actions if action.dest != "help"]
    yield from table(["argument or option", "meaning"], rows)


def _words(action: argparse.Action) -> str:
    """An option with its value as it is typed, or the name of an argument."""
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    if not action.option_strings:
        return f"`{value}`"
    return ", ".join(f"`{option}{'' if action.nargs == 0 else f' {value}'}`" for option in action.option_strings)


def _meaning(action: argparse.Action) -> str:
    text = (action.help or "") % vars(action)
    return f"{text}; required" if action.required and action.option_strings else text


if __name__ == "__main__":
    sys.exit(main())
