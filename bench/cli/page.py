"""``bench page``: the generated part of the methods' pages."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from bench.cli import output
from bench.errors import RunFailed, WordsError
from bench.spec.registry import ROOT, add_plugin


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("page", help="a method's page: what its source says of it")
    p.set_defaults(function=run)
    p.add_argument("name", nargs="?", metavar="NAME[,NAME]", help="print the block of this method, or of several")
    p.add_argument("--write", action="store_true", help="refresh the blocks of all pages")
    p.add_argument("--check", action="store_true", help="say which are out of date, and which methods have no page")
    p.add_argument("--dir", type=Path, default=ROOT / "docs" / "methods", metavar="DIR", help="pages (docs/methods)")
    p.add_argument("--plugin", action="append", default=[], metavar="FILE", help="file that defines what NAME names")
    output.add_json(p, "JSON: the block, or the pages that are out of date and the methods without a page")


def run(chosen: argparse.Namespace) -> int:
    """Carry out the command; returns the exit code."""
    if bool(chosen.name) + chosen.write + chosen.check != 1:
        raise WordsError("page: give one of NAME, --write and --check")
    from bench.cli import method_page

    for file in chosen.plugin:
        add_plugin(file)
    if chosen.name:
        block = method_page.marked(name.strip() for name in chosen.name.split(","))
        if chosen.json:
            output.print_json({"block": block})
        else:
            output.print_data(f"{block}\n")
        return 0
    changed, missing = method_page.stale(chosen.dir), method_page.missing(chosen.dir)
    wrong = [f"{name} has no page: put <!-- generated: {name} --> on one" for name in missing]
    if chosen.write:
        method_page.write(changed)
    if chosen.json:
        output.print_json({"changed": [os.path.relpath(page) for page in changed], "missing": list(missing)})
    else:
        what = "changed" if chosen.write else "out of date: python -m bench page --write"
        lines = [f"{os.path.relpath(page)}: {what}" for page in changed] or ["all blocks are up to date"]
        print("\n".join(lines))
    if wrong or (changed and chosen.check):
        outdated = [f"{len(changed)} pages out of date"] if chosen.check and changed else []
        raise RunFailed("; ".join(outdated + wrong))
    return 0
